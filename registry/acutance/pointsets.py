"""The point sets of a study: m-batches for surfaces, whole splits for targets, and their digests."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from acutance.config import SurfaceConfig
from acutance.dataset import Dataset, Split
from acutance.errors import UserError
from acutance.fingerprint import digest_points
from acutance.points import m_batches, select
from acutance.spec import digest
from acutance.surface import take_rows

Points = tuple[Any, Tensor]


class PointSets:
    """Opens the splits of a dataset once and cuts them as a study's surface section says.

    Args:
        dataset: an instance.
        config: the surface section.
    """

    def __init__(self, dataset: Dataset[Any], config: SurfaceConfig) -> None:
        self.dataset, self.config = dataset, config
        self._splits: dict[str, Split] = {}
        self._digests: dict[tuple[str, bool], list[str]] = {}

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            UserError: when it is empty.
        """
        if name not in self._splits:
            split = self.dataset.open(name)
            if len(split) == 0:
                raise UserError(f"split '{name}' of dataset '{self.dataset.name}' is empty", "check its files")
            self._splits[name] = split
        return self._splits[name]

    @cached_property
    def points(self) -> Points:
        """The selected points of the surface, before they are cut."""
        split = self.split(self.config.split)
        chosen = select(split.targets, self.config.points, self.config.select)
        return take_rows(split.inputs, chosen), split.targets[chosen]

    def batches(self, split: str) -> list[Points]:
        """Return the m-batches of the surface; they come from the surface's own split."""
        if split != self.config.split:
            raise UserError(f"batches are cut from split '{self.config.split}', not '{split}'")
        return m_batches(*self.points, self.config.m)

    def whole(self, split: str) -> Points:
        """Return all points of a split, as targets and measures of the whole training set see them."""
        found = self.split(split)
        return found.inputs, found.targets

    def digests(self, split: str, whole: bool, preprocess: Any = None) -> list[str]:
        """Return one digest for each batch (or the one of the whole split), after preprocessing."""
        known = self._digests.get((split, whole)) if preprocess is None else None
        if known is None:
            sets = [self.whole(split)] if whole else self.batches(split)
            known = [digest_points(preprocess(x) if preprocess else x, y) for x, y in sets]
            if preprocess is None:
                self._digests[(split, whole)] = known
        return known

    @staticmethod
    def joint(digests: list[str]) -> str:
        """Return the digest of several batches together."""
        return digest(digests)
