"""Control variate and antithetic draws of average-case sharpness."""

import pytest
import torch
from models import MLP, Weights, mlp_data
from torch import nn

import acutance
from acutance import LossSurface, Streams
from acutance.numerics import draws, units
from acutance.plugins import catalog
from acutance.surface.moving_point import MovingPoint

KINDS = ("none", "linear", "antithetic")


def test_a_gradient_is_needed_for_the_control_variate_only():
    measure = catalog().measure("average_case")
    needs = {kind: measure.needs(measure.Spec(rho=0.1, variance_reduction=kind)) for kind in KINDS}
    assert needs == {"none": {"data"}, "linear": {"data", "gradient"}, "antithetic": {"data"}}
    errors = LossSurface(MLP(), mlp_data(), loss=lambda f, y: (f.argmax(1) != y).double().mean())
    # The error rate has no gradient, and a plain average takes none.
    errors = LossSurface(MLP(), mlp_data(), loss=lambda f, y: (f.argmax(1) != y).double().mean())
    assert acutance.measure("average_case", errors, rho=1.0, draws=10).status == "ok"
    assert errors.cost.backwards == 0


def quadratic(slope, curvature, p=8):
    """L(w) = slope b.d + curvature/2 d.A d around w*: not a minimum unless slope is 0."""
    g = torch.Generator().manual_seed(0)
    b = torch.randn(p, generator=g, dtype=torch.float64)
    m = torch.randn(p, p, generator=g, dtype=torch.float64)
    a, w = m @ m.T, torch.randn(p, generator=g, dtype=torch.float64)

    def loss(f, y):
        d = f[0] - w
        return slope * (b @ d) + curvature * 0.5 * (d @ a @ d)

    return LossSurface(Weights(w.clone()), (torch.zeros(1, 1), torch.zeros(1, p)), loss=loss), a, w


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("kind", ["linear", "antithetic"])
def test_the_linear_part_is_removed_exactly(kind, norm):
    surface, _, _ = quadratic(slope=1.0, curvature=0.0)
    found = acutance.measure("average_case", surface, rho=0.3, norm=norm, draws=10, variance_reduction=kind)
    assert abs(found.value) < 1e-12 and found.stderr < 1e-12
    plain = acutance.measure("average_case", surface, rho=0.3, norm=norm, draws=10)
    assert plain.stderr > 0.01


@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_estimator_tends_to_the_exact_trace(kind, scaling):
    surface, a, w = quadratic(slope=3.0, curvature=1.0)
    c = torch.ones_like(w) if scaling == "none" else w.abs()
    exact = 0.5 * 0.2**2 * float((torch.diagonal(a) * c * c).sum())
    found = acutance.measure("average_case", surface, rho=0.2, scaling=scaling, draws=3000, variance_reduction=kind)
    assert abs(found.value - exact) < 4 * found.stderr
    if kind != "none":
        assert found.stderr < 0.05 * exact
    if kind == "linear":
        assert found.extras["coefficient"] == pytest.approx(0.2, rel=0.05)


def test_standard_errors_are_honest():
    """Over many seeds the spread of the values is what each of them says."""
    surface, _, _ = quadratic(slope=1.0, curvature=1.0)
    for kind in KINDS:
        found = [
            acutance.measure("average_case", surface, rho=0.3, draws=20, variance_reduction=kind, seed=s)
            for s in range(150)
        ]
        spread = float(torch.tensor([f.value for f in found]).std())
        said = float(torch.tensor([f.stderr for f in found]).square().mean().sqrt())
        assert 0.75 < said / spread < 1.35, kind


@pytest.mark.parametrize("logit_norm", [False, True])
def test_a_control_variate_pays_at_small_radii_of_a_network(logit_norm):
    surface = LossSurface(MLP(), mlp_data())
    settings = {"rho": 0.01, "draws": 50, "logit_norm": logit_norm}
    plain = acutance.measure("average_case", surface, **settings)
    linear = acutance.measure("average_case", surface, **settings, variance_reduction="linear")
    assert linear.stderr < 0.2 * plain.stderr
    assert linear.extras["variance_ratio"] < 0.05
    assert abs(linear.value - plain.value) < 4 * plain.stderr


def test_passes_are_counted_and_the_gradient_is_shared_by_radii():
    measure = catalog().get("measures", "average_case")()
    surface = LossSurface(MLP(), mlp_data())
    specs = [measure.Spec(rho=rho, draws=10, variance_reduction="linear") for rho in (0.1, 0.2, 0.4)]
    measure.evaluate_many(surface, specs, Streams(0))
    assert (surface.cost.forwards, surface.cost.backwards) == (surface.n * (1 + 3 * 10), surface.n)
    for kind in KINDS:
        fresh = LossSurface(MLP(), mlp_data())
        found = acutance.measure("average_case", fresh, rho=0.1, draws=10, variance_reduction=kind)
        said = measure.passes(measure.Spec(rho=0.1, draws=10, variance_reduction=kind)) * fresh.n
        assert (found.cost.forwards, found.cost.backwards) == (said.forwards, said.backwards)


