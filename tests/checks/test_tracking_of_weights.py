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
    assert not surface.core.examined().blind


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
    again = LossSurface(surface.core.functional, (surface.inputs, surface.targets))
    again.gradient()
    assert (surface.cost.checks, again.cost.checks) == (spent, 0)
    assert (surface.cost - surface.cost).checks == 0 and (surface.cost + again.cost).checks == spent


def bent(q, r):
    """A value of r with the gradient of q: a straight-through estimator."""
    return q + (r - q).detach()


class Doubled(torch.autograd.Function):
    """The identity, with a backward pass that is not its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 2 * g


LAYERS = {
    "plain": nn.functional.linear,
    "rows": lambda h, w, b: nn.functional.linear(h, torch.cat([w[:2].detach(), w[2:]]), b),
    "half": lambda h, w, b: h @ w.T / 2 + h @ w.detach().T / 2 + b,
    "bias": lambda h, w, b: nn.functional.linear(h, w, torch.cat([b[:2].detach(), b[2:]])),
    "8 bits": lambda h, w, b: nn.functional.linear(h, bent(w, (w * 256).round() / 256), b),
    "signs": lambda h, w, b: nn.functional.linear(h, bent(w, w.sign() * w.abs().mean()), b),
    "rounded input": lambda h, w, b: nn.functional.linear(bent(h, (4 * h).round() / 4), w, b),
    "doubled": lambda h, w, b: nn.functional.linear(h, Doubled.apply(w), b),
}
WRONG = {"bias": ["b.bias"], "rounded input": ["a.weight", "a.bias"]}  # the others: b.weight


class Stack(nn.Module):
    """Three layers, the second used in the way that is named."""

    def __init__(self, how, act=torch.relu):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.how, self.act = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3), how, act

    def forward(self, x):
        return self.c(self.act(LAYERS[self.how](self.act(self.a(x)), self.b.weight, self.b.bias)))


def points(n):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(2)), torch.arange(n) % 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [how for how in LAYERS if how != "plain"])
def test_a_gradient_that_is_not_the_derivative_is_named_and_refused(how, dtype):
    model, names = Stack(how).to(getattr(torch, dtype)), WRONG.get(how, ["b.weight"])
    before = snapshot(model)
    surface = LossSurface(model, points(64), dtype=dtype)
    for call in DERIVATIVES.values():
        with pytest.raises(Unsupported) as caught:
            call(surface)
        assert f"the gradient in {', '.join(names)} is not the derivative of the loss (" in str(caught.value)
        assert "straight-through" in str(caught.value) and "values of the loss are right" in str(caught.value)
    assert surface.cost.checks <= 3 * 64
    after = snapshot(model)
    assert after["identities"] == before["identities"] and after["pointers"] == before["pointers"]
    torch.testing.assert_close(model.state_dict(), before["state"], rtol=0, atol=0)
    pattern = {"rounded input": "!a.*"}.get(how, f"!{names[0]}")
    assert f'parameters: "{pattern}"' in str(caught.value)
    surface.restricted(pattern).gradient()
    value = acutance.measure("average_case", model, points(64), rho=0.1, draws=3)
    assert value.status == "ok"  # it needs values alone
    assert acutance.measure("worst_case", model, points(64), rho=0.1, steps=2).status == "unsupported"


@pytest.mark.parametrize("n", [4, 8, 16, 40])
def test_naming_costs_no_more_than_a_pass_with_its_gradient(n):
    surface = LossSurface(Stack("signs"), points(n))
    with pytest.raises(Unsupported, match=r"b\.weight"):
        surface.gradient()
    assert 0 < surface.cost.checks <= 3 * n


@pytest.mark.parametrize("n,rows,passes", [(4, 1, 5), (32, 2, 5), (128, 8, 5), (500, 8, 5)])
def test_a_sound_model_costs_a_gradient_and_two_forwards_over_a_few_examples(n, rows, passes):
    surface = LossSurface(Stack("plain", torch.tanh), points(n))
    surface.gradient()
    assert surface.cost.checks == rows * passes
    kinks = LossSurface(Stack("plain"), points(n))
    kinks.gradient()
    assert kinks.cost.checks in (rows * passes, rows * 2 * passes, rows * (2 * passes + 2))  # float64 may be asked


def saturated(act, size):
    net = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(6, 6), act())], nn.Linear(6, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(size)
    return net


class Inside(nn.Module):
    """A model that computes in bfloat16 by itself."""

    def __init__(self):
        super().__init__()
        self.net = saturated(nn.Tanh, 1)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


class Single(nn.Module):
    """A model that takes float32 alone."""

    def __init__(self, how):
        super().__init__()
        self.net, self.kept = Stack(how), [torch.eye(4)]

    def forward(self, x):
        return self.net(x @ self.kept[0])


SOUND = {
    **{f"{act.__name__} {size}": lambda a=act, s=size: saturated(a, s)
       for act in (nn.ReLU, nn.Tanh, nn.Sigmoid) for size in (1e-2, 1, 30, 1e3)},
    "softmax": lambda: nn.Sequential(saturated(nn.ReLU, 30), nn.Softmax(1)),
    "pool": lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 8, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(16, 3)),
    "bf16": lambda: saturated(nn.ReLU, 1).bfloat16(),
    "bf16 inside": Inside,
    "dropout": lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(), nn.Linear(6, 3)),
    "constant": lambda: nn.Sequential(nn.Linear(6, 3), nn.Threshold(1e9, 0.5)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::acutance.AcutanceWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("which", SOUND)
def test_kinks_saturation_and_coarse_numbers_are_no_doubt(which, seed):
    torch.manual_seed(seed)
    surface = LossSurface(SOUND[which](), (torch.randn(32, 6), torch.arange(32) % 3))
    surface.gradient()
    found = surface.core.examined()
    assert not found.blind and not found.wrong and not found.loss


def test_a_model_that_takes_float32_alone_is_examined_in_it():
    x, y = points(64)
    LossSurface(Single("plain"), (x, y)).gradient()
    with pytest.raises(Unsupported, match=r"the gradient in net\.b\.weight is not the derivative"):
        LossSurface(Single("half"), (x, y)).gradient()


@pytest.mark.parametrize("row", [0, -1, None])
def test_padding_that_is_summed_up_has_no_gradient_and_is_no_doubt(row):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(9, 6, padding_idx=row), nn.Linear(6, 3)
            nn.init.normal_(self.words.weight)

        def forward(self, ids):
            return self.head(self.words(ids).tanh().mean(1))

    ids = torch.randint(1, 8, (32, 7), generator=torch.Generator().manual_seed(0))
    ids[:, 4:] = 8 if row == -1 else 0
    surface = LossSurface(Text(), (ids, torch.arange(32) % 3))
    surface.gradient()
    assert not surface.core.examined().wrong


def focal(f, t, how):
    share = (1 - f.softmax(1).gather(1, t[:, None])[:, 0]) ** 2
    return (how(share) * nn.functional.cross_entropy(f, t, reduction="none")).mean()


WEIGHTS = torch.tensor([1.0, 2.0, 0.5])
ENTROPY = nn.functional.cross_entropy
LOSSES = {
    "focal": (lambda f, t: focal(f, t, torch.clone), True),
    "focal, detached": (lambda f, t: focal(f, t, torch.detach), False),
    "partly": (lambda f, t: ENTROPY(f, t) + 0.3 * f.detach().square().mean(), False),
    "scaled": (lambda f, t: ENTROPY(f / (1 + f.detach().std()), t), False),
    "numpy": (lambda f, t: torch.tensor(float((f.detach().numpy() ** 2).mean())), False),
    "float32, detached": (lambda f, t: focal(f.float(), t, torch.detach), False),
    "hinge": (nn.functional.multi_margin_loss, True),
    "weights of classes": (lambda f, t: ENTROPY(f, t, weight=WEIGHTS), True),
    "float32": (lambda f, t: ENTROPY(f.float(), t), True),
    "large": (lambda f, t: 1e6 + ENTROPY(f, t), True),
    "worst half": (lambda f, t: ENTROPY(f, t, reduction="none").topk(max(1, len(t) // 2))[0].mean(), True),
    "entropy": (lambda f, t: -(f.softmax(1) * f.log_softmax(1)).sum(1).mean(), True),
    "constant": (lambda f, t: 0 * f.sum() + 1, True),
    "error": (lambda f, t: (f.argmax(1) != t).double().mean(), True),
}


@pytest.mark.parametrize("scale", [0, 1e-3, 1, 1e3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_detached_is_refused_where_it_is_differentiated(name, scale):
    loss, sound = LOSSES[name]
    net = Stack("plain")
    with torch.no_grad():
        for p in net.c.parameters():
            p.mul_(scale)
    surface = LossSurface(net, points(12), loss=loss)
    surface.loss()
    if sound:
        surface.gradient()
        return
    with pytest.raises(Unsupported, match=r"the gradient of your loss in the model's outputs is not its derivative"):
        surface.gradient()
    assert acutance.measure("average_case", net, points(12), loss=loss, rho=0.1, draws=2).status == "ok"


def test_a_loss_of_probabilities_is_looked_at_near_those_of_the_model():
    net = nn.Sequential(Stack("plain"), nn.Softmax(1))

    def loss(f, t, how):
        each = nn.functional.binary_cross_entropy(
            f, nn.functional.one_hot(t, 3).to(f), reduction="none"
        )  # 0 to 1 alone
        return (how(f) * each).mean()

    LossSurface(net, points(12), loss=lambda f, t: loss(f, t, torch.clone)).gradient()
    with pytest.raises(Unsupported, match="the gradient of your loss"):
        LossSurface(net, points(12), loss=lambda f, t: loss(f, t, torch.detach)).gradient()


def test_an_answer_that_is_no_number_any_more_has_moved():
    from acutance.checks.tracking import _moving_slots

    raw = torch.tensor([[1.0, float("nan")]])
    assert _moving_slots([0], lambda slots: torch.tensor([[float("nan"), 2.0]]), raw) == [0]
    assert _moving_slots([0], lambda slots: torch.tensor([[1.0, 2.0]]), raw) == []


VISION = ["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "densenet121", "dla34"]
SMALL = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "num_labels": 3, "pad_token_id": 0,
}  # fmt: skip
TEXT = {
    "Bert": {}, "Roberta": {}, "Albert": {"embedding_size": 16}, "Electra": {"embedding_size": 16},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 20},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "bos_token_id": 1, "eos_token_id": 2},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VISION)
def test_real_vision_networks_are_never_refused(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    surface = LossSurface(model, (torch.randn(32, 3, 64, 64), torch.arange(32) % 10))
    found = surface.core.examined()
    assert not found.blind and not found.wrong and surface.cost.checks <= 3 * 32


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_real_transformers_are_never_refused(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, **TEXT[name])
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    ids, mask = torch.randint(5, 90, (32, 12)), torch.ones(32, 12, dtype=torch.long)
    mask[::2, 8:] = ids[::2, 8:] = 0
    surface = LossSurface(model, ({"input_ids": ids, "attention_mask": mask}, torch.arange(32) % 3))
    found = surface.core.examined()
    assert not found.blind and not found.wrong and surface.cost.checks <= 3 * 32
