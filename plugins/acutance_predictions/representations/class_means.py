"""The means of the classes in feature space, and distances to and between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_predictions.outputs import labels
from acutance_predictions.representations.features import features

if TYPE_CHECKING:
    from acutance.surface import LossSurface


@dataclass(frozen=True, eq=False)
class Classes:
    """Features of n points with the classes that have points, K of them, numbered in order.

    Attributes:
        features: (n, d) float64.
        numbers: (K,) the labels of these classes.
        of: (n,) which of the K classes a point is of.
        precision: of the features, relative to their size.
    """

    features: Tensor
    numbers: Tensor
    of: Tensor
    precision: float

    @cached_property
    def counts(self) -> Tensor:
        """Points of each class, (K,)."""
        return torch.bincount(self.of, minlength=len(self.numbers))

    def mean_within(self, values: Tensor) -> Tensor:
        """Return the mean over the points of each class, (K, ...), of values (n, ...)."""
        total = values.new_zeros(len(self.numbers), *values.shape[1:]).index_add_(0, self.of, values)
        return total / self.counts.view(-1, *[1] * (values.dim() - 1))

    @cached_property
    def means(self) -> Tensor:
        """Class means, (K, d)."""
        return self.mean_within(self.features)

    @cached_property
    def centred_means(self) -> Tensor:
        """Class means less their own mean, (K, d)."""
        return self.means - self.means.mean(0)

    @cached_property
    def deviations(self) -> Tensor:
        """Features less the mean of their class, (n, d)."""
        return self.features - self.means[self.of]

    @cached_property
    def distances(self) -> Tensor:
        """Distance of each point to the mean of its class, (n,)."""
        found: Tensor = torch.linalg.vector_norm(self.deviations, dim=1)
        return found

    def between(self) -> Tensor:
        """Return distances between class means, (K, K), with ones on the diagonal.

        Raises:
            Unsupported: where two of them are the same.
        """
        found = torch.cdist(self.means, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        # Ones go onto the diagonal last: beside features of 1e6 they would be rounding.
        same = (found.fill_diagonal_(torch.inf) <= 8 * self.precision * self.means.abs().max()).nonzero()
        found.fill_diagonal_(1.0)
        if len(same):
            first, second = self.numbers[same[0]].tolist()
            raise Unsupported(
                f"the features of the classes {first} and {second} have the same mean: nothing lies between them"
            )
        return found

    def off_diagonal(self, pairs: Tensor) -> Tensor:
        """Return the values of different classes, (K (K - 1),)."""
        return pairs[~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)]


def class_means(surface: LossSurface, layer: str) -> Classes:
    """Return the classes of a surface in a layer, computed once for all measures that read the labels.

    Raises:
        Unsupported: for targets that are no labels, fewer than two classes, or no class with two points.
    """

    def make() -> Classes:
        found, y = features(surface, layer), labels(surface)
        numbers, of = torch.unique(y, return_inverse=True)
        if len(numbers) < 2:
            raise Unsupported("all points are of one class: give points of two classes at least")
        if len(numbers) == len(y):
            raise Unsupported("no class has two points, so nothing varies within one: give more points")
        return Classes(found, numbers, of, float(torch.finfo(surface.dtype).eps))

    return surface.memo(("class means", layer), make)


def davies_bouldin(classes: Classes) -> float:
    """Return the Davies-Bouldin index."""
    spread = classes.mean_within(classes.distances)
    ratios = (spread[:, None] + spread) / classes.between()
    return float(ratios.fill_diagonal_(0.0).amax(1).mean())
