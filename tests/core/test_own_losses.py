"""Losses of one's own: a mean over examples, a weighted mean, or one that is no mean and is not cut into parts."""

import pytest
import torch
import torch.nn.functional as F
from models import MLP, mlp_data

import acutance
from acutance import LossSurface, UserError
from acutance.errors import NotInParts, Unsupported
from acutance.parts import divisible

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
