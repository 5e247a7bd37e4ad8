"""Whether validation points are among those that are measured: their labels would be labels of these."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.measure import Estimate
    from acutance.surface import LossSurface

THEMSELVES = "the validation points are the points that are measured: name another split as validation"
EXTRA = "shared_with_validation"


def shared_with_validation(surface: LossSurface, beside: LossSurface) -> int:
    """Return how many different examples are among the points and among the validation points.

    Where the points of either set repeat each other, as rows of few whole numbers do, other samples of them have
    the same rows: then only the same points in any order are refused.

    Raises:
        Unsupported: where these are the same points in any order, or more than half of the smaller set is in the other.
    """
    return surface.shared("shared with validation", lambda: _shared(surface, beside))


def told(estimate: Estimate, common: int) -> Estimate:
    """Return an estimate whose extras say how many points are shared, where some are."""
    return replace(estimate, extras={**estimate.extras, EXTRA: common}) if common else estimate


def _shared(surface: LossSurface, beside: LossSurface) -> int:
    ours, theirs = surface.example_digests(), beside.example_digests()
    if torch.equal(ours.sort().values, theirs.sort().values):
        raise Unsupported(THEMSELVES)
    points, others = ours.unique(), theirs.unique()
    found, least = int(torch.isin(points, others).sum()), min(len(points), len(others))
    repeated = 2 * len(points) < len(ours) and 2 * len(others) < len(theirs)
    if 2 * found > least and not repeated:
        whose = ("validation", "measured") if len(others) <= len(points) else ("measured", "validation")
        raise Unsupported(
            f"{found} of {least} {whose[0]} points are among the {whose[1]} points: name a split as validation that "
            "has none of the points that are measured"
        )
    return found
