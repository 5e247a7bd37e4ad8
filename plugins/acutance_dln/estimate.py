"""From a surface to the closed forms: their arguments, where they are defined, and the extras of their estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance import scaling
from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance_dln import closed_forms
from acutance_dln.factors import factors

if TYPE_CHECKING:
    from acutance.surface import LossSurface
    from acutance_dln.measures import BetaNormSpec, ClosedFormSpec

WHAT = "this closed form"
LARGEST = 4000  # free parameters of a dense Hessian: 128 MB, a few seconds
# What half the value comes down to, of which beta is the argument, for the trace and for the largest eigenvalue.
NORMS: dict[str, tuple[tuple[str, Callable[[Tensor], Tensor]], tuple[str, Callable[[Tensor], Tensor]]]] = {
    "balanced": (("||beta||_1", lambda b: b.abs().sum()), ("||beta||_inf", lambda b: b.abs().max())),
    "elementwise": (("||beta||_2^2", lambda b: b.square().sum()), ("||beta||_inf^2", lambda b: b.square().max())),
}


@dataclass(frozen=True)
class Regression:
    """A diagonal linear network on its points, in float64.

    Attributes:
        x: (n, d) inputs.
        r: (n,) residual.
        u: (d,) first factor.
        v: (d,) second factor.
        kappa: factor of the loss.
        loss: its value.
    """

    x: Tensor
    r: Tensor
    u: Tensor
    v: Tensor
    kappa: float
    loss: float

    @property
    def beta(self) -> Tensor:
        """The predictor, (d,)."""
        return self.u * self.v


def regression(surface: LossSurface, spec: ClosedFormSpec) -> Regression:
    """Return what the closed forms are functions of; one pass, unless another measure made it.

    Raises:
        Unsupported: where they are not those of this surface.
    """
    u, v = factors(surface, WHAT)
    if spec.logit_norm or surface.logit_norm:
        raise Unsupported(
            "logit normalization divides by the spread over the classes, and a diagonal linear network has one output: "
            "set logit_norm to false"
        )
    loss = surface.criterion
    if not isinstance(loss, str) or loss not in closed_forms.CONVENTIONS:
        name = loss if isinstance(loss, str) else f"a function, {getattr(loss, '__name__', type(loss).__name__)}"
        raise Unsupported(
            f"{WHAT} is that of squared error; the loss is {name}: choose {', '.join(closed_forms.CONVENTIONS)}"
        )
    return surface.memo("dln.regression", lambda: _regression(surface, u, v, loss))


def _regression(surface: LossSurface, u: Tensor, v: Tensor, loss: str) -> Regression:
    """Return the network on its points, after one pass that shows that the model predicts X (u v)."""
    clean = surface.clean()  # first, because the surface itself checks the data in its pass
    x, n = surface.inputs, surface.n
    if not isinstance(x, Tensor) or x.shape != (n, len(u)):
        raise Unsupported(f"{WHAT} takes inputs that are one tensor of shape (n, {len(u)})")
    if surface.targets.numel() != n:
        raise Unsupported(f"{WHAT} takes one target for each example, got {tuple(surface.targets.shape)}")
    x, y = x.to(torch.float64), surface.targets.to(torch.float64).reshape(n)
    predicted = x @ (u * v)
    # Of the terms, not their sum: single precision may cancel.
    scale = float((x.abs() @ (u * v).abs()).max())
    raw = clean.raw.to(torch.float64)
    if raw.numel() != n or not torch.allclose(raw.reshape(n), predicted, rtol=0, atol=1e-4 * scale, equal_nan=True):
        raise Unsupported(f"{WHAT} takes predictions X (u v); those of this model ({_kind(surface)}) are others")
    return Regression(x, predicted - y, u, v, closed_forms.factor(loss, n), float(clean.loss))


def _kind(surface: LossSurface) -> str:
    return type(surface.model).__name__


def units(surface: LossSurface, spec: ClosedFormSpec) -> Tensor:
    """Return c over u and v, (2d,) in float64, with 0 for what is not free."""
    view = surface.restricted(spec.parameters)
    c = scaling.vector(view, spec.scaling)
    free = view.unflatten(torch.ones_like(view.w) if c is None else c)
    u, _ = factors(surface, WHAT)
    return torch.cat([free[name].to(u) if name in free else torch.zeros_like(u) for name in ("u", "v")])


@torch.no_grad()
def trace(surface: LossSurface, spec: ClosedFormSpec) -> Estimate:
    """Return the trace of H_c."""
    at, c = regression(surface, spec), units(surface, spec)
    value = float(closed_forms.trace(at.x, at.u, at.v, c, at.kappa))
    extras = _identity(surface, spec, at, c, 0) | {"columns_off_unit": float(closed_forms.off_unit(at.x))}
    return _estimate(value, at, c, extras)


@torch.no_grad()
def top_eigenvalue(surface: LossSurface, spec: ClosedFormSpec) -> Estimate:
    """Return the algebraically largest eigenvalue of H_c."""
    at, c = regression(surface, spec), units(surface, spec)
    if len(c) > LARGEST:
        raise Unsupported(
            f"the Hessian of {len(c)} parameters is too large for a dense eigensolver, which takes {LARGEST}: "
            "hessian_top_eigenvalue finds the same number by Lanczos"
        )
    value = float(closed_forms.top_eigenvalue(at.x, at.r, at.u, at.v, c, at.kappa))
    extras = _identity(surface, spec, at, c, 1) | {
        "columns_off_unit": float(closed_forms.off_unit(at.x)),
        "columns_off_orthonormal": float(closed_forms.off_orthonormal(at.x)),
    }
    return _estimate(value, at, c, extras)


def _identity(surface: LossSurface, spec: ClosedFormSpec, at: Regression, c: Tensor, which: int) -> dict[str, Any]:
    """Return what half the value is where the columns and the residual are as the paper takes them, and its name."""
    norms = NORMS.get(spec.scaling.removeprefix("acutance/"))
    if norms is not None and surface.restricted(spec.parameters).w.numel() == len(c):
        name, norm = norms[which]
        return {"identity": float(norm(at.beta)), "identity_of": name}
    form = (closed_forms.half_trace, closed_forms.half_top_eigenvalue)[which]
    name = ("sum", "max")[which] + " (c_u^2 v^2 + c_v^2 u^2) / 2"
    return {"identity": float(form(at.u, at.v, c)), "identity_of": name}


def _estimate(value: float, at: Regression, c: Tensor, extras: dict[str, Any]) -> Estimate:
    """Return the estimate with what a reader needs to judge the identities and the branch of Proposition 1.

    Args:
        value: of the closed form; where it is not finite, the estimate says so and has no value.
        at: the network on its points.
        c: (2d,) scaling of u and v, 0 for what is not free.
        extras: of this closed form; the others are the same for all.
    """
    if not math.isfinite(value):
        return Estimate.without_value(Status.NONFINITE, "the Hessian overflows double precision at these weights")
    slope = closed_forms.gradient(at.x, at.r, at.u, at.v, at.kappa) * c
    extras = {
        "factor": at.kappa,
        "half": value / (2 * at.kappa),
        **extras,
        "residual_norm": float(at.r.norm()),
        "gradient_norm": float(slope.norm()),
        "loss": at.loss,
    }
    finite = {k: e for k, e in extras.items() if isinstance(e, str) or math.isfinite(e)}
    return Estimate(value, extras=finite)


@torch.no_grad()
def beta_norm(surface: LossSurface, spec: BetaNormSpec) -> Estimate:
    """Return the p-norm of beta."""
    u, v = factors(surface, "this norm", tied=True)
    return Estimate(float(torch.linalg.vector_norm(u * v, float(spec.p))))
