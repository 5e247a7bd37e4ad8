"""Losses of one's own: a mean over examples, a weighted mean, or one that is no mean and is not cut into parts."""

import pytest
import torch
import torch.nn.functional as F
from models import MLP, mlp_data

import acutance
from acutance import LossSurface, UserError
from acutance.checks.parts import divisible
from acutance.errors import AcutanceWarning, NotInParts, Unsupported

CLASS_WEIGHTS = torch.tensor([0.1, 1.0, 5.0, 2.0], dtype=torch.float64)


def class_weights(f, y):
    return F.cross_entropy(f, y, weight=CLASS_WEIGHTS.to(f))


def ignored(f, y):
    return F.cross_entropy(f, y, ignore_index=0)


def summed(f, y):
    return F.cross_entropy(f, y, reduction="sum")


def contrastive(f, y):
    z = F.normalize(f)
    same = (y[:, None] == y).to(z)
    return -((z @ z.T).log_softmax(1) * same).sum() / same.sum()


def spread(f, y):
    return F.cross_entropy(f, y) + f.var(0, correction=0).sum()


def fixed_size(f, y):
    return (F.cross_entropy(f, y, reduction="none") * torch.linspace(0, 1, 24, dtype=f.dtype)).mean()


def weighted(f, y):
    return F.cross_entropy(f, y, reduction="none"), CLASS_WEIGHTS[y]


def without_zero(f, y):
    return F.cross_entropy(f, y, reduction="none"), (y != 0).float()


def plain(f, y):
    return F.cross_entropy(f, y)


NO_MEANS = [class_weights, ignored, summed, contrastive, spread, fixed_size]
PASSES = {
    "gradient": lambda s: s.gradient(s.w + 0.1)[1],
    "clean gradient": lambda s: s.gradient()[1],
    "hvp": lambda s: s.hvp(s.w),
    "hvps": lambda s: s.hvps(s.w[None]),
    "ggnvp": lambda s: s.ggnvp(s.w),
}


@pytest.mark.parametrize("loss", NO_MEANS)
def test_a_loss_that_is_no_mean_is_never_computed_in_parts(loss):
    whole, parts = LossSurface(MLP(), mlp_data(), loss=loss), LossSurface(MLP(), mlp_data(), loss=loss, microbatch=5)
    # Forward passes alone are joined before the loss is computed.
    torch.testing.assert_close(parts.loss(), whole.loss())
    torch.testing.assert_close(parts.loss(parts.w + 0.1), whole.loss(whole.w + 0.1))
    for name, derive in PASSES.items():
        assert derive(whole).isfinite().all(), name
        with pytest.raises(NotInParts, match=r"(passes of 5|of 5 of 24 examples).*\(losses, weights\)"):
            derive(LossSurface(MLP(), mlp_data(), loss=loss, microbatch=5))
    with pytest.raises(Unsupported, match="single examples have no loss"):
        whole.losses()
    with pytest.raises(Unsupported, match="single examples have no loss"):
        whole.example_gradients()


def test_the_refusal_is_a_row_and_follows_the_passes_as_they_are():
    surface = LossSurface(MLP(), mlp_data(), loss=class_weights)
    value = acutance.measure("worst_case", surface, rho=0.1, steps=2).value
    surface.microbatch = 6
    refused = acutance.measure("worst_case", surface, rho=0.1, steps=2)
    assert refused.status.value == "failed" and "no mean over the examples" in refused.message
    surface.microbatch = None
    assert acutance.measure("worst_case", surface, rho=0.1, steps=2).value == value
    assert not divisible(surface, 6) and surface.microbatch is None
    assert divisible(LossSurface(MLP(), mlp_data(), loss=plain), 6)


