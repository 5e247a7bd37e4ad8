r"""Whether the gradients of single examples pull together: confusion and coherence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from acutance.errors import Unsupported
from acutance.measure import Estimate
from acutance.spec import estimation, labelled
from acutance_classic.gradient_measure import OF_EXAMPLES, GradientMeasure
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

STILL = "fewer than two examples have a gradient that is not exactly zero: their directions cannot be compared"


class ConfusionSpec(PartSpec):
    """Settings of gradient confusion."""

    product: Annotated[Literal["inner", "cosine"], labelled({"inner": "", "cosine": " (cosine)"})] = "inner"
    """inner: of the gradients; cosine: of their directions."""
    examples: Annotated[int, Field(ge=2), estimation()] = 256
    """The first so many examples are compared; their gradients are held in memory together."""


class GradientConfusion(GradientMeasure[ConfusionSpec]):
    r"""How far the gradients of two examples can point against each other.

    .. math:: -\min_{i \ne j} \langle g_i, g_j \rangle

    (Sankararaman et al. 2020, whose bound it is where it is positive), or of :math:`g_i / \|g_i\|`, over all pairs of
    the first ``examples`` ones. Of directions those of exactly zero gradients are left out; ``extras["left_out"]``
    counts them.
    """

    name = "gradient_confusion"
    traits = replace(
        OF_EXAMPLES, larger_means="conflicting gradients", symbol="η", label="gradient confusion{product}",
        reference="Sankararaman et al. 2020", bibtex=("sankararaman2020impact",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: ConfusionSpec, rng: Streams) -> Estimate:
        """Return minus the smallest inner product of a pair."""
        from acutance_classic.gradient_pairs import inner_products, smallest_of_pairs

        view = self.view(surface, spec)
        products = view.memo(("classic.products", spec.examples), lambda: inner_products(view, spec.examples))
        smallest, still = smallest_of_pairs(products, spec.product == "cosine")
        if smallest is None:
            raise Unsupported(STILL)
        return Estimate(-smallest, extras={"left_out": still} if spec.product == "cosine" else {})

    def vectors(self, spec: ConfusionSpec) -> int:
        """The gradients of the examples, and of those that are made at a time."""
        return spec.examples + 64


class CoherenceSpec(PartSpec):
    """Settings of gradient coherence."""

    form: Annotated[Literal["cosine", "m"], labelled({"cosine": "gradient coherence", "m": "m-coherence"})] = "cosine"
    """cosine: mean cosine of two examples' gradients; m: how many examples a step for one of them serves."""


class GradientCoherence(GradientMeasure[CoherenceSpec]):
    r"""How much the gradients of two examples agree on average.

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} \frac{\langle g_i, g_j \rangle}{\|g_i\| \|g_j\|}
       \qquad\text{or}\qquad n\, \frac{\|\bar g\|^2}{\frac1n \sum_i \|g_i\|^2}

    ``cosine`` is the stiffness of Fort et al. (2019), over all pairs; exactly zero gradients are left out, and
    ``extras["left_out"]`` counts them. ``m`` is the m-coherence of Chatterjee & Zielinski (2020), from 0 to n: 1 for
    orthogonal gradients, n for equal ones. Neither needs the pairs one by one: all n examples take part.
    """

    name = "gradient_coherence"
    traits = replace(
        OF_EXAMPLES, larger_means="agreeing gradients", symbol="cos(g, g')", label="{form}",
        reference="Fort et al. 2019; Chatterjee & Zielinski 2020",
        bibtex=("fort2019stiffness", "chatterjee2020making"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: CoherenceSpec, rng: Streams) -> Estimate:
        """Return the coherence."""
        (run,) = self.summaries(surface, spec, rng)
        if spec.form == "m":
            if run.mean_square == 0:
                raise Unsupported("every example's gradient is exactly zero")
            return Estimate(run.n * run.square_of_mean / run.mean_square)
        k = run.n - run.still
        if k < 2:
            raise Unsupported(STILL)
        return Estimate((run.directions - k) / (k * (k - 1)), extras={"left_out": run.still})
