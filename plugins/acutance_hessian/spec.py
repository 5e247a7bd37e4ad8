"""What all measures of curvature let their users choose."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from acutance.measure import Cost, Measure, Need, SharpnessSpec, Traits
from acutance.spec import estimation

TRIALS = 20  # gradients that the choice of a step takes
# What measures of the spectrum of H_c have in common: estimated from products with random vectors.
SPECTRUM = Traits(level="batch", larger_means="sharper", needs={"hvp"}, stochastic=True, invariant_to={"rescaling"})
CHECK_PAIRS, CHECK_STEPS = 16, 20  # noises with both signs, and Auto-PGD steps, that check a proposition


class LevelSpec(SharpnessSpec):
    """Sharpness settings, with the points on which the derivatives are taken."""

    level: Annotated[Literal["batch", "dataset"], estimation(adds=", all points at once")] = "batch"
    """batch: mean over m-batches; dataset: once on all points. They differ unless the value is linear in the loss."""


class ProductSpec(LevelSpec):
    """The same, with how products with the Hessian are made."""

    product: Annotated[Literal["exact", "finite_difference"], estimation()] = "exact"
    """exact: double backward; finite_difference: of gradients, for models without a second derivative."""

    def products(self, n: int) -> Cost:
        """Return what n products cost: a graph and n products, or differences with the choice of their step."""
        if self.product == "exact":
            return Cost(forwards=1, backwards=1, hvps=n)
        return Cost(forwards=2 * n + TRIALS, backwards=2 * n + TRIALS)

    def product_vectors(self) -> int:
        """Return how many vectors a product needs besides what it is applied to; with c, and the vector times it."""
        return 2 + 2 * (self.scaling != "none") + (self.product != "exact")


SpecT = TypeVar("SpecT", bound=LevelSpec)


class CurvatureMeasure(Measure[SpecT]):
    """A measure whose spec says on which points it is evaluated."""

    @classmethod
    def level_of(cls, spec: SpecT) -> Literal["batch", "dataset", "weights"]:
        """Return the spec's own level."""
        return spec.level

    def needs(self, spec: SpecT) -> frozenset[Need]:
        """Return what is read: gradients in place of products, where these are made of differences."""
        needs = frozenset(self.traits.needs)
        return needs if getattr(spec, "product", "exact") == "exact" else (needs - {"hvp"}) | {"gradient"}