@pytest.mark.parametrize("loss,by_torch", [(weighted, class_weights), (without_zero, ignored)])
def test_losses_with_weights_are_the_same_at_every_microbatch(loss, by_torch):
    expected = LossSurface(MLP(), mlp_data(), loss=by_torch)
    w, v = expected.w + 0.1, expected.w.flip(0)
    for microbatch in (None, 1, 7, 24):
        found = LossSurface(MLP(), mlp_data(), loss=loss, microbatch=microbatch)
        torch.testing.assert_close(found.loss(w), expected.loss(w))
        torch.testing.assert_close(found.gradient(w), expected.gradient(w))
        torch.testing.assert_close(found.hvp(v), expected.hvp(v))
        torch.testing.assert_close(found.ggnvp(v), expected.ggnvp(v))
        torch.testing.assert_close(found.losses().mean(), expected.loss())
        torch.testing.assert_close(torch.cat(list(found.example_gradients())).mean(0), expected.gradient()[1])
    alone = F.cross_entropy(expected.logits(), expected.targets, reduction="none")
    weights = CLASS_WEIGHTS[expected.targets] if loss is weighted else (expected.targets != 0).double()
    torch.testing.assert_close(found.losses(), 24 * weights * alone / weights.sum())


def test_a_plain_mean_is_taken_in_parts_at_no_more_passes():
    surface = LossSurface(MLP(), mlp_data(), loss=plain, microbatch=5)
    surface.gradient()
    assert (surface.cost.forwards, surface.cost.backwards) == (24, 24)
    expected = LossSurface(MLP(), mlp_data())
    torch.testing.assert_close(surface.gradient()[1], expected.gradient()[1])
    surface.hvp(surface.w)  # the logits at w* are known from the gradient
    assert (surface.cost.forwards, surface.cost.backwards, surface.cost.hvps) == (48, 48, 24)


@pytest.mark.parametrize("weights,message", [
    (lambda f, y: f[:, 0].square(), "change with the logits"),
    (lambda f, y: 0.0 * y, "not all 0"),
    (lambda f, y: -1.0 * y, "not negative"),
    (lambda f, y: torch.where(y == 1, torch.nan, 1.0), "must be finite"),
    (lambda f, y: torch.ones(1), r"gave \(shape \(24,\), shape \(1,\)\)"),
])  # fmt: skip
def test_weights_that_are_none_are_refused(weights, message):
    def loss(f, y):
        return F.cross_entropy(f, y, reduction="none"), weights(f, y)

    with pytest.raises(UserError, match=message):
        LossSurface(MLP(), mlp_data(), loss=loss).loss()


@pytest.mark.parametrize("loss", ["mse", "squared_sum", "half_squared_sum"])
def test_a_squared_distance_takes_a_number_for_each_output(loss):
    x, y = mlp_data()
    onehot = F.one_hot(y, 4)
    good = LossSurface(MLP(), (x, onehot), loss=loss).loss()
    torch.testing.assert_close(LossSurface(MLP(), (x, onehot.double().view(24, 2, 2)), loss=loss).loss(), good)
    for targets in (y, y[:, None], y.double(), y > 0, onehot[:, :3], torch.zeros(24, 4, 4)):
        with pytest.raises(UserError, match=f"{loss} needs a number for each output: an example has 4 outputs"):
            LossSurface(MLP(), (x, targets), loss=loss).loss()
    one = torch.nn.Linear(6, 1, dtype=torch.float64)
    numbers = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (one(x)[:, 0] - numbers).square().detach()
    for targets in (numbers, numbers[:, None]):
        found = LossSurface(one, (x, targets), loss=loss).losses()
        torch.testing.assert_close(found * (2 if "half" in loss else 1), expected)
    with pytest.raises(UserError, match="an example has 1 outputs"):
        LossSurface(one, (x, torch.randn(24, 3)), loss=loss).loss()


@pytest.mark.parametrize("targets,message", [
    (lambda y: F.one_hot(y, 4), r"argmax\(1\)"),
    (lambda y: y[:, None], r"squeeze\(1\)"),
    (lambda y: y.double(), "integer class labels"),
    (lambda y: y - 1, "labels run from -1"),
    (lambda y: y + 1, "to 4 but the model has 4 classes"),
])  # fmt: skip
def test_cross_entropy_takes_class_labels(targets, message):
    x, y = mlp_data()
    with pytest.raises(UserError, match=message):
        LossSurface(MLP(), (x, targets(y)), loss="cross_entropy").loss()


def test_cross_entropy_of_one_logit_is_refused():
    with pytest.raises(UserError, match="of a single output is 0 whatever it is"):
        LossSurface(torch.nn.Linear(3, 1), (torch.ones(5, 3), torch.zeros(5, dtype=torch.long))).loss()


