r"""The vector c of the paper: in which units each weight is perturbed.

The ball of radius rho is :math:`\|\delta \oslash c\|_p \le \rho`; a coordinate with :math:`c_i = 0` never
moves. A strategy is a function of a surface that returns c, (p,), or None for c = 1. Other distributions
add strategies through the hook ``register_scalings``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from acutance.plugins import catalog

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface


def none(surface: LossSurface) -> Tensor | None:
    """C = 1: standard sharpness."""
    return None


def elementwise(surface: LossSurface) -> Tensor | None:
    """C = |w|: elementwise adaptive sharpness (Kwon et al. 2021)."""
    return surface.memo("scaling.elementwise", lambda: surface.w.abs())


def vector(surface: LossSurface, name: str) -> Tensor | None:
    """Return c for a named strategy, (p,) and non-negative, or None for ones.

    Raises:
        UserError: for an unknown strategy.
    """
    module, _, function = str(catalog().get("scalings", name)).partition(":")
    result: Tensor | None = getattr(import_module(module), function)(surface)
    return result