def test_together_as_alone():
    measure = catalog().get("measures", "average_case")()
    specs = [
        measure.Spec(rho=rho, draws=draws, norm=norm, variance_reduction=kind, logit_norm=logit_norm)
        for rho in (0.1, 0.3)
        for norm in ("l2", "linf")
        for kind, draws in (("none", 7), ("linear", 9), ("antithetic", 12))
        for logit_norm in (False, True)
    ]
    surface = LossSurface(MLP(), mlp_data())
    together = measure.evaluate_many(surface, specs, Streams(0))
    for spec, found in zip(specs, together, strict=True):
        alone = measure.evaluate(LossSurface(MLP(), mlp_data()), spec, Streams(0))
        assert found.value == pytest.approx(alone.value, rel=1e-12)
        assert found.stderr == pytest.approx(alone.stderr, rel=1e-9)
        assert found.extras["draws"] == spec.draws


def test_a_common_forward_is_made_once():
    """Plain draws are the positive halves of antithetic pairs and the draws of the control variate."""
    measure = catalog().get("measures", "average_case")()
    surface = LossSurface(MLP(), mlp_data())
    specs = [measure.Spec(rho=0.1, draws=10, variance_reduction=kind) for kind in KINDS]
    measure.evaluate_many(surface, specs, Streams(0))
    assert surface.cost.forwards == surface.n * (1 + 10 + 5)


@pytest.mark.parametrize("kind,draws", [("antithetic", 7), ("linear", 2)])
def test_draws_that_do_not_fit_are_refused(kind, draws):
    with pytest.raises(acutance.UserError, match="draws:"):
        acutance.measure("average_case", MLP(), mlp_data(), rho=0.1, draws=draws, variance_reduction=kind)


def test_passes_of_specs_that_share_them_are_those_that_are_made():
    measure = catalog().measure("average_case")
    shared = [
        measure.Spec(rho=rho, norm=norm, logit_norm=logit_norm, scaling=scaling, draws=draws, variance_reduction=kind)
        for rho, norm, logit_norm, scaling, draws, kind in (
            (0.1, "l2", False, "elementwise", 6, "none"), (0.1, "l2", True, "elementwise", 8, "none"),
            (0.1, "l2", False, "none", 6, "none"), (0.2, "l2", False, "none", 4, "antithetic"),
            (0.1, "linf", True, "elementwise", 6, "linear"), (0.2, "linf", False, "elementwise", 6, "linear"),
            (0.2, "linf", True, "elementwise", 6, "antithetic"),
        )
    ]  # fmt: skip
    for specs in (shared, shared[:3], shared[4:5], shared[3:4], shared[::-1]):
        surface = acutance.LossSurface(MLP(), mlp_data(12))
        measure.evaluate_many(surface, specs, acutance.Streams(0))
        assert measure.passes_together(specs) * surface.n == surface.cost, specs


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scaling", ["none", "elementwise", "filter"])
def test_noise_that_is_made_where_the_point_moves_gives_the_same_value(monkeypatch, norm, scaling):
    """Of very many weights noise that serves a single point is not held: its numbers, and the passes, are the same."""
    asked = {"draws": 4, "rho": 0.1, "norm": norm, "scaling": scaling}
    model = nn.Sequential(nn.Linear(9, 30), nn.Tanh(), nn.Linear(30, 3))
    data, along = (torch.randn(8, 9), torch.arange(8) % 3), MovingPoint.move_along
    monkeypatch.setattr(LossSurface, "many_points", lambda surface, visits: None)
    held = acutance.measure("average_case", model, data, **asked)
    monkeypatch.setattr(units, "LARGE", 1)
    monkeypatch.setattr(draws, "BLOCK", 64)
    made = []
    monkeypatch.setattr(MovingPoint, "move_along", lambda *move: made.append(move) or along(*move))
    found = acutance.measure("average_case", model, data, **asked)
    assert len(made) == 4 and found.cost.forwards == held.cost.forwards
    assert (found.value, found.stderr) == (held.value, held.stderr)
    for reduced in ("antithetic", "linear"):  # which take the noise once more
        acutance.measure("average_case", model, data, **asked, variance_reduction=reduced)
    assert len(made) == 4
