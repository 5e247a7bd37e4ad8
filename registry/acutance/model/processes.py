"""What the processes that share a model tell each other: sums, and whether they were given the same."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, distributed

from acutance.errors import UserError
from acutance.model.dtensors import whole

UNEQUAL = (
    "the processes of the group were given {}",
    "call the same in each of them, with the same points, weights and settings",
)


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
