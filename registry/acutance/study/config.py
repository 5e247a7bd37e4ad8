"""From YAML to a study: everything validated, every sweep expanded, every mistake with its path."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, ValidationError

from acutance import plugin_files
from acutance.dataset import Dataset
from acutance.errors import UserError, did_you_mean
from acutance.io.yaml_files import parse_yaml, read_yaml
from acutance.plugin_files import PluginFile
from acutance.plugins import Catalog, Item, Kind, catalog
from acutance.spec import Spec, describe, plain
from acutance.study.formats import current
from acutance.study.plan import PlannedMeasure, expand_measures
from acutance.study.surface_config import Indices, Section, SurfaceConfig, dropped
from acutance.study.targets import MeasureTarget, Target, parse_target

TOLD = 20  # mistakes of a study that one message lists
Printed = Annotated[str, Field(pattern=r"^(Figure|Table) [1-9][0-9]*$")]


class Bound(Section):
    """Limits of an admitted model's target."""

    min: float | None = None
    """Smallest admitted value."""
    max: float | None = None
    """Largest admitted value."""

    def refusal(self, name: str, value: float | None) -> str:
        """Return why a value is not admitted, or an empty string."""
        if value is None or value != value:
            return f"{name} is not known"
        if self.max is not None and value > self.max:
            return f"{name} {value:.4g} > {self.max:g}"
        if self.min is not None and value < self.min:
            return f"{name} {value:.4g} < {self.min:g}"
        return ""


class FiguresConfig(Section):
    """How models are drawn."""

    colour: str | None = None
    """Attribute that colours the points."""
    marker: list[str] | str = []
    """Attribute or attributes that choose the marker."""
    size: str | None = None
    """Attribute that sets the size."""

    @property
    def names(self) -> dict[str, list[str]]:
        """All attributes named, by the place in the study file where they are."""
        given = {name: getattr(self, name) for name in ("colour", "marker", "size")}
        lists = {name: [value] if isinstance(value, str) else value for name, value in given.items() if value}
        return {f"figures.{name}": found for name, found in lists.items()}


class AnalysisConfig(Section):
    """How the statistics are taken."""

    resamples: Annotated[int, Field(ge=99)] | None = None
    """Bootstrap resamples of each interval, and as many permutations, whatever they cost; null: 9999, or as many as can
    be afforded."""


class StudyFile(Section):
    """A study as written by its author; plugins' own sections are checked by the plugins' specs."""

    format: Literal[1]
    """Version of this file format."""
    title: str = ""
    """Headline of the report."""
    paper: list[Printed] = []
    """Figures and tables of Andriushchenko et al. (2023) that this study makes, e.g. [Figure 7, Table 3]."""
    seed: NonNegativeInt = 0
    """Study seed: names all noise."""
    requires: dict[str, str] = {}
    """Distributions and versions this study needs, e.g. {acutance: ">=0.1"}."""
    plugins: list[str] = []
    """Plugins of one file each, relative to this file, e.g. [my_measure.py]."""
    pools: list[dict[str, Any]] = Field(min_length=1)
    """Model pools: name and the pool's own settings."""
    dataset: dict[str, Any]
    """Dataset: name and its own settings."""
    surface: SurfaceConfig = SurfaceConfig()
    """Points and batches."""
    admit: dict[str, Bound] = {}
    """Targets a model must meet to be compared; the others are listed as excluded."""
    targets: list[str] = Field(default=["test_error"], min_length=1)
    """What the measures are asked to predict."""
    groups: list[str] = []
    """Attributes whose values form subgroups."""
    within: list[str]
    """Models are compared only where these agree: architecture, train_set, pool or attributes; [] for all."""
    measures: list[dict[str, Any]] = Field(min_length=1)
    """Measures: name and settings; a list for a field sweeps it."""
    executor: dict[str, Any] = {"name": "serial"}
    """Where cells are computed."""
    sinks: list[dict[str, Any]] = []
    """Where values go while they are made, beside the tables: names and settings. No part of what results are of."""
    analysis: AnalysisConfig = AnalysisConfig()
    """How the statistics are taken."""
    figures: FiguresConfig = FiguresConfig()
    """How models are drawn."""


