r"""How fast the eigenvalues of the covariance of the features fall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Estimate, Traits
from acutance.spec import labelled
from acutance_predictions.representations.measure import SAME_FEATURES, FeatureMeasure, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface

FEWEST = 3  # eigenvalues that a line is fitted to


class AlphaReqSpec(LayerSpec):
    """Which features, and which of the eigenvalues the line is fitted to."""

    first: Annotated[int, Field(ge=1), labelled(adds=", from rank {first}")] = 1
    """Rank of the first eigenvalue of the fit; the largest has rank 1."""
    last: Annotated[int, Field(ge=3), labelled(adds=", to rank {last}")] = 50
    """Rank of the last one; fewer where the covariance has fewer that are not zero."""
    weights: Annotated[
        Literal["equal", "inverse_rank"], labelled({"inverse_rank": ", weighted by 1/rank"}, adds="{weights}")
    ] = "equal"
    """Weights of the squares: equal, or 1/rank as in released code, which fits ranks 6 to 50."""


class AlphaReq(FeatureMeasure[AlphaReqSpec]):
    r"""Exponent of the power law :math:`\lambda_j \propto j^{-\alpha}` of the covariance's eigenvalues.

    .. math:: (\alpha, c) = \arg\min \sum_{j=a}^{b} v_j (\log \lambda_j + \alpha \log j - c)^2

    (Agrawal et al. 2022), by default with equal weights over ranks 1 to 50 of the centred features. The extras say
    which ranks were there and how well the line holds (R²).
    """

    name = "alpha_req"
    traits = Traits(
        level="dataset", larger_means="falls faster", needs={"unlabeled", "activations"}, invariant_to=SAME_FEATURES,
        symbol="α", label="α-ReQ", reference="Agrawal et al. 2022", bibtex=("agrawal2022alphareq",),
    )  # fmt: skip

    def of_features(self, features: Tensor, surface: LossSurface, spec: AlphaReqSpec) -> Estimate:
        """Return the exponent."""
        import torch

        from acutance_predictions.representations.features import covariance_spectrum

        n, d = features.shape
        if n - 1 < min(spec.last, d):
            raise Unsupported(
                f"{n} points have no more than {n - 1} eigenvalues of the {min(spec.last, d)} that are fitted: give "
                "more points, or a smaller 'last'"
            )
        spectrum = covariance_spectrum(surface, spec.layer)
        last = min(spec.last, int((spectrum > 0).sum()))
        if last - spec.first + 1 < FEWEST:
            raise Unsupported(
                f"the covariance of the features has {last} eigenvalues that are not zero: a line through fewer than "
                f"{FEWEST} of them, from rank {spec.first} on, says nothing"
            )
        rank = torch.arange(spec.first, last + 1, dtype=torch.float64, device=spectrum.device)
        x, y = rank.log(), spectrum[spec.first - 1 : last].log()
        v = torch.ones_like(rank) if spec.weights == "equal" else 1 / rank
        v = v / v.sum()
        x, y = x - v @ x, y - v @ y
        slope = float((v * x) @ y / ((v * x) @ x))
        fitted = 1 - float(v @ (y - slope * x).square() / (v @ y.square()).clamp_min(1e-300))
        return Estimate(-slope, extras={"first": spec.first, "last": last, "r_squared": fitted})
