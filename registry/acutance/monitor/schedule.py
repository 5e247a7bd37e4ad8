"""When something is measured: every so many steps or epochs, at steps that lie evenly on a logarithmic axis."""

from __future__ import annotations

import math
import numbers
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from acutance.errors import UserError

EVERY = 'give a number of steps, "10 steps", "epoch", "2 epochs", "log", or a function of the step'


class Schedule(ABC):
    """Says whether something is due when training has come from one step to a later one."""

    @abstractmethod
    def due(self, before: int, step: int) -> bool:
        """Return whether a time to measure lies in (before, step], both in updates of the weights."""

    def due_at_epoch(self, epoch: int) -> bool:
        """Return whether it is time when an epoch has ended, counted from 1."""
        return False


@dataclass(frozen=True)
class Steps(Schedule):
    """Every so many updates of the weights: steps count, 2 count, 3 count ..."""

    count: int

    def due(self, before: int, step: int) -> bool:
        """Return whether a multiple was reached or passed."""
        return step // self.count > before // self.count


@dataclass(frozen=True)
class Epochs(Schedule):
    """At the end of every so many epochs."""

    count: int

    def due(self, before: int, step: int) -> bool:
        """Return that no step alone makes it due."""
        return False

    def due_at_epoch(self, epoch: int) -> bool:
        """Return whether the number of an epoch is a multiple."""
        return epoch % self.count == 0


@dataclass(frozen=True)
class LogSpaced(Schedule):
    r"""At the steps :math:`\lceil 10^{k / d} \rceil`, k = 0, 1, 2 ...: d of them for each factor of ten.

    Attributes:
        per_decade: d.
    """

    per_decade: int = 8

    def due(self, before: int, step: int) -> bool:
        """Return whether one of these steps was reached or passed."""
        if step < 1:
            return False
        # The last of these steps that is not behind ``step``; the logarithm may be off by one in its last digit.
        k = math.floor(math.log10(step) * self.per_decade) + 1
        while math.ceil(round(10 ** (k / self.per_decade), 9)) > step:
            k -= 1
        return math.ceil(round(10 ** (k / self.per_decade), 9)) > before


@dataclass(frozen=True)
class When(Schedule):
    """At the steps that a function says yes to."""

    says: Callable[[int], object]

    def due(self, before: int, step: int) -> bool:
        """Return whether it says yes to one of the steps since."""
        return any(bool(self.says(s)) for s in range(before + 1, step + 1))


def schedule_of(every: int | str | Schedule | Callable[[int], object], where: str = "every") -> Schedule:
    """Return the schedule that somebody means.

    Args:
        every: a number of steps, ``"50 steps"``, ``"epoch"``, ``"2 epochs"``, ``"log"``, ``"log 4"`` (four for each
            factor of ten), a function of the step, or a schedule.
        where: what messages call it.

    Raises:
        UserError: for anything else.
    """
    if isinstance(every, Schedule):
        return every
    if isinstance(every, numbers.Integral) and not isinstance(every, bool):
        if every < 1:
            raise UserError(f"{where}: {every} is no number of steps", EVERY)
        return Steps(int(every))
    if isinstance(every, str):
        found = re.fullmatch(r"(?:(\d+) )?(step|epoch)s?|(\d+)|log(?:[ -]?spaced)?(?: (\d+))?", every.strip().lower())
        if found and not (found[0] and any(group is not None and int(group) < 1 for group in found.group(1, 3, 4))):
            if found[2]:
                count = int(found[1] or 1)
                return Epochs(count) if found[2] == "epoch" else Steps(count)
            return Steps(int(found[3])) if found[3] else LogSpaced(int(found[4] or LogSpaced.per_decade))
        raise UserError(f"{where}: '{every}' is no schedule", EVERY)
    if callable(every):
        return When(every)
    raise UserError(f"{where}: got {type(every).__name__}", EVERY)
