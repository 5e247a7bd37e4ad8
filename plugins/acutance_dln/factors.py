"""The two factors of a diagonal linear network, read off a surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported, some
from acutance_dln.network import DiagonalLinearNetwork

if TYPE_CHECKING:
    from acutance.surface import LossSurface


def factors(surface: LossSurface, quantity: str, tied: bool = False) -> tuple[Tensor, Tensor]:
    """Return u and v at w*, (d,) each in float64, free or not.

    Args:
        surface: of any model.
        quantity: the name, for messages, of what is computed from them.
        tied: whether u and v may be one parameter.

    Raises:
        Unsupported: for a model that is no diagonal linear network.
    """
    model = surface.model
    if not isinstance(model, DiagonalLinearNetwork):
        raise Unsupported(
            f"{quantity} is that of diagonal linear networks (acutance_dln.network.DiagonalLinearNetwork); this model "
            f"is {type(model).__name__}"
        )
    more = sorted({name for name, _ in model.named_parameters()} - {"u", "v"})
    if more:
        raise Unsupported(f"{quantity} knows u and v; this model ({type(model).__name__}) has {some(more)} too")
    if not tied and model.u.data_ptr() == model.v.data_ptr():
        raise Unsupported(f"{quantity} is that of two factors; u and v of this model are one parameter")
    free = surface.unflatten(surface.w)
    # What is not free is the model's own, in the precision that the surface would give it.
    u, v = (free.get(name, value.detach().to(surface.w)) for name, value in (("u", model.u), ("v", model.v)))
    return u.to(torch.float64), v.to(torch.float64)
