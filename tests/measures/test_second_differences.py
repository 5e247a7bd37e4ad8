"""Curvature along a direction from losses alone: against dense Hessians, in half precision, its memory and its work."""

import math

import pytest
import torch
from models import assert_untouched, dense_hessian, snapshot
from networks import NETWORKS
from tests.live_memory import LiveBytes
from tests.surface.test_native import X, Y, net, surfaces
from torch import nn

import acutance
from acutance import LossSurface, Status, Streams, scaling
from acutance.plugins import catalog
from acutance.testing.models import Weights
from acutance.testing.problems import quadratic_parts
from acutance_hessian import second_differences
from acutance_hessian.second_differences import Difference

NAME = "directional_sharpness"
A, W = quadratic_parts()
POINTS = torch.zeros(3, 1), torch.zeros(3, 1)


def step_of(surface, seed=4):
    """A step that is no multiple of the gradient, and moves no weight that is zero."""
    noise = torch.randn(surface.w.shape, generator=torch.Generator().manual_seed(seed)).to(surface.w)
    return surface.unflatten(torch.where(surface.w == 0, 0, 0.01 * noise))


def with_step(surface, step):
    surface.core.functional.update = lambda: step
    return surface


def quotient(surface, direction, scale, random=None):
    """The Rayleigh quotient along d in the coordinates d / c, from a dense Hessian."""
    c = scaling.vector(surface, scale)
    c = torch.ones_like(surface.w) if c is None else c
    if direction == "gradient":
        d = c * c * surface.gradient()[1]
    elif direction == "update":
        d = surface.update().vector
    else:
        d = c * random
    x = torch.where(c == 0, 0, d / c)
    return float(d @ dense_hessian(surface) @ d / (x @ x))


@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("scale", ["none", "elementwise", "filter"])
@pytest.mark.parametrize("direction", ["gradient", "update"])
@pytest.mark.parametrize("name", ["mlp", "gelu_norm"])
def test_it_is_the_quotient_of_a_dense_hessian(name, direction, scale, microbatch):
    make, data = NETWORKS[name]
    surface = LossSurface(make(), data(), microbatch=microbatch)
    with_step(surface, step_of(surface))
    expected = quotient(surface, direction, scale)
    exact = acutance.measure(NAME, surface, scaling=scale, direction=direction)
    assert exact.value == pytest.approx(expected, rel=1e-9)
    surface.clean()
    before = surface.cost
    found = acutance.measure(NAME, surface, scaling=scale, direction=direction, product="loss")
    assert found.status is Status.OK and found.extras["product_error"] < 1e-4
    assert abs(found.value - expected) <= found.extras["product_error"] * abs(expected)
    assert found.extras.get("direction", "gradient") == {"update": "optimizer"}.get(direction, "gradient")
    assert (surface.cost - before).forwards == found.extras["evaluations"] * surface.n  # the loss at w* is known
    assert (surface.cost - before).backwards == (surface.cost - before).hvps == 0


