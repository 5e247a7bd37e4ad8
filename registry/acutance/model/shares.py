"""What one process holds of the parameters of a model that several share, and what these tell each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from acutance.errors import UserError

UNEQUAL = (
    "the processes of the group were given {}",
    "call the same in each of them, with the same points, weights and settings",
)
Reduce = Callable[[Tensor, bool], Tensor]  # sums of a tensor over the processes, or the largest entries if told so


@dataclass(frozen=True)
class Share:
    """What a process holds of a parameter: of each run of ``width`` of its numbers those from ``first`` to ``last``.

    A part of the first axis is one run; of another axis there are as many runs as places on the axes before it.

    Attributes:
        shape: of the part that is held.
        width: numbers of a run.
        first: the first of them that is held.
        last: the one after the last.
        axis: along which the parameter is cut; None where every process holds all of it.
    """

    shape: torch.Size
    width: int
    first: int
    last: int
    axis: int | None

    @classmethod
    def whole(cls, shape: torch.Size) -> Share:
        """Return the share of a process that holds all of a parameter."""
        return cls(shape, shape.numel(), 0, shape.numel(), None)

    @classmethod
    def cut(cls, shape: torch.Size, axis: int, rank: int, count: int) -> Share:
        """Return the share of process ``rank`` of ``count`` among which an axis is cut as by ``torch.chunk``.

        The first ones hold as many places as any, the last ones fewer or none.
        """
        size = -(-shape[axis] // count)
        first, last = (min(r * size, shape[axis]) for r in (rank, rank + 1))
        inner = shape[axis + 1 :].numel()
        held = torch.Size([*shape[:axis], last - first, *shape[axis + 1 :]])
        return cls(held, shape[axis] * inner, first * inner, last * inner, axis)

    def before(self, place: int) -> int:
        """Return how many of the held numbers come before a place in the whole parameter."""
        runs, rest = divmod(place, self.width)
        return runs * (self.last - self.first) + min(max(rest - self.first, 0), self.last - self.first)

    def chosen(self, low: int, high: int, start: int) -> slice | Tensor:
        """Return where the held numbers from ``low`` to ``high`` are among those of the parameter from ``start`` on."""
        held = self.last - self.first
        if low // held == (high - 1) // held:
            place = low // held * self.width + self.first + low % held - start
            return slice(place, place + high - low)
        numbers = torch.arange(low, high)
        return numbers // held * self.width + self.first + numbers % held - start

    def places(self, low: int, high: int) -> int | Tensor:
        """Return the places in the parameter of the held numbers from ``low`` to ``high``, or of the first."""
        chosen = self.chosen(low, high, 0)
        return chosen if isinstance(chosen, Tensor) else int(chosen.start)


class Portion:
    """What a process holds of some parameters.

    Args:
        shares: of each.
        reduce: over the processes.
    """

    def __init__(self, shares: Sequence[Share], reduce: Reduce) -> None:
        self.shares, self._reduce = shares, reduce
        self._cut = torch.tensor([share.axis is not None for share in shares], dtype=torch.bool)

    @property
    def sizes(self) -> list[int]:
        """How many numbers of each parameter are held."""
        return [share.shape.numel() for share in self.shares]

    def summed(self, values: Tensor, largest: bool = False) -> Tensor:
        """Return sums of what each process makes of its parts, or the largest of it; the same in every process.

        Args:
            values: (k, ...), a row for each parameter, not negative where the largest is wanted; those of parameters
                that every process holds whole count once.
            largest: whether to take the largest.
        """
        cut = self._cut.view(-1, *[1] * (values.dim() - 1))
        mine = torch.where(cut, values, torch.zeros_like(values))
        return torch.where(cut, self._reduce(mine, largest), values)

    def norm(self, each: Tensor, order: float) -> float:
        """Return the norm of an order of a vector of which this process knows the norms of its parts, (k,)."""
        if math.isinf(order):
            return float(self.summed(each, largest=True).max())
        return float(self.summed(each**order).sum() ** (1 / order))

    def norms_by_row(self, norms: Tensor) -> Tensor:
        """Return l2 norms of rows of a parameter that other processes hold further parts of, from those of its own."""
        squares = self._reduce(norms.double().square().cpu(), False)
        return squares.sqrt().to(norms)


class Processes:
    """A group of processes that call the same, each with what it holds.

    Args:
        group: of ``torch.distributed``.
        device: through which they talk.
    """

    def __init__(self, group: Any, device: torch.device) -> None:
        self._group, self._device = group, device

    def reduced(self, values: Tensor, largest: bool = False) -> Tensor:
        """Return sums over the processes, or the largest entries of all of them."""
        there = values.to(self._device, copy=True)
        operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
        distributed.all_reduce(there, operation, self._group)
        return there.to(values.device)

    def anywhere(self, flag: bool) -> bool:
        """Return whether a flag is set in any of the processes."""
        return bool(self.reduced(torch.tensor([flag], dtype=torch.int64), largest=True))

    def require_same(self, what: str, *values: object) -> None:
        """Refuse what is not the same in all processes, in all of them.

        Args:
            what: they are, for the message.
            values: whose ``repr`` is compared.

        Raises:
            UserError: saying so.
        """
        digest = hashlib.sha256("\x1f".join(map(repr, values)).encode()).digest()
        number = int.from_bytes(digest[:8], "big") >> 2
        low, high = self.reduced(torch.tensor([-number, number]), largest=True).tolist()
        if -low != high:
            raise UserError(UNEQUAL[0].format(what), UNEQUAL[1])

    def agreed(self, logits: Tensor) -> Tensor:
        """Return outputs as the first process found them, in all: what follows from them is decided alike in each."""
        made: Tensor = _Agreed.apply(whole(logits), self)
        return made

    def of_the_first(self, numbers: Tensor) -> Tensor:
        """Return the numbers of the first process."""
        same = numbers.detach().clone(memory_format=torch.contiguous_format)
        distributed.broadcast(same, distributed.get_global_rank(self._group, 0), self._group)
        return same


class _Agreed(torch.autograd.Function):
    """The outputs of the first process, with the gradient of one's own: they differ by rounding, if at all."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, processes: Processes) -> Tensor:
        return processes.of_the_first(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether a tensor is one of several processes."""
    return "DTensor" in (type(tensor).__name__, type(tensor.data).__name__)


def whole(tensor: Any) -> Tensor:
    """Return a tensor as every process has it whole."""
    made: Tensor = tensor.full_tensor() if is_dtensor(tensor) else tensor
    return made
