"""Lanczos quadratures of the rescaled Hessian's spectrum: nodes, weights, and what they say of its sign."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acutance.numerics.lanczos import Lanczos, Ritz
from acutance_hessian.operators import Curvature

NEGATIVE = 1e-5  # of the largest magnitude: nearer to zero, single precision cannot tell the sign
DECADES, PER_DECADE = range(-8, 7), 10  # of the density's bins


def negative_mass(ritz: Ritz, norm: float) -> float:
    """Return the share of eigenvalues that are negative, beyond what rounding makes of zero."""
    return float(ritz.weights[ritz.values < -NEGATIVE * norm].sum())


def gap(ritz: Ritz, x: float) -> float:
    """Return how far apart the nodes on the two sides of x are; with none on one side, from x to the nearest."""
    above, below = ritz.values[ritz.values >= x], ritz.values[ritz.values < x]
    return (float(above.min()) if len(above) else x) - (float(below.max()) if len(below) else x)


@dataclass(frozen=True)
class Quadratures:
    """What the runs from all probes say.

    Attributes:
        runs: the runs, with how many of their products count.
        ritz: nodes and weights of each.
        halved: the same after half of the products.
    """

    runs: list[tuple[Lanczos, int]]
    ritz: list[Ritz]
    halved: list[Ritz]

    @property
    def norm(self) -> float:
        """The largest magnitude that any run saw."""
        return max(ritz.norm for ritz in self.ritz)

    def negative_bounds(self) -> tuple[float, float]:
        """Return the least and the greatest share of negative eigenvalues that the runs allow, as means over them."""
        bounds = [run.mass_below(-NEGATIVE * self.norm, steps) for run, steps in self.runs]
        low, high = (math.fsum(column) / len(bounds) for column in zip(*bounds, strict=True))
        return low, high


def quadratures(curvature: Curvature, probes: int, iterations: int) -> Quadratures:
    """Return the nodes and weights of each probe's run."""
    runs = []
    for k in reversed(range(probes)):  # the first run comes last: its vectors may stay for other measures
        run = curvature.run(k, iterations)
        steps = run.extend(curvature.hessian, iterations)
        curvature.release_run(k)
        runs.append((run, steps))
    runs.reverse()
    ritz = [run.ritz(steps) for run, steps in runs]
    return Quadratures(runs, ritz, [run.ritz((steps + 1) // 2) for run, steps in runs])


def edges() -> Tensor:
    """Return the positive edges of the density's bins, in increasing order."""
    exponents = torch.arange(DECADES[0] * PER_DECADE, DECADES[-1] * PER_DECADE + 1, dtype=torch.float64)
    return 10 ** (exponents / PER_DECADE)


def binned(spectra: list[Ritz]) -> dict[str, list[float]]:
    """Return {"x": middles of the bins, "y": share of the eigenvalues in each}, from negative to positive.

    The bin around zero is the middle one; what lies beyond the last edges is in the last bins.
    """
    positive = edges()
    cuts = torch.cat([-positive.flip(0), positive])
    mass = torch.zeros(len(cuts) + 1, dtype=torch.float64)
    for ritz in spectra:
        mass.index_add_(0, torch.bucketize(ritz.values, cuts), ritz.weights)
    mass = mass / len(spectra)
    mass[1] += mass[0]
    mass[-2] += mass[-1]
    middles = (positive[1:] * positive[:-1]).sqrt()
    x = torch.cat([-middles.flip(0), torch.zeros(1, dtype=torch.float64), middles])
    return {"x": x.tolist(), "y": mass[1:-1].tolist()}
