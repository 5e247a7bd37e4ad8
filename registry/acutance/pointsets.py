"""The point sets of a study: m-batches for surfaces, whole splits for targets, and their digests."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from acutance.batch import take_rows
from acutance.config import SurfaceConfig
from acutance.dataset import Dataset, Split
from acutance.errors import UserError
from acutance.fingerprint import digest_points
from acutance.points import m_batches, select
from acutance.spec import digest

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
        self._digests: dict[tuple[str, str], list[str]] = {}

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

    def examples(self, split: str, level: str) -> int:
        """Return how many examples one pass of a measure of this level sees; 1 for the weights alone."""
        return {"batch": self.config.m, "dataset": len(self.split(split)), "weights": 1}[level]

    def digests(self, split: str, level: str, preprocess: Any = None) -> list[str]:
        """Return a digest for each batch a measure of this level is evaluated on, after preprocessing.

        Args:
            split: name of a split.
            level: ``batch``: one for each m-batch; ``dataset``: one, of the whole split; ``weights``: one, of nothing.
            preprocess: function of the inputs that the model needs, or None.
        """
        if level == "weights":
            return [""]
        if preprocess is None and (split, level) in self._digests:
            return self._digests[(split, level)]
        sets = [self.whole(split)] if level == "dataset" else self.batches(split)
        found = [digest_points(preprocess(x) if preprocess else x, y) for x, y in sets]
        if preprocess is None:
            self._digests[(split, level)] = found
        return found

    @staticmethod
    def joint(digests: list[str]) -> str:
        """Return the digest of several batches together."""
        return digest(digests)
