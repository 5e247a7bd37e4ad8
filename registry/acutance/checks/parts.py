"""Whether the loss of a batch follows from those of its parts: if not, values would depend on the free memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import NotInParts, Unsupported
from acutance.model.losses import ALL_AT_ONCE

if TYPE_CHECKING:
    from acutance.surface.core import Core
    from acutance.surface.loss_surface import LossSurface

LARGE_LOGITS = 1 << 28  # bytes of logits that are not held where their loss is a sum over microbatches
TOLERANCE = 1e-5  # of the parts' mean size: float32 rounds a thousand times finer


def refuse_mixing(core: Core) -> None:
    """Refuse passes over parts where the model mixes examples of a batch, or cannot pass a last part of one example.

    Raises:
        NotInParts: when the passes are over fewer examples than there are.
    """
    size = core.microbatch or core.n
    if core.refuses_single and not core.in_one_pass and (size == 1 or core.n % size == 1):
        raise NotInParts(
            f"the model cannot pass a single example, the last part of {core.n} in passes of {size} "
            f"({core.refuses_single})",
            f"set microbatch to None, or to at least {core.n}",
        )
    if core.mixes_examples and not core.in_one_pass:
        raise NotInParts(
            "the model's output for an example depends on the other examples of the batch (as with batch normalization "
            f"without running statistics), so that passes of {size} give other values than one of {core.n}",
            f"set microbatch to None, or to at least {core.n}",
        )


def refuse_parts(surface: LossSurface, raw: Tensor | None = None) -> None:
    """Refuse passes over parts of the batch with a loss of one's own that is no mean over the examples.

    Looked at once for a batch and a size of its parts.

    Args:
        surface: with the passes' size.
        raw: (n, K) logits of all examples at any point; those at w* by default, n forwards where they are not known.

    Raises:
        NotInParts: when the parts' weighted sum is not the loss of the whole.
    """
    core = surface.core
    if core.in_one_pass or not _parts_unknown(core):
        return
    size = core.microbatch or core.n
    problem = _cached_difference(surface, raw, size)
    if problem:
        raise NotInParts(f"{problem}: it cannot be computed in passes of {size}", ALL_AT_ONCE)


def refuse_single(surface: LossSurface, raw: Tensor | None = None) -> None:
    """Refuse the losses of single examples where the loss of all is not their mean.

    Args:
        surface: whose loss.
        raw: (n, K) logits of all examples at any point, as in ``refuse_parts``.

    Raises:
        Unsupported: when it is not.
    """
    problem = _cached_difference(surface, raw, 1) if _parts_unknown(surface.core) else ""
    if problem:
        raise Unsupported(
            f"{problem}: single examples have no loss; let it return (losses, weights), each (n,), for "
            "sum(w l) / sum(w)"
        )


def divisible(surface: LossSurface, microbatch: int) -> bool:
    """Return whether passes of so many examples would give what one pass over all gives.

    Asks a loss of one's own for its value of parts, on the logits at w*: n forwards where they are not known.
    """
    surface.check()
    core, before = surface.core, surface.core.microbatch
    core.microbatch = microbatch
    try:
        surface.check(derived=True)
    except NotInParts:
        return False
    finally:
        core.microbatch = before
    return True


def _cached_difference(surface: LossSurface, raw: Tensor | None, size: int) -> str:
    differences = surface.core.part_differences
    if size not in differences:
        raw = surface.clean().raw if raw is None else raw
        differences[size] = difference(surface.core, surface.transform(raw), size)
    return differences[size]


def _parts_unknown(core: Core) -> bool:
    """Whether nothing says what the loss of a part is: a function of the user's that gives a mean."""
    return callable(core.head.loss) and core.head.weight is None and core.n > 1


def difference(core: Core, seen: Tensor, size: int) -> str:
    r"""Return in words how the loss of all differs from that of its parts; nothing where it does not.

    .. math:: L(f_{1..n}) = \sum_b \frac{n_b}{n} L(f_b)

    Args:
        core: the surface's.
        seen: (n, K) what the loss sees of all examples.
        size: examples of a part; the last one may have fewer.
    """
    head, n = core.head, core.n
    cuts = [slice(start, start + size) for start in range(0, n, size)]
    with torch.no_grad():
        whole = head.value(seen, core.targets)
        try:
            parts = torch.stack([head.part(seen[rows], core.targets[rows], n) for rows in cuts])
        except NotInParts as error:
            return error.message
    total, scale = float(parts.sum()), float(parts.abs().sum())
    if not math.isfinite(whole) or abs(float(whole) - total) <= TOLERANCE * max(scale, abs(float(whole))):
        return ""
    return f"your loss is no mean over the examples ({float(whole):.6g} of all {n}, {total:.6g} as the mean of parts)"


def keeps_logits(core: Core) -> bool:
    r"""Return whether passes hold the logits of all examples; told by the model, the points and the microbatch alone.

    A loss with a name, or one of (losses, weights), is the sum of what microbatches contribute. The logits of a
    language model, (n, L, V), would be the largest thing held: then none outlives its microbatch. Of a loss of one's
    own that gives a mean the parts are held against the whole, so its logits are kept.
    """
    few = core.few_logits
    if few is None or core.in_one_pass or not core.labelled:
        return True
    if callable(core.head.loss) and core.head.weight is None:
        return True
    return core.n * (few.numel() // len(few)) * few.element_size() < LARGE_LOGITS
