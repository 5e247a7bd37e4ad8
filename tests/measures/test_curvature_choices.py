"""On which points, by which products: levels, finite differences, and what to choose without a second derivative."""

import math

import pytest
import torch
from models import MLP, assert_untouched, dense_hessian, mlp_data, snapshot
from networks import NETWORKS
from torch import nn

import acutance
from acutance import LossSurface, Status, Unsupported
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.study.config import load_config

# -- level --------------------------------------------------------------------------------------------------


def test_the_level_decides_between_the_mean_of_the_largest_and_the_largest_of_the_mean():
    x, y = mlp_data(n=32)
    batches = acutance.measure("hessian_top_eigenvalue", MLP(), (x, y), m=4, tol=1e-8)
    points = acutance.measure("hessian_top_eigenvalue", MLP(), (x, y), m=4, tol=1e-8, level="dataset")
    h = dense_hessian(LossSurface(MLP(), (x, y)))
    w = LossSurface(MLP(), (x, y)).w.abs()
    assert points.value == pytest.approx(float(torch.linalg.eigvalsh(h * torch.outer(w, w))[-1]), rel=1e-6)
    assert len(batches.per_batch) == 8 and len(points.per_batch) == 1 and batches.value > points.value


def test_a_study_measures_both_levels(toy_config, tmp_path):
    toy_config["measures"] = [
        {"name": "hessian_trace", "level": ["batch", "dataset"], "estimator": "xtrace", "probes": 400},
        {"name": "hessian_top_eigenvalue", "level": ["batch", "dataset"]},
    ]
    run = run_study(load_config(toy_config), tmp_path / "run", report=False, limit=2)
    rows = run.results.dropna(subset=["spec.level"])
    table = rows.pivot(index="model", columns=["measure", "spec.level"], values="value")
    assert len(table) == 2
    for _, row in table.iterrows():
        trace, top = row["hessian_trace"], row["hessian_top_eigenvalue"]
        assert trace["batch"] == pytest.approx(trace["dataset"], rel=0.02)
        assert top["batch"] >= top["dataset"]


def test_check_counts_the_level(toy_config):
    from acutance.cli.check_ import estimate

    toy_config["measures"] = [{"name": "hessian_trace", "probes": 10, "level": "dataset"}]
    assert estimate(load_config(toy_config))["measures"]["hessian_trace"]["hvps"] == 10
    toy_config["measures"][0]["level"] = "batch"
    assert estimate(load_config(toy_config))["measures"]["hessian_trace"]["hvps"] == 40


# -- finite differences -------------------------------------------------------------------------------------

FINITE = {"product": "finite_difference"}


def surface_of(name, **more):
    model, data = NETWORKS[name]
    return LossSurface(model(), data(), **more)


@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("name", ["mlp", "gelu_norm", "bert"])
def test_differences_agree_with_products_within_their_error(name, scaling):
    for measure, fields in (
        ("hessian_trace", {"probes": 12}),
        ("hessian_top_eigenvalue", {}),
        ("directional_sharpness", {}),
        ("hessian_frobenius", {"probes": 4}),
    ):
        exact = acutance.measure(measure, surface_of(name), scaling=scaling, **fields)
        found = acutance.measure(measure, surface_of(name), scaling=scaling, **FINITE, **fields)
        assert found.status is Status.OK and found.extras["product_error"] < 1e-6 and found.extras["step"] > 0
        assert found.value == pytest.approx(exact.value, rel=1e-4 if measure == "hessian_trace" else 1e-6)


def test_differences_in_single_precision_tell_their_error():
    x, y = mlp_data()
    surface = LossSurface(MLP().float(), (x.float(), y))
    found = acutance.measure("hessian_top_eigenvalue", surface, scaling="none", **FINITE)
    exact = acutance.measure("hessian_top_eigenvalue", surface, scaling="none")
    assert 1e-6 < found.extras["product_error"] < 0.1
    assert found.value == pytest.approx(exact.value, rel=10 * found.extras["product_error"])


def test_differences_that_say_nothing_are_no_result():
    class Kinks(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 3000), nn.Linear(3000, 4)

        def forward(self, x):
            return self.b((50 * self.a(x)).frac())

    x, y = mlp_data()
    found = acutance.measure("hessian_trace", LossSurface(Kinks(), (x.float(), y)), probes=4, **FINITE)
    assert found.status is Status.NOT_CONVERGED and "finite differences change by" in found.message


@pytest.mark.parametrize(
    "name,fields",
    [
        ("hessian_trace", {"probes": 5}),
        ("hessian_top_eigenvalue", {"max_iterations": 4, "tol": 1e-12}),
        ("directional_sharpness", {}),
        ("hessian_density", {"probes": 1, "iterations": 4}),
    ],
)
def test_passes_of_differences_are_what_was_said(name, fields):
    surface, measure = surface_of("mlp"), catalog().measure(name)
    acutance.measure(name, surface, **FINITE, **fields)
    spent, said = surface.cost * (1 / surface.n), measure.passes(measure.Spec(**FINITE, **fields))
    assert (spent.forwards, spent.backwards, spent.hvps) == (said.forwards, said.backwards, said.hvps)
    assert spent.hvps == 0


class Square(torch.autograd.Function):
    """The square, whose derivative is right and cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class Squares(nn.Module):
    def __init__(self, square):
        super().__init__()
        torch.manual_seed(1)
        self.map, self.square = nn.Linear(6, 4), square
        self.double()

    def forward(self, x):
        return self.square(self.map(x))


@pytest.mark.parametrize("name", ["hessian_trace", "hessian_top_eigenvalue", "hessian_density"])
def test_an_operation_without_a_second_derivative_is_named_with_the_choices(name):
    once = LossSurface(Squares(Square.apply), mlp_data())
    found = acutance.measure(name, once)
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    assert "Square, an autograd.Function" in found.message and "finite_difference" in found.message
    chosen = acutance.measure(name, once, **FINITE)
    twice = acutance.measure(name, LossSurface(Squares(lambda x: x * x), mlp_data()))
    assert chosen.status is Status.OK and chosen.value == pytest.approx(twice.value, rel=1e-3)


def test_torchs_own_operations_are_named_too():
    def loss(logits, targets):
        return nn.functional.ctc_loss(
            logits[:, None].expand(-1, 2, -1).log_softmax(-1), torch.ones(2, 3, dtype=torch.long),
            torch.full((2,), len(logits)), torch.full((2,), 3),
        )  # fmt: skip

    surface = LossSurface(MLP(), mlp_data(), loss=loss)
    with pytest.raises(Unsupported, match="ctc"):
        surface.hvp(torch.ones_like(surface.w))
    found = acutance.measure("hessian_trace", surface)
    assert found.status is Status.UNSUPPORTED and "ctc" in found.message and "finite_difference" in found.message


def test_everything_is_restored():
    model = MLP().train()
    before = snapshot(model)
    acutance.measure("hessian_trace", LossSurface(model, mlp_data()), probes=3, **FINITE)
    assert_untouched(model, before)
