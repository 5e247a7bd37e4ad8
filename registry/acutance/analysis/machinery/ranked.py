"""Columns over models as the counting of pairs takes them: sorted once, however often they are resampled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int32]


@dataclass(frozen=True)
class Ranked:
    """A column without missing values; infinities of one sign are tied.

    Attributes:
        codes: level of each model's value, from 1 for the lowest, (n,).
        order: models from the lowest to the highest, (n,).
        ends: for each place in that order the end of those tied with it, (n,).
        levels: different values.
    """

    codes: Whole
    order: Whole
    ends: Whole
    levels: int

    @classmethod
    def of(cls, x: Array) -> Ranked:
        """Sort a column, (n,); those sorted last are kept, since one target meets thousands of measures."""
        return _sorted(np.asarray(x, np.float64).tobytes())

    def in_order(self, order: Whole) -> Ranked:
        """Return the column with its values in another order, (n,) indices."""
        place = np.empty_like(order)
        place[order] = np.arange(len(order), dtype=order.dtype)
        return Ranked(self.codes[order], place[self.order], self.ends, self.levels)

    @property
    def tied(self) -> bool:
        """Whether two models have one value."""
        return self.levels < len(self.codes)

    @property
    def begins(self) -> Whole:
        """For each place in the order the first of those tied with it, (n,)."""
        return (self.ends - self.tied_with[self.order] - 1).astype(np.int32)

    @cached_property
    def tied_with(self) -> NDArray[np.int64]:
        """Other models of the same value, (n,)."""
        return (np.bincount(self.codes)[self.codes] - 1).astype(np.int64)


@lru_cache(maxsize=32)
def _sorted(column: bytes) -> Ranked:
    x = np.frombuffer(column, np.float64)
    order = np.argsort(x, kind="stable")
    values = x[order]
    low = np.append(True, values[1:] != values[:-1])[: len(x)]  # whether each is the first of those tied with it
    codes = np.empty(len(x), np.int32)
    codes[order] = np.cumsum(low)
    starts = np.append(np.flatnonzero(low), len(x))
    ends = np.repeat(starts[1:], np.diff(starts))
    return Ranked(codes, order.astype(np.int32), ends.astype(np.int32), len(starts) - 1)


def within(groups: NDArray[np.int64], x: Array) -> Ranked:
    """Rank by group first, then by value: pairs of two groups are the same in every column, pairs of one by value."""
    codes = Ranked.of(x).codes.astype(np.int64)
    return Ranked.of((groups * (len(x) + 1) + codes).astype(np.float64))


class Family:
    """Several columns over the same models, NaN where a value is missing, as permutations take them.

    Args:
        columns: (k, n).
    """

    def __init__(self, columns: Array) -> None:
        k, n = columns.shape
        self._ranked = [(np.flatnonzero(~np.isnan(row)), Ranked.of(row[~np.isnan(row)])) for row in columns]
        self._n = n
        self.scores = np.full((k, n), np.nan, np.float32)
        for row, (there, ranked) in zip(self.scores, self._ranked, strict=True):
            row[there] = ranked.codes  # whole numbers below 2^24, which compare like the values

    def __len__(self) -> int:
        return len(self._ranked)

    def _filled(self, value: int) -> Whole:
        return np.full((len(self._ranked), self._n), value, np.int32)

    @cached_property
    def ranks(self) -> Whole:
        """How many models with a value lie below each; -1 without a value."""
        table = self._filled(-1)
        for row, (there, ranked) in zip(table, self._ranked, strict=True):
            row[there[ranked.order]] = ranked.begins
        return table

    @cached_property
    def begins(self) -> Whole:
        """Where in the order of values those begin that have each rank or more, (k, n + 1)."""
        table = np.empty((len(self._ranked), self._n + 1), np.int32)
        for row, (there, ranked) in zip(table, self._ranked, strict=True):
            place = np.arange(len(there))
            row[:] = len(there)
            row[: len(there)] = np.where(ranked.begins == place, place, ranked.ends)
        return table

    @cached_property
    def tied_pairs(self) -> NDArray[np.int64]:
        """Pairs of models that each column ties."""
        return np.array([ranked.tied_with.sum() // 2 for _, ranked in self._ranked], np.int64)

    @cached_property
    def tied(self) -> NDArray[np.bool_]:
        """Whether a column has ties."""
        return np.array([ranked.tied for _, ranked in self._ranked], bool)

    @cached_property
    def walks(self) -> Whole:
        """The models that have a value, from the lowest; the rest of each row means nothing."""
        table = self._filled(0)
        for row, (there, ranked) in zip(table, self._ranked, strict=True):
            row[: len(there)] = there[ranked.order]
        return table

    @cached_property
    def ends(self) -> Whole:
        """For each place in ``walks`` the end of those tied with it."""
        table = self._filled(0)
        for row, (there, ranked) in zip(table, self._ranked, strict=True):
            row[: len(there)] = ranked.ends
        return table

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Models that have a value, of each column."""
        return np.array([len(there) for there, _ in self._ranked], np.int64)