@dataclass(frozen=True)
class Chosen:
    """A pool, dataset, executor or sink with its validated settings."""

    item: Item
    spec: Spec


def _once(chosen: Iterable[Chosen]) -> list[Chosen]:
    """Return what is chosen, equal ones once: one named in a config and on the command line too, say."""
    different: list[Chosen] = []
    for one in chosen:
        different += [one] if one not in different else []
    return different


@dataclass(frozen=True)
class Study:
    """A validated study."""

    name: str
    file: StudyFile
    resolved: dict[str, Any]
    pools: tuple[Chosen, ...]
    dataset: Chosen
    executor: Chosen
    measures: tuple[PlannedMeasure, ...]
    targets: tuple[Target, ...]
    admit: tuple[tuple[Target, Bound], ...] = ()
    sinks: tuple[Chosen, ...] = ()
    warnings: list[str] = field(default_factory=list)
    written: Mapping[str, Any] = field(default_factory=dict)
    """The data as its author wrote it, with what was overridden."""
    plugin_files: tuple[PluginFile, ...] = ()
    """Plugins of one file each, beside the study."""

    @property
    def surface(self) -> SurfaceConfig:
        """Points and batches."""
        return self.file.surface

    @property
    def seed(self) -> int:
        """Study seed."""
        return self.file.seed


def presets() -> dict[str, Path]:
    """Return the studies that ship with the package, by name."""
    folder = resources.files("acutance") / "presets"
    found = (Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {path.stem: path for path in sorted(found)}


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    plugins: Catalog | None = None,
    executor: str | None = None,
    sinks: Sequence[str] = (),
) -> Study:
    """Read and validate a study.

    Args:
        source: name of a preset, path of a YAML file, or the data itself.
        overrides: ``{"surface.points": 256}`` or ``["surface.points=256"]``.
        plugins: what is installed; this process's catalog by default.
        executor: name of one that replaces the study's and its settings; ``overrides`` are made after that.
        sinks: names of more of them.

    Raises:
        UserError: ``file: path: what is wrong``, for every mistake at once.
    """
    if isinstance(source, Mapping):
        where, name, data = "config", str(source.get("title") or "study"), _plain(source)
        folder = Path.cwd()
    else:
        path = _locate(source)
        where, name, data = str(source), path.stem, read_yaml(path)
        folder = path.resolve().parent
    if not isinstance(data, dict):
        raise UserError(f"{where}: a study is a mapping of sections, got {type(data).__name__}")
    data = current(data, where)
    if executor is not None:
        data["executor"] = {"name": executor}
    if sinks and isinstance(data.get("sinks", []), list):
        data["sinks"] = [*data.get("sinks", []), *({"name": name} for name in sinks)]
    data = _override(data, overrides, where)
    return replace(_Reader(where, folder, plugins or catalog()).read(name, data), written=data)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = plain(data)
    except UserError as error:
        raise UserError(f"config: {error.message}", error.hint) from None
    return found


def _locate(source: str | Path) -> Path:
    known = presets()
    path = Path(source)
    if str(source) in known and not path.is_file():
        return known[str(source)]
    if path.is_dir():
        raise UserError(f"{source}: is a folder", "give a YAML file or the name of a preset")
    if not path.is_file():
        raise UserError(f"'{source}' is neither a file nor a preset", did_you_mean(str(source), list(known)))
    return path


