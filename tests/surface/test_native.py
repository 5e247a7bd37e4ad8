"""Weights in their own type: what is measured with them, what rounding does to the loss, what is refused."""

import copy

import pytest
import torch
from tests.live_memory import LiveBytes
from torch import nn

import acutance
from acutance import Streams, UserError, scaling
from acutance.measure import Status
from acutance.model import weights
from acutance.numerics import draws
from acutance.numerics.rounding import Dither
from acutance.surface import LossSurface, in_place
from acutance.surface.open_model import OpenModel

X, Y = torch.randn(24, 5, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def net(kind=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3)).to(kind).eval()


def surfaces(kind):
    model = net(kind)
    exact = copy.deepcopy(model).to(torch.promote_types(kind, torch.float32))
    return LossSurface(exact, (X, Y)), LossSurface(model, (X, Y), dtype="native")


CASES = {
    "elementwise": ("average_case", {"rho": 0.1, "draws": 3, "scaling": "elementwise"}),
    "eta": ("average_case", {"rho": 0.1, "draws": 2, "scaling": "elementwise_eta", "norm": "linf"}),
    "filter": ("average_case", {"rho": 0.05, "draws": 4, "scaling": "filter", "variance_reduction": "antithetic"}),
    "layer": ("average_case", {"rho": 0.01, "draws": 2, "scaling": "layer", "logit_norm": True}),
    "part": ("average_case", {"rho": 0.3, "draws": 2, "parameters": "3.*"}),
    "basin": ("basin_size", {"draws": 3, "drop": 0.2, "scaling": "filter"}),
    "update": ("critical_sharpness", {"direction": "update"}),
}


@pytest.mark.parametrize("case", CASES)
def test_native_weights_of_float64_give_the_values_of_float64(case):
    name, fields = CASES[case]
    flat, native = surfaces(torch.float64)
    for surface in (flat, native):
        surface.core.functional.update = lambda: {k: -0.05 * g for k, g in flat.unflatten(flat.gradient()[1]).items()}
    expected, found = (acutance.measure(name, surface, **fields) for surface in (flat, native))
    assert expected.status is Status.OK
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.cost == expected.cost or case == "update"  # whose direction costs the gradient in the other
    assert "w" not in vars(native) and "flat" not in vars(native.core.functional.weights)


@pytest.mark.parametrize("scale", ["none", "elementwise", "filter", "layer"])
def test_points_of_bfloat16_are_sums_in_float32_that_are_rounded_once(scale):
    _, surface = surfaces(torch.bfloat16)
    exact = LossSurface(copy.deepcopy(surface.model).float(), (X, Y))
    c, units = scaling.vector(exact, scale), scaling.units(surface, scale)
    z = Streams("x").normal("noise", 0, exact.w)
    point = surface.piecewise_point(units).place(Streams("x").noise("normal", "noise", 0, exact.size), 0.07)
    w = torch.cat([point.pieces[name].reshape(-1) for name in surface.parameters.names(range(6))])
    moved = (exact.w + 0.07 * (z if c is None else c * z)).bfloat16()
    assert w.dtype is torch.bfloat16 and torch.equal(w, moved)
    model = copy.deepcopy(surface.model)
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(w[start : start + p.numel()].view(p.shape))
            start += p.numel()
    raw = model(X.bfloat16()).float()
    assert torch.equal(point.raw_logits(), raw)
    wanted = float(nn.functional.cross_entropy(raw.double(), Y))
    assert float(point.value().loss) == pytest.approx(wanted, rel=1e-14)
    if c is not None:
        assert units.norm() == pytest.approx(float(c.norm()), rel=1e-5)


