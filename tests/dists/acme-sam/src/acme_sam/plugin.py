"""The rise of the loss after one ascent step."""

from acutance import Spec, hookimpl
from acutance.measure import Cost, Measure, Traits
from pydantic import PositiveFloat


class SamRiseSpec(Spec):
    """Settings of sam_rise."""

    rho: PositiveFloat = 0.05
    """Length of the step, in the l2 norm of the weights."""


class SamRise(Measure[SamRiseSpec]):
    r"""Rise of the loss after one normalized ascent step; 0 where the gradient is 0.

    .. math:: L_S(w + \rho\, g / \|g\|_2) - L_S(w), \quad g = \nabla L_S(w)
    """

    name = "sam_rise"
    traits = Traits(
        label="rise after one step",
        needs={"data", "gradient"},
        invariant_to={"permutation", "translation"},
        reference="Foret et al. 2021, Eq. 2",
        bibtex="foret2021sharpness",
    )

    def evaluate(self, surface, spec, rng):
        loss, g = surface.gradient()
        return float(surface.loss(surface.w + spec.rho * g / g.norm()) - loss) if g.any() else 0.0

    def passes(self, spec):
        return Cost(forwards=2, backwards=1)


@hookimpl
def register_measures():
    return [SamRise]
