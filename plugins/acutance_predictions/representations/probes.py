"""Votes of the nearest points, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported, UserError
from acutance.measure import Estimate, Status
from acutance_predictions.outputs import labels, lost_points
from acutance_predictions.representations.neighbours import nearest

if TYPE_CHECKING:
    from acutance.surface import LossSurface


def votes(features: Tensor, y: Tensor, k: int, classes: int) -> Tensor:
    """Return the label that most of the k nearest other points have, (n,); a tie goes to the smaller one."""
    found = nearest(features, k)[1]
    counts = torch.zeros(len(y), classes, dtype=torch.long, device=y.device)
    return counts.scatter_add_(1, y[found], torch.ones_like(found)).argmax(1)


def layers(surface: LossSurface, patterns: str) -> dict[str, Tensor]:
    """Return the flattened outputs of the layers, (n, d) float64, in the order of the pass, without repetitions.

    Raises:
        Unsupported: where no layer has these names.
    """
    names = patterns
    if patterns == "all":
        names = ",".join(name for name, module in surface.model.named_modules() if name and not list(module.children()))
    try:
        found = surface.activations(names)
    except UserError as error:
        raise Unsupported(f"the layers cannot be looked at: {error}") from error
    kept: dict[str, Tensor] = {}
    for name, output in found.items():
        flat = output.double().flatten(1) if output.dim() > 1 else output.double()[:, None]
        last = next(reversed(kept.values()), None)
        if output.is_floating_point() and (last is None or last.shape != flat.shape or not torch.equal(last, flat)):
            kept[name] = flat
    if not kept:
        raise Unsupported("none of these layers puts out numbers")
    return kept


@torch.no_grad()
def prediction_depth(surface: LossSurface, patterns: str, k: int) -> Estimate:
    """Return the mean over the points of the first layer from which on the votes are the model's prediction."""
    if surface.n <= k:
        raise Unsupported(
            f"{surface.n} points are too few for {k} neighbours of each: give more points, or a smaller k"
        )
    y, logits = labels(surface), surface.clean_logits()
    found = layers(surface, patterns)
    lost = next((name for name, features in found.items() if not bool(features.isfinite().all())), None)
    if lost is not None or lost_points(logits):
        return Estimate.without_value(Status.NONFINITE, f"the outputs of layer '{lost or 'the last'}' are not finite")
    predicted = logits.argmax(1)
    agree = torch.stack([votes(f, y, k, logits.shape[1]) == predicted for f in found.values()])
    # How many layers, from the last one back, agree without a break.
    unbroken = agree.flip(0).long().cumprod(0).sum(0)
    depth = (len(found) - unbroken).double()
    return Estimate(float(depth.mean()), extras={"layers": len(found), "relative": float(depth.mean()) / len(found)})