def test_the_model_is_bitwise_what_it_was_also_after_an_exception():
    model = net(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    surface = LossSurface(model, (X, Y), dtype="native")
    acutance.measure("average_case", surface, rho=0.5, draws=2)
    acutance.measure("basin_size", surface, draws=2)
    point = surface.piecewise_point()
    with pytest.raises(ZeroDivisionError), point.held():
        point.place(Streams(1).noise("normal", "z", 0, surface.size))
        raise ZeroDivisionError
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_rounding_is_what_neighbours_of_the_weights_do_to_the_loss():
    _, surface = surfaces(torch.bfloat16)
    clean, point = float(surface.loss()), surface.piecewise_point()
    own = torch.cat([p.detach().reshape(-1) for p in surface.model.parameters()])
    rises, moved, sizes = [], torch.zeros(len(own)), surface.parameters.sizes
    for k in range(2):
        streams = Streams("rounding of weights", k)
        w = torch.cat([p.reshape(-1) for p in point.to_neighbours(streams, 1 / 12).pieces.values()])
        words = [Dither.of(streams, f"neighbours {i}").words(torch.arange(size)) for i, size in enumerate(sizes)]
        u = torch.cat(words) / 2**31 - 1
        up = torch.nextafter(own.abs(), torch.tensor(torch.inf, dtype=own.dtype)) * own.sign()
        down = torch.nextafter(own.abs(), torch.zeros((), dtype=own.dtype)) * own.sign()
        expected = torch.where(u < -11 / 12, up, torch.where(u > 11 / 12, down, own))
        assert torch.equal(w, expected)
        moved += (w != own).float()
        rises.append(float(point.value().loss) - clean)
    assert 0.02 < float(moved.mean()) / 2 < 0.16  # one in twelve
    assert float(surface.rounding()) == pytest.approx((sum(r**2 for r in rises) / 2) ** 0.5, rel=1e-12) != 0
    passes = surface.cost.forwards
    assert surface.rounding() == surface.rounding() and surface.cost.forwards == passes


def test_few_weights_are_rounded_often_enough_to_see_what_that_does():
    """Of one weight, two roundings would leave it in place five times of six, and say that nothing is lost."""

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.75], dtype=torch.bfloat16))

        def forward(self, x):
            return self.w.float().expand(len(x), 1)

    surface = LossSurface(One(), (torch.zeros(2, 1), torch.zeros(2)), loss=lambda f, y: f[0, 0], dtype="native")
    assert float(surface.rounding()) == pytest.approx(2**-8 / 12**0.5, rel=0.5)
    assert surface.cost.forwards == 2 * (1 + 16 * 12)


def test_zero_weights_and_the_largest_numbers_stay_where_their_neighbour_is_none():
    model = net(torch.bfloat16)
    largest = torch.finfo(torch.bfloat16).max
    with torch.no_grad():
        model[3].bias.copy_(torch.tensor([0.0, largest, -largest]))
        model[3].weight.zero_()
    surface = LossSurface(model, (X, Y), dtype="native")
    point = surface.piecewise_point()
    for k in range(20):
        point.to_neighbours(Streams(1, k), 1.0)
        bias, weight = point.pieces["3.bias"], point.pieces["3.weight"]
        assert bias[0] == 0 and bool(bias.isfinite().all()) and not bool(weight.any())


def test_a_small_rise_stands_beside_the_resolution_and_one_below_it_has_no_value():
    _, surface = surfaces(torch.bfloat16)
    large = acutance.measure("average_case", surface, rho=3.0, draws=2, scaling="elementwise")
    assert large.status is Status.OK and large.extras["rounding"] == float(surface.rounding())  # made once
    passes = surface.cost.forwards
    small = acutance.measure("average_case", surface, rho=0.02, draws=4, scaling="elementwise")
    assert small.extras["rounding"] == float(surface.rounding()) and surface.cost.forwards == passes + 24 * 4
    lost = acutance.measure("average_case", surface, rho=1e-4, draws=2, scaling="none", parameters="0.*")
    assert lost.status is Status.NOT_CONVERGED and "bfloat16" in lost.message and "float32" in lost.message
    part = surface.restricted("0.bias")
    doubted = part.against_rounding(acutance.Estimate(1.0), float(part.rounding()) * (in_place.CLEAR - 1))
    assert doubted.status is Status.NOT_CONVERGED and "rounding of the weights in bfloat16" in doubted.message
    believed = part.against_rounding(acutance.Estimate(1.0), float(part.rounding()) * (in_place.CLEAR + 1))
    assert believed.status is Status.OK and believed.extras["rounding"] == float(part.rounding())


