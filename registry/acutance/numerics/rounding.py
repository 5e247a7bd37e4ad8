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
    """Thirty-two random bits for each number of a tensor, made of its place in it: the same ones on every device.

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

    def words(self, places: Tensor) -> Tensor:
        """Return the bits of the numbers at places, int64, as whole numbers of that type and shape."""
        first, second = self.keys(places >> 32)
        word = (places & WORD) + first & WORD
        word = (word ^ word >> 17) * 0xED5AD4BB & WORD
        word = ((word ^ word >> 11) + second & WORD) * 0xAC4C1B51 & WORD
        word = (word ^ word >> 15) * 0x31848BAB & WORD
        return word ^ word >> 14


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
        dither: random bits; the neighbour is taken where the last 16, as a whole number, are below 65536 P.
        places: of these numbers in their tensor, (k,) int64; or of the first, where the others follow.
        out: (k,), of the type of w.
    """
    x = x.detach().float()
    code = _compiled_for(places, w, x, out) if w.dtype == torch.bfloat16 else None
    if code is not None and isinstance(places, int):
        turn, start = divmod(places, WORD + 1)
        halves, to = w.view(torch.int16).numpy(), out.view(torch.int16).numpy()
        code.dithered_move(halves, x.numpy(), float(scale), *dither.keys(turn), start, to)
        return out
    exact = torch.add(w.float(), x, alpha=scale)
    return out.copy_(_dithered(exact, dither.words(_each(places, w)), out.dtype))


def neighbours(w: Tensor, share: float, dither: Dither, places: int | Tensor, out: Tensor) -> Tensor:
    """Write w, where some numbers are replaced by one of the two of their type that are next to them, and return it.

    Zero stays, and so does a number whose neighbour is infinite.

    Args:
        w: (k,) of any floating-point type.
        share: of the numbers that move, on average; half of them outwards.
        dither: random bits; a number moves outwards by the smallest of their words, and inwards by the largest.
        places: as of ``dithered_move``.
        out: (k,), of the type of w.
    """
    # The bits of a number, read as a whole one, count those of its type outwards from zero.
    whole = WHOLE[w.element_size()]
    bits, to, most = w.view(whole), out.view(whole), torch.finfo(w.dtype).max
    infinity, below = int(torch.tensor(most, dtype=w.dtype).view(whole)) + 1, round(share / 2 * (WORD + 1))
    code = _compiled_for(places, w, out) if whole is torch.int16 else None
    if code is not None and isinstance(places, int):
        turn, start = divmod(places, WORD + 1)
        code.neighbours(bits.numpy(), below, *dither.keys(turn), start, infinity, to.numpy())
        return out
    words, size = dither.words(_each(places, w)), torch.iinfo(whole).max  # all bits but that of the sign
    beside = (words < below).to(whole).sub_((words > WORD - below).to(whole)).add_(bits)
    kept = (beside.bitwise_and(size) >= infinity).logical_or_(bits.bitwise_and(size) == 0)
    torch.where(kept, bits, beside, out=to)
    return out


def _each(places: int | Tensor, w: Tensor) -> Tensor:
    """Return the place of each number, beside them."""
    return places.to(w.device) if isinstance(places, Tensor) else torch.arange(places, places + len(w)).to(w.device)


def _compiled_for(places: int | Tensor, *vectors: Tensor) -> Any:
    """Return the compiled walks where they do what torch does: for numbers in a row, whose keys are the same."""
    if isinstance(places, Tensor) or places % (WORD + 1) + len(vectors[0]) > WORD + 1:
        return None
    fit = all(v.is_cpu and v.is_contiguous() and not v.is_neg() for v in vectors)
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
    """Load the compiled walks, where numba can be had.

    Whoever holds much memory for a while asks before: what loading leaves above it would keep it from being given back.
    """
    one = torch.zeros(1, dtype=torch.bfloat16)
    dither = Dither(0, 0)
    dithered_move(one, one, 1.0, dither, 0, one.clone())
    neighbours(one, 0.5, dither, 0, one.clone())
