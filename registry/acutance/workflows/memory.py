"""Models and data held in memory, as a pool and a dataset like any other, for one study of one process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from acutance.dataset import Dataset, Split
from acutance.errors import UserError
from acutance.plugins import Item
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec, digest

if TYPE_CHECKING:
    from torch import nn

DIST = "acutance.study"  # stands where a distribution's name stands; no distribution can be called that


class HeldSpec(Spec):
    """Settings of what is held in memory."""

    digest: str
    """Digest of what is held, so that the record of a run tells it apart."""


@dataclass(frozen=True)
class InMemory:
    """What a study in memory is made of.

    Attributes:
        models: by name.
        targets: given values, ``{target: {model: value}}``.
        initial: the models where they started, as far as known.
        splits: the points, by split.
    """

    models: Mapping[str, nn.Module]
    targets: Mapping[str, Mapping[str, float]]
    initial: Mapping[str, nn.Module]
    splits: Mapping[str, Split]

    @cached_property
    def pool(self) -> Item:
        """The models as a pool."""
        return pool_item(self.models, self.targets, self.initial)

    @cached_property
    def dataset(self) -> Item:
        """The points as a dataset."""
        return dataset_item(self.splits)

    @property
    def targets_digest(self) -> str:
        """Names the given values: a model itself is known by its tensors."""
        return digest([[name, values[name]] for values in self.targets.values() for name in self.models])

    @property
    def points_digest(self) -> str:
        """Names the points."""
        from acutance.data.fingerprint import digest_points

        return digest([[name, digest_points(s.inputs, s.targets)] for name, s in self.splits.items()])


def pool_item(
    models: Mapping[str, nn.Module],
    targets: Mapping[str, Mapping[str, float]],
    starts: Mapping[str, nn.Module] | None = None,
) -> Item:
    """Return a pool of these models, each with its given targets, {target: {model: value}}, and where it started."""
    initial_models = starts or {}

    class Held(ModelPool[HeldSpec]):
        """Models held in memory by ``acutance.study``."""

        name = "models"

        def entries(self, spec: HeldSpec) -> Sequence[ModelEntry]:
            return [
                ModelEntry(
                    id=name,
                    architecture=architecture(model),
                    targets={target: values[name] for target, values in targets.items()},
                )
                for name, model in models.items()
            ]

        def load(self, entry: ModelEntry, spec: HeldSpec) -> nn.Module:
            return models[entry.id]

        def initial(self, entry: ModelEntry, spec: HeldSpec) -> nn.Module | None:
            return initial_models.get(entry.id)

    return Item("pools", Held.name, DIST, "", Held)


def dataset_item(split_points: Mapping[str, Split]) -> Item:
    """Return a dataset of these splits."""

    class Data(Dataset[HeldSpec]):
        """Points held in memory by ``acutance.study``."""

        name = "data"
        splits = tuple(split_points)

        def open(self, split: str) -> Split:
            if split not in split_points:
                raise UserError(f"there is no split '{split}'", "the study was given: " + ", ".join(split_points))
            return split_points[split]

    return Item("datasets", Data.name, DIST, "", Data)


def architecture(model: nn.Module) -> str:
    """Return the model's class with a digest of its structure: modules, their settings, shapes of all tensors.

    Layers that do nothing in evaluation mode enter by their place alone: networks that differ in the rate of
    their dropout have one architecture.
    """
    hasher = hashlib.sha256()
    for name, module in model.named_modules():
        kind = type(module).__name__
        hasher.update(f"{name}|{kind}|{'' if kind.startswith('Drop') else module.extra_repr()}\n".encode())
    for name, tensor in model.state_dict().items():
        hasher.update(f"{name}|{tuple(getattr(tensor, 'shape', ()))}\n".encode())
    return f"{type(model).__name__}-{hasher.hexdigest()[:8]}"
