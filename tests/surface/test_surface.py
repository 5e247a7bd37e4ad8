"""The loss surface: values, derivatives, views, counts, and that it leaves everything as it was."""

import signal
import threading

import pytest
import torch
import torch.nn.functional as F
from models import (
    MLP,
    Attention,
    ConvBN,
    Tied,
    assert_untouched,
    conv_data,
    mlp_data,
    snapshot,
    tied_data,
    token_data,
)  # fmt: skip
from torch import nn

from acutance import AcutanceWarning, LossSurface, Unsupported, UserError
from acutance.model.exchange import HANDLES

CASES = {"mlp": (MLP, mlp_data), "conv_bn": (ConvBN, conv_data), "attention": (Attention, token_data)}


@pytest.fixture(params=CASES)
def case(request):
    build, data = CASES[request.param]
    return build(), data()


def test_loss_and_gradient_equal_autograd(case):
    model, (x, y) = case
    surface = LossSurface(model, (x, y))
    expected = F.cross_entropy(model.eval()(x), y)
    grads = torch.autograd.grad(expected, list(model.parameters()))
    loss, g = surface.gradient()
    assert loss.dtype == torch.float64 and loss.dim() == 0
    torch.testing.assert_close(surface.loss(), expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(g, torch.cat([v.reshape(-1) for v in grads]), rtol=1e-10, atol=1e-14)


def test_moving_the_point_equals_moving_the_weights(case):
    model, (x, y) = case
    surface = LossSurface(model, (x, y))
    w = surface.w + 0.1 * torch.randn(surface.w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = type(model)()
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, value in surface.unflatten(w).items():
            moved.get_parameter(name).copy_(value)
    torch.testing.assert_close(surface.loss(w), F.cross_entropy(moved.eval()(x), y).detach(), rtol=1e-12, atol=0)


def test_hvp_equals_finite_differences_of_the_gradient(case):
    model, data = case
    surface = LossSurface(model, data)
    v = torch.randn(surface.w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    eps = 1e-6
    for w in (None, surface.w + 1e-3):
        centre = surface.w if w is None else w
        difference = (surface.gradient(centre + eps * v)[1] - surface.gradient(centre - eps * v)[1]) / (2 * eps)
        torch.testing.assert_close(surface.hvp(v, w), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("microbatch", [1, 5, 100])
def test_microbatching_changes_nothing_but_memory(case, microbatch):
    model, data = case
    whole, cut = LossSurface(model, data), LossSurface(model, data, microbatch=microbatch)
    v = torch.ones_like(whole.w)
    for a, b in [
        (whole.loss(), cut.loss()),
        (whole.gradient()[1], cut.gradient()[1]),
        (whole.hvp(v), cut.hvp(v)),
        (whole.logits(), cut.logits()),
        (whole.losses(), cut.losses()),
        (whole.errors(), cut.errors()),
    ]:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_passes_are_counted_in_examples():
    surface = LossSurface(MLP(), mlp_data(24), microbatch=7)
    surface.loss()
    surface.loss()
    assert (surface.cost.forwards, surface.cost.backwards) == (24, 0)
    surface.gradient(surface.w + 1)
    assert (surface.cost.forwards, surface.cost.backwards, surface.cost.hvps) == (48, 24, 0)
    full = LossSurface(MLP(), mlp_data(24))
    for _ in range(3):
        full.hvp(full.w)
    # One graph, three products.
    assert (full.cost.forwards, full.cost.backwards, full.cost.hvps) == (24, 24, 72)


def test_a_transform_shares_the_clean_forward_with_its_parent():
    surface = LossSurface(MLP(), mlp_data())
    surface.loss()
    normalized = surface.transformed(logit_norm=True)
    normalized.loss()
    assert surface.cost.forwards == surface.n
    raw = surface.raw_logits()
    scaled = raw / (raw.var(1, correction=0, keepdim=True)).sqrt()
    torch.testing.assert_close(normalized.loss(), F.cross_entropy(scaled, surface.targets))
    assert surface.transformed(True) is normalized


def test_normalized_logits_have_unit_standard_deviation_and_survive_constant_ones():
    model = nn.Linear(3, 4, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, 2.0)
    surface = LossSurface(model, (torch.ones(5, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.long)))
    loss, g = surface.transformed().gradient()
    assert float(loss) == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert torch.isfinite(g).all()
    other = LossSurface(MLP(), mlp_data()).transformed()
    torch.testing.assert_close(other.logits().std(1, correction=0), torch.ones(24, dtype=torch.float64))


def test_one_logit_cannot_be_normalized():
    surface = LossSurface(nn.Linear(3, 1), (torch.randn(5, 3), torch.zeros(5)), loss="mse")
    with pytest.raises(Unsupported, match="the model has one output"):
        surface.transformed().loss()


def test_restricted_frees_only_what_is_named():
    surface = LossSurface(MLP(), mlp_data())
    part = surface.restricted("layers.0.*")
    assert part.w.numel() == 6 * 10 + 10
    start = surface.gradient()[1][: part.w.numel()]
    torch.testing.assert_close(part.gradient()[1], start)
    moved = surface.w.clone()
    moved[: part.w.numel()] += 0.5
    torch.testing.assert_close(part.loss(part.w + 0.5), surface.loss(moved))
    assert surface.restricted("!*.bias").w.numel() == 6 * 10 + 10 * 4
    with pytest.raises(UserError, match="matches no parameter"):
        surface.restricted("layer0*")
    with pytest.raises(UserError, match="no parameter free"):
        surface.restricted("!*")


def test_frozen_unused_tied_and_zero_parameters():
    model = Tied()
    surface = LossSurface(model, tied_data())
    # The tied matrix once, the frozen layer and the unused vector too.
    assert surface.w.numel() == 7 * 4 + 20 + 3
    _, g = surface.gradient()
    assert torch.isfinite(g).all()
    named = surface.unflatten(g)
    assert not named["unused"].any() and named["frozen.weight"].any()
    model.requires_grad_(True)
    (inputs, y) = tied_data()
    expected = torch.autograd.grad(
        F.cross_entropy(model(inputs["tokens"], inputs["mask"].double()), y), model.embed.weight
    )[0]
    torch.testing.assert_close(named["embed.weight"], expected)


def test_inputs_may_be_a_tuple_and_logits_an_attribute():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(Tied):
        def forward(self, tokens, mask):
            return Output(super().forward(tokens, mask))

    inputs, y = tied_data()
    a = LossSurface(Tied(), (inputs, y), microbatch=4).loss()
    b = LossSurface(Wrapped(), ((inputs["tokens"], inputs["mask"]), y), microbatch=4).loss()
    torch.testing.assert_close(a, b)


def test_everything_is_restored(case):
    model, data = case
    model.train()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    next(model.parameters()).requires_grad_(False)
    before = snapshot(model)
    surface = LossSurface(model, data, dtype="float32")
    surface.loss(surface.w + 1)
    surface.gradient(surface.w + 1)
    surface.hvp(torch.ones_like(surface.w))
    surface.errors()
    surface.transformed().gradient()
    assert_untouched(model, before)


class Fragile(MLP):
    fail = False

    def forward(self, x):
        y = super().forward(x)
        if self.fail:
            raise self.fail
        return y


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_everything_is_restored_after_an_exception(error):
    model = Fragile()
    surface = LossSurface(model, mlp_data())
    surface.loss()
    model.fail = error
    before = snapshot(model)
    for call in (
        lambda: surface.loss(surface.w + 1),
        lambda: surface.gradient(surface.w + 1),
        lambda: surface.hvp(surface.w),
    ):
        with pytest.raises(type(error)):
            call()
        assert_untouched(model, before)


def test_a_real_ctrl_c_leaves_the_model_whole():
    model = MLP()
    before = snapshot(model)
    surface = LossSurface(model, mlp_data())
    timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            surface.gradient(surface.w + 1)
    assert_untouched(model, before)


def test_a_random_model_is_refused():
    class Noisy(MLP):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5)

    with pytest.raises(UserError, match="different outputs for the same input"):
        LossSurface(Noisy(), mlp_data()).loss()


def test_dropout_modules_and_batch_norm_are_put_in_evaluation_mode():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).double().train()
    x, y = mlp_data()
    expected = F.cross_entropy(model.eval()(x), y).detach()
    model.train()
    torch.testing.assert_close(LossSurface(model, (x, y)).loss(), expected)
    assert model.training


def test_a_model_that_mixes_examples_cannot_be_microbatched():
    class Mixing(MLP):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    LossSurface(Mixing(), mlp_data()).loss()
    with pytest.raises(UserError, match="depends on the other examples"):
        LossSurface(Mixing(), mlp_data(), microbatch=8).loss()


def test_losses_near_zero_are_resolved_in_float32():
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[20.0, 0.0], [0.0, 0.0]]))
    surface = LossSurface(model, (torch.tensor([[1.0, 0.0]]), torch.tensor([0])))
    assert float(surface.loss()) == pytest.approx(2.0611536e-9, rel=1e-6)


