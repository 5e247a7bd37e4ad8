"""How many examples fit into one pass: a probe over a few of them says so, before memory runs out."""

from __future__ import annotations

import torch
from torch import Tensor

from acutance.data.batch import take_rows
from acutance.data.lazy import realised
from acutance.model.conditions import conditions
from acutance.surface.core import Core

FEW = 4  # examples of the probe; it is made with twice as many too, to tell what does not grow with them
SHARE = 0.5  # of the free memory that a pass may take
BACKWARD = 2.0  # what a backward holds, in units of what the forward kept for it


def fitting_microbatch(core: Core, free: float | None) -> int | None:
    """Return how many examples to pass at once: a power of two, or None where all of them fit.

    What automatic differentiation keeps of 4 and of 8 examples gives the bytes an example takes; a pass over all
    must fit into half of what is free. The two forwards are outside the ledger, as those of the surface's first check.

    Args:
        core: model and data; a model whose outputs mix examples is never cut.
        free: bytes of free memory; None where they are not known.
    """
    if free is None or core.n <= 2 * FEW or core.mixes_examples:
        return None
    few, more = _saved_bytes(core, FEW), _saved_bytes(core, 2 * FEW)
    per_example = BACKWARD * max(more - few, 0) / FEW
    fixed = max(BACKWARD * more - 2 * FEW * per_example, 0.0)
    fits = (SHARE * free - fixed) / per_example if per_example else core.n
    if fits >= core.n:
        return None
    return 1 << max(int(fits), 1).bit_length() - 1


def _saved_bytes(core: Core, rows: int) -> int:
    """Return the bytes that automatic differentiation keeps of a forward over the first rows, weights left out."""
    functional = core.functional
    leaves = [piece.detach().requires_grad_() for piece in functional.own_pieces()]
    seen = {piece.untyped_storage().data_ptr() for piece in leaves}
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    inputs = realised(take_rows(core.inputs, slice(0, rows)))
    with (
        conditions(functional, order=1),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        logits = functional(leaves, inputs)  # held until all that was kept is counted: no address is used twice
        del logits
    return total