def test_a_random_direction_is_the_same_for_products_and_losses_and_another_with_another_seed():
    make, data = NETWORKS["mlp"]
    surface = LossSurface(make(), data())
    values = {
        (product, seed): acutance.measure(NAME, surface, direction="random", product=product, seed=seed).value
        for product in ("exact", "finite_difference", "loss")
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert values["loss", seed] == pytest.approx(values["exact", seed], rel=1e-4)
        assert values["finite_difference", seed] == pytest.approx(values["exact", seed], rel=1e-4)
    assert values["exact", 0] != pytest.approx(values["exact", 1], rel=1e-3)
    measure = catalog().measure(NAME)
    assert measure.draws_noise(measure.Spec(direction="random")) and not measure.draws_noise(measure.Spec())


def test_gaussian_directions_have_the_mean_of_the_eigenvalues():
    surface = LossSurface(Weights(W + 0.3), POINTS, lambda f, y: f[0] @ A @ f[0] / 2)
    values = [
        acutance.measure(NAME, surface, direction="random", product="loss", scaling="none", seed=k).value
        for k in range(60)
    ]
    eigenvalues = torch.linalg.eigvalsh(A)
    spread = float(eigenvalues.std()) / (len(W) / 2 * len(values)) ** 0.5
    assert sum(values) / len(values) == pytest.approx(float(eigenvalues.mean()), abs=4 * spread)
    assert float(eigenvalues[0]) < min(values) < max(values) < float(eigenvalues[-1]) * (1 + 1e-6)


def test_work_is_counted_and_about_what_was_said():
    measure = catalog().measure(NAME)
    for kind, more in ((torch.float64, 0), (torch.bfloat16, 2)):
        for direction in ("gradient", "update", "random"):
            _, surface = surfaces(kind)
            step = {n: 0.01 * torch.randn_like(p) for n, p in surface.model.named_parameters()}
            with_step(surface, step)
            spec = {"product": "loss", "direction": direction, "scaling": "none"}
            found, said = acutance.measure(NAME, surface, **spec), measure.passes(measure.Spec(**spec))
            gradients = (direction == "gradient") * (1 + (more > 0))  # one of them in float32
            forwards = found.extras["evaluations"] + more + (1 + (more > 0) if gradients else 1)
            assert (found.cost.forwards, found.cost.backwards) == (forwards * 24, gradients * 24)
            assert said.forwards / 2 < forwards < 2 * said.forwards and said.backwards == (direction == "gradient")


# -- native weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("microbatch", [None, 7])
@pytest.mark.parametrize("scale", ["none", "elementwise", "filter"])
@pytest.mark.parametrize("direction", ["gradient", "update", "random"])
def test_native_weights_of_float64_give_the_values_of_float64(direction, scale, microbatch):
    flat, native = surfaces(torch.float64)
    flat.microbatch = native.microbatch = microbatch
    step = step_of(flat)
    fields = {"direction": direction, "scaling": scale, "product": "loss", "parameters": "!1.*"}
    expected, found = (acutance.measure(NAME, with_step(s, step), **fields) for s in (flat, native))
    assert expected.status is found.status is Status.OK and found.cost == expected.cost
    assert found.value == pytest.approx(expected.value, rel=1e-4)
    if direction != "random":
        assert found.extras["step"] == pytest.approx(expected.extras["step"], rel=1e-6)
    assert "w" not in vars(native) and "flat" not in vars(native.core.functional.weights)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", ["none", "filter"])
@pytest.mark.parametrize("direction", ["gradient", "update"])
def test_half_precision_is_the_quotient_of_the_same_weights_but_for_rounding(direction, scale, kind):
    flat, native = surfaces(kind)
    exact = LossSurface(flat.model.double(), (X.double(), Y))
    g = exact.gradient()[1]
    step = exact.unflatten(-0.05 * g * (1 + exact.w.abs()) * (exact.w != 0))  # preconditioned
    for surface in (exact, native):
        with_step(surface, step)
    expected = quotient(exact, direction, scale)
    found = acutance.measure(NAME, native, direction=direction, scaling=scale, product="loss")
    assert found.status is Status.OK
    share = found.extras.get("gradient_rounding", 0.0)  # turns the direction
    assert found.extras["rounding"] == pytest.approx(3 * float(native.rounding()))
    size = abs(found.value) * found.extras["step"] ** 2
    assert 2 * found.extras["rounding"] / size <= found.extras["product_error"] < 0.1
    assert abs(found.value - expected) <= (found.extras["product_error"] + 2 * share) * abs(expected)


def test_the_gradient_of_which_rounding_leaves_little_has_no_curvature_along_it():
    model = net(torch.bfloat16)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        target = model(x.bfloat16()).float().softmax(1)
    surface = LossSurface(model, (x, target), loss=nn.functional.cross_entropy, dtype="native")
    found = acutance.measure(NAME, surface, product="loss", scaling="none")
    assert found.status is Status.NOT_CONVERGED and found.extras["gradient_rounding"] > 0.1


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_opposite_moves_are_rounded_to_opposite_ones(kind):
    _, surface = surfaces(kind)
    noise, point = Streams(0).noise("normal", "x", 0, surface.size), surface.piecewise_point()
    own = torch.cat([p.detach().reshape(-1) for p in surface.model.parameters()]).double()
    for scale in (1e-4, 1e-3, 1e-2):
        moves = []
        for s in (scale, -scale):
            pieces = point.place(noise, s, surface.dither).pieces
            moves.append(torch.cat([p.reshape(-1) for p in pieces.values()]).double() - own)
        # A move across a power of two alone has another grid on the other side.
        ends = [torch.frexp(own.abs() + sign * 1.01 * moves[0].abs()).exponent for sign in (-1, 1)]
        inside = (ends[0] == ends[1]) & (torch.frexp(own.abs()).mantissa != 0.5)
        assert int(inside.sum()) > 90 and torch.equal(moves[0][inside], -moves[1][inside])
        assert int((moves[0][inside] != 0).sum()) > 2


def test_memory_is_that_of_the_weights_that_move(monkeypatch):
    from acutance.numerics import draws
    from acutance.surface import pieces

    monkeypatch.setattr(second_differences, "TRIES", 2)
    for module, name in ((draws, "BLOCK"), (pieces, "BLOCK"), (scaling, "CHUNK")):
        monkeypatch.setattr(module, name, 1 << 10)
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(9)], nn.Linear(128, 3)).to(torch.bfloat16)
    own = 2 * sum(p.numel() for p in model.parameters())
    step = {n: 1e-3 * torch.randn_like(p) for n, p in model.named_parameters()}
    for direction, scale in (("update", "filter"), ("update", "none"), ("random", "elementwise")):
        surface = LossSurface(model, (torch.randn(4, 128), torch.arange(4) % 3), dtype="native")
        with_step(surface, step)
        surface.clean()
        with LiveBytes() as live:
            found = acutance.measure(NAME, surface, product="loss", direction=direction, scaling=scale)
        assert math.isnan(found.value) or found.extras["rounding"] > 0
        assert own <= live.peak < 1.3 * own
    surface = LossSurface(model, (torch.randn(4, 128), torch.arange(4) % 3), dtype="native")
    surface.gradient_apart()
    before = snapshot(model)
    with LiveBytes() as live:
        acutance.measure(NAME, surface, product="loss", scaling="none")
    assert own <= live.peak < 1.3 * own
    assert_untouched(model, before)


