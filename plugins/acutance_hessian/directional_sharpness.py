"""The curvature along the gradient, the optimizer's step or a random direction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from acutance import scaling
from acutance.measure import Cost, Estimate, Need, Status, Traits
from acutance.spec import estimation, labelled
from acutance_hessian.spec import CurvatureMeasure, ProductSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


LOSSES = 13  # that a second difference takes: w*, and two for each of about six steps
DIRECTIONS = {"gradient": "the gradient", "update": "the update", "random": "a random direction"}


class DirectionalSpec(ProductSpec):
    """Settings of directional sharpness."""

    direction: Annotated[Literal["gradient", "update", "random"], labelled(DIRECTIONS, adds=", along {direction}")] = (
        "gradient"
    )
    """gradient; update: the optimizer's next step where the pool has it, else the gradient; random: Gaussian, a draw a
    seed."""
    # One choice more than other measures of curvature have: a number needs no product.
    product: Annotated[Literal["exact", "finite_difference", "loss"], estimation()] = "exact"  # type: ignore[assignment]
    """exact: double backward; finite_difference: of gradients; loss: the second difference of the loss, from forward
    passes, for large models and weights in half precision."""


class DirectionalSharpness(CurvatureMeasure[DirectionalSpec]):
    r"""Curvature along a direction d, by default the gradient.

    .. math:: \frac{d^\top \nabla^2 L_S(w)\, d}{\|d \oslash c\|^2}

    With :math:`d = c \odot g_c`, :math:`g_c = c \odot \nabla L_S(w)`, that is
    :math:`g_c^\top H_c\, g_c / \|g_c\|^2` with :math:`H_c = \nabla^2 L_S(w) \odot cc^\top`,
    a Rayleigh quotient of :math:`H_c`, so never above its largest eigenvalue; the second-order term of a gradient step
    in the coordinates where the ball is round (Pan & Li 2022). At a critical point there is no such direction:
    unsupported. With ``direction: update`` d is the optimizer's step in the weights themselves, with ``random`` it is
    :math:`c \odot z` of Gaussian noise z. ``extras["direction"]`` says which it was.
    """

    name, version = "directional_sharpness", 2  # 1 did not extrapolate with ``product: loss``; others are the same
    traits = Traits(
        larger_means="sharper",
        needs={"gradient", "hvp"},
        stochastic=True,
        invariant_to={"rescaling", "permutation"},
        symbol="g'Hg / g'g",
        label="{scaling} directional sharpness",
        edge={"scaling": "none", "logit_norm": False, "direction": "gradient"},
        reference="Pan & Li 2022, directional sharpness",
        bibtex=("pan2022toward",),
    )

    def evaluate(self, surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Estimate:
        """Return the Rayleigh quotient of H_c at the direction, in the coordinates where the ball is round."""
        import torch

        from acutance_hessian.lines import NO_STEP, vector
        from acutance_hessian.operators import Curvature, evaluated, zero_hessian
        from acutance_hessian.slopes import STILL

        if spec.product == "loss":
            return _from_losses(surface, spec, rng)
        with torch.no_grad():
            found = vector(surface, spec, rng)
            norm = float(torch.linalg.vector_norm(found.x, dtype=torch.float64))
            if norm == 0:
                return Estimate.without_value(Status.UNSUPPORTED, NO_STEP if found.source == "optimizer" else STILL)
            direction = found.x / norm
        extras = _extras(spec, found.source, norm)
        del found  # its memory serves the product

        def estimate(curvature: Curvature) -> Estimate:
            form, square = curvature.quadratic(direction)
            return zero_hessian() if square == 0 else Estimate(form, extras=extras)

        return evaluated(surface, spec, rng, estimate)

    def needs(self, spec: DirectionalSpec) -> frozenset[Need]:
        """The direction, and products, gradients or losses."""
        made: dict[str, Need] = {"exact": "hvp", "finite_difference": "gradient", "loss": "data"}
        ways: dict[str, frozenset[Need]] = {"gradient": frozenset({"gradient"}), "update": frozenset({"update"})}
        return ways.get(spec.direction, frozenset()) | {made[spec.product]}

    def draws_noise(self, spec: DirectionalSpec) -> bool:
        """A random direction is drawn, and the vector on which the step of differences is chosen."""
        return spec.direction == "random" or spec.product == "finite_difference"

    def passes(self, spec: DirectionalSpec) -> Cost:
        """The gradient, and one product through a graph of its own; or the losses of about six steps."""
        gradient = Cost(forwards=1, backwards=1) if spec.direction == "gradient" else Cost()
        if spec.product == "loss":
            # The loss at w* comes with the gradient.
            return gradient + Cost(forwards=LOSSES - gradient.forwards)
        return gradient + spec.products(1)

    def vectors(self, spec: DirectionalSpec) -> int:
        """The gradient and its direction, the product and its parts; c, and the direction times it."""
        if spec.product == "loss":
            return 2 + (spec.scaling != "none")  # the direction, the moved weights and c
        return 2 + spec.product_vectors(few=True)

    def vectors_of_few(self, spec: DirectionalSpec) -> int:
        """As many: c is counted for all weights."""
        return self.vectors(spec)


def _from_losses(surface: LossSurface, spec: DirectionalSpec, rng: Streams) -> Estimate:
    """Return the same from losses alone."""
    import torch

    from acutance_hessian.lines import line
    from acutance_hessian.second_differences import loss_curvature

    base = surface.restricted(spec.parameters)
    view = base.transformed(spec.logit_norm, spec.norm_scale)
    with torch.no_grad():
        way = line(surface, spec, rng)
        found = loss_curvature(view, way)
        found = replace(found, extras={**found.extras, **_extras(spec, way.source, way.norm)})
        if way.source != "gradient" or not view.in_parts:
            return found
        return view.against_gradient_rounding(found, scaling.units(base, spec.scaling))


def _extras(spec: DirectionalSpec, source: str, norm: float) -> dict[str, float | str]:
    """Return which direction it was, where there is a choice, and the norm of the gradient."""
    named: dict[str, float | str] = {} if spec.direction == "gradient" else {"direction": source}
    return named | ({"gradient_norm": norm} if source == "gradient" else {})
