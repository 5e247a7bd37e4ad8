"""Trace, largest eigenvalue and density of the rescaled Hessian against dense Hessians in float64."""

import itertools
import math
from functools import lru_cache

import pytest
import torch
from models import MLP, assert_untouched, dense_hessian, mlp_data, snapshot
from networks import NETWORKS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import acutance
from acutance import LossSurface, Status, UserError

SCALINGS = ("none", "elementwise")


def surface_of(name, **more):
    model, data = NETWORKS[name]
    return LossSurface(model(), data(), **more)


@lru_cache
def hessian(name):
    """(p, p) H of a network, whose rows the tests of products say to be right."""
    surface = surface_of(name)
    return surface.hvps(torch.eye(len(surface.w), dtype=surface.w.dtype))


def rescaled(h, surface, scaling):
    c = torch.ones_like(surface.w) if scaling == "none" else surface.w.abs()
    return h * torch.outer(c, c)


def hessian_of(name, scaling):
    return rescaled(hessian(name), surface_of(name), scaling)


def same(a, b):
    return (a.value, a.stderr, a.status, a.extras) == (b.value, b.stderr, b.status, b.extras)


@pytest.mark.parametrize("name", NETWORKS)
def test_products_equal_differences_of_the_gradient(name):
    """A backward that is wrong only when it is differentiated again (LayerNorm, forward over reverse) shows here."""
    surface = surface_of(name)
    w, h = surface.w, 5e-5
    v = torch.randn(len(w), generator=torch.Generator().manual_seed(3), dtype=w.dtype)
    v /= v.norm()
    estimates = []
    for step in (h, h / 2):
        g = {s: surface.gradient(w + s * step * v)[1] for s in (-2, -1, 1, 2)}
        estimates.append((8 * (g[1] - g[-1]) - (g[2] - g[-2])) / (12 * step))
    exact = (16 * estimates[1] - estimates[0]) / 15
    assert (surface.hvp(v) - exact).norm() < 1e-9 * exact.norm()


def independent_hessian(name):
    """(p, p) H of the mean cross-entropy, without a surface: every row of the Jacobian of the gradient."""
    network, make_data = NETWORKS[name]
    model, (inputs, targets) = network().eval(), make_data()
    named = dict(model.named_parameters())
    shapes = [p.shape for p in named.values()]

    def loss(flat):
        pieces = flat.split([shape.numel() for shape in shapes])
        weights = {n: piece.view(shape) for n, piece, shape in zip(named, pieces, shapes)}
        call = {"args": (), "kwargs": inputs} if isinstance(inputs, dict) else {"args": (inputs,), "kwargs": {}}
        out = torch.func.functional_call(model, weights, **call)
        return nn.functional.cross_entropy(getattr(out, "logits", out), targets)

    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    with sdpa_kernel([SDPBackend.MATH]):
        return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("name", ["mlp", "conv_bn", "attention", "bert", "gelu_norm"])
