"""The share of a training's time that may be spent on looking at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from acutance.errors import UserError


class Budget:
    r"""Allows a measurement of expected cost c when :math:`m + c \le b\, t`.

    m is the time that measuring has taken so far, t that of training without it, b the share. So measuring takes at
    most b of the time of training, but for the first measurement, whose cost nobody knows before.

    Args:
        share: b, of the time of training; None for no limit.
        clock: gives seconds.

    Attributes:
        measuring: m.

    Raises:
        UserError: for a share that is no positive number.
    """

    def __init__(self, share: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        if share is not None and not (isinstance(share, int | float) and 0 < share < float("inf")):
            raise UserError(f"budget: {share!r} is no share of the time of training", "give 0.05 for 5%")
        self.share, self._clock = share, clock
        self.measuring = 0.0
        self._begun = clock()

    @property
    def training(self) -> float:
        """Seconds since the beginning, without those of measuring: t."""
        return self._clock() - self._begun - self.measuring

    @contextmanager
    def spent(self) -> Iterator[list[float]]:
        """Count what is done inside as measuring; the list has its seconds afterwards."""
        begun, taken = self._clock(), list[float]()
        try:
            yield taken
        finally:
            taken.append(self._clock() - begun)
            self.measuring += taken[0]

    def allows(self, cost: float | None) -> bool:
        """Return whether a measurement may be made now.

        Args:
            cost: seconds that it took the last time; None where it was never made.
        """
        if self.share is None:
            return True
        return cost is None or self.measuring + cost <= self.share * self.training
