"""Propositions 1 and 2 as a user sees them: predictions beside measured sharpness, and the branch."""

import pytest
import torch
from models import dense_hessian
from networks import NETWORKS

import acutance
from acutance import Estimate, LossSurface
from acutance.plugins import catalog
from acutance.testing.problems import PROBLEMS


def surface_of(name):
    model, data = NETWORKS[name]
    return LossSurface(model(), data())


@pytest.mark.parametrize("logit_norm", [False, True])
@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("name", ["mlp", "gelu_norm", "tied"])
def test_average_case_tends_to_the_trace(name, scaling, logit_norm):
    fields = {"scaling": scaling, "logit_norm": logit_norm}
    found = acutance.measure(
        "hessian_trace", surface_of(name), estimator="xtrace", probes=300, check_rho=1e-3, **fields
    )
    for noise, share in (("gaussian", 1.0), ("uniform", 1 / 3)):
        predicted, measured = found.extras[f"{noise}_predicted"], found.extras[f"{noise}_measured"]
        assert predicted == pytest.approx(share * 1e-6 / 2 * found.value)
        assert abs(predicted - measured) < 5 * found.extras[f"{noise}_stderr"]


@pytest.mark.parametrize("scaling", ["none", "elementwise"])
def test_worst_case_tends_to_the_gradient_norm_where_there_is_one(scaling):
    found = acutance.measure("hessian_top_eigenvalue", surface_of("mlp"), scaling=scaling, check_rho=1e-5)
    assert found.extras["branch"] == "first order" and found.extras["first_order_share"] > 0.99
    assert found.extras["measured"] == pytest.approx(found.extras["first_order_predicted"], rel=1e-3)
    slope = acutance.measure("gradient_norm", surface_of("mlp"), scaling=scaling, rho=1e-5)
    assert found.extras["first_order_predicted"] == pytest.approx(slope.value)


def test_worst_case_tends_to_the_largest_eigenvalue_at_a_critical_point():
    surface = PROBLEMS["quadratic"].surface()
    found = acutance.measure("hessian_top_eigenvalue", surface, check_rho=0.1)
    assert found.extras["branch"] == "second order" and found.extras["first_order_predicted"] == 0
    assert found.extras["second_order_predicted"] == pytest.approx(0.005 * found.value)
    assert 0.95 * found.extras["second_order_predicted"] < found.extras["measured"]
    assert found.extras["measured"] <= found.extras["second_order_predicted"] * (1 + 1e-4)


def test_a_larger_radius_changes_the_branch():
    surface = surface_of("mlp")
    top = float(torch.linalg.eigvalsh(dense_hessian(surface))[-1])
    slope = float(surface.gradient()[1].norm())
    far = acutance.measure("hessian_top_eigenvalue", surface, scaling="none", check_rho=4 * slope / top)
    assert far.extras["branch"] == "second order" and far.extras["first_order_share"] == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize(
    "name,fields", [("hessian_trace", {"probes": 3}), ("hessian_top_eigenvalue", {"max_iterations": 3, "tol": 1e-12})]
)
def test_the_passes_of_a_check_are_what_was_said(name, fields):
    surface, measure = surface_of("mlp"), catalog().measure(name)
    acutance.measure(name, surface, check_rho=1e-3, **fields)
    spent, said = surface.cost * (1 / surface.n), measure.passes(measure.Spec(check_rho=1e-3, **fields))
    assert (spent.forwards, spent.backwards, spent.hvps) == (said.forwards, said.backwards, said.hvps)


def test_what_is_read_follows_the_settings():
    for name, more in (("hessian_trace", "data"), ("hessian_top_eigenvalue", "gradient")):
        measure = catalog().measure(name)
        assert measure.needs(measure.Spec()) == {"hvp"}
        assert measure.needs(measure.Spec(check_rho=0.1)) == {"hvp", more}
        assert measure.needs(measure.Spec(product="finite_difference")) == {"gradient"}


def test_batches_keep_texts_that_agree_and_average_curves():
    x = [0.0, 1.0]
    one = Estimate(
        1.0, extras={"branch": "first order", "curve": {"x": x, "y": [0.0, 1.0]}, "list": [1.0], "other": "a"}
    )
    two = Estimate(
        3.0, extras={"branch": "first order", "curve": {"x": x, "y": [1.0, 1.0]}, "list": [2.0], "other": "b"}
    )
    extras = Estimate.mean([one, two]).extras
    assert extras["branch"] == "first order" and "other" not in extras and "list" not in extras
    assert extras["curve"] == {"x": x, "y": [0.5, 1.0]}
    moved = Estimate(3.0, extras={"curve": {"x": [0.0, 2.0], "y": [1.0, 1.0]}})
    assert "curve" not in Estimate.mean([one, moved]).extras