def test_products_equal_those_with_a_dense_hessian(name):
    surface, exact = surface_of(name), independent_hessian(name)
    vs = torch.randn(9, len(exact), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for products in (torch.stack([surface.hvp(v) for v in vs]), surface.hvps(vs)):
        assert (products - vs @ exact).norm() < 1e-10 * (vs @ exact).norm()


def slow_where(is_slow, cases):
    return [pytest.param(*case, marks=pytest.mark.slow) if is_slow(*case) else case for case in cases]


# The dense Hessians of these, whose products are made one by one, take as long as those of all others together.
WITH_SLOW = slow_where(lambda name: name in ("convnext", "vit"), [(name,) for name in NETWORKS])


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(["name"], WITH_SLOW)
def test_the_largest_eigenvalue(name, scaling):
    exact = torch.linalg.eigvalsh(hessian_of(name, scaling))
    found = acutance.measure("hessian_top_eigenvalue", surface_of(name), scaling=scaling, tol=1e-8, max_iterations=200)
    assert found.status is Status.OK
    assert found.value == pytest.approx(float(exact[-1]), rel=1e-6)
    assert found.extras["bound"] <= 1e-8 * found.value
    assert found.stderr is None
    assert found.extras["smallest_seen"] >= float(exact[0]) - 1e-6 * float(exact[-1])


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("estimator", ["hutchinson", "hutch++", "xtrace"])
@pytest.mark.parametrize("name", ["mlp", "conv_bn", "attention", "bert"])
def test_the_trace(name, estimator, scaling):
    exact = float(hessian_of(name, scaling).trace())
    found = acutance.measure("hessian_trace", surface_of(name), estimator=estimator, scaling=scaling, probes=90)
    assert found.status is Status.OK
    assert abs(found.value - exact) < 4 * found.stderr + 1e-8 * abs(exact)
    assert found.stderr < 0.5 * abs(exact)


# The others are held to it as estimators, on matrices.
ESTIMATORS = slow_where(lambda name: name != "hutchinson", [("hutchinson",), ("hutch++",), ("xtrace",)])


@pytest.mark.parametrize(["estimator"], ESTIMATORS)
def test_the_trace_is_unbiased_and_its_standard_error_right(estimator):
    surface, values, errors = surface_of("mlp"), [], []
    exact = float(hessian_of("mlp", "elementwise").trace())
    for seed in range(200):
        found = acutance.measure("hessian_trace", surface, estimator=estimator, probes=12, seed=seed)
        values.append(found.value)
        errors.append(found.stderr)
    values, errors = torch.tensor(values), torch.tensor(errors)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(200)
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.2)


DENSITIES = list(itertools.product(["mlp", "gelu_norm", "tied"], SCALINGS))
FAST = [("mlp", "elementwise"), ("gelu_norm", "none"), ("tied", "elementwise")]


@pytest.mark.parametrize(["name", "scaling"], slow_where(lambda *case: case not in FAST, DENSITIES))
def test_the_density_is_that_of_the_eigenvalues(name, scaling):
    exact = torch.linalg.eigvalsh(hessian_of(name, scaling))
    negative = float((exact < -1e-5 * exact.abs().max()).double().mean())
    found = acutance.measure("hessian_density", surface_of(name), scaling=scaling, probes=25, iterations=len(exact))
    assert abs(found.value - negative) < 4 * found.stderr
    x, y = (torch.tensor(found.extras["density"][axis], dtype=torch.float64) for axis in "xy")
    assert len(x) == 281 and bool((x[1:] > x[:-1]).all()) and float(y.sum()) == pytest.approx(1)
    cuts = (x[1:] * x[:-1]).abs().sqrt() * x[1:].sign()
    there = (exact[None] <= cuts[:, None]).double().mean(1)
    between = cuts.abs() > 1e-6 * exact.abs().max()
    assert float((y.cumsum(0)[:-1] - there)[between].abs().max()) < 0.08
    assert found.extras["largest_seen"] == pytest.approx(float(exact[-1]), rel=1e-6)
    assert found.extras["smallest_seen"] == pytest.approx(float(exact[0]), rel=1e-4)


@pytest.mark.parametrize("logit_norm", [False, True])
def test_loss_transform_and_patterns(logit_norm):
    surface = surface_of("mlp")
    name = surface.layers[0][0]
    part = surface.restricted(name).transformed(logit_norm)
    h = rescaled(dense_hessian(part), part, "elementwise")
    fields = {"logit_norm": logit_norm, "parameters": name}
    top = acutance.measure("hessian_top_eigenvalue", surface, tol=1e-8, **fields)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(h)[-1]), rel=1e-6)
    trace = acutance.measure("hessian_trace", surface, probes=64, **fields)
    assert abs(trace.value - float(h.trace())) < 4 * trace.stderr