@pytest.mark.parametrize("scale", ["paper", "released"])
@pytest.mark.parametrize("measure", ["average_case", "worst_case", "gradient_norm", "hessian_trace"])
def test_two_classes_are_not_normalized(measure, scale):
    surface = LossSurface(torch.nn.Linear(3, 2), (torch.ones(5, 3), torch.zeros(5, dtype=torch.long)))
    fields = {"rho": 0.1} if measure in ("average_case", "worst_case") else {}
    found = acutance.measure(measure, surface, logit_norm=True, norm_scale=scale, **fields)
    assert found.status.value == "unsupported" and "two classes makes every pair of logits +-1" in found.message
    assert acutance.measure(measure, surface, **fields).status.value == "ok"


class Dropped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, f, y):
        return F.cross_entropy(self.drop(f), y)


class Annealed:
    """Keeps a running mean, as self-paced losses do."""

    def __init__(self):
        self.mean = 0.0

    def __call__(self, f, y):
        loss = F.cross_entropy(f, y)
        self.mean = 0.99 * self.mean + 0.01 * float(loss)
        return loss - self.mean


CHANGING = {
    "dropout": Dropped,
    "state": Annealed,
    "noise": lambda: lambda f, y: F.cross_entropy(f + torch.rand(()), y) * torch.rand(()),
}


@pytest.mark.parametrize("name,fields", [("average_case", {"rho": 0.1, "draws": 3}), ("gradient_norm", {"rho": 0.1})])
@pytest.mark.parametrize("how", CHANGING)
def test_a_loss_that_is_another_every_time_is_refused_by_every_measure(how, name, fields):
    with pytest.raises(UserError, match="different values for the same outputs and targets") as caught:
        acutance.measure(name, MLP(), mlp_data(), loss=CHANGING[how](), **fields)
    assert ("has Dropout: call its eval() first" in str(caught.value)) == (how == "dropout")


def test_a_loss_in_evaluation_mode_is_what_it_says():
    found = acutance.measure("loss", MLP(), mlp_data(), loss=Dropped().eval())
    assert found.value == pytest.approx(acutance.measure("loss", MLP(), mlp_data()).value, rel=1e-6)


def one_output(n=24):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, 0]


def by_hand(f, y):
    return ((f - y) ** 2).mean()


STRETCHING = {
    "mse": F.mse_loss,
    "huber": torch.nn.HuberLoss(),
    "by hand": by_hand,
    "absolute": lambda f, y: (f - y).abs().mean(),
}


@pytest.mark.parametrize("how", STRETCHING)
@pytest.mark.parametrize("flat", [False, True])
def test_outputs_and_targets_that_stretch_each_other_are_refused(how, flat):
    x, y = one_output()
    model = torch.nn.Sequential(torch.nn.Linear(6, 1), *[torch.nn.Flatten(0)] * flat)
    y = y[:, None] if flat else y
    with pytest.raises(UserError, match=r"stretches outputs of shape \(24,"):
        acutance.measure("average_case", model, (x, y), loss=STRETCHING[how], rho=0.1)
    fitting = y[:, 0] if flat else y[:, None]
    assert acutance.measure("average_case", model, (x, fitting), loss=STRETCHING[how], rho=0.1, draws=3).status == "ok"


@pytest.mark.parametrize("loss", [
    lambda f, y: ((f[:, 0] - y) ** 2).mean(),
    lambda f, y: F.mse_loss(f.squeeze(1), y),
    lambda f, y: (f**2).mean(),  # of no targets at all
    lambda f, y: F.binary_cross_entropy_with_logits(f[:, 0], (y > 0).to(f)),
])  # fmt: skip
def test_a_loss_that_brings_the_shapes_together_itself_is_taken(loss):
    model = torch.nn.Linear(6, 1)
    assert acutance.measure("average_case", model, one_output(), loss=loss, rho=0.1, draws=3).status == "ok"


def test_an_output_that_meets_several_targets_is_refused_as_torch_warns():
    x, y = one_output()
    with pytest.raises(UserError, match="stretches outputs"):
        LossSurface(torch.nn.Linear(6, 3), (x, y[:, None]), loss=F.mse_loss).loss()


