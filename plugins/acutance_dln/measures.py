r"""Measures of diagonal linear networks, in closed form: trace and largest eigenvalue of the Hessian, norm of beta."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import field_validator

from acutance.measure import Cost, Estimate, Measure, SharpnessSpec, Traits
from acutance.spec import Spec, estimation, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

SURFACES = "acutance_dln.tried_on:SURFACES"


class ClosedFormSpec(SharpnessSpec):
    """Settings of the closed forms of the Hessian."""

    level: Annotated[Literal["batch", "dataset"], estimation(adds=", all points at once")] = "batch"
    """batch: mean over m-batches; dataset: once on all points. A loss that is a sum grows with the points."""


class ClosedForm(Measure[ClosedFormSpec]):
    """What the two measures of the Hessian have in common."""

    @classmethod
    def level_of(cls, spec: ClosedFormSpec) -> Literal["batch", "dataset", "weights"]:
        """Return the spec's own level."""
        return spec.level

    def passes(self, spec: ClosedFormSpec) -> Cost:
        """One pass, which other measures share: the loss, and whether the model predicts X (u v)."""
        return Cost(forwards=1)


class DLNTrace(ClosedForm):
    r"""Trace of the rescaled Hessian of a diagonal linear network, exactly.

    .. math:: tr(H_c) = \kappa \sum_i \|x_i\|^2 (c_{u,i}^2 v_i^2 + c_{v,i}^2 u_i^2), \qquad
       L = \tfrac\kappa2 \|X(u \odot v) - y\|^2

    with the columns :math:`x_i` of X, and :math:`\kappa` 1 for the loss ``half_squared_sum``, 2 for ``squared_sum``,
    2/n for ``mse`` (Andriushchenko et al. 2023, Sec. 5.2 and A.2). Where the columns have unit length,
    :math:`\frac1{2\kappa} tr(H_c)` is :math:`\|\beta\|_1` with ``scaling: balanced`` (the paper's c, u and v in their
    places), :math:`\|\beta\|_2^2` with ``elementwise`` and :math:`\frac12 (\|u\|^2 + \|v\|^2)` with ``none``.

    The extras have this half (``half``), what it would be with unit columns (``identity``; ``identity_of`` says what
    that is) and how far the columns are from it (``columns_off_unit``). Defined for ``DiagonalLinearNetwork`` only,
    with one of these losses; on some parameters it is the trace of their block.
    """

    name = "dln_trace"
    tried_on = SURFACES
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"data"},
        invariant_to={"rescaling"},
        symbol="tr H",
        label="{scaling} DLN trace",
        reference="Andriushchenko et al. 2023, Sec. 5.2 and A.2; Woodworth et al. 2020",
        bibtex=("andriushchenko2023modern", "woodworth2020kernel"),
    )

    def evaluate(self, surface: LossSurface, spec: ClosedFormSpec, rng: Streams) -> Estimate | float:
        """Return the trace."""
        from acutance_dln.estimate import trace

        return trace(surface, spec)

    def vectors(self, spec: ClosedFormSpec) -> int:
        """Factors, c, squares and gradient in double precision; a copy of the inputs where they are in single."""
        return 10


class DLNTopEigenvalue(ClosedForm):
    r"""Largest eigenvalue of the rescaled Hessian of a diagonal linear network, algebraically, to rounding.

    .. math:: \lambda_{max}(H_c), \qquad
       H = \kappa \begin{bmatrix} V G V & V G U + \mathrm{diag}(g) \\ U G V + \mathrm{diag}(g) & U G U \end{bmatrix},
       \quad G = X^\top X, \; g = X^\top (X\beta - y)

    with U = diag(u), V = diag(v) (Andriushchenko et al. 2023, Eq. 7, whose lower left block is the transpose of the
    upper right one). :math:`\kappa` is that of ``dln_trace``. By a dense eigensolver in double precision, so for at
    most 4000 parameters; beyond, ``hessian_top_eigenvalue`` finds it by Lanczos.

    Where the columns are orthonormal, which takes :math:`n \ge d`, and the residual is zero,
    :math:`\frac1{2\kappa} \lambda_{max}(H_c)` is :math:`\|\beta\|_\infty` with ``scaling: balanced``,
    :math:`\|\beta\|_\infty^2` with ``elementwise`` and :math:`\frac12 \max_i u_i^2 + v_i^2` with ``none``. The extras
    have this half (``half``), what it would be then (``identity``; ``identity_of`` says what that is), how far the
    columns are from it (``columns_off_orthonormal``) and the residual (``residual_norm``).
    """

    name = "dln_top_eigenvalue"
    tried_on = SURFACES
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"data"},
        invariant_to={"rescaling"},
        symbol="lambda_max",
        label="{scaling} DLN λmax",
        reference="Andriushchenko et al. 2023, Eq. 7 to 9; Woodworth et al. 2020",
        bibtex=("andriushchenko2023modern", "woodworth2020kernel"),
    )

    def evaluate(self, surface: LossSurface, spec: ClosedFormSpec, rng: Streams) -> Estimate | float:
        """Return the largest eigenvalue."""
        from acutance_dln.estimate import top_eigenvalue

        return top_eigenvalue(surface, spec)

    def vectors(self, spec: ClosedFormSpec) -> int:
        """As for the trace; on top come the Jacobian, and three matrices of the Hessian's size at its 4000 or less."""
        return 10


class BetaNormSpec(Spec):
    """Settings of the norm of beta."""

    p: Annotated[Literal[1, 2, "inf"], labelled(adds=", p = {p}", always=True)] = 1
    """Order of the norm: 1, 2 or inf."""

    @field_validator("p", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        """Take the numbers as YAML and texts write them: 1.0, "2", .inf."""
        if isinstance(value, bool):
            raise ValueError("write 1, 2 or inf")
        if isinstance(value, float):
            return "inf" if value == math.inf else int(value) if value.is_integer() else value
        return {"1": 1, "2": 2}.get(value, value) if isinstance(value, str) else value


class DLNBetaNorm(Measure[BetaNormSpec]):
    r"""Norm of the predictor of a diagonal linear network, :math:`\|u \odot v\|_p`.

    :math:`\|\beta\|_1` is what adaptive average-case sharpness comes down to for the paper's c, and what predicts the
    test loss where the truth is sparse; :math:`\|\beta\|_\infty` is what worst-case sharpness comes down to
    (Andriushchenko et al. 2023, Sec. 5.2). No data are opened. Defined for ``DiagonalLinearNetwork`` only.
    """

    name = "dln_beta_norm"
    tried_on = SURFACES
    traits = Traits(
        level="weights",
        larger_means="larger predictor",
        needs={"weights"},
        invariant_to={"rescaling"},
        symbol="||u v||_p",
        label="DLN norm of β",
        reference="Andriushchenko et al. 2023, Sec. 5.2; Woodworth et al. 2020",
        bibtex=("andriushchenko2023modern", "woodworth2020kernel"),
    )

    def evaluate(self, surface: LossSurface, spec: BetaNormSpec, rng: Streams) -> Estimate | float:
        """Return the norm."""
        from acutance_dln.estimate import beta_norm

        return beta_norm(surface, spec)

    def passes(self, spec: BetaNormSpec) -> Cost:
        """None."""
        return Cost()

    def vectors(self, spec: BetaNormSpec) -> int:
        """The factors and beta, in double precision."""
        return 4
