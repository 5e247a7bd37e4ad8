"""The paper's c for diagonal linear networks, as a scaling that every sharpness measure takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface


def balanced(surface: LossSurface) -> Tensor:
    r"""C_u = sqrt(|u|/|v|), c_v = sqrt(|v|/|u|): the paper's c, for diagonal linear networks only.

    With it half the trace of the rescaled Hessian is :math:`\|\beta\|_1`, and half its largest eigenvalue
    :math:`\|\beta\|_\infty`; see ``acutance_dln.closed_forms.balanced``. A pair with a zero does not move. Of a surface
    whose free parameters are u or v alone it is that part.

    Raises:
        Unsupported: for any other model.
    """
    from acutance_dln import closed_forms
    from acutance_dln.factors import factors

    u, v = factors(surface, "scaling 'balanced'")
    whole = dict(zip(("u", "v"), closed_forms.balanced(u, v).chunk(2), strict=True))
    return surface.flatten(whole)
