"""Numbers rounded at random to a coarser type, so that no move of weights is lost on average."""

from __future__ import annotations

import torch
from torch import Tensor

from acutance.numerics.draws import Streams
from acutance.numerics.kernels import kernels

WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # types by whose steps numbers of a size are counted
STEPS = 1 << 16  # of a random number: as many as float32 has between neighbours of bfloat16, so that shares are exact


def sixteen_bits(streams: Streams, stream: str, k: int, count: int) -> Tensor:
    """Return draw k of 16 random bits a number, (count,) int16 on the CPU: four of one random integer."""
    words = torch.empty((count + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=streams.generator(stream, k))
    return words.view(torch.int16)[:count]


def dithered(exact: Tensor, bits: Tensor, out: Tensor) -> Tensor:
    r"""Write numbers rounded to one of their two neighbours in a coarser type at random, and return them.

    .. math:: P(\text{beside}) = \frac{|x - \text{near}|}{|\text{beside} - \text{near}|}

    of the nearest one and the other. Rounding to the nearest loses a move below half a unit in the last place, whatever
    its sign and in every weight; this keeps the mean (stochastic rounding: Croci et al. 2022,
    https://doi.org/10.1098/rsos.211631), and opposite moves stay opposite.

    Args:
        exact: x, (k,) float32.
        bits: (k,) int16, uniform; as whole numbers from 0 to 65535, the neighbour is taken by those below 65536 P.
        out: (k,) float16 or bfloat16.
    """
    code = kernels() if out.dtype == torch.bfloat16 and out.device.type == "cpu" else None
    if code is not None and exact.is_contiguous() and out.is_contiguous():
        code.dither(exact.view(torch.int32).numpy(), bits.numpy(), out.view(torch.int16).numpy())
        return out
    return out.copy_(_dithered(exact, bits, out.dtype))


def _dithered(exact: Tensor, bits: Tensor, kind: torch.dtype) -> Tensor:
    near = exact.to(kind)
    whole = WHOLE[near.element_size()]
    error = exact - near.float()
    # The bits of a number, read as a whole one, count those of its type outwards from zero.
    outwards = torch.where((error > 0) == (near > 0), 1, -1).to(whole)
    beside = (near.view(whole) + outwards).view(kind)
    share = error.abs_().div_((beside.float() - near.float()).abs_()).mul_(STEPS)
    taken = (bits.int() & STEPS - 1) < share
    return torch.where(taken & (near != 0) & beside.isfinite(), beside, near)


def ready() -> None:
    """Load the compiled walk, where numba can be had.

    Whoever holds much memory for a while asks before: what loading leaves above it would keep it from being given back.
    """
    code = kernels()
    if code is not None:
        one = torch.zeros(1, dtype=torch.int16).numpy()
        code.dither(torch.zeros(1, dtype=torch.int32).numpy(), one, one)
