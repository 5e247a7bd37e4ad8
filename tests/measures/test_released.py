"""The published code's search, its logit normalization, and the ladder of radii."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import MLP, Attention, ConvBN, conv_data, mlp_data, token_data
from scipy.optimize import minimize
from torch.utils._python_dispatch import TorchDispatchMode

import acutance
from acutance import LossSurface
from acutance.measure import Cost
from acutance.model import derivatives
from acutance.model.losses import transform_of
from acutance.model.normalization import normalize_logits
from acutance.numerics import balls
from acutance.numerics.auto_pgd import Maximum
from acutance.numerics.slopes import Slope
from acutance.plugins import catalog
from acutance.study.plan import expand
from acutance.surface import perturbed
from acutance.surface.evaluation import evaluate_family
from acutance_worst_case import released, search
from acutance_worst_case.measure import WorstCaseSpec

CASES = {"mlp": (MLP, mlp_data), "attention": (Attention, token_data), "conv_bn": (ConvBN, conv_data)}


class Traced:
    """F(delta) = -(delta - 0.2)^2 of one number, keeping the points it is asked for."""

    def __init__(self):
        self.points = []

    def value(self, x):
        self.points.append(float(x))
        return -((float(x) - 0.2) ** 2), x

    def gradient(self, x):
        value, note = self.value(x)
        return value, note, Slope([-2 * (x - 0.2)])


def test_the_steps_are_those_of_the_published_code():
    """By hand: no record in 0..5, so at k = 5 the step halves to 1 and the gradient (not the position) is that at 0."""
    objective = Traced()
    like = torch.zeros(1, dtype=torch.float64)
    best = released.search(objective, like, None, "linf", 1.0, 20)
    by_hand = [0, 0.75, -0.75, 0.9375, -0.9375, 0.984375, -0.984375, 0.2578125, -0.802734375]
    assert objective.points[:9] == by_hand
    assert len(objective.points) == 21
    assert best.value == -((float(best.x) - 0.2) ** 2) == max(-((x - 0.2) ** 2) for x in objective.points)


def test_the_schedule_is_rounded_as_published():
    assert released.checkpoints(20) == [5, 9, 12, 15, 16, 18, 19, 20]
    # Where rounding makes an entry come twice the schedule ends.
    assert released.checkpoints(10) == [3, 5, 6, 8, 8]
    assert released.checkpoints(5) == [2, 3, 3]


def test_l2_step_goes_along_c_times_g():
    g, c = torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.5])
    assert released._step(g, c, "l2", 10.0).tolist() == pytest.approx([12.0, 4.0])
    assert released._step(-g, c, "linf", 10.0).tolist() == [-20.0, -5.0]


@pytest.mark.parametrize("rho", [0.02, 0.5, 3.0])
def test_projection_is_the_nearest_point_of_the_ellipsoid(rho):
    torch.manual_seed(0)
    delta, c = torch.randn(4, dtype=torch.float64) * 4, torch.rand(4, dtype=torch.float64) + 0.1
    found = released._projected(delta, c, "l2", rho)
    inside = {"type": "ineq", "fun": lambda x: rho**2 - ((x / c.numpy()) ** 2).sum()}
    nearest = minimize(lambda x: ((x - delta.numpy()) ** 2).sum(), np.zeros(4), constraints=inside, tol=1e-14)
    assert float((found / c).norm()) == pytest.approx(rho, rel=2e-5)
    assert torch.allclose(found, torch.from_numpy(nearest.x), atol=1e-4 * rho)
    within = released._projected(found / 2, c, "l2", rho)
    assert torch.equal(within, found / 2)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("norm,radii", [("l2", (0.1, 0.5, 2.0)), ("linf", (0.002, 0.02, 0.1))])
def test_paper_mode_is_never_much_below_released_mode(case, scaling, norm, radii):
    model, data = CASES[case]
    surface = LossSurface(model(), data())
    for rho in radii:
        paper = acutance.measure("worst_case", surface, rho=rho, norm=norm, scaling=scaling)
        old = acutance.measure("worst_case", surface, rho=rho, norm=norm, scaling=scaling, mode="released")
        assert old.value > 0
        assert paper.value >= (1.0 - 1e-9 if norm == "l2" and scaling == "elementwise" else 0.98) * old.value
        assert old.extras["radius_reached"] <= 1 + 2e-5 / min(rho, 1)


def test_released_mode_counts_its_passes():
    surface = LossSurface(MLP(), mlp_data())
    found = acutance.measure("worst_case", surface, rho=0.01, mode="released", steps=7)
    assert (found.cost.forwards, found.cost.backwards) == (8 * surface.n, 7 * surface.n)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_zero_weights_do_not_switch_the_projection_off(norm):
    model = MLP()
    with torch.no_grad():
        model.layers[0].weight[:, 0] = 0
    surface = LossSurface(model, mlp_data())
    found = acutance.measure("worst_case", surface, rho=0.01, norm=norm, mode="released")
    assert math.isfinite(found.value) and found.extras["radius_reached"] <= 1.01


@pytest.mark.parametrize("wrong", [{"start": "random"}, {"restarts": 2}, {"ladder": [0.1]}])
def test_released_mode_refuses_what_the_published_code_cannot_do(wrong):
    with pytest.raises(acutance.UserError, match="mode released has one start"):
        acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), rho=1.0, mode="released", **wrong)


def test_released_mode_refuses_candidates_which_it_would_not_look_at():
    with pytest.raises(acutance.UserError, match="candidates: mode released screens no points"):
        acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), rho=1.0, mode="released", candidates=5)


def test_released_spec_round_trips():
    spec = WorstCaseSpec(rho=1.0, mode="released")
    assert spec.start == "zero" and WorstCaseSpec.model_validate(spec.full()) == spec


@pytest.mark.parametrize("classes,paper,code", [(3, 0.215, 0.462), (10, 0.278, 1.420), (1000, 0.0, 5.909)])
def test_smallest_cross_entropy_of_both_normalizations(classes, paper, code):
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, 0] = 7.0
    target = torch.zeros(1, dtype=torch.long)
    assert float(F.cross_entropy(normalize_logits(logits), target)) == pytest.approx(paper, abs=5e-4)
    assert float(F.cross_entropy(normalize_logits(logits, "released"), target)) == pytest.approx(code, abs=5e-4)


def test_normalizations_differ_by_the_root_of_the_number_of_classes_and_a_shift():
    logits = torch.randn(5, 7, dtype=torch.float64)
    paper, code = normalize_logits(logits), normalize_logits(logits, "released")
    difference = paper / math.sqrt(7) - code
    assert torch.allclose(difference, difference[:, :1].expand_as(difference))
    assert torch.allclose(code.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_logits_are_normalized_in_double_precision():
    """In single precision the spread of logits far from zero is lost: the loss would be wrong in the third digit."""
    logits = (1e4 + torch.randn(16, 10, generator=torch.Generator().manual_seed(0))).float().requires_grad_()
    for scale in ("paper", "released"):
        seen = transform_of(True, scale)(logits)
        exact = normalize_logits(logits.detach().double(), scale)
        assert seen.dtype == torch.float64 and torch.equal(seen.detach(), exact)
        assert float((normalize_logits(logits.detach(), scale) - exact).abs().max()) > 1e-6


def test_released_normalization_of_constant_logits_has_a_finite_gradient():
    logits = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(normalize_logits(logits, "released").square().sum(), logits)
    assert torch.isfinite(g).all()


def test_norm_scale_reaches_the_measures():
    surface = LossSurface(MLP(), mlp_data())
    for name, rho in (("worst_case", 0.01), ("average_case", 0.1)):
        values = [
            acutance.measure(name, surface, rho=rho, logit_norm=True, norm_scale=scale).extras["clean_loss"]
            for scale in ("paper", "released")
        ]
        assert values[0] == float(surface.transformed(True).loss())
        assert values[1] == float(surface.transformed(True, "released").loss()) != values[0]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_ladder_never_falls_and_costs_a_search_a_rung(norm):
    surface = LossSurface(MLP(torch.tanh), mlp_data())
    small = acutance.measure("worst_case", surface, rho=0.1, norm=norm, steps=5)
    climbed = acutance.measure("worst_case", surface, rho=0.3, norm=norm, steps=5, ladder=[0.1, 0.2])
    assert climbed.value >= small.value
    assert climbed.extras["radius_reached"] <= 1 + 1e-9
    found = acutance.measure("worst_case", surface, rho=0.3, norm=norm, steps=5, ladder=[0.1, 0.2], start="random")
    assert (found.cost.forwards, found.cost.backwards) == (3 * 6 * surface.n, 3 * 5 * surface.n)


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("start", ["screened", "random", "zero"])
@pytest.mark.parametrize("steps", [1, 6, 7, 19])
def test_passes_of_a_ladder_are_as_stated(start, restarts, steps):
    surface = LossSurface(MLP(), mlp_data())
    settings = {"rho": 0.3, "ladder": [0.1, 0.2], "steps": steps, "start": start, "restarts": restarts}
    found = acutance.measure("worst_case", surface, **settings)
    stated = catalog().measure("worst_case").passes(WorstCaseSpec(**settings))
    assert found.cost == Cost(stated.forwards * surface.n, stated.backwards * surface.n)


@pytest.mark.parametrize(("warm", "cold", "goes_on"), [(3.0, 2.0, "warm"), (2.0, 3.0, "cold"), (0.5, 0.7, "best")])
def test_a_rung_goes_on_from_the_highest_point_that_two_looks_met(warm, cold, goes_on, monkeypatch):
    """A climb that leads nowhere is left: the steps that remain start from what a start of the ball itself reached."""
    starts, one = [], torch.ones(3, dtype=torch.float64)

    def scripted(objective, start, region, steps):
        starts.append((start.clone(), steps))
        met = [(10 * one, warm), (20 * one, cold), (30 * one, 1.5)][len(starts) - 1]
        return Maximum(met[0], met[1], one, met[1])

    surface = LossSurface(MLP(), mlp_data())
    monkeypatch.setattr(search, "auto_pgd", scripted)
    monkeypatch.setattr(search, "_cold", lambda objective, *rest: (objective, 7 * one))
    spec = WorstCaseSpec(rho=0.5, ladder=(0.25,), steps=12)
    best = Maximum(one, 1.0, one, 1.0)
    monkeypatch.setattr(search, "_ascend", lambda *_: best)
    (_, first), (radii, found) = search._climb(surface.perturbed(None), None, spec, None, 0)
    assert radii == (0.25, 0.5) and first is best
    places = {"best": one, "warm": 10 * one, "cold": 20 * one}
    assert [steps for _, steps in starts] == [2, 2, 6]
    for (start, _), expected in zip(starts, [2 * one, 7 * one, places[goes_on]], strict=True):
        assert torch.equal(start, expected)
    assert found.value == max(1.5, warm, cold) and torch.equal(best.x, one)


@pytest.mark.parametrize("settings", [{}, {"restarts": 2}, {"start": "random"}, {"norm": "l2", "logit_norm": True}])
def test_cells_of_one_ladder_share_its_climb(settings):
    """The values are those of each cell alone; the passes are those of the longest climb."""
    radii = [0.3, 0.1, 0.2]
    measure = catalog().measure("worst_case")
    specs = [measure.Spec(rho=rho, ladder=[0.1, 0.2], steps=5, **settings) for rho in radii]
    alone = []
    for spec in specs:
        surface = LossSurface(MLP(), mlp_data())
        alone.append(evaluate_family("worst_case", measure, surface, [spec], seed=0, batch=0)[0])
    surface = LossSurface(MLP(), mlp_data())
    together = evaluate_family("worst_case", measure, surface, specs, seed=0, batch=0)
    for one, shared in zip(alone, together, strict=True):
        assert one.value == shared.value and one.extras == shared.extras
    made, longest = surface.cost, measure.passes(specs[0])
    assert (made.forwards, made.backwards) == (surface.n * longest.forwards, surface.n * longest.backwards)
    assert sum(e.cost.units for e in together) == pytest.approx(made.units)
    # Another start from zero at 0.2 is no rung of this climb.
    other = measure.Spec(rho=0.2, steps=5, **settings)
    evaluate_family("worst_case", measure, surface, [specs[2], other], seed=0, batch=0)
    assert surface.cost.backwards - made.backwards == surface.n * settings.get("restarts", 1) * 3 * 5


def test_a_ladder_must_climb():
    for ladder in ([0.2, 0.1], [0.1, 0.1]):
        with pytest.raises(acutance.UserError, match="ladder: radii must increase"):
            acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), rho=0.3, ladder=ladder)


def test_a_list_for_the_ladder_is_its_value_and_a_list_of_lists_a_sweep():
    one, wrong = expand(WorstCaseSpec, {"rho": [0.3, 0.4], "ladder": [0.1, 0.2]}, "measures.0")
    assert not wrong and [(s.rho, s.ladder) for s in one] == [(0.3, (0.1, 0.2)), (0.4, (0.1, 0.2))]
    rungs, wrong = expand(WorstCaseSpec, {"rho": [0.1, 0.2, 0.3], "ladder": [0.1, 0.2]}, "measures.0")
    assert not wrong and [s.ladder for s in rungs] == [(), (0.1,), (0.1, 0.2)]
    assert rungs[0] == WorstCaseSpec(rho=0.1)
    two, wrong = expand(WorstCaseSpec, {"rho": 0.3, "ladder": [[], [0.1]]}, "measures.0")
    assert not wrong and [s.ladder for s in two] == [(), (0.1,)]


class _Reads(TorchDispatchMode):
    """Counts values that are read from tensors: on an accelerator each would wait for all work in flight."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm,rho", [("linf", 0.02), ("l2", 0.5)])
def test_released_search_reads_no_value_where_numbers_stay_on_the_device(norm, rho, monkeypatch):
    surface = LossSurface(MLP(), mlp_data())
    on_the_host = acutance.measure("worst_case", surface, rho=rho, norm=norm, mode="released")
    for module in (released, perturbed, balls, derivatives):
        monkeypatch.setattr(module, "scalar", torch.Tensor.double)
    origin = search.FromOrigin(surface.perturbed(None))
    surface.clean_gradient()
    with _Reads() as reads:
        found = released.search(origin, surface.w, surface.w.abs(), norm, rho, 20)
    assert reads.count == 0 and isinstance(found.value, torch.Tensor)
    assert float(found.value) == pytest.approx(on_the_host.extras["perturbed_loss"], rel=1e-12)
