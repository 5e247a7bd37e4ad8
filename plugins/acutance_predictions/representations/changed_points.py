"""Points that are mixed within their class, or shifted and mirrored, and what the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.data.lazy import Lazy
from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance_predictions.outputs import labels, lost_points, outputs

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


def numeric(surface: LossSurface) -> Tensor:
    """Return the inputs, (n, ...), where they are one tensor of numbers that can be mixed or moved.

    Raises:
        Unsupported: for tokens, and inputs of several parts.
    """
    inputs = surface.inputs.now() if isinstance(surface.inputs, Lazy) else surface.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise Unsupported("the inputs are not one tensor of numbers, so points cannot be mixed or moved")
    return inputs


def partners(y: Tensor, rng: Streams, draw: int) -> Tensor:
    """Return another point of its class for every point, (n,), by a random cycle; a point that is alone gets itself."""
    order = torch.randperm(len(y), generator=rng.generator("partners", draw)).to(y.device)
    order = order[y[order].sort(stable=True).indices]
    following = order.roll(-1)
    # The last of a class is followed by its first one.
    last = y[order] != y[following]
    last[-1] = True
    ends = last.nonzero().flatten()
    following[ends] = order[torch.cat([ends.new_zeros(1), ends[:-1] + 1])]
    found = torch.empty_like(order)
    found[order] = following
    return found


@dataclass(frozen=True)
class Mixed:
    """What a model makes of mixed points; a number a draw, or the reason why there is none."""

    accuracies: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    lost: str = ""


def mixed(surface: LossSurface, share: float, draws: int, rng: Streams) -> Mixed:
    """Return accuracy and mean negative log likelihood on points that are mixed with another one of their class."""
    x, y = numeric(surface), labels(surface)
    accuracies, losses = [], []
    for draw in range(draws):
        logits = surface.at_inputs(share * x + (1 - share) * x[partners(y, rng, draw)]).clean_logits().double()
        if lost := lost_points(logits):
            return Mixed(lost=f"the outputs of {lost} of {len(y)} mixed points are not finite")
        accuracies.append(float((logits.argmax(1) == y).double().mean()))
        losses.append(float(torch.nn.functional.cross_entropy(logits, y)))
    return Mixed(tuple(accuracies), tuple(losses))


def changes(x: Tensor, kind: str, pixels: int) -> list[Tensor]:
    """Return changed images: mirrored, or shifted to the four sides with zeros behind."""
    if kind == "flip":
        return [x.flip(-1)]
    if pixels >= min(x.shape[-2:]):
        raise Unsupported(f"a shift by {pixels} pixels leaves nothing of images of {x.shape[-2]} by {x.shape[-1]}")
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (pixels,) * 4)
    corners = ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels))
    return [padded[..., top : top + height, left : left + width] for top, left in corners]


def consistency(surface: LossSurface, kind: str, pixels: int) -> Estimate | float:
    """Return the share of changed images that are given the class of the original."""
    x = numeric(surface)
    if x.dim() != 4:
        raise Unsupported(f"images (n, channels, height, width) can be moved, these inputs are {tuple(x.shape)}")
    classes = outputs(surface).classes
    shares = []
    for changed in changes(x, kind, pixels):
        logits = surface.at_inputs(changed).clean_logits()
        if lost := lost_points(logits):
            message = f"the outputs of {lost} of {len(x)} changed points are not finite"
            return Estimate.without_value(Status.NONFINITE, message)
        shares.append(float((logits.argmax(1) == classes).double().mean()))
    return sum(shares) / len(shares)
