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

    def product_vectors(self, few: bool = False) -> int:
        """Return how many vectors a product needs besides what it is applied to.

        Exact ones hold the product and its parts, and c times the vector; differences the moved weights besides. c is
        held too, but for |w| of many weights, which is made of them block by block.

        Args:
            few: whether the weights are so few that c = |w| is held as well.
        """
        held = self.scaling != "none" and (few or self.scaling != "elementwise")
        if self.product != "exact":
            return 3 + held
        return 2 + (self.scaling != "none") + held


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

    def vectors_of_few(self, spec: SpecT) -> int:
        """What ``vectors`` says, and c = |w|, which is held of fewer weights."""
        return self.vectors(spec) + (spec.scaling == "elementwise")
