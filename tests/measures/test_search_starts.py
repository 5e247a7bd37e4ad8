"""From where worst-case searches go on, and what is kept of several."""

import math

import pytest
import torch
from models import MLP, Weights, mlp_data

import acutance
from acutance import Estimate, LossSurface, Status, Streams
from acutance.measure import Cost
from acutance.numerics.auto_pgd import Maximum, auto_pgd
from acutance.numerics.balls import ball
from acutance.numerics.slopes import Slope
from acutance.plugins import catalog
from acutance_worst_case import search
from acutance_worst_case.measure import WorstCaseSpec


def two_hills(slope=1.0, curvature=100.0):
    """F(delta) = slope delta_1 + curvature/2 delta_2^2: no gradient at w* leads to the higher hill."""
    w = torch.ones(200, dtype=torch.float64)  # a random point has little of any of them

    def loss(f, y):
        d = f[0] - w
        return slope * d[0] + 0.5 * curvature * d[1] * d[1]

    return LossSurface(Weights(w.clone()), (torch.zeros(1, 1), torch.zeros(1, 200)), loss=loss)


def test_a_search_that_is_stuck_goes_on_from_another_start():
    surface = two_hills()
    found = acutance.measure("worst_case", surface, norm="l2", rho=0.5, candidates=1)
    low, high = 0.5, 0.5 * 100 * 0.25
    assert found.value == pytest.approx(high, rel=0.01) and found.extras["value_half"] == pytest.approx(low, rel=0.01)
    assert found.extras["starts"] == 2 and found.extras["starts_differ"] == pytest.approx(1 - low / high, rel=0.01)
    alone = acutance.measure("worst_case", two_hills(), norm="l2", rho=0.5, candidates=0)
    assert alone.value == pytest.approx(low, rel=0.01) and alone.extras["starts"] == 1
    assert alone.extras["starts_differ"] == 0.0


def test_the_second_start_never_takes_the_first_ones_maximum_away():
    found = acutance.measure("worst_case", two_hills(slope=100.0, curvature=1.0), norm="l2", rho=0.5)
    assert found.extras["starts"] == 2 and found.value == pytest.approx(50, rel=0.01)


def test_a_search_in_a_box_is_left_to_its_end():
    found = acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), norm="linf", rho=1e-4)
    assert found.extras["starts"] == 1


def test_where_c_is_one_a_search_is_left_to_its_end():
    found = acutance.measure("worst_case", two_hills(), norm="l2", rho=0.5, scaling="none")
    assert found.extras["starts"] == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 20, 21])
@pytest.mark.parametrize(("norm", "rho"), [("l2", 0.01), ("l2", 3.0), ("linf", 0.2)])
def test_two_starts_make_the_passes_of_one(norm, rho, steps):
    """Radii at which the search is stuck half-way and at which it is not: the passes are those that are stated."""
    surface = LossSurface(MLP(torch.tanh), mlp_data(24))
    spec = WorstCaseSpec(norm=norm, rho=rho, steps=steps)
    stated = catalog().measure("worst_case").passes(spec)
    assert (stated.forwards, stated.backwards) == (steps + 1 + 4, steps + 1)
    found = acutance.measure("worst_case", surface, norm=norm, rho=rho, steps=steps)
    assert found.cost == Cost(24 * stated.forwards, 24 * stated.backwards)
    assert found.extras["starts"] == (2 if found.extras["starts_differ"] else found.extras["starts"])


def test_a_search_ends_half_way_only_when_it_is_stuck():
    asked = []
    stuck = search.Stuck(1.0)
    assert stuck(2.0, 2.0, 2.0) and stuck.stopped
    assert stuck(2.0, 2.009, 2.0) and not stuck(2.0, 2.02, 2.02) and not stuck.stopped
    assert not stuck(2.0, 2.0, 1.98)  # it moves to and fro: its steps are too long
    assert search.Stuck(1.0)(1.0, 1.0, 1.0)  # nothing rose at all

    class Slope1:
        def __init__(self):
            self.gradients = self.values = 0

        def gradient(self, x):
            self.gradients += 1
            return float(x.sum()), torch.zeros(()), Slope([torch.ones_like(x)])

        def value(self, x):
            self.values += 1
            return float(x.sum()), torch.zeros(())

    for answer, gradients in ((True, 11), (False, 20)):
        objective = Slope1()

        def ask(quarter, half, last, answer=answer):
            asked.append((quarter, half, last))
            return answer

        auto_pgd(objective, torch.zeros(1, dtype=torch.float64), ball("linf", 1.0), 20, ask)
        assert objective.gradients == gradients and objective.values == (0 if answer else 1)
    assert asked == [(1.0, 1.0, 1.0)] * 2


def test_zero_and_random_starts_are_searched_from_one_point():
    for start in ("zero", "random"):
        found = acutance.measure("worst_case", two_hills(), norm="l2", rho=0.5, start=start)
        assert found.extras["starts"] == 1
    found = acutance.measure("worst_case", two_hills(), norm="l2", rho=0.5, start="random", restarts=3)
    assert found.extras["starts"] == 3 and 0 <= found.extras["starts_differ"] <= 1