class TwoSizes(nn.Module):
    """Few large weights carry the output; many small ones, which half precision resolves, hardly move it."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Linear(50, 3, bias=False), nn.Linear(1000, 3, bias=False)

    def forward(self, x):
        x = x.float()
        many = nn.functional.linear(x.repeat(1, 20), self.small.weight.float())
        return nn.functional.linear(x, self.large.weight.float()) + 1e-3 * many


def test_a_rise_of_a_fitted_model_is_held_against_rounding_however_small_the_loss_is():
    torch.manual_seed(0)
    model, x = TwoSizes().bfloat16(), torch.randn(128, 50).bfloat16().float()
    with torch.no_grad():
        model.large.weight.copy_(torch.randn(3, 50).sign() * (1 + torch.rand(3, 50)))
        model.small.weight.mul_(1e-2)
    exact = copy.deepcopy(model).float()
    y, seen = exact(x).detach(), set()
    for rho in (3e-4, 2e-3, 4e-3, 0.1):
        asked = {"rho": rho, "draws": 20, "scaling": "none"}
        found = acutance.measure("average_case", LossSurface(model, (x, y), loss="mse", dtype="native"), **asked)
        true = acutance.measure("average_case", LossSurface(exact, (x, y), loss="mse"), **asked).value
        assert found.status is Status.NOT_CONVERGED or found.value == pytest.approx(true, rel=0.15)
        seen.add(found.status)
    assert seen == {Status.OK, Status.NOT_CONVERGED}


def test_inputs_of_a_first_layer_in_float32_are_not_rounded():
    """Beside half-precision weights a normalization in float32 may come first: 300 and 301 are one number in bf16."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(5), InHalf(nn.Linear(5, 3).bfloat16())).eval()
    model[0].running_mean.fill_(300.0)
    data = 300 + torch.randn(64, 5), torch.arange(64) % 3
    surface = LossSurface(model, data, dtype="native")
    with torch.no_grad():
        own = nn.functional.cross_entropy(model(data[0]).float(), data[1])
    assert float(surface.loss()) == pytest.approx(float(own), rel=1e-6)


class InHalf(nn.Module):
    """A layer that takes its inputs to the type of its weights."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype))


def test_no_draws_make_a_rise_right_that_rounding_alone_gives():
    """Rounding a moved weight raises a curved loss by itself: a mean over many draws is as far off as one over few."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3)).bfloat16()
    with torch.no_grad():
        model[2].weight *= 8
    x, y = torch.randn(64, 6).bfloat16(), torch.arange(64) % 3
    exact = copy.deepcopy(model).float()
    for rho in (0.001, 0.003, 0.01, 0.03, 0.1, 0.2):
        asked = {"rho": rho, "draws": 100, "variance_reduction": "antithetic", "scaling": "elementwise"}
        found = acutance.measure("average_case", LossSurface(model, (x, y), dtype="native"), **asked)
        true = acutance.measure("average_case", LossSurface(exact, (x.float(), y)), **asked).value
        if found.status is Status.OK:
            assert found.value == pytest.approx(true, rel=0.15)
    assert found.status is Status.OK  # at the largest radius


