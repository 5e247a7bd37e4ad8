"""The gradient of each example's loss, or of its logits: vectorised where the model allows it, else one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acutance.data.batch import take_rows
from acutance.errors import Unsupported, UserError
from acutance.model.conditions import conditions
from acutance.model.derivatives import flat_gradient, of_a_number
from acutance.model.parameters import Parameters
from acutance.surface.core import Core

CHUNK_BYTES = 2**28


class ExampleGradients:
    """Gradients of single examples with respect to the free parameters at one point.

    ``torch.func.vmap`` over examples cannot take every model: one that looks at values of its input (attention masks
    of transformers), most recurrent layers, operations of one's own. So two examples are computed in both ways
    first; where vmap raises or disagrees, all examples are computed one by one.

    Args:
        core: what the views share.
        pieces: one tensor for every parameter of the model.
        parameters: which are free.
        transform: from raw logits to what the loss sees.
        targets: of the examples; the core's own by default.
        u: what the logits of each example are combined with, (n, K), in place of its loss.
    """

    def __init__(
        self,
        core: Core,
        pieces: list[Tensor],
        parameters: Parameters,
        transform: Callable[[Tensor], Tensor],
        targets: Tensor | None = None,
        u: Tensor | None = None,
    ) -> None:
        self._core, self._pieces, self.parameters, self._transform = core, pieces, parameters, transform
        self._targets = core.targets if targets is None else core.other_targets(targets)
        if u is not None and len(u) != core.n:
            raise UserError(f"u has {len(u)} rows, this surface has {core.n} examples")
        self._u = None if u is None else u.detach().to(core.functional.device, torch.float64)
        self._memory = _Memory()
        self._leaves = [pieces[i].detach().view(parameters.slots[i].shape) for i in parameters.free]

    def chunks(self, chunk: int | None, first: int = 0) -> Iterator[Tensor]:
        """Return an iterator of (k, p) gradients, from an example on.

        Raises:
            Unsupported: when an example's output depends on the others, or there is none for it alone, so that no
                gradient is its own.
        """
        core = self._core
        core.refuse_derivatives(self.parameters.free)
        if chunk is not None and chunk < 1:
            raise UserError(f"chunk: must be at least 1, got {chunk}")
        if not 0 <= first < core.n:
            raise UserError(f"start: must be one of the {core.n} examples, 0 to {core.n - 1}, got {first}")
        if core.mixes_examples or core.refuses_single:
            why = f" ({core.refuses_single})" if core.refuses_single else ""
            raise Unsupported(
                "gradients of single examples do not exist for this model: its output for an example depends on the "
                f"other examples of the batch{why}"
            )
        row = sum(leaf.numel() * leaf.element_size() for leaf in self._leaves)
        size = chunk or max(1, min(core.microbatch or core.n, CHUNK_BYTES // row))
        if core.vectorises is None:
            core.vectorises = self._vectorises()
        gradients = self._together if core.vectorises else self._one_by_one

        def generate() -> Iterator[Tensor]:
            for start in range(first, core.n, size):
                with conditions(core.functional):
                    rows = torch.arange(start, min(start + size, core.n), device=core.functional.device)
                    result = gradients(rows)
                core.book(forwards=len(rows), backwards=len(rows))
                yield result

        return generate()

    def _loss(self, pieces: list[Tensor], rows: Tensor) -> Tensor:
        raw = self._core.functional(pieces, take_rows(self._core.inputs, rows))
        outputs = self._transform(raw)
        if self._u is not None:
            if outputs.shape[1:] != self._u.shape[1:]:
                raise UserError(f"u has shape {tuple(self._u.shape)}, an example has logits {tuple(outputs.shape[1:])}")
            return (outputs.double() * self._u[rows]).sum()
        return self._core.head.example(outputs, self._targets[rows], self._core.n)

    def _together(self, rows: Tensor) -> Tensor:
        """Return the gradients of some examples, (k, p), vectorised."""
        gradient = torch.func.grad_and_value(
            lambda leaves, row: self._loss(self.parameters.merged(self._pieces, leaves), row[None])
        )
        functional = self._core.functional
        # The fused attention kernels have no batching rule.
        with conditions(functional, order=2), torch.no_grad(), functional.holding(self._pieces):
            parts, losses = torch.func.vmap(gradient, in_dims=(None, 0))(self._leaves, rows)
        flat = [g.reshape(len(rows), -1) for g in parts]
        together = torch.cat(flat, dim=1, out=self._memory.matrix(len(rows), sum(g.shape[1] for g in flat), flat[0]))
        (together,) = of_a_number(losses, [together])
        return together

    def _one_by_one(self, rows: Tensor) -> Tensor:
        """Return the gradients of some examples, (k, p), with a backward pass for each."""
        functional = self._core.functional
        leaves = [leaf.detach().requires_grad_() for leaf in self._leaves]
        pieces = self.parameters.merged(self._pieces, leaves)
        with conditions(functional, order=1), functional.holding(pieces):
            return torch.stack([flat_gradient(self._loss(pieces, row), leaves) for row in rows.split(1)])

    def _vectorises(self) -> bool:
        """Return whether vmap takes the model, and gives two examples the gradients that single passes give."""
        rows = torch.arange(min(2, self._core.n), device=self._core.functional.device)
        # First one by one: what the model itself raises is raised here.
        alone = self._one_by_one(rows)
        self._core.book(checks=2 * len(rows) * 3)  # a backward is two forwards
        try:
            together = self._together(rows)
        except Exception:
            # Whatever vmap cannot take raises in its own way, also RuntimeError from inside the model.
            return False
        tolerance = 1e-8 if alone.dtype == torch.float64 else 1e-3
        return bool((together - alone).abs().max() <= tolerance * alone.abs().max())


class _Memory:
    """Memory for chunks of gradients, which is used again once nobody holds the tensor that was made of it.

    To have new memory page by page takes four times as long as to write into it, and a chunk is hundreds of megabytes.
    Whoever iterates holds one chunk while the next one is made, so there are two. A tensor keeps NumPy's array alive
    as long as it, or a view of it, lives: the number of references says whether one does.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.uint8]] = []

    def matrix(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return a matrix to be filled, (rows, columns), of a tensor's type."""
        if like.device.type != "cpu":
            return like.new_empty(rows, columns)
        size = rows * columns * like.element_size()
        arrays = self._arrays
        for i in range(len(arrays)):  # without a name for the array: it would be a reference
            if arrays[i].nbytes >= size and _references(arrays, i) == UNUSED:
                break
        else:
            self._arrays = arrays = [*arrays[-1:], np.empty(size, np.uint8)]
            i = len(arrays) - 1
        return torch.from_numpy(arrays[i][:size]).view(like.dtype).view(rows, columns)


def _references(arrays: list[NDArray[np.uint8]], i: int) -> int:
    return sys.getrefcount(arrays[i])


# Of an array that only its list has: Pythons differ in what the call itself counts.
UNUSED = _references([np.empty(1, np.uint8)], 0)
