"""What measures of the loss around w* have in common: which loss of which parameters they look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from acutance.measure import Cost, Measure, SharpnessSpec
from acutance.spec import estimation, labelled
from acutance_classic.spec import PartSpec

if TYPE_CHECKING:
    from acutance.surface import LossSurface

STILL = (
    "the gradient is exactly zero: a critical point, or weights that the loss does not depend on; there is no "
    "direction to go in"
)


class ViewSpec(PartSpec):
    """Settings of a measure of the loss as a function of some parameters, in their own units."""

    logit_norm: Annotated[bool, labelled(adds=", logit-norm{norm_scale}")] = False
    """Divide the logits of each example by their standard deviation over classes, as for the sharpness family."""
    norm_scale: Annotated[Literal["paper", "released"], estimation({"paper": "", "released": " (released scale)"})] = (
        "paper"
    )
    """paper: the standard deviation; released: the l2 norm of the published code, sqrt(K) times larger."""

    @property
    def view(self) -> tuple[str, bool, str]:
        """Which function of which parameters it is about: specs that agree share the gradient at w*."""
        return self.parameters, self.logit_norm, self.norm_scale if self.logit_norm else "paper"


Viewing = ViewSpec | SharpnessSpec
SpecT = TypeVar("SpecT", bound=Viewing)


def view_of(surface: LossSurface, spec: Viewing) -> LossSurface:
    """Return the surface with the spec's parameters free and its loss."""
    return surface.restricted(spec.parameters).transformed(spec.logit_norm, spec.norm_scale)


class GradientMeasure(Measure[SpecT]):
    """A measure that begins with the gradient at w*, which specs of one view share."""

    def shares(self, spec: SpecT) -> Literal["", "logits", "gradient"]:
        """Return that the gradient at w* is the one that all measures share."""
        return "gradient"

    def passes_together(self, specs: Sequence[SpecT]) -> Cost:
        """Return the passes of all, with one gradient a view."""
        again = len(specs) - len({spec.view for spec in specs})
        return super().passes_together(specs) - Cost(forwards=1, backwards=1) * again
