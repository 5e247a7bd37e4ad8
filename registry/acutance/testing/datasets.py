"""The checks of a dataset."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from acutance.data.batch import length_of
from acutance.data.fingerprint import digest_points
from acutance.data.lazy import Lazy
from acutance.dataset import Dataset, Split, argmax_error
from acutance.errors import UserError
from acutance.plugins import Item
from acutance.system.kept import preserved_rng
from acutance.testing.core import Checklist, Subject, require
from acutance.testing.processes import shared
from acutance.testing.watching import seed_generators

datasets = Checklist()


class DatasetSubject(Subject):
    """A dataset with the splits it opened."""

    def __init__(self, item: Item, spec: Any = None, plugin_modules: Sequence[str] = ()) -> None:
        super().__init__(item, spec, plugin_modules)
        self.dataset: Dataset[Any] = item.target(self.specs[0])

    @property
    def splits(self) -> dict[str, Split]:
        """Every split, opened once."""
        splits: dict[str, Split] = self.once("splits", lambda: {name: self.dataset.open(name) for name in self.names})
        return splits

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the splits."""
        return tuple(self.dataset.splits)


def _digest(split: Split) -> str:
    return digest_points(split.inputs, split.targets)


@datasets()
def name_doc_and_splits(subject: DatasetSubject) -> None:
    """The dataset has a name and a docstring, and names at least one split, each once."""
    target, splits = subject.item.target, subject.dataset.splits
    require(
        re.fullmatch(r"[a-z][a-z0-9_]*", target.name),
        f"the name '{target.name}' needs small letters, digits, underscores",
    )
    require(inspect.getdoc(target), f"{target.__name__} has no docstring: say what the points are and where from")
    require(
        isinstance(splits, tuple) and splits and all(isinstance(name, str) and name for name in splits),
        f"splits is {splits!r}: give a tuple of names, train and test first",
    )
    twice = sorted({name for name in splits if splits.count(name) > 1})
    require(not twice, f"splits names {', '.join(twice)} twice: every split needs a name of its own")
    if "train" not in splits:
        subject.note("there is no split 'train': studies take their points from it unless they say otherwise")


@datasets("name_doc_and_splits")
def splits_open(subject: DatasetSubject) -> None:
    """Every split opens, with as many inputs as targets."""
    opened: dict[str, Split] = {}
    for name in subject.names:
        try:
            split = opened[name] = subject.dataset.open(name)
        except Exception as error:
            raise AssertionError(
                f"open('{name}') raised {type(error).__name__}: {error}; every name in splits must open"
            ) from error
        require(
            isinstance(split, Split), f"open('{name}') gave {type(split).__name__}: return a Split(inputs, targets)"
        )
        require(
            isinstance(split.targets, torch.Tensor),
            f"the targets of '{name}' are {type(split.targets).__name__}: give a tensor",
        )
        try:
            n = length_of(split.inputs)
        except Exception as error:
            raise AssertionError(f"the inputs of '{name}' have no length ({error}): first axis the example") from None
        require(n == len(split), f"split '{name}' has {n} inputs but {len(split)} targets: one target for each input")
        subject.cache["digest", name] = _digest(split)
        if len(split) == 0:
            subject.note(f"split '{name}' is empty: a study that names it is refused")
    subject.cache["splits"] = opened


@datasets("splits_open")
def targets_are_classes_or_numbers(subject: DatasetSubject) -> None:
    """Targets are whole class indices, (n,), tokens with a score of their own, or numbers; all splits agree which."""
    kinds = set()
    for name, split in subject.splits.items():
        real = split.targets.is_floating_point()
        kinds.add(real)
        integer = split.targets.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        require(
            real or integer,
            f"the targets of '{name}' are {split.targets.dtype}: give class indices (torch.long) or floats",
        )
        require(
            real or split.targets.dim() == 1 or split.score is not argmax_error,
            f"the class indices of '{name}' have shape {tuple(split.targets.shape)}: give shape (n,)",
        )
        require(
            not real or bool(torch.isfinite(split.targets).all()),
            f"the targets of '{name}' are not all finite: take these points out",
        )
    require(len(kinds) == 1, "some splits have classes and others numbers as targets: one loss must fit all of them")