def scripted(monkeypatch, values):
    """Let searches reach these values, (value, value half-way), in order; return where they start."""
    starts, script = [], iter(values)

    def run(objective, start, region, steps, stuck=None):
        starts.append(start.clone())
        value, half = next(script)
        return Maximum(start, value, objective.value(start)[1], half)

    monkeypatch.setattr(search, "auto_pgd", run)
    return starts


def test_restarts_start_at_different_points(monkeypatch):
    for norm in ("l2", "linf"):
        for start in ("random", "zero", "screened"):
            with monkeypatch.context() as patch:
                starts = scripted(patch, [(9.0, 8.0)] * 4)
                surface = LossSurface(MLP(), mlp_data())
                acutance.measure("worst_case", surface, norm=norm, rho=0.1, restarts=4, start=start)
            assert len({tuple(point.tolist()) for point in starts}) == 4


def test_the_better_half_way_value_counts_whichever_start_won(monkeypatch):
    for values in ([(9.0, 5.0), (8.0, 7.0)], [(8.0, 7.0), (9.0, 5.0)]):
        with monkeypatch.context() as patch:
            scripted(patch, values)
            surface = LossSurface(MLP(), mlp_data())
            found = acutance.measure("worst_case", surface, rho=0.1, restarts=2, start="random")
        clean = found.extras["clean_loss"]
        assert found.value == pytest.approx(9 - clean) and found.extras["value_half"] == pytest.approx(7 - clean)
    one = torch.ones(1)
    for pair in (
        (Maximum(one, 9.0, one, 5.0), Maximum(one, 8.0, one, 7.0)),
        (Maximum(one, 8.0, one, 7.0), Maximum(one, 9.0, one, 5.0)),
    ):
        assert search._better(*pair).value_half == 7.0 and search._better(*pair).value == 9.0


def test_a_value_below_the_clean_loss_is_zero_since_the_origin_is_feasible(monkeypatch):
    scripted(monkeypatch, [(-3.0, -4.0)])
    found = acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), rho=0.1, start="random")
    assert found.value == 0.0 and found.extras["value_half"] == 0.0


def test_a_candidate_that_is_not_a_number_never_wins():
    surface = LossSurface(MLP(), mlp_data())
    objective, region = surface.perturbed(None), ball("linf", 0.1)
    spec, real = WorstCaseSpec(rho=0.1, scaling="none"), objective.value
    for bad in (0, 1, 2):
        count = iter(range(3))

        def value(x, bad=bad, count=count):
            found, note = real(x)
            return (math.nan if next(count) == bad else 100.0 + found), note

        objective.value = value
        best = search._screened(objective, region, spec, Streams(0), 0)
        assert math.isfinite(best.value) and best.where != bad - 1
    objective.value = lambda x: (math.nan, real(x)[1])
    assert search._screened(objective, region, spec, Streams(0), 0) is None


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_starts_leave_out_coordinates_that_cannot_move(norm):
    surface = LossSurface(MLP(), mlp_data())
    c = surface.w.abs().clone()
    c[::3] = 0.0
    x = search._random(surface.perturbed(c), ball(norm, 0.5), Streams(0), 0, 0)
    assert bool((x[::3] == 0).all()) and bool((x[1::3] != 0).all())
    if norm == "l2":  # uniform in the ball over the others: their number is the dimension
        u = Streams(0).number("start.radius", 0)
        assert float(x.norm()) == pytest.approx(0.5 * u ** (1 / int((c > 0).sum())), rel=1e-12)


class Script:
    """A function of one coordinate whose values come from a list; its gradient points down at the first point, else up."""

    def __init__(self, values):
        self.values, self.met = iter(values), []

    def gradient(self, x):
        first = not self.met
        self.met.append(float(x))
        return next(self.values), torch.zeros(()), Slope([torch.full_like(x, -1.0 if first else 1.0)])

    def value(self, x):
        self.met.append(float(x))
        return next(self.values), torch.zeros(())


def test_auto_pgd_goes_back_when_the_best_value_has_not_moved_although_steps_rise():
    """Condition 2 of Croce & Hein: rising steps are no progress while the best point is an old one."""
    objective = Script([10.0, *map(float, range(20))])
    auto_pgd(objective, torch.zeros(1, dtype=torch.float64), ball("linf", 4.0), 20)
    # Met are the first point, four steps up, and, from the checkpoint after five steps on, what lies below the first point:
    # there the search went back to that point and its gradient.
    assert objective.met[:2] == [0.0, -4.0] and objective.met[5] == 4.0
    back = next(i for i, x in enumerate(objective.met) if i > 5 and x < 0)
    assert back == 7


def test_standard_errors_divide_by_one_less_than_the_number():
    from acutance.numerics.traces import mean_and_error

    value, error = mean_and_error([1.0, 2.0, 4.0, 9.0])
    assert value == 4.0 and error == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3 / 4))
    parts = [Estimate(v, status=Status.OK) for v in (1.0, 2.0, 4.0, 9.0)]
    assert Estimate.mean(parts).extras["batch_stderr"] == pytest.approx(error)
