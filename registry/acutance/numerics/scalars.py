"""Numbers that steer an algorithm: Python floats on the CPU, 0-d tensors on an accelerator.

On the CPU reading a value costs nothing and plain floats are the fastest arithmetic; on an accelerator reading
one would wait for all work in flight, so there the numbers stay where they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Scalar = float | Tensor
Flag = bool | Tensor


def scalar(x: Tensor) -> Scalar:
    """Return a 0-d tensor as the device's kind of number, in double precision."""
    return float(x) if x.is_cpu else x.double()


def is_finite(x: Tensor) -> Tensor:
    """Return whether all numbers of a tensor are finite, 0-d: its ends tell, in one walk without memory of its own."""
    if not x.numel() or not x.is_floating_point():
        return torch.ones((), dtype=torch.bool, device=x.device)
    if x.device.type not in ("cpu", "cuda"):  # others may lack it
        return x.isfinite().all()
    low, high = torch.aminmax(x.detach())
    return low.isfinite() & high.isfinite()  # one NaN makes NaN of both


def choose(flag: Flag, yes: Scalar, no: Scalar) -> Scalar:
    """Return ``yes`` where the flag is set."""
    if isinstance(flag, bool):
        return yes if flag else no
    return torch.where(flag, _number(yes, flag.device), _number(no, flag.device))


def both(a: Flag, b: Flag) -> Flag:
    """Return a and b."""
    return (
        a and b
        if isinstance(a, bool) and isinstance(b, bool)
        else torch.logical_and(_as_tensor(a, b), _as_tensor(b, a))
    )


def either(a: Flag, b: Flag) -> Flag:
    """Return a or b."""
    return (
        a or b if isinstance(a, bool) and isinstance(b, bool) else torch.logical_or(_as_tensor(a, b), _as_tensor(b, a))
    )


def negate(a: Flag) -> Flag:
    """Return not a."""
    return not a if isinstance(a, bool) else ~a


def _as_tensor(flag: Flag, like: Flag) -> Tensor:
    """Return a flag as a 0-d tensor, on the device of the other one where that is a tensor."""
    device = like.device if isinstance(like, Tensor) else None
    return flag if isinstance(flag, Tensor) else torch.full((), flag, dtype=torch.bool, device=device)


def _number(x: Scalar, device: torch.device) -> Tensor:
    """Return x on the device in double precision; written there, since copying it would wait for the device."""
    return x if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float64, device=device)


def root(x: Scalar) -> Scalar:
    """Return the square root of x, or of 0 where rounding made x negative."""
    if isinstance(x, float):
        return math.sqrt(x) if x > 0 else 0.0 if x <= 0 else x
    return x.clamp_min(0).sqrt()


def inverse(x: Scalar) -> Scalar:
    """Return 1/x, and 0 where x is 0: a vanished gradient gives no direction, not a NaN."""
    if isinstance(x, float):
        return 1 / x if x > 0 else 0.0
    return torch.where(x > 0, 1 / x, torch.zeros_like(x))


def at_most_one(x: Scalar) -> Scalar:
    """Return min(x, 1)."""
    return min(x, 1.0) if isinstance(x, float) else x.clamp_max(1.0)


def add_multiple(x: Tensor, s: Scalar, y: Tensor, out: Tensor) -> Tensor:
    """Write x + s y to ``out``, which may be x or y."""
    if isinstance(s, Tensor):  # as ``alpha`` it would be fetched from the accelerator
        return torch.addcmul(x, y, s, out=out)
    return torch.add(x, y, alpha=s, out=out)


def keep(flag: Flag, *pairs: tuple[Tensor, Tensor]) -> None:
    """Copy source over destination where the flag is set, without asking an accelerator for its value."""
    if isinstance(flag, bool):
        if flag:
            for destination, source in pairs:
                destination.copy_(source)
    else:
        for destination, source in pairs:
            torch.where(flag, source, destination, out=destination)


def pick(flag: Flag, yes: Tensor, no: Tensor) -> Tensor:
    """Return ``yes`` where the flag is set, else ``no``, without asking an accelerator for its value.

    Where flags are known one of the two is returned and nothing copied; else ``no``, written over.
    """
    if isinstance(flag, bool):
        return yes if flag else no
    return torch.where(flag, yes, no, out=no)
