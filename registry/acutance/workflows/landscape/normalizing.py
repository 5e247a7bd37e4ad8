r"""Directions brought to the scale of the weights: filter by filter, layer by layer, weight by weight.

With c of a scaling (``acutance.scaling``) and g a group of weights that share one c, as the weights of a filter do,

.. math:: d_g = \|w_g\| \, \frac{u_g}{\|u_g\|}

is filter normalization (Li et al. 2018, section 4) for c = ``filter``; where every weight has a c of its own,
:math:`d_i = c_i\, u_i \sqrt{p} / \|u\|`, or :math:`c_i u_i` for Gaussian noise u.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance import scaling
from acutance.own_code import is_own, load_function
from acutance.plugins import catalog

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

WORDS = {
    "none": "not normalized",
    "filter": "normalized by filter",
    "layer": "normalized by layer",
    "elementwise": "in units of |w|",
}
GROUPED = ("filter", "layer")


def normalized(surface: LossSurface, u: Tensor, name: str, noise: bool, fixed_vectors: bool) -> Tensor:
    """Return a direction brought to the scale of the weights, (p,); u itself may be overwritten.

    Args:
        surface: whose free parameters it belongs to.
        u: (p,) direction.
        name: of the scaling; ``none`` leaves u as it is.
        noise: whether u is Gaussian noise, each entry of variance 1.
        fixed_vectors: whether parameters with one axis, as biases and the weights of normalization layers, stay in
            directions by filter and by layer, as in the code published with filter normalization.

    Raises:
        UserError: as ``acutance.scaling.vector``.
    """
    if name == "none":
        return u
    by = kind_of(name)
    if by in GROUPED:
        return _by_group(surface, u, by, fixed_vectors)
    c = scaling.vector(surface, name)
    if c is None:
        return u
    if not noise:
        length = float(torch.linalg.vector_norm(u))
        u = u * (u.numel() ** 0.5 / length) if length > 0 else u
    return u * c


def kind_of(name: str) -> str:
    """Return ``filter`` or ``layer`` for a name of one of these scalings, else the name."""
    if is_own(name):
        return name
    strategy = load_function(str(catalog().get("scalings", name)))
    return {scaling.filter_norm: "filter", scaling.layer_norm: "layer"}.get(strategy, name)


def _by_group(surface: LossSurface, u: Tensor, by: str, fixed_vectors: bool) -> Tensor:
    """Return u with every filter, or every tensor, as long as that of the weights."""
    weights = surface.unflatten(surface.w)
    pieces = {}
    for name, piece in surface.unflatten(u).items():
        w = weights[name]
        if w.dim() < 2:
            pieces[name] = torch.zeros_like(piece) if fixed_vectors else piece * _unit(piece, w)
            continue
        rows = (len(piece), -1) if by == "filter" else (1, -1)
        d, own = piece.reshape(rows), w.reshape(rows)
        lengths = d.norm(dim=1, keepdim=True)
        factor = torch.where(lengths > 0, own.norm(dim=1, keepdim=True) / lengths, torch.zeros_like(lengths))
        pieces[name] = (d * factor).view(piece.shape)
    return surface.flatten(pieces)


def _unit(piece: Tensor, w: Tensor) -> Tensor:
    """Return what makes a vector as long as the weights it belongs to; 0 where it has no length."""
    length = piece.norm()
    return torch.where(length > 0, w.norm() / length, torch.zeros_like(length))


def in_words(name: str, noise: bool, fixed_vectors: bool) -> str:
    """Return what was done to a direction, for pictures."""
    if name == "none" and noise:
        return "Gaussian noise, not normalized"
    words = WORDS.get(kind_of(name), f"in units of {name}")
    return f"{words}, biases and norm weights fixed" if kind_of(name) in GROUPED and fixed_vectors else words
