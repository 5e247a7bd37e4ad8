r"""How much of the Hessian a slice carries: a plane is two of all dimensions, and may miss what the others hold.

With Q an orthonormal basis of the plane, (p, 2), :math:`tr(Q^\top H Q) / tr(H)` is the share of the trace in it, the
trace by Hutchinson's estimate with its standard error, and :math:`\lambda_{max}(Q^\top H Q) / \lambda_{max}(H)` says
how much of the steepest curvature is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.numerics.basis import NonFiniteProduct
from acutance.numerics.draws import Streams
from acutance.numerics.lanczos import Lanczos, largest_eigenvalues
from acutance.numerics.traces import hutchinson
from acutance.workflows.landscape.frames import length

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

TOLERANCE, PRODUCTS = 1e-2, 40  # of lambda_max
RTOL = 0.05  # of the trace: more probes bring a picture nothing


def carried(surface: LossSurface, small: Sequence[Tensor], probes: int, seed: int) -> dict[str, Any]:
    """Return the curvature in planes, or lines, beside that of all dimensions.

    A model of no more parameters than ``probes`` has its trace exactly, one product a parameter.

    Args:
        surface: at w*.
        small: what ``within`` gives for each; numbers are means over several.
        probes: products for the trace, at most.
        seed: names the noise.

    Returns:
        ``trace`` with ``trace_stderr``, ``lambda_max`` with ``lambda_bound``; ``plane_trace``, ``plane_top`` (of lines
        and planes); their shares ``trace_share`` (with ``trace_share_stderr``) and ``top_share``, None where a
        denominator is not told from zero; ``parameters`` and ``dimensions``.

    Raises:
        Unsupported, NonFiniteProduct: where there is no Hessian.
    """
    traces, tops = [float(h.trace()) for h in small], [float(torch.linalg.eigvalsh(h)[-1]) for h in small]
    trace, stderr = _trace(surface, probes, seed)
    run = Lanczos(Streams("landscape", seed).normal("eigenvectors", 0, surface.w))
    largest = largest_eigenvalues(surface.hvp, run, TOLERANCE, min(PRODUCTS, surface.size))
    top, bound = (largest.values[0], largest.bounds[0]) if largest.products else (0.0, 0.0)
    top = max(top, *tops)  # no plane is steeper than the steepest direction, which is known to a tolerance
    mean, mean_top = math.fsum(traces) / len(traces), math.fsum(tops) / len(tops)
    told = trace != 0 and abs(trace) > 2 * (stderr or 0.0)
    return {
        "plane_trace": mean, "plane_top": mean_top, "trace": trace, "trace_stderr": stderr, "lambda_max": top,
        "lambda_bound": bound, "parameters": surface.size, "dimensions": len(small[0]), "planes": len(small),
        "trace_share": mean / trace if told else None,
        "trace_share_stderr": abs(mean / trace) * (stderr or 0.0) / abs(trace) if told else None,
        "top_share": mean_top / top if top != 0 and abs(top) > bound else None,
    }  # fmt: skip


def failed(error: Exception) -> dict[str, Any]:
    """Return what stands where the curvature is not known."""
    reason = str(error) or "a product with the Hessian is not finite"
    return {"note": f"how much of the Hessian's trace it carries is not known: {reason}"}


def within(surface: LossSurface, vectors: Sequence[Tensor]) -> Tensor:
    r"""Return :math:`Q^\top H Q`, (k, k) in double precision, Q an orthonormal basis of what k vectors span.

    Raises:
        Unsupported, NonFiniteProduct: where there is no Hessian.
    """
    basis: list[Tensor] = []
    for v in vectors:
        q = v / length(v)
        for _ in range(2):
            for other in basis:
                q = q - torch.dot(other, q) * other
        basis.append(q / length(q))
    products = [surface.hvp(q) for q in basis]
    h = torch.tensor([[float(torch.dot(q, product)) for product in products] for q in basis], dtype=torch.float64)
    if not bool(torch.isfinite(h).all()):
        raise NonFiniteProduct
    return (h + h.T) / 2


def _trace(surface: LossSurface, probes: int, seed: int) -> tuple[float, float | None]:
    """Return the trace of the Hessian and its standard error, 0 where it is exact."""
    if surface.size <= probes:
        unit = torch.zeros_like(surface.w)
        entries = []
        for i in range(surface.size):
            unit[i] = 1
            entries.append(float(surface.hvp(unit)[i]))
            unit[i] = 0
        return math.fsum(entries), 0.0
    rng = Streams("landscape", seed)
    found = hutchinson(surface.hvp, lambda k: rng.signs("trace", k, surface.w), probes, RTOL)
    return found.value, found.stderr


def in_words(found: dict[str, Any]) -> str:
    """Return in a sentence what a picture carries of the curvature."""
    if "note" in found:
        return str(found["note"])
    what = "line" if found["dimensions"] == 1 else "plane"
    what = f"average {what}" if found["planes"] > 1 else what
    share, top = found["trace_share"], found["top_share"]
    error = found["trace_share_stderr"]
    carries = (
        f"the {what} carries {_percent(share)}{f' ± {_percent(error)}' if error else ''} of tr H = {found['trace']:.3g}"
        if share is not None
        else f"the {what} has a trace of {found['plane_trace']:.3g}, and tr H = {found['trace']:.3g} ± "
        f"{found['trace_stderr'] or 0:.2g} is not told from 0"
    )
    steepest = (
        f"its steepest curvature is {_percent(top)} of λmax = {found['lambda_max']:.3g}" if top is not None else ""
    )
    return "; ".join(filter(None, (carries, steepest))) + f" (at w*, {found['parameters']} parameters)"


def _percent(x: float) -> str:
    return f"{100 * x:.3g}%"
