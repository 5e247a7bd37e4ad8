"""Numbers rounded at random to a coarser type, so that no move of weights is lost on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from acutance.numerics.draws import Streams
from acutance.numerics.walks import compiled

WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # types by whose steps numbers of a size are counted
STEPS = 1 << 16  # of a random number: as many as float32 has between neighbours of bfloat16, so that shares are exact
WORD = (1 << 32) - 1


@dataclass(frozen=True)
class Dither:
    """Sixteen random bits for each number of a tensor, made of its place in it: the same ones on every device.

    The last 32 bits of a place are mixed with two keys, by multiplications and shifts after which each bit depends on
    each: those of Wellons and others (https://github.com/skeeto/hash-prospector). The first ones change the keys.

    Attributes:
        first: key, 32 bits.
        second: key, 32 bits.
    """

    first: int
    second: int

    @classmethod
    def of(cls, streams: Streams, stream: str) -> Dither:
        """Return the bits of a stream."""
        seed = streams.seed(stream, 0)
        return cls(seed & WORD, seed >> 31 & WORD)

    def keys(self, turn: int | Tensor) -> tuple[int | Tensor, int | Tensor]:
        """Return both keys for places from 2^32 times ``turn`` on."""
        return self.first + turn * 0x85EBCA6B & WORD, self.second + turn * 0xC2B2AE35 & WORD

    def bits(self, places: Tensor) -> Tensor:
        """Return the bits of the numbers at places, int64, as int16 of the same shape."""
        first, second = self.keys(places >> 32)
        word = (places & WORD) + first & WORD
        word = (word ^ word >> 17) * 0xED5AD4BB & WORD
        word = ((word ^ word >> 11) + second & WORD) * 0xAC4C1B51 & WORD
        word = (word ^ word >> 15) * 0x31848BAB & WORD
        return (word ^ word >> 14).to(torch.int16)


def dithered_move(w: Tensor, x: Tensor, scale: float, dither: Dither, places: int | Tensor, out: Tensor) -> Tensor:
    r"""Write w + scale x, rounded to one of its two neighbours in a coarser type at random, and return it.

    .. math:: P(\text{beside}) = \frac{|y - \text{near}|}{|\text{beside} - \text{near}|}

    for the sum y in float32, of the nearest one and the other. Rounding to the nearest loses a move below half a unit
    in the last place, whatever its sign and in every weight; this keeps the mean (stochastic rounding: Croci et al.
    2022, https://doi.org/10.1098/rsos.211631), and opposite moves stay opposite.

    Args:
        w: (k,) float16 or bfloat16.
        x: (k,), on the same device.
        scale: factor of x.
        dither: random bits; the neighbour is taken by those below 65536 P, as whole numbers from 0 to 65535.
        places: of these numbers in their tensor, (k,) int64; or of the first, where the others follow.
        out: (k,), of the type of w.
    """
    x = x.detach().float()
    if isinstance(places, int):
        code = _compiled_for(w, x, out, places)
        if code is not None:
            turn, start = divmod(places, WORD + 1)
            halves, to = w.view(torch.int16).numpy(), out.view(torch.int16).numpy()
            code.dithered_move(halves, x.numpy(), float(scale), *dither.keys(turn), start, to)
            return out
        places = torch.arange(places, places + len(w))
    exact, bits = torch.add(w.float(), x, alpha=scale), dither.bits(places.to(w.device))
    return out.copy_(_dithered(exact, bits, out.dtype))


def _compiled_for(w: Tensor, x: Tensor, out: Tensor, place: int) -> Any:
    """Return the compiled walks where they do what torch does: for numbers in a row, whose keys are the same."""
    if w.dtype != torch.bfloat16 or not w.is_cpu or place % (WORD + 1) + len(w) > WORD + 1:
        return None
    fit = all(t.is_contiguous() and not t.is_neg() for t in (w, x, out))
    return compiled(torch.float32) if fit else None


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
    one = torch.zeros(1, dtype=torch.bfloat16)
    dithered_move(one, one, 1.0, Dither(0, 0), 0, one.clone())