@pytest.mark.parametrize("loss,fields,told", [
    (lambda f, y: 1 / 0, {}, r"your function raised ZeroDivisionError: division by zero \(it is called as loss\(outputs"),
    (lambda f: f.mean(), {}, "raised TypeError: .*with outputs of shape .24, 4., float64, and targets of shape .24,., int64"),
    (torch.nn.CrossEntropyLoss(torch.ones(4)), {"dtype": "float64"}, r"'CrossEntropyLoss' raised .* loss.to\(torch.float64"),
    (torch.nn.CrossEntropyLoss, {}, r"CrossEntropyLoss is a class, not a loss \(make one: CrossEntropyLoss\(\)"),
    (["mse"], {}, "unknown loss"),
])  # fmt: skip
def test_a_loss_that_fails_is_one_sentence_with_its_cause(loss, fields, told):
    with pytest.raises(UserError, match=told) as caught:
        acutance.measure("average_case", MLP(), mlp_data(), loss=loss, rho=0.1, **fields)
    assert (caught.value.__cause__ is not None) == ("raised" in told)


def test_a_loss_that_is_no_number_at_the_weights_is_not_blamed_on_the_radius():
    for loss in (lambda f, y: F.cross_entropy(f, y) * float("nan"), lambda f, y: F.cross_entropy(f, y) + float("inf")):
        for name in ("average_case", "worst_case"):
            found = acutance.measure(name, MLP(), mlp_data(), loss=loss, rho=0.1)
            assert found.status == "nonfinite" and "your loss gives no number" in found.message
            assert "radius" not in found.message
    x, y = mlp_data()
    model = torch.nn.Linear(6, 4)
    torch.nn.init.constant_(model.bias, 1e38)
    torch.nn.init.constant_(model.weight, 1e3)
    found = acutance.measure("average_case", model, (x.float().abs() * 1e37, y), rho=0.1)
    assert found.status == "nonfinite" and "points are not finite" in found.message


def test_what_is_no_vector_and_no_count_is_one_sentence():
    surface = LossSurface(MLP(), mlp_data())
    for call in (surface.loss, surface.gradient, surface.hvp, surface.hvps, surface.jvp, surface.vjp, surface.ggnvp):
        with pytest.raises(UserError, match="must be a tensor, got str"):
            call("a")
    with pytest.raises(UserError, match="w must be a tensor, got list"):
        surface.example_gradients([1.0])
    for wrong in (2.5, "8", True, 0, -1):
        with pytest.raises(UserError, match="m: must be a whole number of at least 1"):
            acutance.measure("loss", MLP(), mlp_data(), m=wrong)
        with pytest.raises(UserError, match="microbatch: must be a whole number of at least 1"):
            LossSurface(MLP(), mlp_data(), microbatch=wrong)
        with pytest.raises(UserError, match="microbatch: must be a whole number of at least 1"):
            surface.microbatch = wrong


def test_points_of_another_dtype_than_the_surface_are_taken():
    surface = LossSurface(MLP(), mlp_data(), dtype="float64")
    assert surface.loss(surface.w.float()).dtype == torch.float64


class Ending(torch.nn.Module):
    """A model whose last step is a function."""

    def __init__(self, last):
        super().__init__()
        self.net, self.last = MLP(), last

    def forward(self, x):
        return self.last(self.net(x))


def softmax(f):
    return f.softmax(1)


def log_softmax(f):
    return f.log_softmax(1)


def summing_to_one(f):
    return f - f.mean(1, keepdim=True) + 1 / f.shape[1]


@pytest.mark.parametrize("last,loss,said", [
    (summing_to_one, "cross_entropy", ""), (softmax, "cross_entropy", "cross-entropy takes the softmax of them again"),
    (softmax, F.cross_entropy, "cross-entropy takes the softmax of them again"),
    (softmax, torch.nn.CrossEntropyLoss(), "cross-entropy takes the softmax of them again"),
    (torch.sigmoid, "cross_entropy", "ends in a sigmoid, and its loss takes the softmax"), (log_softmax, "cross_entropy", ""), (torch.tanh, "cross_entropy", ""),
    (torch.tanh, torch.nn.NLLLoss(), "nll_loss takes log-probabilities"), (softmax, F.nll_loss, "nll_loss takes"),
    (log_softmax, torch.nn.NLLLoss(), ""), (softmax, plain, ""),
])  # fmt: skip
def test_outputs_that_are_not_what_torchs_loss_takes_are_noted(last, loss, said):
    estimate = acutance.measure("loss", LossSurface(Ending(last), mlp_data(), loss=loss))
    notes = [note for note in estimate.notes if "takes" in note]
    assert (len(notes) == 1 and said in notes[0]) if said else not notes