def test_the_trace_of_all_layers_is_the_sum_of_theirs():
    surface = surface_of("mlp")
    total = acutance.measure("hessian_trace", surface, estimator="xtrace", probes=300)
    parts = [acutance.measure("hessian_trace", surface, estimator="xtrace", probes=300, parameters=name)
             for name, *_ in surface.layers]  # fmt: skip
    assert sum(p.value for p in parts) == pytest.approx(total.value, rel=1e-8)


def test_the_mean_over_batches_of_the_largest_is_above_the_largest_of_the_mean():
    x, y = mlp_data(n=32)
    whole = acutance.measure("hessian_top_eigenvalue", MLP(), (x, y), m=32)
    parts = acutance.measure("hessian_top_eigenvalue", MLP(), (x, y), m=4)
    assert len(parts.per_batch) == 8 and parts.value > 1.01 * whole.value
    assert parts.extras["bound"] <= 1e-4 * max(parts.per_batch)
    trace = {m: acutance.measure("hessian_trace", MLP(), (x, y), m=m, estimator="xtrace", probes=300) for m in (4, 32)}
    assert trace[4].value == pytest.approx(trace[32].value, rel=1e-8)


@pytest.mark.parametrize("estimator,hvps", [("hutchinson", 10), ("hutch++", 10), ("xtrace", 10)])
def test_passes_are_what_was_said(estimator, hvps):
    surface = surface_of("mlp")
    surface.loss()
    before = surface.cost
    found = acutance.measure("hessian_trace", surface, estimator=estimator, probes=10)
    spent = (surface.cost - before) * (1 / surface.n)
    assert (spent.forwards, spent.backwards, spent.hvps) == (1, 1, hvps) == (1, 1, found.extras["products"])
    measure = acutance.plugins.catalog().measure("hessian_trace")
    said = measure.passes(measure.Spec(estimator=estimator, probes=10))
    assert (said.forwards, said.backwards, said.hvps) == (1, 1, hvps)


def test_one_run_serves_density_and_eigenvalue():
    def products(surface, *names):
        start = surface.cost.hvps
        for name, fields in names:
            acutance.measure(name, surface, **fields)
        return (surface.cost.hvps - start) / surface.n

    density = ("hessian_density", {"probes": 2, "iterations": 30})
    top = ("hessian_top_eigenvalue", {})
    alone = products(surface_of("mlp"), top)
    assert 4 <= alone < 30
    assert products(surface_of("mlp"), density) == 60
    assert products(surface_of("mlp"), density, top) == 60
    assert products(surface_of("mlp"), top, density) == 60
    assert products(surface_of("mlp"), top, top) == alone
    first, second = surface_of("mlp"), surface_of("mlp")
    acutance.measure(density[0], first, **density[1])
    assert same(acutance.measure(top[0], first), acutance.measure(top[0], second))
    after, before = (acutance.measure(density[0], s, **density[1]) for s in (second, surface_of("mlp")))
    assert same(after, before)


def test_more_probes_extend_the_sample():
    surface = surface_of("mlp")
    acutance.measure("hessian_trace", surface, probes=10)
    before = surface.cost
    more = acutance.measure("hessian_trace", surface, probes=15)
    assert (surface.cost - before).hvps == 5 * surface.n
    assert same(more, acutance.measure("hessian_trace", surface_of("mlp"), probes=15))


