"""Whether the weights that a parametrization makes move little when its parameters do: asked of its map, once a model.

``torch.nn.utils.parametrizations.orthogonal`` with Householder reflections, its default for weights that are not
square, keeps signs in the diagonal of its parameter and cuts them to whole numbers: 0.999 turns a column to zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from acutance.checks.tracking import away, pattern_without
from acutance.errors import Unsupported, some
from acutance.model.conditions import conditions

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel

LONG, SHORT = 1e-3, 1e-4  # how far the parameters are moved, in units of theirs
LEAST = 1e-2  # of the weights, that they must move by at the shorter length
STAYS = 0.5  # of what they move by at the longer one; a smooth map gives a tenth
JUMPS = (
    "the weights that the parametrization of {} makes jump when its parameters move ever so little (as of torch's "
    "orthogonal by Householder reflections), so no perturbation is small: make it with orthogonal_map matrix_exp or "
    'cayley, measure the plain weights (parametrize.remove_parametrizations), or leave it out: parameters: "{}"'
)


def refuse_jumps(functional: FunctionalModel, free: Iterable[int]) -> None:
    """Refuse perturbations of, and derivatives in, parameters whose parametrization jumps at the model's weights.

    Raises:
        Unsupported: naming them.
    """
    if functional.jumps is None:
        functional.jumps = _jumping(functional)
    if bad := sorted(functional.jumps.intersection(free)):
        names = some(functional.parameters.names(bad))
        raise Unsupported(JUMPS.format(names, pattern_without(functional, functional.jumps)))


def _jumping(functional: FunctionalModel) -> frozenset[int]:
    """Return the parameters of parametrizations that jump; their maps are computed five times, the model not at all."""
    maps = [
        (f"{path}.parametrizations.{name}.".lstrip("."), layer)
        for path, module in functional.model.named_modules()
        if is_parametrized(module)
        for name, layer in module.parametrizations.items()
    ]
    slots = [[i for i, slot in enumerate(functional.slots) if slot.name.startswith(prefix)] for prefix, _ in maps]
    moving = {i for group in slots for i in group}
    if not moving:
        return frozenset()
    layers = [layer for _, layer in maps]
    here = _made_weights(functional, layers, moving, 0.0)

    def moves(t: float) -> list[Tensor]:
        ways = [_distances(_made_weights(functional, layers, moving, sign * t), here) for sign in (1, -1)]
        return [torch.maximum(a, b) for a, b in zip(*ways, strict=True)]

    sizes = [torch.linalg.vector_norm(weights) for weights in here]
    jumps = [
        bool((a > LEAST * size) & (a > STAYS * b)) for a, b, size in zip(moves(SHORT), moves(LONG), sizes, strict=True)
    ]
    return frozenset(i for group, jump in zip(slots, jumps, strict=True) if jump for i in group)


def _made_weights(functional: FunctionalModel, layers: list[nn.Module], moving: set[int], far: float) -> list[Tensor]:
    """Return the weights that parametrizations make, some way from the model's parameters."""
    with conditions(functional):
        pairs = enumerate(zip(functional.own_pieces(), functional.slots, strict=True))
        pieces = [(away(p, i, far) if far and i in moving else p).view(slot.shape) for i, (p, slot) in pairs]
        with functional.holding(pieces):
            return [layer() for layer in layers]


def _distances(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [torch.linalg.vector_norm(x - y) for x, y in zip(a, b, strict=True)]