@datasets("targets_are_classes_or_numbers")
def labels_are_consistent(subject: DatasetSubject) -> None:
    """Classes run from 0, and every split uses those of the first, unless it scores in its own way."""
    if next(iter(subject.splits.values())).targets.is_floating_point():
        return
    filled = {name: split for name, split in subject.splits.items() if len(split) and split.targets.dim() == 1}
    first = next(iter(filled), "")
    classes = int(filled[first].targets.max()) + 1 if filled else 0
    for name, split in filled.items():
        low, high = int(split.targets.min()), int(split.targets.max())
        require(low >= 0, f"the labels of '{name}' begin at {low}: classes are 0 to K - 1; leave unlabelled points out")
        require(
            high < classes or split.score is not argmax_error,
            f"the labels of '{name}' run to {high}, those of '{first}' to {classes - 1}: map them to the same classes, "
            "or give the split a score that does",
        )
    counts = torch.bincount(filled[first].targets.long()) if filled else torch.ones(1)
    if bool((counts == 0).any()):
        subject.note(f"{int((counts == 0).sum())} class(es) of split '{first}' have no example")


@datasets("splits_open")
def inputs_are_finite(subject: DatasetSubject) -> None:
    """No input is NaN or infinite."""
    for name, split in subject.splits.items():
        for part in _tensors(split.inputs):
            require(
                not part.is_floating_point() or bool(torch.isfinite(part).all()),
                f"the inputs of '{name}' have values that are not finite: every loss on them would be NaN",
            )


@datasets("splits_open")
def opening_leaves_the_others_alone(subject: DatasetSubject) -> None:
    """Opening one split does not change what another one gave."""
    changed = [name for name, split in subject.splits.items() if _digest(split) != subject.cache["digest", name]]
    require(not changed, f"opening splits changed the points of {', '.join(changed)}: work on copies (no x -= mean)")


@datasets("opening_leaves_the_others_alone")
def opening_again_gives_the_same_points(subject: DatasetSubject) -> None:
    """Another instance, with the global generators in another state, opens the same points in the same order."""
    for name, split in subject.splits.items():
        with preserved_rng():
            seed_generators(31)
            again = subject.item.target(subject.specs[0]).open(name)
        require(
            _digest(again) == _digest(split),
            f"two openings of '{name}' gave different points: no shuffling, no augmentation, and a generator with a "
            "seed of its own for anything random",
        )


@datasets("targets_are_classes_or_numbers", "labels_are_consistent")
def score_is_zero_or_one(subject: DatasetSubject) -> None:
    """``score`` gives one 0 or 1 for each example, or, of several targets an example, a share."""
    for name, split in subject.splits.items():
        n = min(len(split), 50)
        if not n or (split.targets.is_floating_point() and split.score is argmax_error):
            continue
        targets = split.targets[:n]
        classes = 1 if split.targets.is_floating_point() else max(int(split.targets.max()) + 1, 2)
        shape = targets.shape if not split.targets.is_floating_point() else targets.shape[:1]
        logits = torch.randn(*shape, classes, generator=torch.Generator().manual_seed(0))
        try:
            score = split.score(logits, targets)
        except Exception as error:
            raise AssertionError(
                f"the score of '{name}' raised {type(error).__name__}: {error} for logits of shape "
                f"{tuple(logits.shape)}"
            ) from error
        require(
            isinstance(score, torch.Tensor) and score.shape == (n,),
            f"the score of '{name}' gave {_shape(score)} for {n} examples: give shape (n,), one number for each",
        )
        share = len(shape) > 1 and bool(((score >= 0) & (score <= 1)).all())
        require(
            share or bool(((score == 0) | (score == 1)).all()),
            f"the score of '{name}' gave values other than 0 and 1: 1 where the prediction is wrong, 0 where it is "
            "right",
        )


@datasets("name_doc_and_splits")
def an_unknown_split_is_refused(subject: DatasetSubject) -> None:
    """A name that is not in ``splits`` is a user's mistake, told in one sentence."""
    try:
        subject.dataset.open("no_such_split")
    except UserError:
        return
    except Exception as error:
        raise AssertionError(
            f"open('no_such_split') raised {type(error).__name__}: {error}; raise acutance.UserError naming the split"
        ) from error
    raise AssertionError("open('no_such_split') gave points: raise acutance.UserError for a name that is not in splits")


def _tensors(inputs: Any) -> Iterator[torch.Tensor]:
    if isinstance(inputs, torch.Tensor):
        yield inputs
        return
    parts = inputs.values() if hasattr(inputs, "values") else inputs
    for part in inputs.chunks() if isinstance(inputs, Lazy) else parts:
        yield from _tensors(part)


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__


SUBJECT = DatasetSubject
CHECKS = [*shared, *datasets]
