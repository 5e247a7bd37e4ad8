"""PAC-Bayes measures, against linear classifiers and Gaussians, where probabilities and divergences are known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.numerics.draws import Streams
from acutance.plugins import catalog

FAMILY = (
    "pacbayes_flatness", "pacbayes_magnitude_flatness", "pacbayes_orig", "pacbayes_init", "pacbayes_magnitude_orig",
    "pacbayes_magnitude_init",
)  # fmt: skip
RNG = Streams(7)


def axes(n=60, initial=True, **options):
    """Points on axes of their own, the first class by margins of 0.5 to 2: under noise each errs independently."""
    model, start = (nn.Linear(n, 2, bias=False, dtype=torch.float64) for _ in range(2))
    margins = torch.linspace(0.5, 2, n, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.stack([margins / 2, -margins / 2]))
        start.weight.copy_(torch.stack([margins / 3, margins / 5]))
    x, y = torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long)
    return LossSurface(model, (x, y), initial=start if initial else None, **options)


def evaluate(name, surface, **settings):
    measure = catalog().measure(name)
    return measure.evaluate(surface, measure.Spec(**settings), RNG)


def drop_at(surface, sigma, draws, eps=None):
    """The mean change of the accuracy under the very noise that is searched with."""
    clean, w, changes = float(surface.errors().mean()), surface.w, []
    for k in range(draws):
        z = RNG.normal("noise", k, w)
        u = sigma * z if eps is None else z * torch.sqrt(sigma**2 * w**2 + eps**2)
        changes.append(abs(float(surface.errors(w + u).mean()) - clean))
    return np.mean(changes)


@pytest.mark.parametrize(("deviation", "draws", "rtol"), [(0.1, 10, 0.01), (0.25, 3, 0.1)])
@pytest.mark.parametrize("eps", [None, 1e-3, 0.1])
def test_the_scale_is_where_the_accuracy_under_this_noise_leaves_its_limit(deviation, draws, rtol, eps):
    surface = axes()
    name = "pacbayes_flatness" if eps is None else "pacbayes_magnitude_flatness"
    settings = {"deviation": deviation, "draws": draws, "rtol": rtol} | ({} if eps is None else {"eps": eps})
    found = evaluate(name, surface, **settings)
    sigma = found.extras["sigma"]
    assert found.value == pytest.approx(sigma**-2)
    assert drop_at(surface, sigma, draws, eps) <= deviation + 1e-12
    assert drop_at(surface, sigma * (1 + rtol), draws, eps) > deviation


@pytest.mark.parametrize("deviation", [0.05, 0.1, 0.3])
def test_the_expected_accuracy_of_a_linear_classifier_is_a_closed_form(deviation):
    r"""The margin of a point on an axis moves by N(0, 2 sigma^2): a standard deviation, where public code has a variance."""
    n = 200
    margins = np.linspace(0.5, 2, n)

    def excess(sigma):
        return norm.cdf(-margins / (math.sqrt(2) * sigma)).mean() - deviation

    exact = brentq(excess, 0.05, 5)
    found = evaluate("pacbayes_flatness", axes(n), deviation=deviation, draws=30, rtol=0.002)
    # 6000 independent points decide: the share is known to sqrt(d (1 - d) / 6000), the scale accordingly.
    slope = (excess(exact * 1.01) - excess(exact * 0.99)) / 0.02
    tolerance = 3 * math.sqrt(deviation * (1 - deviation) / (30 * n)) / slope + 0.002
    assert tolerance < 0.15
    assert found.extras["sigma"] == pytest.approx(exact, rel=tolerance)


def test_noise_in_proportion_to_weights_by_a_closed_form():
    """Both rows are half a margin long: the margin m moves by N(0, m^2 sigma^2 / 2 + 2 eps^2)."""
    n, eps = 200, 0.2
    margins = np.linspace(0.5, 2, n)

    def excess(sigma):
        return norm.cdf(-margins / np.sqrt(margins**2 * sigma**2 / 2 + 2 * eps**2)).mean() - 0.1

    exact = brentq(excess, 0.05, 5)
    found = evaluate("pacbayes_magnitude_flatness", axes(n), eps=eps, draws=30, rtol=0.002)
    assert found.extras["sigma"] == pytest.approx(exact, rel=0.08)


def test_a_rescaled_layer_changes_nothing_where_zero_weights_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    x = torch.randn(50, 6, dtype=torch.float64)
    y = model(x).argmax(1).detach()

    def values(eps):
        return [evaluate("pacbayes_magnitude_flatness", LossSurface(model, (x, y)), eps=eps).value for _ in range(1)]

    before = values(0.0), values(0.1)
    with torch.no_grad():
        model[0].weight.mul_(8)
        model[0].bias.mul_(8)
        model[2].weight.mul_(1 / 8)
    assert values(0.0) == pytest.approx(before[0], rel=1e-9)
    assert values(0.1) != pytest.approx(before[1], rel=0.03)


def test_the_bounds_from_zero_and_from_initialization():
    surface = axes(num_train=5000)
    sigma = evaluate("pacbayes_flatness", surface).extras["sigma"]
    for name, reference in (("pacbayes_orig", torch.zeros_like(surface.w)), ("pacbayes_init", surface.w0)):
        found = evaluate(name, surface)
        # KL(N(w, s^2) || N(reference, s^2)) is half the squared distance in units of s.
        q = torch.distributions.Normal(surface.w, sigma)
        divergence = float(torch.distributions.kl_divergence(q, torch.distributions.Normal(reference, sigma)).sum())
        assert found.value == pytest.approx(divergence / 2 + math.log(5000 / sigma) + 10, rel=1e-12)
        assert found.extras["gap"] == pytest.approx(math.sqrt(found.value / 5000))


@pytest.mark.parametrize(
    ("name", "form", "is_divergence"),
    [
        ("pacbayes_magnitude_init", "published", True),
        ("pacbayes_magnitude_init", "derived", True),
        ("pacbayes_magnitude_orig", "derived", True),
        ("pacbayes_magnitude_orig", "published", False),
    ],
)
def test_the_magnitude_aware_bounds_are_divergences_from_the_best_prior(name, form, is_divergence):
    surface = axes()
    eps, w, w0 = 1e-2, surface.w, surface.w0
    found = evaluate(name, surface, eps=eps, form=form)
    sigma = found.extras["sigma"]
    assert sigma == evaluate("pacbayes_magnitude_flatness", surface, eps=eps).extras["sigma"]
    centre = w0 if name.endswith("init") else torch.zeros_like(w)
    spread = w if form == "derived" else w - w0
    q = torch.distributions.Normal(w, torch.sqrt(eps**2 + sigma**2 * spread**2))

    def divergence(s):
        return float(torch.distributions.kl_divergence(q, torch.distributions.Normal(centre, s)).sum())

    scales = np.exp(np.linspace(-4, 2, 4001))
    least = min(divergence(float(s)) for s in scales[:: 1 if is_divergence else 40])
    complexity = found.value - math.log(surface.num_train / sigma) - 10
    if is_divergence:
        assert complexity == pytest.approx(least / 2, rel=1e-5)
    else:
        numerator = eps**2 + (sigma**2 + 1) * float(w @ w) / len(w)
        printed = sum(math.log(numerator / (eps**2 + sigma**2 * d**2)) for d in (w - w0).tolist()) / 4
        assert complexity == pytest.approx(printed, rel=1e-12)
        assert complexity != pytest.approx(least / 2, rel=0.005)


def test_members_share_one_search_and_its_noise():
    surface = axes()
    plain = {name: acutance.measure(name, surface) for name in ("pacbayes_flatness", "pacbayes_orig", "pacbayes_init")}
    first, *others = plain.values()
    assert first.cost.forwards == surface.n * (first.extras["passes"] + 1)
    assert [other.cost.units for other in others] == [0, 0]
    alone = acutance.measure("pacbayes_init", axes())
    assert (alone.value, alone.extras) == (plain["pacbayes_init"].value, plain["pacbayes_init"].extras)
    magnitude = acutance.measure("pacbayes_magnitude_flatness", surface)
    assert magnitude.cost.units > 0
    assert acutance.measure("pacbayes_magnitude_init", surface).cost.units == 0
    assert acutance.measure("pacbayes_orig", surface, deviation=0.2).cost.units > 0
    assert acutance.measure("pacbayes_orig", surface, seed=3).value != plain["pacbayes_orig"].value


def test_no_more_passes_than_were_announced():
    surface = axes()
    measure = catalog().measure("pacbayes_flatness")
    spec = measure.Spec()
    found = evaluate("pacbayes_flatness", surface)
    assert spec.tries == 13 and measure.passes(spec).forwards == 131
    assert 13 <= found.extras["passes"] < 130
    assert surface.cost.forwards == surface.n * (found.extras["passes"] + 1)


@pytest.mark.parametrize("name", FAMILY)
def test_a_limit_that_is_nowhere_in_the_range_gives_no_value(name):
    below = evaluate(name, axes(), smallest=50.0)
    assert below.status is Status.NOT_CONVERGED and math.isnan(below.value)
    assert below.message == "the accuracy leaves its limit at the smallest scale already: take smallest below 50"
    above = evaluate(name, axes(), largest=1e-3)
    assert above.status is Status.NOT_CONVERGED and math.isnan(above.value) and "sigma" not in above.extras
    assert above.message == "the accuracy is within its limit at the largest scale still: take largest above 0.001"


@pytest.mark.parametrize("name", FAMILY)
def test_numbers_for_targets_have_no_accuracy(name):
    x = torch.randn(6, 3).double()
    found = acutance.measure(
        name, nn.Linear(3, 1).double(), (x, x[:, :1]), loss="mse", initial=nn.Linear(3, 1).double()
    )
    assert found.status is Status.UNSUPPORTED
    assert found.message == "accuracy needs class labels, the targets are numbers"


def test_initial_weights_are_asked_for_before_the_search_and_never_made_up():
    for name in ("pacbayes_init", "pacbayes_magnitude_init", "pacbayes_magnitude_orig"):
        surface = axes(initial=False)
        found = acutance.measure(name, surface)
        assert found.status is Status.UNSUPPORTED and "initial weights" in found.message
        assert surface.cost.units == 0
    assert acutance.measure("pacbayes_magnitude_orig", axes(initial=False), form="derived").status is Status.OK


def test_weights_without_noise_have_no_bound():
    model, start = (nn.Linear(2, 2, bias=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.5], [-1.0, 0.5]]))
        start.weight.copy_(torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
    x = torch.tensor([[1.0, 0.1], [2.0, -0.3]], dtype=torch.float64)
    data = x, torch.zeros(2, dtype=torch.long)
    found = acutance.measure("pacbayes_magnitude_init", model, data, initial=start, eps=0)
    assert found.status is Status.UNSUPPORTED and found.message.startswith("2 weights get no noise")
    part = acutance.measure("pacbayes_orig", model, data, parameters="weight")
    assert part.status is Status.OK


def test_a_part_of_the_weights_moves_and_counts():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(40, 5, dtype=torch.float64)
    surface = LossSurface(model, (x, model(x).argmax(1).detach()))
    found = acutance.measure("pacbayes_orig", surface, parameters="2.*")
    w, sigma = surface.restricted("2.*").w, found.extras["sigma"]
    assert found.value == pytest.approx(float(w @ w) / (4 * sigma**2) + math.log(40 / sigma) + 10)
    assert sigma != acutance.measure("pacbayes_orig", surface).extras["sigma"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deviation": 0}, "deviation"),
        ({"deviation": 1}, "deviation"),
        ({"draws": 0}, "draws"),
        ({"smallest": 0}, "smallest"),
        ({"smallest": 3, "largest": 2}, "smallest: 3 is not below largest, 2"),
        ({"rtol": 0}, "rtol"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(UserError, match=message):
        acutance.measure("pacbayes_flatness", axes(), **settings)


def test_the_grid_of_scales_is_as_fine_as_asked():
    from acutance_classic.search import RangeSpec, bisect

    for rtol in (0.5, 0.01, 1e-4):
        spec = RangeSpec(rtol=rtol)
        for limit in (2e-6, 0.3, 99.0):
            asked = []
            found = bisect(lambda s, limit=limit, asked=asked: asked.append(s) or s <= limit, spec, "it")
            assert found.scale <= limit < found.scale * (1 + rtol) and len(asked) == spec.tries
    assert all(a != b for a, b in pairwise(asked))
    assert RangeSpec(smallest=1, largest=1.001).tries == 2
