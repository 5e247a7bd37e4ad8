"""Recurrent networks on a device: cuDNN has no backward of them in evaluation mode, and its flags are the caller's."""

import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface
from acutance.surface.moving_point import MovingPoint

pytestmark = pytest.mark.gpu

SETTINGS = {
    "worst_case": {"rho": 0.1, "steps": 5},
    "average_case": {"rho": 0.1, "draws": 6},
    "hessian_trace": {"probes": 4},
    "gradient_norm": {},
}
SEEN: list[bool] = []  # not the model's own: what a pass leaves on a model is put back
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}


class Recurrent(nn.Module):
    """Two layers, both ways, whose last state is classified; says whether cuDNN was on in each pass."""

    def __init__(self, layer, broken=False):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = layer(4, 6, 2, batch_first=True, bidirectional=True), nn.Linear(12, 3)
        self.broken = broken

    def forward(self, x):
        SEEN.append(torch.backends.cudnn.enabled)
        if self.broken and torch.is_grad_enabled():
            raise ArithmeticError("broken")
        return self.head(self.cell(x)[0][:, -1])


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 5, 4, generator=generator), torch.arange(16) % 3


@pytest.fixture
def device(cuda):
    """Where the tests run."""
    return cuda.type


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("name", SETTINGS)
def test_values_are_those_of_float64_on_the_cpu(name, layer, dtype, device):
    here = acutance.measure(name, LossSurface(Recurrent(layer), data(), dtype=torch.float64), **SETTINGS[name])
    there = acutance.measure(name, LossSurface(Recurrent(layer), data(), device=device, dtype=dtype), **SETTINGS[name])
    assert here.status == there.status == "ok"
    scale = max(abs(here.value), float(here.extras.get("clean_loss", 0.0)))
    assert there.value == pytest.approx(here.value, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_cudnn_follows_a_point_that_moves_in_its_memory(layer, device):
    here = LossSurface(Recurrent(layer), data(), dtype=torch.float64)
    there = LossSurface(Recurrent(layer), data(), device=device, dtype=torch.float64)
    points = MovingPoint(here), MovingPoint(there)
    for scale in (0.1, 0.5, -0.3, 0.0):
        expected, found = (float(p.move(s.w, scale).value().loss) for p, s in zip(points, (here, there), strict=True))
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_derivatives_are_those_of_float64_on_the_cpu(layer, dtype, device):
    here = LossSurface(Recurrent(layer), data(), dtype=torch.float64)
    there = LossSurface(Recurrent(layer), data(), device=device, dtype=dtype)
    v = torch.randn(here.w.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for ask in (
        lambda s, x: s.gradient()[1], lambda s, x: s.gradient(s.w + 0.1 * x)[1], lambda s, x: s.hvp(x),
        lambda s, x: s.jvp(x), lambda s, x: torch.cat(list(s.example_gradients())),
    ):  # fmt: skip
        expected, found = ask(here, v), ask(there, v.to(there.w)).cpu().double()
        assert float((found - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_the_flags_of_cudnn_come_back(layer, on, device):
    flags = torch.backends.cudnn

    def state():
        return flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32

    with flags.flags(enabled=on, benchmark=True, deterministic=True, allow_tf32=True):
        before = state()
        SEEN.clear()
        surface = LossSurface(Recurrent(layer), data(), device=device)
        surface.loss()
        assert SEEN[-1] is on and state() == before  # before it, what opens a surface was tried
        SEEN.clear()
        surface.gradient(2 * surface.w), surface.hvp(surface.w)
        assert state() == before
        assert SEEN[-1] is (on and device != "cuda")  # a pass that is differentiated
        broken = LossSurface(Recurrent(layer, broken=True), data(), device=device)
        with pytest.raises(ArithmeticError):
            broken.gradient(2 * broken.w)
        assert state() == before
