"""The checks of a pool of models."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from torch import nn

from acutance.data.batch import length_of, take_rows
from acutance.data.fingerprint import model_key
from acutance.errors import UserError
from acutance.io.remote import is_remote
from acutance.plugins import Item, catalog
from acutance.pool import ModelEntry, ModelPool
from acutance.testing.core import Checklist, Subject, require
from acutance.testing.processes import declared, shared

pools = Checklist()
LOADED = 2  # models that are opened


class PoolSubject(Subject):
    """A pool with its entries."""

    def __init__(self, item: Item, spec: Any = None, plugin_modules: Sequence[str] = ()) -> None:
        super().__init__(item, spec, plugin_modules)
        self.pool: ModelPool[Any] = item.target()
        self.spec: Any = self.specs[0]

    @property
    def entries(self) -> list[ModelEntry]:
        """What the pool lists."""
        entries: list[ModelEntry] = self.once("entries", lambda: list(self.pool.entries(self.spec)))
        return entries

    @property
    def models(self) -> list[tuple[ModelEntry, nn.Module]]:
        """The few models that are opened: those that need not be made first, and of these the first ones."""
        models: list[tuple[ModelEntry, nn.Module]] = self.once("models", self._load)
        return models

    def _load(self) -> list[tuple[ModelEntry, nn.Module]]:
        return [(entry, self.pool.load(entry, self.spec)) for entry in self.entries_to_open()]

    def entries_to_open(self) -> list[ModelEntry]:
        """Return the entries to open: what is there, else, for settings the author chose, the cheapest to make."""
        missing = {entry.id for entry in self.pool.missing(self.entries, self.spec)}
        there = [entry for entry in self.entries if entry.id not in missing]
        if there or not self.entries:
            return there[:LOADED]
        if not self.specs_given:
            raise SkipTest(
                f"none of the {len(self.entries)} models is there, and making them may take long: pass the smallest "
                "settings as spec (--set size=2 ...), and they will be made"
            )
        return sorted(self.entries, key=lambda entry: self.pool.build_cost(entry, self.spec))[:LOADED]


@pools()
def name_and_doc(subject: PoolSubject) -> None:
    """The pool has a name and a docstring."""
    target = subject.item.target
    require(
        re.fullmatch(r"[a-z][a-z0-9_]*", target.name),
        f"the name '{target.name}' needs small letters, digits, underscores",
    )
    require(
        inspect.getdoc(target), f"{target.__name__} has no docstring: say which models, trained on what, from where"
    )


@pools()
def entries_are_sound(subject: PoolSubject) -> None:
    """There are models; their ids are unique, their attributes plain values of the same names."""
    entries = subject.entries
    require(entries, "entries() gave no models: give at least one for the default settings, or say why with UserError")
    for entry in entries:
        require(isinstance(entry, ModelEntry), f"entries() gave {type(entry).__name__}: return ModelEntry objects")
        require(entry.id and entry.architecture, f"entry {entry.id!r} needs an id and an architecture")
        for name, value in entry.attributes.items():
            require(
                not isinstance(value, float) or math.isfinite(value),
                f"attribute '{name}' of '{entry.id}' is {value}: write None where it is not known",
            )
    ids = [entry.id for entry in entries]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    require(
        not twice, f"the ids {', '.join(twice[:5])} are used more than once: tables and keys need one for each model"
    )
    paths = [entry.path for entry in entries if entry.path]
    shared_paths = sorted({path for path in paths if paths.count(path) > 1})
    require(not shared_paths, f"two entries lie in the same file {shared_paths[:1]}: one would overwrite the other")
    names = {tuple(sorted(entry.attributes)) for entry in entries}
    if len(names) > 1:
        subject.note("the entries do not all have the same attributes: columns will have gaps")


@pools("entries_are_sound")
def entries_are_cheap(subject: PoolSubject) -> None:
    """Listing the models imports nothing heavy."""
    heavy = declared(subject)["heavy_entries"]
    require(
        not heavy,
        f"entries() and missing() import {', '.join(heavy)}: a study lists its models before it opens any; move the "
        "imports into load()",
    )


@pools("entries_are_sound")
def entries_are_stable(subject: PoolSubject) -> None:
    """Two calls and two processes list the same models."""
    here = [entry.model_dump(mode="json") for entry in subject.entries]
    again = [entry.model_dump(mode="json") for entry in subject.pool.entries(subject.spec)]
    require(again == here, "two calls of entries() gave different models: derive everything from the settings")
    there = declared(subject)["entries"]
    if there != here:
        raise AssertionError(
            f"another process listed other models: {_first_difference(here, there)}; derive everything from the "
            "settings, not from time, hash() or the order of a folder"
        )


def _first_difference(here: list[Any], there: list[Any]) -> str:
    if len(here) != len(there):
        return f"{len(here)} here, {len(there)} there"
    pair = next((a, b) for a, b in zip(here, there, strict=True) if a != b)
    names = [name for name in pair[0] if pair[0][name] != pair[1][name]]
    return f"{names[0]} is {pair[0][names[0]]!r} here, {pair[1][names[0]]!r} there"


@pools("entries_are_sound")
def missing_models_can_be_made(subject: PoolSubject) -> None:
    """What is missing is listed among the entries, can be made, and is no longer missing then."""
    pool, spec = subject.pool, subject.spec
    missing = list(pool.missing(subject.entries, spec))
    strange = [entry.id for entry in missing if entry not in subject.entries]
    require(
        not strange,
        f"missing() names {', '.join(strange[:3])}, which it was not asked about: return a part of its argument",
    )
    chosen = [entry for entry in subject.entries_to_open() if entry in missing]
    for entry in chosen:
        cost = pool.build_cost(entry, spec)
        require(math.isfinite(cost) and cost > 0, f"build_cost('{entry.id}') is {cost!r}: give a positive number")
        try:
            pool.build(entry, spec, threads=1)
        except Exception as error:
            raise AssertionError(
                f"'{entry.id}' is missing and build() raised {type(error).__name__}: {error}; a pool that calls models "
                "missing must make them"
            ) from error
        require(
            not pool.missing([entry], spec),
            f"'{entry.id}' is still missing after build(): save the model where missing() and load() look for it",
        )


@pools("missing_models_can_be_made")
def models_load(subject: PoolSubject) -> None:
    """``load`` gives a module on the CPU in evaluation mode, with finite weights."""
    try:
        models = subject.models
    except SkipTest:
        raise
    except Exception as error:
        raise AssertionError(
            f"load raised {type(error).__name__}: {error}; an entry that is not missing must open"
        ) from error
    for entry, model in models:
        require(isinstance(model, nn.Module), f"load('{entry.id}') gave {type(model).__name__}: return an nn.Module")
        require(not model.training, f"load('{entry.id}') gave a model in training mode: return model.eval()")
        devices = {str(p.device) for p in model.parameters()} - {"cpu"}
        require(
            not devices,
            f"load('{entry.id}') put weights on {', '.join(devices)}: load on the CPU, the harness moves them",
        )
        for name, p in model.named_parameters():
            require(
                bool(torch.isfinite(p).all()),
                f"parameter '{name}' of '{entry.id}' is not finite: its training diverged; leave it out of the entries",
            )


@pools("models_load")
def loading_again_gives_the_same_model(subject: PoolSubject) -> None:
    """The same entry has the same key every time; other entries have other weights."""
    keys = {}
    for entry, model in subject.models:
        keys[entry.id] = model_key(entry.architecture, model)
        again = model_key(entry.architecture, subject.pool.load(entry, subject.spec))
        require(
            again == keys[entry.id],
            f"loading '{entry.id}' twice gave different weights: load trained weights, or initialise from a seed of "
            "the entry",
        )
    if len(set(keys.values())) < len(keys):
        subject.note(f"{', '.join(keys)} have the same weights: are they one model?")


@pools("models_load")
def files_exist(subject: PoolSubject) -> None:
    """Where an entry names a file, the file is there once the model can be loaded; a URL was just read."""
    for entry, _ in subject.models:
        require(
            entry.path is None or is_remote(entry.path) or Path(entry.path).exists(),
            f"'{entry.id}' was loaded, but its path {entry.path} does not exist: name the file that load() reads, or "
            "None",
        )


@pools("models_load")
def initial_weights_fit(subject: PoolSubject) -> None:
    """``initial``, where given, has the parameters and shapes of the model."""
    compared = 0
    for entry, model in subject.models:
        initial = subject.pool.initial(entry, subject.spec)
        if initial is None:
            continue
        compared += 1
        shapes, initial_shapes = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, initial))
        wrong = [name for name in {**shapes, **initial_shapes} if shapes.get(name) != initial_shapes.get(name)]
        require(
            not wrong,
            f"initial('{entry.id}') does not fit the model at {', '.join(wrong[:3])}: return the same architecture "
            "before training",
        )
    if not compared:
        raise SkipTest("the pool has no initial weights")


@pools("models_load")
def preprocess_keeps_the_examples(subject: PoolSubject) -> None:
    """``preprocess``, where given, returns as many examples as it was given."""
    tried = 0
    for entry, _ in subject.models:
        function = subject.pool.preprocess(entry, subject.spec)
        if function is None:
            continue
        require(
            callable(function), f"preprocess('{entry.id}') gave {type(function).__name__}: return a function or None"
        )
        inputs = _some_inputs(entry)
        try:
            n = length_of(function(inputs))
        except Exception as error:
            raise AssertionError(
                f"the preprocessing of '{entry.id}' raised {type(error).__name__}: {error} on inputs of "
                f"'{entry.train_set}'"
            ) from error
        require(
            n == 4, f"the preprocessing of '{entry.id}' made {n} examples of 4: the first axis must stay the example"
        )
        tried += 1
    if not tried:
        raise SkipTest("the models need no preprocessing")


def _some_inputs(entry: ModelEntry) -> Any:
    """Return four inputs of the dataset that the entry was trained on."""
    try:
        split = catalog().get("datasets", entry.train_set)().open("test")
    except UserError as error:
        raise SkipTest(f"no inputs to try preprocessing on: {error.message}") from None
    return take_rows(split.inputs, slice(0, 4))


SUBJECT = PoolSubject
CHECKS = [*shared, *pools]