def test_own_loss_functions_and_squared_error():
    x, _ = mlp_data()
    target = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    named = LossSurface(MLP(), (x, target), loss="mse")
    own = LossSurface(MLP(), (x, target), loss=lambda f, y: ((f - y) ** 2).sum(1).mean(), microbatch=5)
    torch.testing.assert_close(named.loss(), own.loss())
    torch.testing.assert_close(named.losses(), own.losses())
    torch.testing.assert_close(named.gradient()[1], own.gradient()[1])
    with pytest.raises(UserError, match="0-d tensor"):
        LossSurface(MLP(), (x, target), loss=lambda f, y: f - y).loss()


def test_a_surface_names_its_loss():
    def own(logits, targets):
        return F.cross_entropy(logits, targets)

    assert LossSurface(MLP(), mlp_data()).criterion == "cross_entropy"
    assert LossSurface(MLP(), mlp_data(), loss="mse").transformed().criterion == "mse"
    assert LossSurface(MLP(), mlp_data(), loss=own).criterion is own


@pytest.mark.parametrize("microbatch", [None, 5])
@pytest.mark.parametrize("name,factor", [("squared_sum", 1.0), ("half_squared_sum", 0.5)])
def test_losses_that_are_sums(name, factor, microbatch):
    x, _ = mlp_data()
    target = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = LossSurface(MLP(), (x, target), loss="mse")
    total = LossSurface(MLP(), (x, target), loss=name, microbatch=microbatch)
    v = torch.randn(len(mean.w), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(total.loss(), 24 * factor * mean.loss())
    torch.testing.assert_close(total.losses().sum(), total.loss())
    for found, known in (
        (total.gradient()[1], mean.gradient()[1]),
        (total.hvp(v), mean.hvp(v)),
        (total.ggnvp(v), mean.ggnvp(v)),
    ):
        torch.testing.assert_close(found, 24 * factor * known)
    torch.testing.assert_close(sum(g.sum(0) for g in total.example_gradients()), total.gradient()[1])


def test_one_output_without_a_class_axis_is_not_normalized():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x @ self.w

    surface = LossSurface(Line(), (torch.ones(5, 3), torch.zeros(5)), loss="mse")
    assert surface.logits().shape == (5,)
    with pytest.raises(Unsupported, match="the model has one output"):
        surface.transformed(logit_norm=True).loss()


def test_half_precision_weights_are_upcast_and_it_is_said():
    model = MLP(dtype=torch.float32).bfloat16()
    x, y = mlp_data()
    with pytest.warns(AcutanceWarning, match="bfloat16 are evaluated in float32"):
        surface = LossSurface(model, (x, y))
    assert surface.w.dtype == torch.float32 and torch.isfinite(surface.loss())
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LossSurface(MLP(), (mlp_data()[0], mlp_data()[1] + 2)).loss(), "labels run from"),
        (lambda: LossSurface(MLP(), (mlp_data()[0], mlp_data()[1][:5])), "24 inputs but 5 targets"),
        (lambda: LossSurface(MLP(), (mlp_data()[0][:0], mlp_data()[1][:0])), "there are no points"),
        (lambda: LossSurface(MLP(), mlp_data(), loss="cross_entropi"), "did you mean 'cross_entropy'"),
        (lambda: LossSurface(MLP(), mlp_data(), dtype="float16"), "choose float32, float64 or native"),
        (lambda: LossSurface(MLP(), mlp_data(), parameters="nothing*"), "matches no parameter"),
        (lambda: LossSurface(MLP(), mlp_data(), microbatch=0), "at least 1"),
        (lambda: LossSurface(nn.ReLU(), mlp_data()), "no floating-point parameters"),
        (lambda: LossSurface(MLP(), mlp_data()).loss(torch.zeros(3)), "free parameters"),
    ],
)
def test_bad_input_is_one_sentence(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_nan_weights_are_named():
    model = MLP()
    with torch.no_grad():
        model.layers[1].weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"layers\.1\.weight' has 1 non-finite"):
        LossSurface(model, mlp_data())