# -- where there is none --------------------------------------------------------------------------------------


def line(f, w=0.5, dtype=torch.float64):
    return LossSurface(Weights(torch.tensor([w], dtype=dtype)), POINTS, lambda logits, y: f(logits[0, 0]))


def test_a_straight_line_has_no_curvature_that_stands_above_rounding():
    found = acutance.measure(NAME, line(lambda w: 3 * w + 1), product="loss", scaling="none")
    assert found.status is Status.NOT_CONVERGED and math.isnan(found.value)
    assert "does not stand above its rounding" in found.message


@pytest.mark.parametrize("w", [1e-8, 1e-3, 0.5, 400.0])
def test_the_first_step_does_not_matter(w):
    found = acutance.measure(NAME, line(lambda w: 2 * w.square() - w + 1, w), product="loss", scaling="none")
    assert found.status is Status.OK and found.value == pytest.approx(4, rel=1e-3)


def test_negative_curvature_is_negative_and_a_barrier_is_not_crossed():
    found = acutance.measure(NAME, line(torch.cos), product="loss", scaling="none")
    assert found.value == pytest.approx(-math.cos(0.5), rel=1e-5)
    walled = acutance.measure(NAME, line(lambda w: w - torch.log(w), 1e-3), product="loss", scaling="none")
    assert walled.value == pytest.approx(1e6, rel=1e-4)


def test_single_precision_takes_steps_that_it_resolves():
    # 1 + 1e-6 bends: the curvature is 1e-3, of which a step of 1e-3 leaves 1e-9.
    found = acutance.measure(
        NAME, line(lambda w: (1 + 5e-4 * w.square() + w / 50).double(), 0.5, torch.float32), product="loss",
        scaling="none",
    )  # fmt: skip
    assert found.status is Status.OK and found.value == pytest.approx(1e-3, rel=found.extras["product_error"])


def test_a_loss_that_is_no_parabola_at_any_step_that_is_resolved_has_no_value():
    # Half precision sees a kink alone, the waves are below.
    torch.manual_seed(0)
    w = torch.tensor([0.5], dtype=torch.bfloat16)
    surface = LossSurface(
        Weights(w), POINTS, lambda f, y: 1 + 0.3 * torch.sin(600 * f[0, 0]) + (f[0, 0] - 0.5).abs(), dtype="native"
    )
    with_step(surface, {"w": torch.tensor([1.0])})
    found = acutance.measure(NAME, surface, product="loss", scaling="none", direction="update")
    assert found.status is Status.NOT_CONVERGED and "dtype float32" in found.message


def test_steps_that_agree_by_chance_are_not_believed():
    def at(step):
        # Curvatures 1, 1, 5 at steps 1, 2, 4, and 0.2 below: noise forbids to look.
        return Difference(step, {1: 1.0, 2: 1.0, 4: 5.0}.get(step, 0.2) * step**2)

    found = second_differences.refined(at, at(1), 0.04)
    assert (found.step, found.curvature, found.change, found.share) == (1, 1.0, 1.0, 0.04)

    def line(step):
        # 1, 1.3, 2.5 extrapolate to 0.9 twice: what was taken away tells of it.
        return Difference(step, {1: 1.0, 2: 1.3, 4: 2.5}.get(step, 0.2) * step**2)

    assert second_differences.refined(line, line(1), 0.04).change == pytest.approx(0.1 / 4 / 0.9)