def test_a_basin_no_deeper_than_rounding_has_no_size():
    _, surface = surfaces(torch.bfloat16)
    shallow = acutance.measure("basin_size", surface, drop=3 * float(surface.rounding()), draws=4)
    assert shallow.status is Status.NOT_CONVERGED and "rounding of the weights in bfloat16" in shallow.message
    deep = acutance.measure("basin_size", surface, drop=0.5, draws=4)
    assert deep.status is Status.OK


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("worst_case", {"rho": 0.1}), ("hessian_trace", {}), ("directional_sharpness", {}), ("eps_flatness", {}),
        ("fisher_trace", {}), ("parameter_norm", {}), ("input_gradient_norm", {}),
        ("average_case", {"rho": 0.1, "variance_reduction": "linear"}),
        ("average_case", {"rho": 0.1, "scaling": "tests.surface.test_native:own_scaling"}),
    ],
)  # fmt: skip
def test_what_needs_vectors_or_derivatives_says_what_to_do(name, fields, monkeypatch):
    _, surface = surfaces(torch.bfloat16)
    if "scaling" in fields:
        monkeypatch.setattr(scaling, "load_function", lambda path: own_scaling)
        monkeypatch.setattr(scaling, "is_own", lambda name: True)
    found = acutance.measure(name, surface, **fields)
    assert found.status is Status.UNSUPPORTED and "dtype: float32" in found.message


def own_scaling(surface):
    return surface.w.abs()


@pytest.mark.parametrize(
    "name",
    ["mean_confidence", "negative_log_likelihood", "brier_score", "rankme", "neural_collapse", "effective_rank",
     "davies_bouldin", "intrinsic_dimension", "error", "parameter_count"],
)  # fmt: skip
def test_measures_of_outputs_and_features_take_native_weights(name):
    flat, native = surfaces(torch.bfloat16)
    expected, found = (acutance.measure(name, surface) for surface in (flat, native))
    assert found.status is Status.OK and found.value == pytest.approx(expected.value, rel=0.02)


def test_noise_is_that_of_the_points_whatever_the_weights_type():
    flat, native = surfaces(torch.bfloat16)
    assert flat.digest == native.digest and torch.equal(flat.example_digests(), native.example_digests())


def test_weights_that_somebody_writes_to_are_refused():
    _, surface = surfaces(torch.bfloat16)
    surface.raw_logits()
    with torch.no_grad():
        surface.model[0].weight.add_(1)
    with pytest.raises(UserError, match="were written to since this surface was made"):
        surface.raw_logits()


