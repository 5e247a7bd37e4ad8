"""What the measures of the gradients of single examples have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import PositiveInt

from acutance.errors import Unsupported
from acutance.measure import Cost, Measure, Need, Traits
from acutance.spec import estimation, labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.gradient_numerics import Summary

SpecT = TypeVar("SpecT", bound=PartSpec)
OF_EXAMPLES = Traits(
    level="dataset", larger_means="noisier gradients", needs={"example_gradients"},
    invariant_to={"permutation", "translation"},
)  # fmt: skip


class LabelSpec(PartSpec):
    """Settings of a measure of gradients at the labels of the data, or at labels of the model's own."""

    labels: Annotated[Literal["given", "sampled"], labelled(adds=", labels sampled")] = "given"
    """given: the targets, the empirical Fisher matrix; sampled: drawn from the model's softmax, the true one."""
    draws: Annotated[PositiveInt, estimation()] = 4
    """Labels drawn for each example, where they are sampled."""


class GradientMeasure(Measure[SpecT]):
    """A measure of one pass over the gradients of single examples.

    Attributes:
        fewest: how many examples it takes.
    """

    fewest: ClassVar[int] = 2

    def view(self, surface: LossSurface, spec: SpecT) -> LossSurface:
        """Return the surface with the parameters that are meant.

        Raises:
            Unsupported: for a single example, where several are compared.
        """
        if surface.n < self.fewest:
            raise Unsupported("a single example has no others that its gradient could differ from: give more points")
        return surface.restricted(spec.parameters)

    def summaries(self, surface: LossSurface, spec: SpecT, rng: Streams) -> list[Summary]:
        """Return what the pass says: one summary, or one for each draw of labels."""
        from acutance_classic.gradient_numerics import given, sampled_labels, summary

        view = self.view(surface, spec)
        if not _samples(spec):
            return [given(view)]
        assert isinstance(spec, LabelSpec)
        return [summary(view, labels) for labels in sampled_labels(view, rng, spec.draws)]

    def needs(self, spec: SpecT) -> frozenset[Need]:
        """The logits too, where labels are drawn from them."""
        more: set[Need] = {"data"} if _samples(spec) else set()
        return super().needs(spec) | more

    def passes(self, spec: SpecT) -> Cost:
        """One pass with its gradients; one for each draw of labels, and one for the logits."""
        draws = spec.draws if isinstance(spec, LabelSpec) and _samples(spec) else 0
        return Cost(forwards=1 + draws, backwards=draws or 1)

    def passes_together(self, specs: Sequence[SpecT]) -> Cost:
        """One pass a part of the parameters at the given labels; those at drawn labels are made for each spec."""
        shared = {spec.parameters: self.passes(spec) for spec in specs if not _samples(spec)}
        return sum((self.passes(spec) for spec in specs if _samples(spec)), sum(shared.values(), Cost()))

    def vectors(self, spec: SpecT) -> int:
        """Four sums in double precision and what updates them; the gradient of an example, also in double."""
        return 14


def _samples(spec: PartSpec) -> bool:
    return isinstance(spec, LabelSpec) and spec.labels == "sampled"