def test_autocast_around_a_measurement_changes_nothing():
    surface = LossSurface(MLP(dtype=torch.float32), mlp_data())
    plain = surface.loss(surface.w + 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(surface.loss(surface.w + 0.01), plain)


def test_recurrent_networks_follow_the_point():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

        def forward(self, x):
            return self.head(self.lstm(x[:, None])[0][:, -1])

    model = Recurrent().double()
    surface = LossSurface(model, mlp_data())
    assert not torch.equal(surface.loss(surface.w * 1.5), surface.loss())
    assert surface.gradient()[1].count_nonzero() > 100


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_never_move_the_weights_that_they_are_given(layer, monkeypatch):
    """On a GPU they would, to memory of their own, and stay behind when the point moves on."""
    moved = []
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", lambda self: moved.append(self))
    model = nn.Sequential(layer(6, 5, batch_first=True), First(), nn.Linear(5, 4)).double()
    own = {name: vars(model[0])[name] for name in HANDLES}
    moved.clear()
    surface = LossSurface(model, mlp_data())
    surface.loss(surface.w * 1.5), surface.gradient(surface.w * 2), surface.loss()
    assert not moved
    assert all(vars(model[0])[name] is handle for name, handle in own.items())


class First(nn.Module):
    """The outputs of a recurrent layer, without its state."""

    def forward(self, outputs):
        return outputs[0]


def test_encoder_layers_have_second_derivatives():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.layer(x).mean(1))

    surface = LossSurface(Encoder().double(), token_data())
    v = torch.randn(surface.w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = 1e-6
    difference = (surface.gradient(surface.w + eps * v)[1] - surface.gradient(surface.w - eps * v)[1]) / (2 * eps)
    torch.testing.assert_close(surface.hvp(v), difference, rtol=1e-4, atol=1e-6)


def test_an_operation_without_second_derivative_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return g * 2

    class Model(MLP):
        def forward(self, x):
            return Once.apply(super().forward(x))

    surface = LossSurface(Model(), mlp_data())
    with pytest.raises(Unsupported, match="second derivative"):
        surface.hvp(surface.w)