def test_a_curvature_is_extrapolated_where_rounding_is_not_what_is_left():
    def at(step):
        return Difference(step, (2 + step**2) * step**2)

    found = second_differences.refined(at, at(0.1), 1e-9)
    assert found.curvature == pytest.approx(2, rel=1e-12) and at(0.1).curvature == pytest.approx(2.01)
    assert 0 < found.change < 4 * found.share < 1e-3
    coarse = second_differences.refined(at, at(0.1), 2e-3)  # a tenth: extrapolated, it were a seventh
    assert coarse.curvature == at(0.1).curvature and coarse.share == pytest.approx(2e-3 / at(0.1).size)


def test_truncation_far_above_rounding_makes_steps_smaller():
    steps = []

    def at(step):
        steps.append(step)
        return Difference(step, (2 + step**2 + step**4) * step**2)

    found = second_differences.refined(at, at(1.0), 1e-9)
    assert found.curvature == pytest.approx(2, rel=found.change) and found.step < 0.1
    assert steps[-1] == found.step / 4 or steps[-1] == found.step / 2


def test_a_kink_that_larger_steps_do_not_see_is_seen_by_shorter_ones():
    def at(step):
        # Within 0.1 there is no kink and the curvature is 1; larger steps agree on 1.5.
        return Difference(step, (1.5 if step > 0.1 else 1.0) * step**2)

    for noise, seen in ((1e-4, True), (1e-3, True), (4e-3, False)):
        found = second_differences.refined(at, at(0.3 if noise == 1e-4 else 0.19), noise)
        assert found.curvature == pytest.approx(1.5) and (found.change == pytest.approx(1 / 3)) is seen


def test_a_step_that_leaves_the_coordinates_is_refused():
    surface = LossSurface(Weights(torch.tensor([0.0, 1.0])), POINTS, lambda f, y: f[0].square().sum())
    other = LossSurface(Weights(torch.tensor([0.0, 1.0])), POINTS, lambda f, y: f[0].square().sum(), dtype="native")
    for each in (surface, other):
        with_step(each, {"w": torch.tensor([1.0, 1.0])})
        for product in ("exact", "loss") if each is surface else ("loss",):
            found = acutance.measure(NAME, each, direction="update", product=product)
            assert found.status is Status.UNSUPPORTED and "scaling none" in found.message
            assert acutance.measure(NAME, each, direction="update", product=product, scaling="none").value > 1.9
        with_step(each, {"w": torch.tensor([0.0, 0.0])})
        fresh = LossSurface(each.model, POINTS, lambda f, y: f[0].square().sum(), dtype="native")
        with_step(fresh, {"w": torch.tensor([0.0, 0.0])})
        found = acutance.measure(NAME, fresh, direction="update", product="loss")
        assert found.status is Status.UNSUPPORTED and "step is exactly zero" in found.message


def test_without_a_step_the_update_is_the_gradient():
    for fields in ({"product": "loss"}, {}):
        for surface in surfaces(torch.float64):
            if "product" not in fields and surface.in_parts:
                continue
            for scale in ("none", "elementwise"):
                plain = acutance.measure(NAME, surface, scaling=scale, **fields)
                found = acutance.measure(NAME, surface, scaling=scale, direction="update", **fields)
                assert found.value == pytest.approx(plain.value, rel=1e-12)
                assert found.extras == plain.extras | {"direction": "gradient"} or fields


def test_where_the_gradient_vanishes_there_is_no_direction():
    for fields in ({"product": "loss"}, {}):
        found = acutance.measure(NAME, line(lambda w: (w - 0.5) ** 2), **fields)
        assert found.status is Status.UNSUPPORTED and "critical point" in found.message


def test_losses_alone_are_made_on_a_model_that_is_given_away():
    accelerate = pytest.importorskip("accelerate")
    model, twin = net(), net()
    here = LossSurface(model, (X, Y), dtype="native")
    away = LossSurface(accelerate.cpu_offload(twin), (X, Y), dtype="native")
    step = step_of(LossSurface(net(), (X, Y)))
    for direction in ("update", "random"):
        fields = {"direction": direction, "product": "loss", "scaling": "filter"}
        expected, found = (acutance.measure(NAME, with_step(s, step), **fields) for s in (here, away))
        assert found.value == expected.value and found.extras == expected.extras


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-38])
def test_weights_of_no_length_give_no_step_that_overflows(kind, size):
    model, data = nn.Linear(10, 4, bias=False).to(kind), (torch.randn(64, 10, dtype=kind), torch.arange(64) % 4)
    with torch.no_grad():
        model.weight.normal_().mul_(size)
    for fields in ({"direction": "random"}, {"direction": "random", "scaling": "none"}):
        found = acutance.measure(NAME, model, data, product="loss", **fields)
        assert found.status in (Status.OK, Status.NOT_CONVERGED) and math.isfinite(found.value) == (
            found.status == "ok"
        )