def parse_overrides(overrides: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Return ``["surface.m=64"]`` as ``{"surface.m": 64}``; a mapping as it is.

    Raises:
        UserError: for a text without ``=``, or a value that is no YAML.
    """
    if isinstance(overrides, Mapping):
        return dict(_plain(overrides))
    pairs = {}
    for text in overrides:
        key, found, value = text.partition("=")
        if not found:
            raise UserError(f"--set {text}: write key=value", "for example surface.points=256")
        pairs[key.strip()] = parse_yaml(value, f"--set {key.strip()}")
    return pairs


def _override(data: dict[str, Any], overrides: Mapping[str, Any] | Sequence[str], where: str) -> dict[str, Any]:
    """Return a copy with ``a.b.0.c=value`` applied."""
    data = copy.deepcopy(data)
    for key, value in parse_overrides(overrides).items():
        node: Any = data
        *parents, last = key.split(".")
        try:
            for part in parents:
                node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
            if isinstance(node, list):
                node[int(last)] = value
            else:
                node[last] = value
        except (ValueError, IndexError, TypeError, AttributeError):
            raise UserError(f"{where}: --set {key}: there is no such place in the config") from None
    return data


class _Reader:
    """Validates one study, collecting mistakes so that all of them are told at once."""

    def __init__(self, where: str, folder: Path, plugins: Catalog) -> None:
        self.where, self.folder, self.plugins, self.mistakes = where, folder, plugins, list[str]()
        self.hints = list[str]()
        self.plugin_files: tuple[PluginFile, ...] = ()

    def read(self, name: str, data: dict[str, Any]) -> Study:
        try:
            file = StudyFile.model_validate(data)
        except ValidationError as error:
            self.mistakes += describe(error, StudyFile)
            self._refuse()
            raise
        file = file.model_copy(update={"surface": self._located(file.surface)})
        file = file.model_copy(update={"plugins": self._extend(file.plugins)})
        self._check_requires(file.requires)
        pools = [self._choose("pools", f"pools.{i}", section) for i, section in enumerate(file.pools)]
        dataset = self._choose("datasets", "dataset", file.dataset)
        executor = self._choose("executors", "executor", file.executor)
        sinks = [self._choose("sinks", f"sinks.{i}", section) for i, section in enumerate(file.sinks)]
        splits = tuple(dataset.item.target(dataset.spec).splits) if dataset else ()
        known = splits if dataset and file.surface.split in splits else None
        measures, mistakes, hints = expand_measures(file.measures, self.plugins, known, file.surface.split)
        self.mistakes += mistakes
        self.hints += hints
        if file.surface.m > file.surface.points:
            self._wrong("surface.m", f"{file.surface.m} examples in a batch, but only {file.surface.points} points")
        if dataset and file.surface.augment and dataset.item.target.augment is Dataset.augment:
            self._wrong("surface.augment", f"dataset '{dataset.item.name}' has no augmentation", "write augment: false")
        if dataset and file.surface.select == "balanced" and not dataset.item.target.has_classes:
            self._wrong("surface.select", f"'{dataset.item.name}' has no classes to balance", "write select: first")
        if dataset and file.surface.split not in splits:
            self._wrong(
                "surface.split", f"unknown split '{file.surface.split}'", did_you_mean(file.surface.split, splits)
            )
        if dataset and file.surface.validation and file.surface.validation not in splits:
            self._wrong(
                "surface.validation", f"unknown split '{file.surface.validation}'",
                did_you_mean(file.surface.validation, splits),
            )  # fmt: skip
        names = {f"targets.{i}": name for i, name in enumerate(file.targets)}
        found = [self._target(path, name, splits, pools) if dataset else None for path, name in names.items()]
        limits = [self._target(f"admit.{name}", name, splits, pools) if dataset else None for name in file.admit]
        for path, target in zip([*names, *(f"admit.{name}" for name in file.admit)], [*found, *limits], strict=True):
            self._check_measure(path, target, measures)
        self._refuse()
        targets, admit = [t for t in found if t], [t for t in limits if t]
        assert dataset and executor and all(pools)
        left_out = {"sinks"} if file.plugins else {"sinks", "plugins"}
        resolved = file.model_dump(mode="json", exclude=left_out) | {
            "pools": [{"name": p.item.id, **p.spec.full()} for p in pools if p],
            "dataset": {"name": dataset.item.id, **dataset.spec.full()},
            "executor": {"name": executor.item.id, **executor.spec.full()},
        }
        left = dropped(file.surface.points, file.surface.m) if file.surface.batches == "partition" else ""
        warnings = [f"surface: {left}"] if left else []
        normalized = sum(bool(getattr(planned.spec, "logit_norm", False)) for planned in measures)
        if normalized and len(dataset.item.target(dataset.spec).labels) == 2:
            warnings.append(
                f"measures: {normalized} definitions with logit_norm will be unsupported: '{dataset.item.name}' has "
                "two classes, and every pair of normalized logits is +-1"
            )
        return Study(
            name, file, resolved, tuple(p for p in pools if p), dataset, executor, tuple(measures), tuple(targets),
            tuple(zip(admit, file.admit.values(), strict=True)), tuple(_once(s for s in sinks if s)), warnings,
            plugin_files=self.plugin_files,
        )  # fmt: skip

    def _extend(self, names: Sequence[str]) -> list[str]:
        """Know what the plugins beside the study register, and return where they are."""
        files = []
        for i, name in enumerate(names):
            try:
                files.append(plugin_files.read(self.folder / name))
            except UserError as error:
                self._wrong(f"plugins.{i}", error.message, error.hint)
        try:
            self.plugins = plugin_files.adopted(files, self.plugins)
        except UserError as error:
            self._wrong("plugins", error.message, error.hint)
        self._refuse()  # what else is wrong may come of it
        self.plugin_files = tuple(files)
        return [file.path for file in files]

    def _located(self, surface: SurfaceConfig) -> SurfaceConfig:
        """Take a file of indices from the folder of the study."""
        if not isinstance(surface.select, Indices):
            return surface
        path = self.folder / surface.select.indices
        if not path.is_file():
            self._wrong("surface.select.indices", f"{path}: no such file")
        return surface.model_copy(update={"select": Indices(indices=str(path))})

    def _wrong(self, path: str, message: str, hint: str = "") -> None:
        self.mistakes.append(f"{path}: {message}")
        if hint:
            self.hints.append(hint)

    def _refuse(self) -> None:
        if self.mistakes:
            lines = [f"{self.where}: {line}" for line in self.mistakes[:TOLD]]
            more = len(self.mistakes) - TOLD
            lines += [f"{self.where}: and {more} more mistakes"] if more > 0 else []
            raise UserError("\n".join(lines), " ".join(dict.fromkeys(self.hints[:TOLD])))

    def _choose(self, kind: Kind, path: str, section: Mapping[str, Any]) -> Chosen | None:
        settings = dict(section)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            self._wrong(
                f"{path}.name", "give the name of one of " + ", ".join(i.name for i in self.plugins.items(kind))
            )
            return None
        try:
            item = self.plugins.find(kind, name)
        except UserError as error:
            self._wrong(f"{path}.name", error.message, error.hint)
            return None
        try:
            return Chosen(item, item.target.Spec.model_validate(settings))
        except ValidationError as error:
            self.mistakes += describe(error, item.target.Spec, path)
            return None

    def _target(self, path: str, name: str, splits: tuple[str, ...], pools: Sequence[Chosen | None]) -> Target | None:
        try:
            try:
                return parse_target(name, splits)
            except UserError:
                # Only a name that cannot be measured makes it worth asking the pools what they bring themselves.
                given = {g: None for p in pools if p for e in p.item.target().entries(p.spec) for g in e.targets}
                return parse_target(name, splits, given)
        except UserError as error:
            self._wrong(path, error.message, error.hint)
            return None

    def _check_measure(self, path: str, target: Target | None, measures: Sequence[PlannedMeasure]) -> None:
        """Refuse a target that is not one of the study's measures, and models admitted by one."""
        if not isinstance(target, MeasureTarget):
            return
        if path.startswith("admit."):
            return self._wrong(path, "measures are taken of admitted models only", "admit by a target on a split")
        try:
            target.check(measures)
        except UserError as error:
            self._wrong(path, error.message, error.hint)

    def _check_requires(self, requires: Mapping[str, str]) -> None:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        for dist, wanted in requires.items():
            if not re.fullmatch(r"[A-Za-z0-9._-]+", dist):
                self._wrong(f"requires.{dist}", "is not the name of a distribution")
                continue
            try:
                have = version(dist)
                if not SpecifierSet(wanted).contains(have, prereleases=True):
                    self._wrong(
                        f"requires.{dist}", f"needs {wanted}, installed is {have}", f"pip install '{dist}{wanted}'"
                    )
            except PackageNotFoundError:
                self._wrong(f"requires.{dist}", "is not installed", f"pip install '{dist}{wanted}'")
            except InvalidSpecifier:
                self._wrong(f"requires.{dist}", f"'{wanted}' is not a version specifier, e.g. '>=1.2'")