def test_whole_numbers_as_floats_are_told_apart_from_one_hot_rows():
    x, y = mlp_data()
    with pytest.raises(UserError, match=r"whole numbers as torch\.float64") as told:
        acutance.measure("loss", MLP(), (x, y.double()))
    assert told.value.hint == "write targets.long()"
    with pytest.raises(UserError, match="needs integer class labels of shape"):
        acutance.measure("loss", MLP(), (x, y.double() + 0.5))


class Two(torch.nn.Module):
    """A mean and a log-variance for each example, as a tuple or a dict."""

    def __init__(self, named=False):
        super().__init__()
        self.mean, self.spread, self.named = MLP(dims=(6, 1)), MLP(dims=(6, 1)), named

    def forward(self, x):
        found = self.mean(x), self.spread(x)
        return dict(zip(("logits", "spread"), found, strict=True)) if self.named else found


def by_place(o, y):
    return F.gaussian_nll_loss(o[0], y, o[1].exp())


def unpacked(o, y):
    mean, spread = o
    return F.gaussian_nll_loss(mean, y, spread.exp())


def by_name(o, y):
    return F.gaussian_nll_loss(o["logits"], y, o["spread"].exp())


def of_either(o, y):
    return F.mse_loss(o[0] if isinstance(o, tuple) else o, y)


@pytest.mark.parametrize(
    "loss,named,n", [(by_place, False, 24), (unpacked, False, 2), (unpacked, False, 24), (by_name, True, 24)]
)
def test_a_loss_of_all_that_a_model_returns_is_refused(loss, named, n):
    x = mlp_data()[0][:n]
    with pytest.raises(UserError, match=f"'{loss.__name__}' takes all that the model returns") as told:
        acutance.measure("gradient_norm", Two(named), (x, x[:, :1]), loss=loss)
    assert "torch.cat(outputs, 1)" in told.value.hint


@pytest.mark.parametrize("loss", [F.mse_loss, torch.nn.MSELoss(), of_either, "mse"])
def test_a_loss_of_the_first_output_is_taken_and_the_choice_said(loss):
    x = mlp_data()[0]
    with pytest.warns(AcutanceWarning, match="returns 2 outputs: the first"):
        estimate = acutance.measure("loss", Two(), (x, x[:, :1]), loss=loss)
    assert estimate.value == pytest.approx(float(F.mse_loss(MLP(dims=(6, 1))(x), x[:, :1]).detach()))
    named = acutance.measure("loss", Two(named=True), (x, x[:, :1]), loss="mse")
    assert named.value == estimate.value and any("returns spread beside 'logits'" in note for note in named.notes)


def test_a_sigmoid_before_a_loss_that_applies_one_is_noted():
    x = mlp_data()[0]
    targets = (x[:, :4] > 0).double()
    notes = {
        last: acutance.measure(
            "gradient_norm", LossSurface(Ending(last), (x, targets), loss=F.binary_cross_entropy_with_logits)
        ).notes
        for last in (torch.sigmoid, torch.tanh)
    }
    assert any("ends in a sigmoid, and its loss takes a sigmoid again" in note for note in notes[torch.sigmoid])
    assert not any("sigmoid" in note for note in notes[torch.tanh])


@pytest.mark.parametrize("shape,labels,hint", [
    ((5, 4, 3), (5, 3), "torch.nn.functional.cross_entropy, which takes"), ((5, 3, 4), (5, 3), "flatten"),
])  # fmt: skip
def test_classes_at_every_place_are_told_what_loss_to_give(shape, labels, hint):
    class Places(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(shape[1:]))

        def forward(self, x):
            return x[:, :, None] * self.w

    with pytest.raises(UserError, match="needs logits of shape") as told:
        acutance.measure("loss", Places(), (torch.randn(5, shape[1]), torch.zeros(labels, dtype=torch.long)))
    assert hint in told.value.hint


def test_a_label_to_ignore_is_told_what_loss_to_give():
    x, y = mlp_data()
    with pytest.raises(UserError, match="labels run from -100") as told:
        acutance.measure("loss", MLP(), (x, y.masked_fill(y == 0, -100)))
    assert "torch.nn.CrossEntropyLoss()" in told.value.hint
