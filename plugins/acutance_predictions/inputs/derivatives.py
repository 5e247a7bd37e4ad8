"""Squared norms of derivatives by the inputs, a number a point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance_predictions.outputs import PAIR, outputs, require_rows

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


def _tensors(gradient: Any) -> Iterator[Tensor]:
    """Yield the tensors of a gradient that has the form of the inputs."""
    if isinstance(gradient, Tensor):
        yield gradient
    elif isinstance(gradient, Mapping | tuple):
        for part in gradient.values() if isinstance(gradient, Mapping) else gradient:
            yield from _tensors(part)


def squares(gradient: Any, n: int) -> Tensor:
    """Return the squared norm of each point's gradient, (n,) float64, over all its inputs."""
    total = torch.zeros(n, dtype=torch.float64)
    for part in _tensors(gradient):
        total = total.to(part.device) + part.detach().double().reshape(n, -1).square().sum(1)
    return total


def jacobian_squares(
    surface: LossSurface, probes: int, rng: Streams, signs: bool = False, of_probabilities: bool = False
) -> Tensor:
    r"""Return parts, (passes, n), whose sums are :math:`\|J(x_i)\|_F^2`, or estimates of it.

    A part a class where there are no more classes than probes; else the squares of random combinations of classes over
    the number of probes.

    Args:
        surface: of the model.
        probes: how many passes there may be.
        rng: of the signs.
        signs: whether to combine classes at random also where there are no more of them than probes.
        of_probabilities: of the Jacobian of the probabilities in place of that of the logits.
    """
    raw = surface.clean_logits().detach().double()
    require_rows(raw, "the Jacobian needs", PAIR if of_probabilities else "f[:, None]")
    p = outputs(surface).p if of_probabilities else raw
    n, k = raw.shape
    exact = probes >= k and not signs
    count, parts = k if exact else probes, []
    for i in range(count):
        if exact:
            u = torch.zeros_like(raw)
            u[:, i] = 1.0
        else:
            u = rng.signs("signs", i, raw) / count**0.5
        if of_probabilities:
            # J_p' u = J' (p * (u - <p, u>)), the derivative of softmax being symmetric.
            u = p * (u - (p * u).sum(1, keepdim=True))
        parts.append(squares(surface.input_gradient(u), n))
    return torch.stack(parts)
