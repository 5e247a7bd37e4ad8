"""What moves with the weights past automatic differentiation is found, named and refused; sound networks never are."""

import pytest
import torch
from models import MLP, Attention, ConvBN, conv_data, mlp_data, snapshot, token_data
from torch import nn

import acutance
from acutance import LossSurface, Unsupported


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 4, generator=generator), torch.arange(12) % 3


class Net(nn.Module):
    """Two layers, used in the way that is named; one more parameter that nothing reads."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.back, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.idle = nn.Parameter(torch.ones(2))
        self.how, self.kept = how, [self.back.weight]

    def forward(self, x):
        weight, how = self.back.weight, self.how
        if how == "list":
            weight = self.kept[0]
        elif how == "both":
            weight = (weight + self.kept[0]) / 2
        elif how == "own data":
            weight = self.kept[0].data
        elif how == "data":
            weight = weight.data
        elif how == "numpy":
            weight = torch.from_numpy(weight.detach().numpy().copy())
        with torch.set_grad_enabled(torch.is_grad_enabled() and how != "no_grad"):
            h = nn.functional.linear(x, weight, self.back.bias).tanh()
        return self.head(h.detach() if how == "detach" else h)


NAMED = {
    "no_grad": ["back.weight", "back.bias"], "detach": ["back.weight", "back.bias"], "data": ["back.weight"],
    "numpy": ["back.weight"],
}  # fmt: skip
DERIVATIVES = {
    "gradient": lambda s: s.gradient(),
    "at w": lambda s: s.gradient(2 * s.w),
    "hvp": lambda s: s.hvp(s.w),
    "hvps": lambda s: s.hvps(s.w[None]),
    "jvp": lambda s: s.jvp(s.w),
    "vjp": lambda s: s.vjp(s.logits()),
    "ggnvp": lambda s: s.ggnvp(s.w),
    "example_gradients": lambda s: s.example_gradients(),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", NAMED)
def test_what_autograd_does_not_see_is_named_and_refused(how, dtype):
    model = Net(how).to(getattr(torch, dtype))
    before = snapshot(model)
    surface = LossSurface(model, data(), dtype=dtype)
    for call in DERIVATIVES.values():
        with pytest.raises(Unsupported) as caught:
            call(surface)
        assert ", ".join(NAMED[how]) + " past" in str(caught.value)
    pattern = "!back.*" if len(NAMED[how]) == 2 else "!back.weight"
    assert f'parameters: "{pattern}"' in str(caught.value)
    after = snapshot(model)
    assert after["identities"] == before["identities"] and after["pointers"] == before["pointers"]
    assert float(surface.loss(2 * surface.w)) == pytest.approx(
        float(LossSurface(Net("plain").to(getattr(torch, dtype)), data()).loss(2 * surface.w)), rel=1e-2
    )
    free = surface.restricted(pattern)
    plain = LossSurface(Net("plain"), data(), dtype=dtype).restricted(pattern)
    assert torch.equal(free.gradient()[1], plain.gradient()[1])


@pytest.mark.parametrize("how", ["list", "both", "own data"])
def test_weights_that_a_model_takes_from_elsewhere_are_refused_also_without_derivatives(how):
    model = Net(how)
    before = snapshot(model)
    with pytest.raises(Unsupported, match=r"takes back\.weight from elsewhere"):
        LossSurface(model, data()).loss()
    assert snapshot(model)["pointers"] == before["pointers"]
    torch.testing.assert_close(model.state_dict(), before["state"], rtol=0, atol=0)


def test_a_measure_says_so_and_one_that_needs_no_gradient_is_right():
    found = acutance.measure("worst_case", Net("no_grad"), data(), rho=0.1)
    assert found.status == "unsupported" and 'parameters: "!back.*"' in found.message
    values = [
        acutance.measure("average_case", Net(how), data(), rho=0.1, draws=3).value for how in ("plain", "no_grad")
    ]
    assert values[0] == values[1]


def test_measures_of_curvature_do_not_advise_differences_of_gradients_that_are_as_wrong():
    found = acutance.measure("hessian_top_eigenvalue", Net("no_grad"), data())
    assert found.status == "unsupported" and "finite_difference" not in found.message


def test_a_last_layer_of_zeros_hides_nothing():
    net = Net("no_grad")
    nn.init.zeros_(net.head.weight)
    with pytest.raises(Unsupported, match=r"back\.weight, back\.bias past"):
        LossSurface(net, data()).gradient()


@pytest.mark.parametrize("n", [4, 12, 40])
def test_many_parameters_without_a_gradient_cost_no_more(n):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])
            self.head = nn.Linear(4, 3)
            for layer in self.layers:
                nn.init.eye_(layer.weight)

        @torch.no_grad()
        def features(self, x):
            return self.layers(x)

        def forward(self, x):
            return self.head(self.features(x))

    surface = LossSurface(Deep(), (torch.randn(n, 4), torch.arange(n) % 3))
    with pytest.raises(Unsupported, match=r"!layers\.\*"):
        surface.gradient()
    assert 0 < surface.cost.checks <= 3 * n


def test_a_parameter_without_effect_is_none_of_these():
    surface = LossSurface(Net("plain"), data())
    surface.gradient()
    assert surface.silent() == ["idle"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("model", "points"), [(MLP, mlp_data), (ConvBN, conv_data), (Attention, token_data)])
def test_sound_networks_are_never_refused(model, points, dtype):
    surface = LossSurface(model(), points(), dtype=dtype)
    surface.gradient()
    assert not surface._core.examined().blind


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_networks_are_never_refused(layer):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = layer(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    LossSurface(Recurrent(), (torch.randn(8, 3, 4), torch.arange(8) % 3)).gradient()


@pytest.mark.parametrize("how", ["saturated", "zeros", "frozen", "dead"])
def test_extreme_weights_are_never_refused(how):
    net = Net("plain")
    with torch.no_grad():
        for p in net.head.parameters() if how == "zeros" else net.parameters():
            p.mul_({"saturated": 1e3, "zeros": 0.0}.get(how, 1.0))
        if how == "dead":
            net.back.bias.fill_(-100.0)
    net.back.requires_grad_(how != "frozen")
    LossSurface(net, data()).gradient()


def test_kinks_at_zero_biases_and_zero_inputs_are_no_doubt():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for layer in net[::2]:
        nn.init.zeros_(layer.bias)
    x, y = data()
    LossSurface(net, (torch.cat([x[:6], torch.zeros(6, 4)]), y)).gradient()


def test_it_is_looked_at_once_a_model_and_costs_no_more_than_a_pass_with_its_gradient():
    surface = LossSurface(MLP(), tuple(part.repeat(4, *[1] * (part.dim() - 1)) for part in mlp_data()))
    surface.gradient(), surface.hvp(surface.w)
    spent = surface.cost.checks
    assert 0 < spent <= 3 * surface.n
    surface.gradient(2 * surface.w), surface.transformed().gradient()
    again = LossSurface(surface._core.functional, (surface.inputs, surface.targets))
    again.gradient()
    assert (surface.cost.checks, again.cost.checks) == (spent, 0)
    assert (surface.cost - surface.cost).checks == 0 and (surface.cost + again.cost).checks == spent


def test_an_answer_that_is_no_number_any_more_has_moved():
    from acutance.tracking import _those_that_move

    raw = torch.tensor([[1.0, float("nan")]])
    assert _those_that_move([0], lambda slots: torch.tensor([[float("nan"), 2.0]]), raw) == [0]
    assert _those_that_move([0], lambda slots: torch.tensor([[1.0, 2.0]]), raw) == []
