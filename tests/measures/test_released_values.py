"""Paper mode against the published search on trained networks: what DESIGN, section 7, promises of the values.

Radii run from where the loss is quadratic to where the published search comes near chance level, ln K: beyond it a network
knows nothing, the loss is that of noise, and what a search finds there is luck.
"""

import itertools
import math
import statistics

import pytest
import trained

import acutance
from acutance import LossSurface

CHANCE = math.log(10)
# Radii near chance level, of the plain and of the logit-normalized loss.
LARGEST = {
    ("l2", "none"): {"mlp": (0.5, 2.4), "cnn": (0.4, 2.4), "resnet": (0.08, 0.2), "attention": (0.2, 1.0)},
    ("l2", "elementwise"): {"mlp": (1.5, 6.0), "cnn": (0.6, 2.4), "resnet": (0.5, 1.0), "attention": (1.0, 2.4)},
    ("linf", "none"): {"mlp": (0.025, 0.06), "cnn": (0.01, 0.06), "resnet": (0.002, 0.004), "attention": (0.01, 0.03)},
    ("linf", "elementwise"): {"mlp": (0.1, 0.4), "cnn": (0.025, 0.2), "resnet": (0.025, 0.03), "attention": (0.03, 0.15)},
}  # fmt: skip
KINDS = list(itertools.product(LARGEST, (False, True)))


def ratio(surface, largest, share, **fields):
    """Return paper over published value at a share of the largest radius."""
    paper = acutance.measure("worst_case", surface, rho=share * largest, **fields)
    published = acutance.measure("worst_case", surface, rho=share * largest, mode="released", **fields)
    assert paper.extras["radius_reached"] <= 1 + 1e-9
    assert 0.2 * share**2 < published.value < CHANCE if share == 1 else published.value > 0, published.value
    return paper.value / published.value


def ratios(name, seed, shares):
    """Return {(norm, scaling, logit_norm, share of the largest radius): ratio} on one network."""
    surface = LossSurface(*trained.trained(name, seed))
    found = {}
    for ((norm, scaling), logit_norm), share in itertools.product(KINDS, shares):
        largest = LARGEST[norm, scaling][name][logit_norm]
        fields = {"norm": norm, "scaling": scaling, "logit_norm": logit_norm}
        found[norm, scaling, logit_norm, share] = ratio(surface, largest, share, **fields)
    return found
