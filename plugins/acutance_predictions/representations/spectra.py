r"""How many directions the features of a layer use; :math:`F` is (n, d), a row a point, and no label is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Traits
from acutance.spec import labelled
from acutance_predictions.representations.measure import SAME_FEATURES, FeatureMeasure, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.surface import LossSurface

ROWS = {"centred": "", "unit": ", unit rows"}


class RowsSpec(LayerSpec):
    """Which features, and what of each point enters their covariance."""

    rows: Annotated[Literal["centred", "unit"], labelled(ROWS, adds="{rows}")] = "centred"
    """centred: the features less their mean; unit: these divided by their length."""


class UnitRowsSpec(LayerSpec):
    """Which features, and what of each point enters their covariance."""

    rows: Annotated[Literal["centred", "unit"], labelled({"centred": ", centred rows"}, adds="{rows}")] = "unit"
    """centred: the features less their mean; unit: these divided by their length, as in the source."""


class RankMe(FeatureMeasure[LayerSpec]):
    r"""Rank of the features by the entropy of their singular values.

    .. math:: \exp\Big(-\sum_k p_k \log p_k\Big), \quad p_k = \sigma_k(F) / \sum_j \sigma_j(F)

    (Garrido et al. 2023, without the :math:`10^{-7}` added to each p). The features are not centred. Between 1 and
    min(n, d), which is in the extras: with fewer points than dimensions it counts points.
    """

    name = "rankme"
    traits = Traits(
        level="dataset", larger_means="more directions", better="larger", needs={"unlabeled", "activations"},
        invariant_to=SAME_FEATURES, symbol="RankMe", label="RankMe", reference="Garrido et al. 2023, Eq. 1",
        bibtex=("garrido2023rankme",),
    )  # fmt: skip

    def of_features(self, features: Tensor, surface: LossSurface, spec: LayerSpec) -> Estimate:
        """Return the exponential of the entropy."""
        from acutance_predictions.representations.features import exponential_of_entropy, singular_values

        value = exponential_of_entropy(singular_values(surface, spec.layer))
        return Estimate(value, extras={"largest_possible": min(features.shape)})


class FeatureStableRank(FeatureMeasure[LayerSpec]):
    r"""Stable rank of the features, not centred.

    .. math:: \|F\|_F^2 / \|F\|_2^2

    (Rudelson and Vershynin 2007). Between 1 and the rank; small directions hardly count.
    """

    name = "feature_stable_rank"
    traits = Traits(
        level="dataset", larger_means="more directions", needs={"unlabeled", "activations"},
        invariant_to=SAME_FEATURES, symbol="srank", label="stable rank of features",
        reference="Rudelson & Vershynin 2007", bibtex=("rudelson2007sampling",),
    )  # fmt: skip

    def of_features(self, features: Tensor, surface: LossSurface, spec: LayerSpec) -> float:
        """Return the quotient."""
        from acutance_predictions.representations.features import singular_values

        sigma = singular_values(surface, spec.layer)
        if sigma[0] == 0:
            raise Unsupported("the features are zero at all points, so they have no spectrum")
        return float((sigma / sigma[0]).square().sum())


class EffectiveRank(FeatureMeasure[RowsSpec]):
    r"""Rank of the covariance of the features by the entropy of its eigenvalues.

    .. math:: \mathrm{eRank} = \exp\Big(-\sum_k q_k \log q_k\Big), \quad q_k = \lambda_k / \sum_j \lambda_j

    (Roy and Vetterli 2007). ``rows: unit`` takes the second moment of the centred features, each scaled to length 1 and
    not centred again (Wei et al. 2024).
    Between 1 and min(n - 1, d).
    """

    name = "effective_rank"
    traits = Traits(
        level="dataset", larger_means="more directions", needs={"unlabeled", "activations"},
        invariant_to=SAME_FEATURES, symbol="eRank", label="effective rank", reference="Roy & Vetterli 2007",
        bibtex=("roy2007effective",),
    )  # fmt: skip

    def of_features(self, features: Tensor, surface: LossSurface, spec: RowsSpec) -> Estimate:
        """Return the exponential of the entropy."""
        from acutance_predictions.representations.features import covariance_spectrum, exponential_of_entropy

        value = exponential_of_entropy(covariance_spectrum(surface, spec.layer, spec.rows))
        return Estimate(value, extras={"largest_possible": min(len(features) - 1, features.shape[1])})


class DiffErank(FeatureMeasure[UnitRowsSpec]):
    r"""By how much training lowered the effective rank of the features.

    .. math:: \mathrm{eRank}(w_0) - \mathrm{eRank}(w)

    with eRank of ``effective_rank`` and ``rows: unit`` (Wei et al. 2024). It needs the initial weights, where the same
    points are passed once more.
    """

    name = "diff_erank"
    traits = Traits(
        level="dataset", larger_means="compressed more", needs={"unlabeled", "activations", "initial_weights"},
        invariant_to=SAME_FEATURES, symbol="ΔeRank", label="loss of effective rank",
        reference="Wei et al. 2024", bibtex=("wei2024differank",),
    )  # fmt: skip

    def of_features(self, features: Tensor, surface: LossSurface, spec: UnitRowsSpec) -> Estimate:
        """Return the difference, with both ranks in the extras."""
        from acutance_predictions.representations.features import covariance_spectrum, exponential_of_entropy
        from acutance_predictions.representations.features import features as features_of

        if not bool(features_of(surface, spec.layer, initial=True).isfinite().all()):
            return Estimate(float("nan"), message="the features at the initial weights are not finite")
        before, after = (
            exponential_of_entropy(covariance_spectrum(surface, spec.layer, spec.rows, at)) for at in (True, False)
        )
        return Estimate(before - after, extras={"initial": before, "trained": after})

    def passes(self, spec: UnitRowsSpec) -> Cost:
        """A forward at either weights."""
        return Cost(forwards=2)
