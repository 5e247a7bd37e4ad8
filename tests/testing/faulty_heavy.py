"""A plugin module that imports numpy when it is imported."""

import numpy as np

from acutance.measure import Measure, Traits
from acutance.spec import Spec


class HeavySpec(Spec):
    """No settings."""


class Heavy(Measure[HeavySpec]):
    """The loss."""

    name = "heavy"
    traits = Traits(reference="these tests")

    def evaluate(self, surface, spec, rng):
        return float(np.float64(float(surface.loss())))
