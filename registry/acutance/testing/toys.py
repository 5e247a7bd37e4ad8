"""A pool and a dataset that exist only while executors are checked: their jobs take milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from acutance import hookimpl
from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class ToySpec(Spec):
    """No settings."""


class ConformData(Dataset[ToySpec]):
    """Gaussian points with three classes."""

    name = "conform_data"

    def open(self, split: str) -> Split:
        """Return 24 points."""
        import torch

        if split not in self.splits:
            raise UserError(f"conform_data has no split '{split}'", did_you_mean(split, self.splits))
        g = torch.Generator().manual_seed(self.splits.index(split))
        return Split(torch.randn(24, 5, generator=g), torch.randint(0, 3, (24,), generator=g))


class ConformPool(ModelPool[ToySpec]):
    """Linear classifiers; the one called broken cannot be loaded."""

    name = "conform_pool"

    def entries(self, spec: ToySpec) -> Sequence[ModelEntry]:
        """Return the models."""
        return [ModelEntry(id=name, architecture="linear") for name in ("model0", "model1", "broken", "model2")]

    def load(self, entry: ModelEntry, spec: ToySpec) -> nn.Module:
        """Return a model of fixed weights.

        Raises:
            FileNotFoundError: for the broken one.
        """
        import torch
        from torch import nn

        if entry.id == "broken":
            raise FileNotFoundError("this model is meant to fail")
        model = nn.Linear(5, 3)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(int(entry.id[-1]))))
        return model.eval()


@hookimpl
def register_pools() -> list[type[Any]]:
    """Return the pool."""
    return [ConformPool]


@hookimpl
def register_datasets() -> list[type[Any]]:
    """Return the dataset."""
    return [ConformData]