@pytest.mark.parametrize("name", NETWORKS)
def test_products_made_together_are_those_made_one_by_one(name):
    surface = surface_of(name)
    vs = torch.randn(8, len(surface.w), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    alone = torch.stack([surface.hvp(v) for v in vs])
    before = surface.cost
    found = surface.hvps(vs)
    spent = surface.cost - before
    assert (spent.forwards, spent.backwards, spent.hvps) == (0, 0, 8 * surface.n)
    torch.testing.assert_close(found, alone, rtol=1e-11, atol=1e-13 * float(alone.abs().max()))
    assert surface.products_together == (1 if name in ("conv_bn", "vit", "convnext") else 8)
    assert surface_of(name, microbatch=2).products_together == 1


def test_values_do_not_depend_on_which_products_were_made_together_before():
    surface, fresh = surface_of("mlp", dtype="float32"), surface_of("mlp", dtype="float32")
    acutance.measure("hessian_trace", surface, probes=11)
    before = surface.cost
    assert same(
        acutance.measure("hessian_trace", surface, probes=19), acutance.measure("hessian_trace", fresh, probes=19)
    )
    # Draws 8, 9, 10 were made alone, and are made again in a block of 8.
    assert (surface.cost - before).hvps == (8 + 3) * surface.n
    before = surface.cost
    again = acutance.measure("hessian_trace", surface, probes=11)
    assert (surface.cost - before).hvps == 0
    assert same(again, acutance.measure("hessian_trace", surface_of("mlp", dtype="float32"), probes=11))


def test_an_operation_that_cannot_be_batched_is_differentiated_one_by_one():
    class Cube(torch.autograd.Function):
        """Its second derivative reads a value, which a batched pass cannot do."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return Square.apply(x) * g * 3

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert float(g.abs().max()) >= 0
            return 2 * x * g

    class Model(nn.Module):
        def __init__(self, cube):
            super().__init__()
            self.w, self.cube = nn.Parameter(torch.linspace(0.1, 0.8, 8).double().view(4, 2)), cube

        def forward(self, x):
            return self.cube(x @ self.w)

    data = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 0])
    own, plain = LossSurface(Model(Cube.apply), data), LossSurface(Model(lambda z: z**3), data)
    assert own.products_together == 8
    vs = torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(own.hvps(vs), plain.hvps(vs))
    assert (own.products_together, plain.products_together) == (1, 8) and own.cost.hvps == 8 * own.n
    assert acutance.measure("hessian_trace", own, probes=16).value == pytest.approx(
        acutance.measure("hessian_trace", plain, probes=16).value, rel=1e-12
    )


def test_a_sweep_over_layers_keeps_one_graph(monkeypatch):
    surface, kept = surface_of("mlp"), []
    for name, *_ in surface.layers:
        acutance.measure("hessian_trace", surface, probes=2, parameters=name)
        kept.append(surface.core.gradient_graph[2])
    assert len({id(g) for g in kept}) == len(kept) > 2
    assert surface.core.gradient_graph[2] is kept[-1]


def test_microbatches_and_transforms_change_nothing_but_memory():
    whole = acutance.measure("hessian_trace", surface_of("mlp"), probes=6)
    parts = surface_of("mlp", microbatch=5)
    assert acutance.measure("hessian_trace", parts, probes=6).value == pytest.approx(whole.value, rel=1e-12)
    assert parts.core.gradient_graph is None


# -- what cannot be measured --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hessian_trace", "hessian_top_eigenvalue", "hessian_density"])
class TestNoPlausibleNumber:
    def test_a_product_that_is_not_finite(self, name):
        class Huge(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.full((4,), 31.0))

            def forward(self, x):
                return torch.exp(self.w * x).sum(1, keepdim=True) * torch.tensor([[1.0, 2.0]])

        data = torch.full((3, 4), 2.8), torch.zeros(3, dtype=torch.long)
        found = acutance.measure(name, LossSurface(Huge(), data), scaling="none")
        assert found.status is Status.NONFINITE and math.isnan(found.value)
        assert "the outputs of 3 of 3 points are not finite" in found.message and "overflow" in found.message

    def test_a_loss_that_does_not_depend_on_the_weights(self, name):
        class Constant(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.ones(4))

            def forward(self, x):
                return x.sum(1, keepdim=True) * torch.tensor([[1.0, 2.0]]) + 0 * self.w.sum()

        data = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
        found = acutance.measure(name, LossSurface(Constant(), data), scaling="none")
        assert found.status is Status.UNSUPPORTED and math.isnan(found.value) and "exactly zero" in found.message

    def test_weights_that_are_all_zero_under_the_elementwise_scaling(self, name):
        model = MLP()
        nn.init.zeros_(model.layers[0].bias if hasattr(model, "layers") else next(iter(model.parameters())))
        zeroed = next(n for n, p in model.named_parameters() if not p.any())
        found = acutance.measure(name, LossSurface(model, mlp_data()), parameters=zeroed)
        assert found.status is Status.UNSUPPORTED and "scaling" in found.message

    def test_a_pattern_that_matches_nothing(self, name):
        with pytest.raises(UserError, match="matches no parameter"):
            acutance.measure(name, surface_of("mlp"), parameters="nothing.*")

    def test_an_operation_without_a_second_derivative(self, name):
        class Once(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx, g):
                return 2 * ctx.saved_tensors[0] * g

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.ones(4, 2))

            def forward(self, x):
                return Once.apply(x @ self.w)

        data = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
        found = acutance.measure(name, LossSurface(Model(), data))
        assert found.status is Status.UNSUPPORTED and "second derivative" in found.message

    def test_everything_is_restored(self, name):
        model = MLP().train()
        before = snapshot(model)
        acutance.measure(name, LossSurface(model, mlp_data()))
        assert_untouched(model, before)


def test_what_was_not_reached_is_told_with_what_was():
    surface = surface_of("mlp")
    top = acutance.measure("hessian_top_eigenvalue", surface, max_iterations=3, tol=1e-9)
    assert top.status is Status.NOT_CONVERGED and math.isfinite(top.value)
    assert f"{top.extras['bound']:.3g}" in top.message and "max_iterations" in top.message
    trace = acutance.measure("hessian_trace", surface, probes=8, rtol=1e-6)
    assert trace.status is Status.NOT_CONVERGED and "raise probes" in trace.message and trace.stderr > 0


@pytest.mark.parametrize("name,fields,what", [
    ("hessian_trace", {"probes": 3, "estimator": "xtrace"}, "probes: xtrace needs at least 4"),
    ("hessian_trace", {"probes": 2, "estimator": "hutch++"}, r"hutch\+\+ needs at least 3"),
    ("hessian_trace", {"probes": 0}, "greater than 0"),
    ("hessian_trace", {"estimator": "hutch"}, "estimator"),
    ("hessian_top_eigenvalue", {"k": 5, "max_iterations": 4}, "5 eigenvalues need as many iterations"),
    ("hessian_top_eigenvalue", {"tol": 0}, "greater than 0"),
])  # fmt: skip
def test_settings_that_cannot_be(name, fields, what):
    with pytest.raises(UserError, match=what):
        acutance.measure(name, surface_of("mlp"), **fields)


def test_several_eigenvalues():
    exact = torch.linalg.eigvalsh(hessian_of("mlp", "elementwise")).flip(0)[:4]
    found = acutance.measure("hessian_top_eigenvalue", surface_of("mlp"), k=4, tol=1e-8, max_iterations=150)
    assert found.extras["eigenvalues"] == pytest.approx(exact.tolist(), rel=1e-6)
    assert found.value == found.extras["eigenvalues"][0] and len(found.extras["bounds"]) == 4
    batches = acutance.measure("hessian_top_eigenvalue", MLP(), mlp_data(), m=6, k=3, tol=1e-8)
    single = [acutance.measure("hessian_top_eigenvalue", MLP(), (x, y), k=3, tol=1e-8) for x, y in
              zip(*(t.split(6) for t in mlp_data()), strict=True)]  # fmt: skip
    assert len(single) == len(batches.per_batch) == 4
    for i in (1, 2, 3):
        mean = sum(e.extras["eigenvalues"][i - 1] for e in single) / 4
        assert batches.extras[f"eigenvalue_{i}"] == pytest.approx(mean, rel=1e-6)
