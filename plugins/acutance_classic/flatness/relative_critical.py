"""The smallest step that no longer lowers the loss of other points than those it is made for (Kalra et al. 2026)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Need, Traits
from acutance_classic.flatness.critical import (
    RESOLVED,
    CriticalSharpness,
    CriticalSpec,
    along,
    critical_sharpness,
    direction_of,
)
from acutance_classic.flatness.views import STILL, view_of

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface

UPHILL = (
    "the loss on the validation points does not fall along this step: its slope there is {slope:.2g}, with rounding "
    "{rounding:.1g}; no step is small enough, so there is no critical one"
)


class RelativeCriticalSharpness(CriticalSharpness):
    r"""Two over the smallest step along d of these points with which the loss on the validation points rises.

    .. math:: \lambda_c^{1 \to 2} = \frac{2}{\eta}, \qquad
       \eta = \min\{\eta > 0 : L_2(w - \eta\, d_1) > L_2(w)\}, \qquad d_1 = \nabla L_1(w)

    (Kalra et al. 2026): :math:`L_1` is the loss on these points, :math:`L_2` that on all validation points,
    and d_1 with ``direction: update`` minus the optimizer's step. With a quadratic :math:`L_2` of gradient g_2 it is
    :math:`d_1^\top H_2 d_1 / \langle d_1, g_2 \rangle`. Where that slope is not positive :math:`L_2` rises at once and
    no critical step exists: unsupported, even where a longer step would lower it again.
    """

    name, version = "relative_critical_sharpness", 2  # as ``CriticalSharpness``
    traits = Traits(
        needs={"data", "gradient", "validation"}, invariant_to={"permutation", "translation"}, symbol="λ_c¹²",
        label="relative critical sharpness", reference="Kalra et al. 2026", bibtex=("kalra2026critical",),
    )  # fmt: skip

    def evaluate(self, surface: LossSurface, spec: CriticalSpec, rng: Streams) -> Estimate:
        """Return 2 over the critical step."""
        import torch

        other = view_of(surface.companion(), spec)
        with torch.no_grad():
            d, source = direction_of(view_of(surface, spec), spec)
            g = other.gradient()[1]
            slope, length = float(d.double() @ g.double()), float(d.double().norm())
            rounding = RESOLVED * torch.finfo(g.dtype).eps * length * float(g.double().norm())
            if length == 0:
                raise Unsupported(STILL)
            if not math.isfinite(slope):
                return Estimate(math.nan)
            if slope <= rounding:
                raise Unsupported(UPHILL.format(slope=slope, rounding=rounding))
            found = critical_sharpness(other, along(d, source, slope), spec.rtol)
        return replace(found, extras={**found.extras, "slope": slope})

    def needs(self, spec: CriticalSpec) -> frozenset[Need]:
        """What critical sharpness needs, and the validation points."""
        return super().needs(spec) | {"validation"}

    def passes(self, spec: CriticalSpec) -> Cost:
        """Those of critical sharpness, and the gradient on the validation points."""
        return super().passes(spec) + Cost(forwards=1, backwards=1)
