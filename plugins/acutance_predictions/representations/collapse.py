"""The four signs of neural collapse; each is 0 where the features have collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance_predictions.representations.class_means import Classes


def within_over_between(classes: Classes) -> Estimate:
    r"""Return :math:`\mathrm{tr}(\Sigma_W \Sigma_B^+)/K`.

    With :math:`M = U S V^\top` of the centred means it is the mean over the points of
    :math:`\|S^{-1} V^\top (\phi_i - \mu_{y_i})\|^2`: no (d, d) matrix is made.
    """
    m = classes.centred_means
    _, s, directions = torch.linalg.svd(m, full_matrices=False)
    # K means less their mean have rank K - 1 at most; what is below the rounding of the features is rounding too.
    s, directions = s[: len(m) - 1], directions[: len(m) - 1]
    kept = s > max(m.shape) * classes.precision * s[0]
    if s[0] <= 8 * classes.precision * classes.means.abs().max():
        raise Unsupported("the features of all classes have the same mean: nothing lies between them")
    scaled = classes.deviations @ directions[kept].T / s[kept]
    return Estimate(float(scaled.square().sum(1).mean()), extras={"rank": int(kept.sum()), "classes": len(m)})


def simplex(classes: Classes) -> Estimate:
    """Return how unequal norms and angles of the centred means are, with the two parts in the extras."""
    m, k = classes.centred_means, len(classes.means)
    norms = torch.linalg.vector_norm(m, dim=1)
    if bool((norms <= 8 * classes.precision * classes.means.abs().max()).any()):
        raise Unsupported("the mean of a class is the mean of all: it has no direction that could be compared")
    cosines = classes.off_diagonal((m @ m.T) / norms[:, None] / norms)
    equinorm = float(norms.std(correction=0) / norms.mean())
    equiangularity = float(cosines.std(correction=0))
    extras = {
        "equinorm": equinorm,
        "equiangularity": equiangularity,
        "distance_from_maximal_angle": float((cosines + 1 / (k - 1)).abs().mean()),
    }
    return Estimate(equinorm + equiangularity, extras=extras)


def self_duality(classes: Classes, weight: Tensor) -> float:
    """Return the squared distance of the last layer's weights (K, d), and the centred means, both of norm 1.

    Only the rows of the classes that have points are compared.
    """
    w, m = weight[classes.numbers], classes.centred_means
    sizes = torch.linalg.matrix_norm(w), torch.linalg.matrix_norm(m)
    if min(map(float, sizes)) == 0:
        raise Unsupported("the last layer's weights, or the class means less their mean, are all zero")
    return float((w / sizes[0] - m / sizes[1]).square().sum())


def other_than_nearest(classes: Classes, logits: Tensor) -> float:
    """Return the share of points that are not given to the class whose mean is nearest; ties go to the first class."""
    centre = classes.means.mean(0)
    means, points = classes.means - centre, classes.features - centre
    # The squared norm of the point is the same for all means.
    nearest = (means.square().sum(1) - 2 * points @ means.T).argmin(1)
    return float((classes.numbers[nearest] != logits.argmax(1)).double().mean())
