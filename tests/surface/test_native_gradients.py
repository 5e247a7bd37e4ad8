"""Gradients of weights in their own type: values, memory, rounding, and what automatic differentiation does not see."""

import copy
from functools import partial

import pytest
import torch
from tests.checks.test_tracking_of_weights import LAYERS, LOSSES, NAMED, WRONG, Net, Stack, data, points
from tests.live_memory import LiveBytes
from tests.surface.test_native import X, Y, net, surfaces
from torch import nn

import acutance
from acutance import Streams, Unsupported, UserError
from acutance.checks import secants
from acutance.measure import Status
from acutance.surface import LossSurface, gradient_apart, in_place
from acutance.surface.pieces import Apart

HALVES = [torch.bfloat16, torch.float16]
CASES = {
    "norm": ("gradient_norm", {"scaling": "none"}),
    "l1": ("gradient_norm", {"norm": "linf", "scaling": "filter", "rho": 0.3}),
    "linf": ("gradient_norm", {"norm": "l1", "scaling": "elementwise", "logit_norm": True}),
    "part": ("gradient_norm", {"parameters": "3.*"}),
    "SAM": ("sam_sharpness", {"rho": 0.5}),
    "ASAM": ("sam_sharpness", {"rho": 1.0, "scaling": "elementwise", "logit_norm": True}),
    "critical": ("critical_sharpness", {}),
    "critical part": ("critical_sharpness", {"parameters": "3.*"}),
    "no update": ("critical_sharpness", {"direction": "update"}),
}


def named(surface):
    return {n: p.double() * surface.gradient_apart().factor for n, p in zip(
        surface.parameters.names(surface.parameters.free), surface.gradient_apart().parts, strict=True)}  # fmt: skip


@pytest.mark.parametrize("microbatch", [None, 7])
@pytest.mark.parametrize("case", CASES)
def test_native_weights_of_float64_give_the_values_of_float64(case, microbatch):
    name, fields = CASES[case]
    flat, native = surfaces(torch.float64)
    flat.microbatch = native.microbatch = microbatch
    expected, found = (acutance.measure(name, surface, **fields) for surface in (flat, native))
    assert expected.status is Status.OK and found.value == pytest.approx(expected.value, rel=1e-12)
    numbers = [{k: v for k, v in e.extras.items() if not isinstance(v, str)} for e in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-9) and found.cost == expected.cost
    assert "w" not in vars(native) and "flat" not in vars(native.core.functional.weights)


@pytest.mark.parametrize("microbatch", [None, 7])
@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("case", CASES)
def test_half_precision_gives_the_value_of_the_same_weights_in_float32_but_for_rounding(case, kind, microbatch):
    name, fields = CASES[case]
    flat, native = surfaces(kind)
    native.microbatch = microbatch
    expected, found = (acutance.measure(name, surface, **fields) for surface in (flat, native))
    share = found.extras["gradient_rounding"]
    assert found.status is Status.OK and 0 < share < 8 * torch.finfo(kind).eps
    view = native.restricted(fields.get("parameters", "all")).transformed(fields.get("logit_norm", False))
    bound = 2 * share * abs(expected.value)
    if name == "sam_sharpness":
        # Three standard deviations of weights that were rounded at random, whose variance is up to that factor.
        bound += 3 * in_place.DITHERED**0.5 * float(view.rounding())
    elif name == "critical_sharpness":
        # The loss where it is crossed is known to its rounding, and its slope is about -2 fall / (eta / 2).
        bound += expected.value * in_place.DITHERED * float(view.rounding()) / (2 * found.extras["fall"])
    assert abs(found.value - expected.value) <= bound


