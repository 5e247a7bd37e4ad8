"""The study's grid on one model, all cells together, against the sum of what its cells need alone."""

import itertools

import pytest
from test_measures import clock, prepare, synchronize

from acutance.measure import Cost
from acutance.plugins import catalog
from acutance.surface.evaluation import evaluate_family

DEFINITIONS = (("none", False), ("elementwise", False), ("elementwise", True))  # scaling, logit normalization
DRAWS = 20
STEPS = 20
# Radii within the published tables: those of the ball in units of the weights, and of the plain ball.
AVERAGE = {("l2", "none"): (0.0125, 0.025, 0.05, 0.1), ("l2", "elementwise"): (0.05, 0.1, 0.2, 0.4),
           ("linf", "none"): (0.025, 0.05, 0.1, 0.2), ("linf", "elementwise"): (0.1, 0.2, 0.4, 0.8)}  # fmt: skip
WORST = {("l2", "none"): (0.0625, 0.125, 0.25, 0.5), ("l2", "elementwise"): (0.25, 0.5, 1.0, 2.0),
         ("linf", "none"): (0.0005, 0.001, 0.002, 0.004), ("linf", "elementwise"): (0.001, 0.002, 0.004, 0.008)}  # fmt: skip


def cells(measure, radii, **settings):
    """Return the 24 cells of a measure."""
    return [
        measure.Spec(norm=norm, scaling=scaling, logit_norm=logit_norm, rho=rho, **settings)
        for norm, (scaling, logit_norm) in itertools.product(("l2", "linf"), DEFINITIONS)
        for rho in radii[norm, scaling]
    ]


def skip_what_takes_minutes(network, *names):
    if network.name in names:
        pytest.skip("minutes a round, and the story of a smaller network")


def test_average_case(compare, network, device):
    """Forwards shared by plain and normalized loss, one draw of noise for all cells of a norm, one clean pass."""
    skip_what_takes_minutes(network, "resnet18_w64")
    surface, bare, _, _ = prepare(network, device)
    measure = catalog().measure("average_case")
    specs = cells(measure, AVERAGE, draws=DRAWS)

    def work():
        surface.release()
        evaluate_family("average_case", measure, surface, specs, seed=0, batch=0)
        synchronize(device)

    alone = bare.passes(Cost(forwards=bare.n * len(specs) * (DRAWS + 1)), len(specs) * DRAWS)

    def floors():
        alone()
        synchronize(device)

    before = surface.cost
    rounds = 1 if network.size == "large" else 3
    compare(work, floors, rounds, 0.6, seconds=clock(device), against="the cells' own floors", cells=len(specs))
    assert surface.cost.forwards - before.forwards == bare.n * rounds * (16 * DRAWS + 1)


def test_worst_case(compare, network, device):
    """A climb of four radii for each definition against four cold searches of 20 steps from random starts."""
    skip_what_takes_minutes(network, "resnet18_w64", "resnet18_w16", "vit")
    surface, bare, _, _ = prepare(network, device)
    measure = catalog().measure("worst_case")
    climbs = [
        measure.Spec(**{**spec.full(), "ladder": WORST[spec.norm, spec.scaling]})
        for spec in cells(measure, WORST, steps=STEPS - 1)
    ]

    def work():
        surface.release()
        evaluate_family("worst_case", measure, surface, climbs, seed=0, batch=0)
        synchronize(device)

    cold = Cost(forwards=bare.n * len(climbs) * (STEPS + 1), backwards=bare.n * len(climbs) * STEPS)
    alone = bare.passes(cold)

    def floors():
        alone()
        synchronize(device)

    before = surface.cost
    work()
    made = surface.cost - before
    assert made.forwards <= cold.forwards and made.backwards <= cold.backwards
    compare(
        work, floors, 1 if network.size == "embedding" else 3, 1.0, seconds=clock(device),
        against="cold searches' bare passes", cells=len(climbs), forwards=made.forwards, backwards=made.backwards,
    )  # fmt: skip