class Renormalizing(nn.Module):
    """A model that writes to its weights in every pass."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(7, 3, max_norm=0.5)

    def forward(self, x):
        return self.rows(x)


def test_a_model_that_writes_to_its_weights_is_refused_and_stays_as_it_was():
    model = Renormalizing().bfloat16()
    before = model.rows.weight.detach().clone()
    surface = LossSurface(model, (torch.arange(7), torch.arange(7) % 3), dtype="native")
    with pytest.raises(UserError, match="changes its weights"):
        surface.raw_logits()
    assert torch.equal(before, model.rows.weight)


def test_mixed_types_keep_each_its_own_and_targets_are_not_rounded():
    model = nn.Sequential(nn.Linear(5, 4).bfloat16(), Widening(), nn.Linear(4, 2))
    y = torch.randn(24, 2, generator=torch.Generator().manual_seed(3))
    surface = LossSurface(model, (X, y), loss="mse", dtype="native")
    assert surface.dtype is torch.bfloat16 and surface.targets.dtype is torch.float32
    assert torch.equal(surface.targets, y)
    raw = model(X.bfloat16())
    assert float(surface.loss()) == pytest.approx(float((raw.detach().double() - y).square().sum(1).mean()), rel=1e-12)
    kinds = [piece.dtype for piece in surface.piecewise_point().pieces.values()]
    assert kinds == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert acutance.measure("average_case", surface, rho=0.3, draws=2).status is Status.OK


class Widening(nn.Module):
    """Float32 from here on."""

    def forward(self, x):
        return x.float()


def test_buffers_beside_native_weights_keep_their_type():
    model = net(torch.bfloat16)
    model.register_buffer("table", torch.linspace(0, 1, 5) + 1e-6)
    surface = LossSurface(model, (X, Y), dtype="native")
    assert surface.buffers["table"].dtype is torch.float32 and torch.equal(surface.buffers["table"], model.table)


def test_a_type_that_cannot_be_evaluated_is_named():
    model = net()
    model[0].weight.data = model[0].weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(UserError, match="float8_e4m3fn"):
        LossSurface(model, (X, Y), dtype="native")
    with pytest.raises(UserError, match="float32, float64 or native"):
        LossSurface(net(), (X, Y), dtype="bfloat16")
    with pytest.raises(UserError, match="has a vector of its weights"):
        LossSurface(net(), (X, Y)).piecewise_point()


@pytest.mark.parametrize("case", ["elementwise", "filter", "part", "basin"])
def test_large_models_that_nobody_else_writes_to_are_moved_in_place_with_the_same_values(case, monkeypatch):
    name, fields = CASES[case]
    expected = acutance.measure(name, LossSurface(net(), (X, Y)), **fields)
    monkeypatch.setattr(weights, "LARGE", 50)
    monkeypatch.setattr(in_place, "LARGE", 50)
    surface = LossSurface(OpenModel(net(), lent=True).functional, (X, Y))
    assert surface.core.functional.weights.own and surface.moves_in_place
    found = acutance.measure(name, surface, **fields)
    assert found.value == pytest.approx(expected.value, rel=1e-6) and found.cost == expected.cost
    assert "w" not in vars(surface)
    worst = acutance.measure("worst_case", surface, rho=0.1, steps=3)  # its vectors are made when it asks for them
    assert worst.value == acutance.measure("worst_case", LossSurface(net(), (X, Y)), rho=0.1, steps=3).value


def test_the_memory_of_a_sweep_is_that_of_the_weights_that_move(monkeypatch):
    monkeypatch.setattr(draws, "BLOCK", 1 << 10)
    monkeypatch.setattr(scaling, "CHUNK", 1 << 10)
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(5)], nn.Linear(128, 3)).to(torch.bfloat16)
    surface = LossSurface(model, (torch.randn(4, 128), torch.arange(4) % 3), dtype="native")
    surface.clean()
    for pattern in ("all", "3.*"):
        moved = 2 * surface.restricted(pattern).size  # bytes
        with LiveBytes() as live:
            acutance.measure("average_case", surface, rho=0.3, draws=2, scaling="filter", parameters=pattern)
        assert moved < live.peak < moved + 60_000


def test_a_step_that_rounding_swallows_has_no_critical_size():
    _, surface = surfaces(torch.bfloat16)
    # Each weight grows in proportion: small steps are lost in rounding, and the loss rises with the first that is not.
    surface.core.functional.update = lambda: {n: 1e-3 * p.detach() for n, p in surface.model.named_parameters()}
    found = acutance.measure("critical_sharpness", surface, direction="update")
    assert found.status is not Status.OK and (
        "float32" in found.message or "there is no critical step" in found.message
    )


def test_an_optimizers_step_is_rounded_at_random_so_that_it_is_taken_on_average():
    found = []
    for seed in range(8):
        model = net(torch.bfloat16, seed)
        exact = LossSurface(copy.deepcopy(model).float(), (X, Y))
        g = exact.unflatten(exact.gradient()[1])
        # As Adam's: of about the same size in every weight.
        step = {n: -0.01 * v / (v.abs() + v.std() + 1e-12) for n, v in g.items()}
        native = LossSurface(model, (X, Y), dtype="native")
        for surface in (exact, native):
            surface.core.functional.update = lambda step=step: step
        each = [acutance.measure("critical_sharpness", s, direction="update") for s in (exact, native)]
        assert each[0].status is Status.OK
        if each[1].status is Status.OK:
            assert each[1].value == pytest.approx(each[0].value, rel=0.02)
        found.append(each[1].status is Status.OK)
    assert all(found)  # to the nearest, two of them stop at steps that nearly all weights lose