def test_parts_are_those_of_autograd_in_the_types_of_the_weights():
    model = net(torch.bfloat16)
    surface = LossSurface(model, (X, Y), dtype="native")
    apart = surface.gradient_apart()
    twin = copy.deepcopy(model)
    nn.functional.cross_entropy(twin(X.bfloat16()).float().double(), Y).backward()
    for part, p in zip(apart.parts, twin.parameters(), strict=True):
        assert part.dtype is torch.bfloat16 and torch.equal(part.view(p.shape), p.grad)
    assert surface.gradient_apart().parts is apart.parts and surface.cost.backwards == 2 * surface.n
    surface.clean()  # whose logits are known from it
    assert surface.cost.forwards == 2 * surface.n  # one of them in float32
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_microbatches_are_summed_in_float32():
    class Sum(nn.Module):
        """A gradient of one from each example: a sum that bfloat16 cannot count above 256."""

        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor([0.5], dtype=torch.bfloat16))

        def forward(self, x):
            return x * self.a

    points = torch.ones(600, 1), torch.full((600, 1), 1.0)
    surface = LossSurface(Sum(), points, loss="half_squared_sum", dtype="native", microbatch=1)
    (part,) = surface.gradient_apart().parts
    assert part.dtype is torch.float32 and float(part) == -300.0


def test_small_gradients_of_float16_are_not_lost_and_large_ones_do_not_overflow():
    for size in (1e-12, 1e-7, 1e3, 1e5):
        model = nn.Linear(5, 3).half()
        exact = copy.deepcopy(model).float()

        def loss(f, t, size=size):
            return size * nn.functional.cross_entropy(f, t)

        surface = LossSurface(model, (X, Y), loss=loss, dtype="native")
        expected = LossSurface(exact, (X.half().float(), Y), loss=loss).unflatten(
            LossSurface(exact, (X.half().float(), Y), loss=loss).gradient()[1]
        )
        for name, g in named(surface).items():
            torch.testing.assert_close(
                g.double().view(expected[name].shape), expected[name].double(), rtol=0.01, atol=2e-3 * size
            )
        surface.microbatch = 5
        assert surface.gradient_apart().factor == 1
        for name, g in named(surface).items():
            torch.testing.assert_close(
                g.double().view(expected[name].shape), expected[name].double(), rtol=0.01, atol=2e-3 * size
            )


def test_a_gradient_that_overflows_at_every_scale_is_refused(monkeypatch):
    monkeypatch.setattr(gradient_apart, "LEAST", 2.0**16)
    surface = LossSurface(nn.Linear(5, 3).half(), (X, Y), loss=lambda f, t: 1e3 * f.square().mean(), dtype="native")
    found = acutance.measure("gradient_norm", surface)
    assert found.status is Status.UNSUPPORTED and "overflows in float16" in found.message


def test_a_gradient_of_which_rounding_leaves_little_has_no_value():
    torch.manual_seed(0)
    model = net(torch.bfloat16)
    x = torch.randn(64, 5)
    with torch.no_grad():  # labels drawn such that the mean gradient nearly vanishes: the model's own probabilities
        target = model(x.bfloat16()).float().softmax(1)
    surface = LossSurface(model, (x, target), loss=nn.functional.cross_entropy, dtype="native")
    for name, fields in (("gradient_norm", {}), ("sam_sharpness", {"rho": 2.0})):
        found = acutance.measure(name, surface, **fields)
        assert found.status is Status.NOT_CONVERGED and "float32" in found.message
    assert acutance.measure("gradient_norm", surface).extras["gradient_rounding"] > in_place.UNSURE


def test_a_loss_that_falls_until_float16_overflows_has_no_critical_step_there():
    flat, native = surfaces(torch.float16)
    fields = {"parameters": "0.*", "logit_norm": True}
    found = acutance.measure("critical_sharpness", native, **fields)
    assert found.status is Status.NOT_CONVERGED and "leave the range of float16" in found.message
    assert acutance.measure("critical_sharpness", flat, **fields).status is Status.UNSUPPORTED


