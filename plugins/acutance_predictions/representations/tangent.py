"""How the gradients of the outputs go together with the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Status, Traits
from acutance.spec import Spec, labelled

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

ROWS, CHUNK = 64, 8  # gradients that are held, and that are made at a time to meet them
CLASSES = 10  # logits that ``passes`` counts with: a spec knows of no model


class TangentSpec(Spec):
    """Which weights the outputs are differentiated by."""

    parameters: Annotated[str, labelled(adds=" [{parameters}]")] = "all"
    """Which parameters it is about: "all", or comma-separated patterns of names; a leading "!" takes some out."""


class NTKAlignment(Measure[TangentSpec]):
    r"""Alignment of the centred empirical neural tangent kernel with the kernel of the labels.

    .. math:: \frac{\langle K_c, Y_c \rangle_F}{\|K_c\|_F \|Y_c\|_F}, \quad
        K_{ij} = \sum_k \langle \nabla_w f_k(x_i), \nabla_w f_k(x_j) \rangle, \quad
        Y_{ij} = 1[y_i = y_j], \quad A_c = (I - \tfrac1n 1 1^\top) A (I - \tfrac1n 1 1^\top)

    (Baratin et al. 2021, with centred alignment of Cortes, Mohri and Rostamizadeh 2012), f the logits: the kernel is
    (n, n), the trace over the classes. Between 0 and 1. It is exact, without a projection or sampled classes.

    Unsupported where all points are of one class, the kernel is constant, an output depends on other points, or the
    points and logits are so many that it takes more than a million gradients.
    """

    name = "ntk_alignment"
    traits = Traits(
        level="dataset", larger_means="closer to the labels", needs={"data", "example_gradients"},
        invariant_to={"permutation", "translation"}, symbol="NTKA", label="tangent kernel-target alignment",
        reference="Baratin et al. 2021", bibtex=("baratin2021implicit", "cortes2012algorithms"),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: TangentSpec, rng: Streams) -> Estimate | float:
        """Return the alignment; none where a gradient is not finite."""
        import torch

        from acutance_predictions.outputs import PAIR, labels, require_rows
        from acutance_predictions.representations.tangent_kernel import alignment, tangent_kernel

        logits = surface.clean_logits()
        require_rows(logits, "the tangent kernel needs", PAIR)
        numbers, of = torch.unique(labels(surface), return_inverse=True)
        if len(numbers) < 2:
            raise Unsupported("all points are of one class: give points of two classes at least")
        kernel = tangent_kernel(surface.restricted(spec.parameters), logits.shape[1])
        if not bool(kernel.isfinite().all()):
            return Estimate.without_value(Status.NONFINITE, "the gradients of some logits are not finite")
        one_hot = torch.nn.functional.one_hot(of, len(numbers)).to(kernel)
        return alignment(kernel, one_hot, float(torch.finfo(surface.w.dtype).eps))

    def passes(self, spec: TangentSpec) -> Cost:
        """The outputs, and a forward and a backward a logit: of ten logits, and points that are held together.

        Of K logits and n points it is K(m + 1)/2 of each, with m = n/64 blocks of points where that is whole.
        """
        return Cost(forwards=1 + CLASSES, backwards=CLASSES)

    def shares(self, spec: TangentSpec) -> Literal["", "logits", "gradient"]:
        """The outputs."""
        return "logits"

    def vectors(self, spec: TangentSpec) -> int:
        """Gradients that are held, two chunks of others, and what one of these is made of; fewer of large models."""
        return ROWS + 3 * CHUNK
