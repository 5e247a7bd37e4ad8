"""The dual norm of the gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PositiveFloat

from acutance.measure import NORMS, Cost, Estimate, Traits
from acutance.spec import labelled
from acutance_hessian.spec import CurvatureMeasure, LevelSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

DUAL = {"l1": math.inf, "l2": 2.0, "linf": 1.0}  # order of the dual norm


class GradientNormSpec(LevelSpec):
    """Settings of the norm of the gradient."""

    rho: PositiveFloat = 1.0
    """Radius of the ball, in the coordinates delta / c; the value is proportional to it."""
    norm: Annotated[Literal["l1", "l2", "linf"], labelled(NORMS)] = "l2"
    """Norm of the ball; the dual norm of the gradient is taken."""


class GradientNorm(CurvatureMeasure[GradientNormSpec]):
    r"""Dual norm of the gradient, the first-order branch of Proposition 1.

    .. math:: \rho\, \|c \odot \nabla L_S(w)\|_q, \qquad \tfrac1p + \tfrac1q = 1

    the limit of worst-case sharpness in the ball :math:`\|\delta \oslash c\|_p \le \rho` for a small radius, where
    the gradient is not zero (Andriushchenko et al. 2023, Proposition 1). At a critical point it is unsupported:
    the second-order branch, ``hessian_top_eigenvalue``, holds there.
    """

    name = "gradient_norm"
    traits = Traits(
        larger_means="sharper",
        needs={"gradient"},
        invariant_to={"rescaling", "permutation"},
        symbol="||c g||",
        label="{scaling} gradient norm {norm}",
        reference="Andriushchenko et al. 2023, Proposition 1",
        bibtex=("andriushchenko2023modern",),
    )

    def evaluate(self, surface: LossSurface, spec: GradientNormSpec, rng: Streams) -> Estimate:
        """Return rho times the dual norm of c times the gradient."""
        from acutance_hessian.slopes import dual_norm

        return dual_norm(surface, spec, DUAL[spec.norm])

    def passes(self, spec: GradientNormSpec) -> Cost:
        """One gradient."""
        return Cost(forwards=1, backwards=1)

    def vectors(self, spec: GradientNormSpec) -> int:
        """The gradient; c, and c times it."""
        return 2 + (spec.scaling != "none")

    def vectors_of_few(self, spec: GradientNormSpec) -> int:
        """As many: c is counted for all weights."""
        return self.vectors(spec)