@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("scale", ["none", "filter"])
def test_what_rounding_does_to_a_gradient_is_its_distance_from_that_of_float32(scale, microbatch):
    flat, surface = surfaces(torch.bfloat16)
    surface.microbatch = microbatch
    found = acutance.measure("gradient_norm", surface, scaling=scale, parameters="0.*")
    rounded = LossSurface(flat.model, (X.bfloat16().float(), Y))  # the inputs are
    flat, surface = rounded.restricted("0.*"), surface.restricted("0.*")
    own, c = surface.gradient_apart(), acutance.scaling.vector(flat, scale)
    g, exact = torch.cat([block.clone() for block in own.blocks()]).double(), flat.gradient()[1].double()
    g, exact = (v if c is None else c * v for v in (g, exact))
    assert found.extras["gradient_rounding"] == pytest.approx(float((g - exact).norm() / exact.norm()), rel=1e-3)


def test_a_sketch_has_the_length_of_what_it_is_of():
    for size, rel in ((3, 1e-6), (1024, 1e-6), (50_000, 0.1)):
        x = torch.randn(size, generator=torch.Generator().manual_seed(size))
        sketch = gradient_apart.Sketch([size // 2, size - size // 2])
        sketch.add(0, x[: size // 2])
        sketch.add(1, x[size // 2 :], 2.0)
        exact = torch.cat([x[: size // 2], 2 * x[size // 2 :]])
        assert float(sketch.sums.norm()) == pytest.approx(float(exact.norm()), rel=rel)


class Long(nn.Module):
    """Sums over thousands of tokens that a CPU makes in the type of the weights."""

    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(3, 16), nn.LayerNorm(16)

    def forward(self, ids):
        return self.norm(self.words(ids)).mean(1)


def test_long_sums_that_are_made_in_half_precision_give_no_value():
    torch.manual_seed(0)
    model, ids = Long().bfloat16(), torch.randint(0, 3, (4, 2048))
    surface = LossSurface(model, (ids, torch.zeros(4, dtype=torch.long)), dtype="native")
    found = acutance.measure("gradient_norm", surface)
    assert found.status is Status.NOT_CONVERGED and "microbatch" in found.message
    assert found.extras["gradient_rounding"] > 0.3


class Branching(nn.Linear):
    """A model whose gradient is another in half precision."""

    def forward(self, x):
        return (
            super().forward(x.detach())
            if x.dtype is torch.float32
            else super().forward(x) * 2 - super().forward(x).detach()
        )


def test_a_gradient_that_is_wrong_in_half_precision_alone_has_no_value():
    surface = LossSurface(Branching(5, 3).bfloat16(), (X, Y), dtype="native")
    found = acutance.measure("gradient_norm", surface)
    assert found.status is Status.NOT_CONVERGED and found.extras["gradient_rounding"] > 0.5


def test_a_step_that_rounding_to_the_nearest_would_swallow_is_taken_on_average():
    _, surface = surfaces(torch.bfloat16)
    g = surface.gradient_apart()
    point = surface.piecewise_point()
    own = torch.cat([p.detach().reshape(-1) for p in surface.model.parameters()]).float()
    moves = []
    for k in range(400):
        w = torch.cat([p.reshape(-1) for p in point.place(g, 1e-3, Streams(k)).pieces.values()])
        moves.append(w.float() - own)
    wanted = 1e-3 * torch.cat([block.clone() for block in g.blocks()])
    large = own != 0
    mean = torch.stack(moves).mean(0)
    spread = (wanted.abs() * torch.finfo(torch.bfloat16).eps * own.abs()).sum().div(400).sqrt()
    assert float((mean - wanted)[large].norm()) < 1.3 * float(spread) < 0.4 * float(wanted.norm())
    again = torch.cat([p.reshape(-1) for p in point.place(g, 1e-3, Streams(3)).pieces.values()])
    assert torch.equal(again.float() - own, moves[3])
    to_nearest = torch.cat([p.reshape(-1) for p in point.place(g, 1e-3).pieces.values()]).float() - own
    assert float((to_nearest - wanted).norm()) > 0.5 * float(wanted.norm())


def test_a_large_vector_comes_in_small_blocks(monkeypatch):
    from acutance.surface import pieces

    monkeypatch.setattr(pieces, "BLOCK", 7)
    parts = [torch.randn(20, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3)]
    apart = Apart(parts, 0.5)
    assert [len(block) for block in apart.blocks()] == [7, 7, 6] * 3
    flat = torch.cat([p.double() for p in parts]) / 2
    for order in (1.0, 2.0, torch.inf):
        assert apart.norm(order) == pytest.approx(float(torch.linalg.vector_norm(flat, order)), rel=1e-12)


# -- what automatic differentiation does not see --------------------------------------------------------------------


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("how", [how for how in NAMED if how != "numpy"])
def test_what_autograd_does_not_see_is_refused(how, kind):
    surface = LossSurface(Net(how).to(kind), data(), dtype="native")
    found = acutance.measure("gradient_norm", surface)
    assert found.status is Status.UNSUPPORTED and ", ".join(NAMED[how]) + " past" in found.message
    pattern = "!back.*" if len(NAMED[how]) == 2 else "!back.weight"
    plain = LossSurface(Net("plain").to(kind), data(), dtype="native")
    values = [acutance.measure("gradient_norm", s, parameters=pattern).value for s in (surface, plain)]
    assert values[0] == values[1] > 0


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("how", [how for how in LAYERS if how != "plain"])
def test_a_gradient_that_is_not_the_derivative_is_refused(how, kind):
    model, names = Stack(how).to(kind), WRONG.get(how, ["b.weight"])
    surface = LossSurface(model, points(64), dtype="native")
    for case in ("norm", "SAM", "critical"):
        found = acutance.measure(CASES[case][0], surface, **CASES[case][1])
        assert found.status is Status.UNSUPPORTED
        assert f"the gradient in {', '.join(names)} is not the derivative of the loss (" in found.message
    assert 0 < surface.cost.checks <= 3 * 64
    assert acutance.measure("average_case", surface, rho=0.5, draws=3).status is not Status.UNSUPPORTED


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_detached_is_refused(name):
    loss, sound = LOSSES[name]
    surface = LossSurface(Stack("plain").bfloat16(), points(12), loss=loss, dtype="native")
    found = acutance.measure("gradient_norm", surface, scaling="none")
    assert ("the gradient of your loss" in found.message) is not sound


class OnlyHalf(nn.Module):
    """A model that cannot be evaluated in float32."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = nn.Linear(4, 3), [torch.eye(4, dtype=torch.bfloat16)]

    def forward(self, x):
        return self.net(x @ self.kept[0])


def test_what_cannot_be_told_is_said():
    surface = LossSurface(OnlyHalf().bfloat16(), data(), dtype="native")
    found = acutance.measure("gradient_norm", surface)
    assert found.status is Status.UNSUPPORTED and "cannot be told with weights in bfloat16" in found.message
    assert acutance.measure("average_case", surface, rho=0.5, draws=2).status is Status.OK


def test_large_models_are_examined_where_their_copy_lies(monkeypatch):
    for how in ("plain", "half", "rows"):
        for dtype in ("float32", "float64"):
            one, other = (
                LossSurface(Stack(how), points(64), dtype=dtype),
                LossSurface(Stack(how), points(64), dtype=dtype),
            )
            expected = one.core.examined()
            with monkeypatch.context() as patched:
                patched.setattr(secants, "LARGE", 0)
                assert other.core.examined() == expected
            assert one.cost == other.cost


def test_memory_is_the_gradient_in_its_own_type_and_the_weights_that_it_moves(monkeypatch):
    from acutance import scaling
    from acutance.numerics import draws
    from acutance.surface import pieces

    for module, name in ((draws, "BLOCK"), (pieces, "BLOCK"), (scaling, "CHUNK"), (secants, "CHUNK")):
        monkeypatch.setattr(module, name, 1 << 10)
    monkeypatch.setattr(secants, "LARGE", 0)
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(9)], nn.Linear(128, 3)).to(torch.bfloat16)
    own, largest = 2 * sum(p.numel() for p in model.parameters()), 4 * 128 * 128
    make = partial(LossSurface, model, (torch.randn(4, 128), torch.arange(4) % 3), dtype="native")
    for name, fields in (("gradient_norm", {}), ("sam_sharpness", {"rho": 1.0}), ("critical_sharpness", {})):
        surface = make()
        surface.clean()
        with LiveBytes() as live:
            found = acutance.measure(name, surface, **fields)
        assert found.status is Status.OK
        # A gradient and moved weights; or the copy in float32 that is examined, with a part of its gradient.
        assert 1.9 * own < live.peak < 2 * own + 6 * largest + 30_000
    with pytest.raises(UserError, match="has a vector"):
        LossSurface(net(), (X, Y)).piecewise_point()
    with pytest.raises(Unsupported, match="dtype: float32"):
        make().gradient()


def test_check_says_the_memory_that_gradients_take(monkeypatch, toy_config):
    from acutance.cli.check_ import _beside_native
    from acutance.study.config import load_config

    toy_config["surface"] = toy_config.get("surface", {}) | {"dtype": "native"}
    said = {}
    for name, fields in {
        "average_case": {"rho": 0.1}, "gradient_norm": {}, "critical_sharpness": {"direction": "update"},
    }.items():  # fmt: skip
        toy_config["measures"] = [{"name": name, **fields}]
        said[name] = _beside_native(load_config(toy_config))
    assert "gradient" not in said["average_case"]
    assert "and a gradient (in float32" in said["gradient_norm"]
    assert "where the optimizer's step is not known" in said["critical_sharpness"]
    # Bytes a weight, as it says: moved weights, a gradient, in microbatches, and the copy before it.
    assert "2 and 2 (4 in microbatches), and before these 4 " in said["gradient_norm"]
    from acutance import scaling
    from acutance.numerics import draws
    from acutance.surface import pieces

    for module, name in ((draws, "BLOCK"), (pieces, "BLOCK"), (scaling, "CHUNK"), (secants, "CHUNK")):
        monkeypatch.setattr(module, name, 1 << 10)
    monkeypatch.setattr(secants, "LARGE", 0)
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(128, 128) for _ in range(9)], nn.Linear(128, 3)).to(torch.bfloat16)
    count, part = sum(p.numel() for p in model.parameters()), 128 * 128
    for microbatch, expected in ((None, 4), (2, 6)):
        surface = LossSurface(model, (torch.randn(4, 128), torch.arange(4) % 3), dtype="native", microbatch=microbatch)
        surface.clean()
        with LiveBytes() as live:
            acutance.measure("sam_sharpness", surface, rho=1.0)
        assert expected * count <= live.peak < expected * count + 4 * 6 * part
    surface = LossSurface(model, (torch.randn(4, 128), torch.arange(4) % 3), dtype="native")
    surface.clean()
    with LiveBytes() as live:
        surface.core.examined()
    assert 4 * count <= live.peak < 4 * count + 4 * 6 * part


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_what_rounds_is_loaded_before_the_weights_are_copied(kind, monkeypatch):
    """Loaded between, it lies above them, and their memory is not given back."""
    _, surface = surfaces(torch.bfloat16)
    model = surface.core.functional.model.to(kind)
    order = []
    monkeypatch.setattr(in_place, "ready", lambda: order.append("loaded"))
    monkeypatch.setattr(in_place, "PiecewisePoint", lambda *_: order.append("copied"))
    LossSurface(model, (X, Y), dtype="native").piecewise_point()
    assert order == (["loaded", "copied"] if kind is torch.bfloat16 else ["copied"])
