"""Average-case and worst-case sharpness against exact answers."""

import itertools
import math

import pytest
import torch
from models import (
    MLP,
    Attention,
    ConvBN,
    Weights,
    assert_untouched,
    conv_data,
    dense_hessian,
    mlp_data,
    snapshot,
    token_data,
)
from torch import nn

import acutance
from acutance import LossSurface, Streams
from acutance.plugins import catalog
from acutance.testing.twins import TWINS

NORMS, SCALINGS = ("l2", "linf"), ("none", "elementwise")


def quadratic_surface(seed=0, p=8):
    g = torch.Generator().manual_seed(seed)
    m = torch.randn(p, p, generator=g, dtype=torch.float64)
    a, w = m @ m.T, torch.randn(p, generator=g, dtype=torch.float64)
    model = Weights(w)
    data = (torch.zeros(1, 1), torch.zeros(1, p))

    def loss(f, y):
        d = f[0] - w.detach()
        return 0.5 * d @ a @ d

    return LossSurface(model, data, loss=loss), a, w


@pytest.mark.parametrize(
    ("norm", "scaling"),
    [
        ("l2", "none"),
        ("linf", "elementwise"),
        pytest.param("l2", "elementwise", marks=pytest.mark.slow),
        pytest.param("linf", "none", marks=pytest.mark.slow),
    ],
)
def test_average_case_of_a_quadratic_is_its_trace(norm, scaling):
    surface, a, w = quadratic_surface()
    c = torch.ones_like(w) if scaling == "none" else w.abs()
    trace = float((torch.diagonal(a) * c * c).sum())
    variance = {"l2": 1.0, "linf": 1 / 3}[norm]
    rho = 0.3
    found = acutance.measure("average_case", surface, rho=rho, norm=norm, scaling=scaling, draws=4000)
    exact = rho**2 / 2 * variance * trace
    assert abs(found.value - exact) < 4 * found.stderr
    assert found.stderr < 0.05 * exact


