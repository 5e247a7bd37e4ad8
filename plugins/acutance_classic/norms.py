r"""Norms of all weights: how large they are, how far training took them, how many there are.

The oldest baselines (Neyshabur et al. 2015; Dziugaite & Roy 2017; Nagarajan & Kolter 2019 for the distance). No data is
opened and no pass is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from acutance.measure import Measure, Traits
from acutance.spec import labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class NormSpec(PartSpec):
    """Settings of a norm of weights."""

    p: Annotated[Annotated[float, Field(ge=1)] | Literal["inf"], labelled({"1.0": "1", "2.0": "2", "inf": "∞"})] = 2.0
    """Order of the norm, from 1 up; inf for the largest entry."""

    @field_validator("p", mode="before")
    @classmethod
    def _infinite(cls, p: Any) -> Any:
        return "inf" if p == float("inf") else p


def norm(v: Tensor, p: float | str) -> float:
    r"""Return :math:`\|v\|_p` of a flat vector, summed in float64."""
    import torch

    return float(torch.linalg.vector_norm(v, float(p), dtype=torch.float64))


class ParameterNorm(Measure[NormSpec]):
    r"""Norm of the weights.

    .. math:: \|w\|_p = \Big(\sum_i |w_i|^p\Big)^{1/p}

    over the free parameters, biases and normalization included.
    """

    name = "parameter_norm"
    traits = Traits(
        level="weights", larger_means="larger weights", needs={"weights"}, invariant_to={"permutation"}, symbol="‖w‖",
        label="weight norm ℓ{p}", reference="Neyshabur et al. 2015, norm-based capacity", bibtex=("neyshabur2015norm",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: NormSpec, rng: Streams) -> float:
        """Return the norm."""
        return norm(surface.restricted(spec.parameters).w, spec.p)


class DistanceFromInitialization(Measure[NormSpec]):
    r"""Distance that training has moved the weights.

    .. math:: \|w - w_0\|_p

    Unsupported where the initial weights are not known: those of another seed, or zero, would be another measure.
    """

    name = "distance_from_initialization"
    traits = Traits(
        level="weights", larger_means="farther from initialization", needs={"weights", "initial_weights"},
        invariant_to={"permutation"}, symbol="‖w − w₀‖", label="distance from initialization ℓ{p}",
        reference="Nagarajan & Kolter 2019", bibtex=("nagarajan2019generalization",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: NormSpec, rng: Streams) -> float:
        """Return the distance."""
        part = surface.restricted(spec.parameters)
        return norm(part.w - part.w0, spec.p)


class ParameterCount(Measure[PartSpec]):
    """Number of free parameters; one that several modules share counts once."""

    name = "parameter_count"
    traits = Traits(
        level="weights", larger_means="more parameters", needs={"weights"}, invariant_to={"rescaling", "permutation"},
        symbol="p", label="number of parameters", reference="Jiang et al. 2020, #params",
        bibtex=("jiang2020fantastic",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: PartSpec, rng: Streams) -> float:
        """Return the number."""
        return surface.restricted(spec.parameters).size
