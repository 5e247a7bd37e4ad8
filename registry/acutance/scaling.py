r"""The vector c of the paper: in which units each weight is perturbed.

The ball of radius rho is :math:`\|\delta \oslash c\|_p \le \rho`; a coordinate with :math:`c_i = 0` never
moves. A strategy is a function of a surface that returns c, (p,), or None for c = 1. Other distributions
add strategies through the hook ``register_scalings``; a config may also name its own ``module:function``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from acutance.errors import UserError
from acutance.measure import Estimate, Status
from acutance.own_code import is_own, load_function
from acutance.plugins import catalog

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.units import Units
    from acutance.surface.loss_surface import LossSurface

ETA = 0.01  # the published ASAM code's default


def none(surface: LossSurface) -> Tensor | None:
    """C = 1: standard sharpness."""
    return None


def elementwise(surface: LossSurface) -> Tensor | None:
    """C = |w|: elementwise adaptive sharpness (Kwon et al. 2021)."""
    return surface.w.abs()


def elementwise_eta(surface: LossSurface) -> Tensor | None:
    """C = |w| + 0.01 on tensors with "weight" in their name, 1 elsewhere: as the published ASAM code.

    The rule goes by name: it takes in the weights of normalization layers and leaves out class tokens and
    position embeddings.
    """
    pieces = surface.unflatten(surface.w).items()
    return surface.flatten({name: p.abs() + ETA if "weight" in name else p.new_ones(()) for name, p in pieces})


def filter_norm(surface: LossSurface) -> Tensor | None:
    """C = l2 norm of the filter a weight belongs to: its slice along the first axis; |w| for vectors.

    A filter is an output channel of a convolution, a row of a linear map, the vector of a token.
    """

    def of_filters(p: Tensor) -> Tensor:
        rows = p.reshape(len(p), -1) if p.dim() else p.view(1, 1)
        norms: Tensor = rows.norm(dim=1)
        return norms.view(*p.shape[:1], *[1] * (p.dim() - 1))

    return surface.flatten({name: of_filters(p) for name, p in surface.unflatten(surface.w).items()})


def layer_norm(surface: LossSurface) -> Tensor | None:
    """C = l2 norm of the parameter tensor a weight belongs to."""
    return surface.flatten({name: p.norm() for name, p in surface.unflatten(surface.w).items()})


def vector(surface: LossSurface, name: str) -> Tensor | None:
    """Return c for a strategy, (p,) and non-negative, or None for ones; computed once for a surface.

    Args:
        surface: the loss surface, whose free parameters c belongs to.
        name: a registered strategy, or ``module:function``.

    Raises:
        UserError: for an unknown strategy, or one that gives no finite non-negative vector of this size.
    """
    path = name if is_own(name) else str(catalog().get("scalings", name))
    return surface.memo(("scaling", path), lambda: _checked(load_function(path)(surface), surface, name))


def by_block(surface: LossSurface, name: str) -> Tensor | Units | None:
    """Return c as ``vector`` does, but for |w| of many weights, which is made of them block by block, and not held.

    Args:
        surface: as for ``vector``.
        name: as for ``vector``.

    Raises:
        UserError: as ``vector``.
    """
    path = name if is_own(name) else str(catalog().get("scalings", name))
    made = surface.magnitudes() if load_function(path) is elementwise else None
    return vector(surface, name) if made is None else made


def resolution(surface: LossSurface, name: str) -> float:
    r"""Return the radius in units of c below which moves are less than the smallest unit in the weights' last place.

    .. math:: \tfrac{\epsilon}{2}\, \|w\| / \|c\|

    Args:
        surface: the loss surface.
        name: of the scaling.
    """
    import torch

    def compute() -> float:
        c = by_block(surface, name)
        if c is not None and not isinstance(c, torch.Tensor):
            return torch.finfo(surface.w.dtype).eps / 2 if bool(surface.w.any()) else 0.0  # its norm is that of w
        size = float(torch.linalg.vector_norm(c)) if c is not None else surface.w.numel() ** 0.5
        return torch.finfo(surface.w.dtype).eps / 2 * float(torch.linalg.vector_norm(surface.w)) / size if size else 0.0

    return surface.memo(("scaling.resolution", name), compute)


def resolved(estimate: Estimate, surface: LossSurface, name: str, rho: float) -> Estimate:
    """Return an estimate of a perturbation of radius rho, which says so where the weights do not resolve it."""
    least = resolution(surface, name)
    if estimate.status is not Status.OK or rho >= least:
        return estimate
    kind = str(surface.w.dtype).removeprefix("torch.")
    cure = "take a larger radius" + ("" if kind == "float64" else ", or dtype float64")
    return replace(
        estimate,
        status=Status.NOT_CONVERGED,
        message=f"rho {rho:g} is below {least:.2g}, what weights in {kind} resolve: the perturbation is lost in their "
        f"rounding; {cure}",
    )


def _checked(c: Tensor | None, surface: LossSurface, name: str) -> Tensor | None:
    """Return c on the surface's device in its dtype; refuse another shape, and entries negative or not finite."""
    import torch

    if c is None:
        return None
    if not isinstance(c, torch.Tensor) or c.shape != surface.w.shape:
        got = f"shape {tuple(c.shape)}" if isinstance(c, torch.Tensor) else type(c).__name__
        raise UserError(f"scaling '{name}' gave {got}", f"it must return a tensor of shape ({surface.w.numel()},)")
    c = c.detach().to(surface.w)
    low, high = torch.aminmax(c)  # NaN wins in both
    if not (low >= 0 and high < torch.inf):
        raise UserError(f"scaling '{name}' gave negative or non-finite entries", "c is a vector of units: |w| or norms")
    return c
