"""Inputs that are read when they are used: what lies in files and is too large for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # examples that are read together where nothing else says how many


@dataclass(frozen=True, eq=False)
class Lazy:
    """One tensor of inputs, first axis the example, of which only the rows that are used are ever read.

    A dataset gives it as a split's inputs; the points of a surface are read once, and a whole split microbatch by
    microbatch, the next one while a model works on the present one.

    Attributes:
        read: (k,) row numbers -> tensor (k, ...), the same at every call; called from threads.
        rows: (n,) row numbers, in the order of the examples.
        functions: applied to what was read, one after the other.
    """

    read: Callable[[Tensor], Tensor]
    rows: Tensor
    functions: tuple[Callable[[Any], Any], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Lazy:
        return replace(self, rows=self.rows[rows])

    def then(self, function: Callable[[Any], Any]) -> Lazy:
        """Return these inputs with a function of a batch applied whenever they are read."""
        return replace(self, functions=(*self.functions, function))

    def now(self) -> Any:
        """Read all of them."""
        batch: Any = self.read(self.rows)
        for function in self.functions:
            batch = function(batch)
        return batch

    def chunks(self, size: int = CHUNK) -> Iterator[Any]:
        """Read them in parts of this size, always one part ahead."""
        parts = (self[start : start + size] for start in range(0, len(self), size))
        return (chunk for chunk, _ in ahead((part, None) for part in parts))


def every_row(read: Callable[[Tensor], Tensor], n: int) -> Lazy:
    """Return the rows 0 to n - 1."""
    return Lazy(read, torch.arange(n))


def realised(inputs: Any) -> Any:
    """Return inputs as they are, read where they were not."""
    return inputs.now() if isinstance(inputs, Lazy) else inputs


def applied(function: Callable[[Any], Any] | None, inputs: Any) -> Any:
    """Return function(inputs), put off where the inputs are; inputs themselves without a function."""
    if function is None:
        return inputs
    return inputs.then(function) if isinstance(inputs, Lazy) else function(inputs)


def ahead(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield (inputs, anything) with the inputs read, the next ones while the caller works on the present ones."""
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for inputs, other in pairs:
            following = reader.submit(realised, inputs), other
            if waiting is not None:
                yield waiting[0].result(), waiting[1]
            waiting = following
        if waiting is not None:
            yield waiting[0].result(), waiting[1]