@pytest.mark.parametrize("scaling", SCALINGS)
def test_worst_case_of_a_quadratic_at_its_minimum(scaling):
    surface, a, w = quadratic_surface()
    c = torch.ones_like(w) if scaling == "none" else w.abs()
    h = a * torch.outer(c, c)
    rho = 0.3
    l2 = acutance.measure("worst_case", surface, rho=rho, norm="l2", scaling=scaling, restarts=3, steps=50)
    assert l2.value == pytest.approx(rho**2 / 2 * float(torch.linalg.eigvalsh(h)[-1]), rel=2e-3)
    vertices = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=torch.float64)
    exact = rho**2 / 2 * float(((vertices @ h) * vertices).sum(1).max())
    linf = acutance.measure("worst_case", surface, rho=rho, norm="linf", scaling=scaling, restarts=5)
    assert 0.93 * exact <= linf.value <= exact * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_worst_case_of_one_logistic_example_is_its_worst_margin(norm, scaling):
    """Linear two-class model, m = 1: the margin y x.w falls by rho times the dual norm of c*x."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, generator=g, dtype=torch.float64)
    w = torch.randn(7, generator=g, dtype=torch.float64)

    class Logistic(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(w)

        def forward(self, x):
            margin = x @ self.w
            return torch.stack([-margin / 2, margin / 2], dim=1)

    surface = LossSurface(Logistic(), (x, torch.ones(1, dtype=torch.long)))
    c = torch.ones_like(w) if scaling == "none" else w.abs()
    reach = (c * x[0]).norm() if norm == "l2" else (c * x[0]).abs().sum()
    rho = 0.4
    clean = float(torch.nn.functional.softplus(-(x[0] @ w)))
    exact = float(torch.nn.functional.softplus(-(x[0] @ w - rho * reach))) - clean
    found = acutance.measure("worst_case", surface, rho=rho, norm=norm, scaling=scaling)
    assert found.value == pytest.approx(exact, rel=1e-6)


CASES = {"mlp": (MLP, mlp_data), "attention": (Attention, token_data), "conv_bn": (ConvBN, conv_data)}


@pytest.mark.parametrize("logit_norm", [False, True])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_small_radius_limit_of_worst_case_is_the_dual_gradient_norm(norm, scaling, logit_norm):
    """Proposition 1, first-order branch."""
    surface = LossSurface(MLP(), mlp_data())
    g = surface.transformed(logit_norm).gradient()[1]
    cg = g if scaling == "none" else g * surface.w.abs()
    slope = float(cg.norm() if norm == "l2" else cg.abs().sum())
    rho = 1e-6
    found = acutance.measure("worst_case", surface, rho=rho, norm=norm, scaling=scaling, logit_norm=logit_norm)
    assert found.value == pytest.approx(rho * slope, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_small_radius_limit_of_average_case_is_the_trace_of_the_rescaled_hessian(norm, scaling):
    """Proposition 2; the first-order term of the same draws is known exactly and subtracted."""
    surface = LossSurface(MLP(dims=(6, 4, 4)), mlp_data())
    h = dense_hessian(surface)
    c = torch.ones_like(surface.w) if scaling == "none" else surface.w.abs()
    hc = h * torch.outer(c, c)
    rho, draws = 1e-3, 400
    found = acutance.measure("average_case", surface, rho=rho, norm=norm, scaling=scaling, draws=draws)
    rng = Streams(0, surface.digest, 0, "acutance/average_case", 0)
    draw = rng.normal if norm == "l2" else rng.uniform
    noise = torch.stack([draw(norm, k, surface.w) for k in range(draws)])
    first = rho * float(((noise * c) @ surface.gradient()[1]).mean())
    second = rho**2 / 2 * float(((noise @ hc) * noise).sum(1).mean())
    assert found.value - first == pytest.approx(second, rel=2e-2)
    # And the quadratic form's mean is the trace (a third of it for uniform noise), within its own error.
    forms = ((noise @ hc) * noise).sum(1)
    variance = 1.0 if norm == "l2" else 1 / 3
    assert abs(float(forms.mean()) - variance * float(torch.trace(hc))) < 4 * float(forms.std()) / math.sqrt(draws)


# -- function-preserving twins: MEASURES 1.1 (a)-(g) -----------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("measure", ["average_case", "worst_case"])
@pytest.mark.parametrize("twin", [t for t in TWINS if t.letter in "abcdefg"], ids=lambda t: t.letter + ", " + t.name)
def test_adaptive_sharpness_is_equal_on_function_preserving_twins(twin, measure, norm):
    a, b = twin.changed.surface(), twin.original.surface()
    last = twin.letter == "g"
    torch.testing.assert_close(a.transformed(last).loss(), b.transformed(last).loss(), rtol=1e-12, atol=0)
    settings = {"rho": 0.05 if norm == "linf" else 0.3, "norm": norm, "logit_norm": last}
    first = acutance.measure(measure, a, **settings)
    second = acutance.measure(measure, b, **settings)
    assert first.value == pytest.approx(second.value, rel=1e-5)
    standard = [acutance.measure(measure, s, **settings, scaling="none").value for s in (a, b)]
    assert standard[0] != pytest.approx(standard[1], rel=1e-3)


# -- passes, sharing, reproducibility ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "forwards", "backwards"),
    [
        ({"start": "zero"}, 21, 20),
        ({"start": "random"}, 21 + 1, 20),
        ({"start": "screened"}, 21 + 4, 20 + 1),
        ({"start": "screened", "candidates": 0}, 21 + 2, 20 + 1),
        ({"start": "random", "restarts": 3, "steps": 5}, 3 * 6 + 1, 3 * 5),
        ({"start": "screened", "restarts": 2, "steps": 5}, 2 * 6 + 2 + 2 * 2, 2 * 5 + 1),
    ],
)
@pytest.mark.parametrize("norm", NORMS)
def test_worst_case_makes_exactly_the_passes_it_declares(settings, forwards, backwards, norm):
    surface = LossSurface(MLP(), mlp_data(24))
    found = acutance.measure("worst_case", surface, rho=0.01, norm=norm, **settings)
    assert (found.cost.forwards, found.cost.backwards) == (24 * forwards, 24 * backwards)
    measure = catalog().measure("worst_case")
    declared = measure.passes(measure.Spec(rho=0.01, norm=norm, **settings))
    assert (declared.forwards, declared.backwards) == (forwards, backwards)


def test_the_gradient_at_the_weights_is_shared_by_all_radii():
    surface = LossSurface(MLP(), mlp_data(24))
    acutance.measure("worst_case", surface, rho=0.01)
    again = acutance.measure("worst_case", surface, rho=0.02)
    assert (again.cost.forwards, again.cost.backwards) == (24 * (21 + 3), 24 * 20)


def test_average_case_shares_forwards_between_transforms_and_noise_between_radii():
    measure = catalog().measure("average_case")
    specs = [
        measure.Spec(rho=rho, norm=norm, scaling=scaling, logit_norm=ln, draws=10)
        for rho in (0.1, 0.2)
        for norm in NORMS
        for scaling in SCALINGS
        for ln in (False, True)
    ]
    surface = LossSurface(MLP(), mlp_data(24))
    found = measure.evaluate_many(surface, specs, Streams(0))
    assert surface.cost.forwards == 24 * (8 * 10 + 1) and surface.cost.backwards == 0
    assert sum(e.cost.forwards for e in found) == pytest.approx(surface.cost.forwards)
    for spec, estimate in zip(specs, found, strict=True):
        alone = measure.evaluate(LossSurface(MLP(), mlp_data(24)), spec, Streams(0))
        assert alone.value == pytest.approx(estimate.value, rel=1e-12)
        assert alone.stderr == pytest.approx(estimate.stderr, rel=1e-12)


def test_evaluate_many_of_worst_case_equals_evaluate():
    measure = catalog().measure("worst_case")
    specs = [measure.Spec(rho=r, norm=n, scaling=s, steps=6) for r in (0.01, 0.02) for n in NORMS for s in SCALINGS]
    together = measure.evaluate_many(LossSurface(MLP(), mlp_data()), specs, Streams(0))
    for spec, estimate in zip(specs, together, strict=True):
        alone = measure.evaluate(LossSurface(MLP(), mlp_data()), spec, Streams(0))
        assert alone.value == estimate.value


def test_more_draws_extend_the_sample():
    surface = LossSurface(MLP(), mlp_data())
    short = acutance.measure("average_case", surface, rho=0.1, draws=10)
    measure = catalog().measure("average_case")
    both = measure.evaluate_many(
        surface,
        [measure.Spec(rho=0.1, draws=10), measure.Spec(rho=0.1, draws=25)],
        Streams(0, surface.digest, 0, "acutance/average_case", 0),
    )
    assert both[0].value == short.value
    assert both[1].stderr < both[0].stderr * 1.5


@pytest.mark.parametrize("name", ["average_case", "worst_case"])
def test_same_seed_same_value_other_seed_other_value(name):
    def value(seed, replicate=0):
        return acutance.measure(
            name, LossSurface(MLP(), mlp_data()), rho=0.3, norm="l2", seed=seed, replicate=replicate, **extra
        ).value

    # The screened start is often the one-step point, which no seed changes.
    extra = {"start": "random"} if name == "worst_case" else {}

    assert value(0) == value(0)
    assert value(0) != value(1)
    assert value(0) != value(0, replicate=1)


@pytest.mark.parametrize("name", ["average_case", "worst_case"])
@pytest.mark.parametrize("norm", NORMS)
def test_float32_agrees_with_float64_and_microbatch_with_whole(name, norm):
    settings = {"rho": 0.05, "norm": norm, "steps": 5} if name == "worst_case" else {"rho": 0.1, "norm": norm}
    reference = acutance.measure(name, LossSurface(MLP(), mlp_data()), **settings).value
    single = acutance.measure(name, LossSurface(MLP(), mlp_data(), dtype="float32"), **settings).value
    cut = acutance.measure(name, LossSurface(MLP(), mlp_data(), microbatch=7), **settings).value
    assert single == pytest.approx(reference, rel=2e-3)
    assert cut == pytest.approx(reference, rel=1e-10)


def test_zero_weights_never_move():
    model = MLP()
    with torch.no_grad():
        model.layers[0].weight[:, :3] = 0
    for norm in NORMS:
        found = acutance.measure("worst_case", LossSurface(model, mlp_data()), rho=0.1, norm=norm)
        assert found.extras["radius_reached"] <= 1 + 1e-6
        assert 0 < found.value < 10
    all_zero = MLP()
    with torch.no_grad():
        for p in all_zero.parameters():
            p.zero_()
    for norm in NORMS:
        found = acutance.measure("worst_case", LossSurface(all_zero, mlp_data()), rho=0.1, norm=norm)
        assert found.value == 0.0 and found.status == "ok"


@pytest.mark.parametrize("name", ["average_case", "worst_case"])
def test_an_overflowing_loss_has_a_status_not_a_number(name):
    found = acutance.measure(
        name, LossSurface(MLP(torch.exp, dtype=torch.float32), mlp_data()), rho=1e5, scaling="none"
    )
    assert found.status == "nonfinite" or math.isfinite(found.value)
    assert math.isfinite(found.value) or found.message


@pytest.mark.parametrize("name", ["average_case", "worst_case"])
def test_the_model_is_untouched(name):
    model = ConvBN().train()
    before = snapshot(model)
    acutance.measure(name, model, conv_data(12), m=6, rho=0.1)
    assert_untouched(model, before)


def test_extras_say_how_the_value_was_reached():
    surface = LossSurface(MLP(), mlp_data())
    found = acutance.measure("worst_case", surface, rho=0.05)
    assert 0 <= found.extras["value_half"] <= found.value
    assert found.extras["radius_reached"] == pytest.approx(1, abs=1e-5)
    assert found.extras["perturbed_loss"] - found.extras["clean_loss"] == pytest.approx(found.value)
    assert found.extras["clean_error"] == pytest.approx(float(surface.errors().mean()))
    assert 0 <= found.extras["perturbed_error"] <= 1


def test_the_mean_over_batches():
    model, (x, y) = MLP(), mlp_data(24)
    found = acutance.measure("worst_case", model, (x, y), m=8, rho=0.05)
    assert len(found.per_batch) == 3 and found.stderr is None
    assert found.value == pytest.approx(sum(found.per_batch) / 3)
    loader = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    assert acutance.measure("worst_case", model, loader, rho=0.05).value == found.value
    average = acutance.measure("average_case", model, (x, y), m=8, rho=0.05)
    assert average.stderr > 0 and average.extras["batch_stderr"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -1}, "average_case.rho: Input should be greater than 0"),
        ({"rho": float("nan")}, "finite number"),
        ({}, "average_case.rho: Field required"),
        ({"rho": 0.1, "drawz": 3}, "did you mean 'draws'"),
        ({"rho": 0.1, "scaling": "elementwize"}, "did you mean 'elementwise'"),
        ({"rho": 0.1, "parameters": "nope"}, "matches no parameter"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, message):
    with pytest.raises(acutance.UserError, match=message):
        acutance.measure("average_case", LossSurface(MLP(), mlp_data()), **settings)
