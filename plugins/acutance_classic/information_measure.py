"""What the information criteria have in common: a trace over the damped curvature."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Need, Status
from acutance.spec import estimation, labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.information_numerics import Damped, Traces


DENSE = 2000  # parameters up to which the whole matrix is made


class InformationSpec(PartSpec):
    """Settings of an information criterion."""

    damping: Annotated[NonNegativeFloat, labelled(adds=", damping {damping}")] = 1e-3
    """delta, which is added to the curvature: that of a weight decay of this strength in the loss."""
    curvature: Annotated[Literal["ggn", "hessian"], labelled(adds=", {curvature}")] = "ggn"
    """ggn: the Gauss-Newton matrix, of cross-entropy the Fisher matrix; hessian: of the loss, where it is convex."""
    approximation: Annotated[Literal["lanczos", "dense", "diagonal"], estimation(adds=", {approximation}")] = "lanczos"
    """lanczos: probes and quadrature; dense: exact, of few parameters; diagonal: what is beside it taken for zero."""
    probes: Annotated[PositiveInt, estimation()] = 4
    """Random vectors of lanczos."""
    iterations: Annotated[PositiveInt, estimation()] = 20
    """Products with the curvature for each of them."""
    rtol: Annotated[PositiveFloat, estimation()] = 0.05
    """Relative difference to the value with half of the iterations at which it counts as converged."""
    draws: Annotated[PositiveInt, estimation()] = 4
    """Labels drawn for each example, of which the diagonal is made."""

    @model_validator(mode="after")
    def _consistent(self) -> InformationSpec:
        if self.approximation == "diagonal" and self.curvature == "hessian":
            raise ValueError("approximation: diagonal is that of the Gauss-Newton matrix: choose curvature ggn")
        return self


class Criterion(Measure[InformationSpec]):
    """A trace over the damped curvature, divided by the size of the training set."""

    gradients: ClassVar[bool] = False  # whether those of single examples enter

    def evaluate(self, surface: LossSurface, spec: InformationSpec, rng: Streams) -> Estimate:
        """Return the trace over n, with its error over the probes."""
        from acutance.numerics.basis import NonFiniteProduct
        from acutance.numerics.traces import mean_and_error
        from acutance_classic.information_numerics import Damped

        try:
            traces = self.traces(Damped(surface.restricted(spec.parameters), spec), rng)
            trace, error = mean_and_error(traces.values)
        except NonFiniteProduct:
            return Estimate.without_value(Status.NONFINITE, "the loss or its curvature overflows: try dtype float64")
        if trace == 0:
            raise Unsupported("gradients or curvature are exactly zero: the softmax is saturated in this precision")
        n = surface.num_train
        value, stderr, extras = trace / n, None if error is None else error / n, {"trace": trace}
        half = sum(traces.halved) / max(len(traces.halved), 1) if traces.halved else trace
        if abs(half - trace) <= spec.rtol * abs(trace):
            return Estimate(value, stderr, extras=extras)
        message = (
            f"with half of the iterations the value is {half / n:.3g}, not {value:.3g}: raise iterations or damping"
        )
        return Estimate(value, stderr, Status.NOT_CONVERGED, message, extras=extras)

    @abstractmethod
    def traces(self, damped: Damped, rng: Streams) -> Traces:
        """Return the estimates of the trace."""

    def needs(self, spec: InformationSpec) -> frozenset[Need]:
        """Products, the gradients of single examples, or both; the logits, where labels are drawn from them."""
        if spec.approximation == "diagonal":
            return frozenset({"data", "example_gradients"})
        return super().needs(spec)

    def passes(self, spec: InformationSpec) -> Cost:
        """The gradients of single examples; the products, of dense at most as many as it may have parameters."""
        own = Cost(forwards=int(self.gradients), backwards=int(self.gradients))
        if spec.approximation == "diagonal":
            return own + Cost(forwards=1 + spec.draws, backwards=spec.draws)
        products = DENSE if spec.approximation == "dense" else spec.probes * spec.iterations
        if spec.curvature == "hessian":
            return own + Cost(forwards=1, backwards=1, hvps=products)
        return own + Cost(forwards=1, backwards=1 + 2 * products)

    def vectors(self, spec: InformationSpec) -> int:
        """The vectors of a Lanczos run, a product and its parts, and the mixtures; the matrices; or the diagonals."""
        if spec.approximation == "dense":
            return 4 * DENSE
        return 12 if spec.approximation == "diagonal" else spec.iterations + 6 + 3 * spec.probes
