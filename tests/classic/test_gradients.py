"""Measures of the gradients of single examples, against gradients taken one by one."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import MLP, mlp_data
from acutance.testing.twins import TWINS
from acutance_classic.gradient_agreement import GradientCoherence


def gradients(model, data, labels=None, names="."):
    """The gradient of each example's cross-entropy, one backward pass each, (n, p)."""
    inputs, targets = data
    chosen = [p for name, p in model.named_parameters() if names in f".{name}"]
    rows = []
    for x, y in zip(inputs, targets if labels is None else labels, strict=True):
        parts = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), chosen)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def case():
    model, data = MLP(torch.tanh), mlp_data()
    return model, data, gradients(model, data)


def value(name, case, **settings):
    return acutance.measure(name, LossSurface(case[0], case[1]), **settings)


def test_scatter_against_gradients_one_by_one(case):
    g = case[2]
    squares, mean = g.square().sum(1).mean().item(), g.mean(0)
    variance = g.var(0, correction=0)
    assert value("fisher_trace", case).value == pytest.approx(squares, rel=1e-12)
    assert value("gradient_variance", case).value == pytest.approx(variance.sum().item(), rel=1e-12)
    signal = mean.square().sum().item()
    assert value("gradient_noise_scale", case).value == pytest.approx((squares - signal) / signal, rel=1e-12)
    ratio = (mean.square() / variance).mean().item()
    found = value("gradient_signal_to_noise", case)
    assert found.value == pytest.approx(ratio, rel=1e-10) and found.extras["left_out"] == 0


def test_agreement_against_all_pairs(case):
    g = case[2]
    n = len(g)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    inner = [float(g[i] @ g[j]) for i, j in pairs]
    cosines = [float(F.cosine_similarity(g[i], g[j], dim=0)) for i, j in pairs]
    assert value("gradient_confusion", case).value == pytest.approx(-min(inner), rel=1e-12)
    assert value("gradient_confusion", case, product="cosine").value == pytest.approx(-min(cosines), rel=1e-12)
    few = [inner[k] for k, (i, j) in enumerate(pairs) if max(i, j) < 5]
    assert value("gradient_confusion", case, examples=5).value == pytest.approx(-min(few), rel=1e-12)
    assert value("gradient_coherence", case).value == pytest.approx(sum(cosines) / len(cosines), rel=1e-9)
    m = n * g.mean(0).square().sum() / g.square().sum(1).mean()
    assert value("gradient_coherence", case, form="m").value == pytest.approx(float(m), rel=1e-12)


def test_a_part_of_the_parameters(case):
    g = gradients(case[0], case[1], names="weight")
    assert value("fisher_trace", case, parameters="*weight").value == pytest.approx(float(g.square().sum(1).mean()))


def test_labels_of_the_model_give_the_trace_of_the_gauss_newton_matrix(case):
    """E_y |g(y)|^2, the sum over all classes by hand, is tr G, which is also the sum of K products for each weight."""
    model, data, _ = case
    p = model(data[0]).softmax(1).detach()
    every = [gradients(model, data, torch.full_like(data[1], k)).square().sum(1) for k in range(4)]
    exact = float((p * torch.stack(every, 1)).sum(1).mean())
    surface = LossSurface(model, data)
    identity = torch.eye(surface.w.numel(), dtype=torch.float64)
    assert sum(float(surface.ggnvp(e) @ e) for e in identity) == pytest.approx(exact, rel=1e-9)
    found = value("fisher_trace", case, labels="sampled", draws=200)
    assert abs(found.value - exact) < 4 * found.stderr and found.stderr < 0.01 * exact
    # The error that is told is that of the mean: the same as from other seeds.
    seeds = [value("fisher_trace", case, labels="sampled", draws=4, seed=s) for s in range(30)]
    spread = np.std([e.value for e in seeds], ddof=1)
    assert spread == pytest.approx(np.mean([e.stderr for e in seeds]), rel=0.5)
    assert value("fisher_trace", case, labels="sampled", draws=1).stderr is None


def test_sampled_labels_follow_the_probabilities():
    from acutance import Streams
    from acutance_classic.gradient_numerics import sampled_labels

    logits = torch.tensor([0.0, -math.inf, 2.0, 1.0]).double()
    model = nn.Linear(1, 4, bias=False).double()
    model.weight.data.copy_(logits.nan_to_num(neginf=-1e4)[:, None])
    surface = LossSurface(model, (torch.ones(50, 1).double(), torch.zeros(50, dtype=torch.long)))
    drawn = torch.cat(list(sampled_labels(surface, Streams(0), 200))).bincount(minlength=4) / 10_000
    assert drawn[1] == 0 and torch.allclose(drawn.double(), logits.softmax(0), atol=0.02)


def test_the_noise_scale_at_sampled_labels_is_that_of_each_draw(case):
    """The mean gradient at drawn labels is zero but for its noise: E|mean|^2 = E|g_i|^2 / n, so about n - 1."""
    found = value("gradient_noise_scale", case, labels="sampled", draws=100)
    assert found.value == pytest.approx(23, rel=0.3) and found.stderr < 2


def test_one_pass_serves_them_all(case):
    surface = LossSurface(case[0], case[1])
    names = [
        "fisher_trace",
        "gradient_variance",
        "gradient_noise_scale",
        "gradient_signal_to_noise",
        "gradient_coherence",
    ]
    costs = [acutance.measure(name, surface).cost for name in names]
    assert [c.forwards for c in costs] == [c.backwards for c in costs] == [24, 0, 0, 0, 0]
    measure = GradientCoherence()
    specs = [measure.Spec(), measure.Spec(form="m"), measure.Spec(parameters="*weight")]
    assert measure.passes_together(specs).forwards == 2


def test_gradients_that_do_not_vary():
    """A dead unit has no gradient at any example; two examples that are the same one have one gradient."""
    model, data = MLP(torch.relu), mlp_data()
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        first.weight[0] = 0
        first.bias[0] = -1
    found = acutance.measure("gradient_signal_to_noise", model, data)
    dead = (gradients(model, data) == 0).all(0).sum()
    assert found.extras["left_out"] == dead >= 6 + 1  # what goes into the unit, and what comes out of it
    twice = (data[0][:1].repeat(2, 1), data[1][:1].repeat(2))
    assert acutance.measure("gradient_variance", model, twice).value == 0
    found = acutance.measure("gradient_signal_to_noise", model, twice)
    assert found.status is Status.UNSUPPORTED and "no parameter's gradient differs" in found.message
    assert acutance.measure("gradient_coherence", model, twice).value == pytest.approx(1, rel=1e-12)
    assert acutance.measure("gradient_coherence", model, twice, form="m").value == pytest.approx(2, rel=1e-12)


def test_what_is_not_defined_is_said_in_a_sentence(case):
    inputs, targets = case[1]
    one = (inputs[:1], targets[:1])
    for name in ("gradient_variance", "gradient_coherence", "gradient_confusion", "gradient_noise_scale"):
        found = acutance.measure(name, case[0], one)
        assert found.status is Status.UNSUPPORTED and "a single example" in found.message
    assert acutance.measure("fisher_trace", case[0], one).value == pytest.approx(float(case[2][0].square().sum()))
    numbers = acutance.measure(
        "fisher_trace", LossSurface(case[0], (inputs, torch.zeros(24, 4)), "mse"), labels="sampled"
    )
    assert numbers.status is Status.UNSUPPORTED and "labels are drawn" in numbers.message
    # The mean of a quadratic's gradients at its minimum cancels up to rounding.
    line = nn.Linear(1, 1, bias=False).double()
    points = torch.tensor([[0.1], [0.7], [0.3]]).double()
    with torch.no_grad():
        line.weight.fill_(float((points * torch.tensor([[1.0], [0.0], [0.2]])).sum() / points.square().sum()))
    surface = LossSurface(line, (points, torch.tensor([[1.0], [0.0], [0.2]])), "mse")
    found = acutance.measure("gradient_noise_scale", surface)
    assert found.status is Status.UNSUPPORTED and "critical point" in found.message
    with pytest.raises(UserError, match=r"gradient_confusion\.examples"):
        acutance.measure("gradient_confusion", case[0], case[1], examples=1)


def test_a_model_that_mixes_examples_says_so():
    class Mixing(MLP):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    found = acutance.measure("gradient_variance", Mixing(), mlp_data())
    assert found.status is Status.UNSUPPORTED and "depends on the other examples" in found.message


def test_gradients_that_do_not_fit_the_memory(case, monkeypatch):
    monkeypatch.setattr("acutance_classic.gradient_pairs.HELD", 8 * case[2].shape[1] * 7)
    found = value("gradient_confusion", case)
    assert found.status is Status.UNSUPPORTED and "lower examples to 7" in found.message
    assert value("gradient_confusion", case, examples=7).status is Status.OK


def test_zero_gradients_have_no_direction():
    """Logits of a million: p is the label exactly, and the gradient exactly zero."""
    model, (inputs, targets) = nn.Linear(6, 4).double(), mlp_data()
    with torch.no_grad():
        targets = model(inputs).argmax(1)
        targets[:3] = (targets[:3] + 1) % 4
        model.weight.mul_(1e8)
        model.bias.mul_(1e8)
    found = acutance.measure("gradient_coherence", model, (inputs, targets))
    wrong = gradients(model, (inputs[:3], targets[:3]))
    unit = F.normalize(wrong, dim=1)
    assert found.extras["left_out"] == 21
    assert found.value == pytest.approx(float((unit @ unit.T).sum() - 3) / 6, rel=1e-9)
    found = acutance.measure("gradient_confusion", model, (inputs, targets), product="cosine")
    assert found.extras["left_out"] == 21 and found.value == pytest.approx(-float((unit @ unit.T).min()), rel=1e-9)
    right = (inputs[3:], targets[3:])
    for name in ("gradient_coherence", "gradient_weight_alignment"):
        assert acutance.measure(name, model, right).status is Status.UNSUPPORTED


def test_the_signal_to_noise_ratio_is_invariant_under_rescalings():
    for twin in TWINS:
        if twin.invariance in ("rescaling", "translation"):
            a, b = (
                acutance.measure("gradient_signal_to_noise", p.surface()).value for p in (twin.original, twin.changed)
            )
            assert a == pytest.approx(b, rel=1e-6), twin.name


# -- gradient-weight alignment --------------------------------------------------------------------------------------


def test_the_alignment_is_the_cosine_of_weights_and_a_step(case):
    """Against automatic differentiation in the last layer's weights, and scipy's kurtosis."""
    model, (inputs, targets), _ = case
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    cosines = []
    for x, y in zip(inputs, targets, strict=True):
        (g,) = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), last.weight)
        cosines.append(float(F.cosine_similarity(-g.flatten(), last.weight.detach().flatten(), dim=0)))
    found = value("gradient_weight_alignment", case, statistic="mean")
    assert found.value == pytest.approx(np.mean(cosines), rel=1e-10) and found.cost.forwards == 24
    assert found.extras["kurtosis"] == pytest.approx(stats.kurtosis(cosines), rel=1e-10)
    if stats.kurtosis(cosines) <= -1.2:
        refused = value("gradient_weight_alignment", case)
        assert refused.status is Status.UNSUPPORTED and "statistic: mean" in refused.message


def test_the_published_correction():
    """Of an exact distribution of alignments: W = (1, -1), features of one sign each, so that cosines are +-1/sqrt 2."""
    model = nn.Linear(1, 2, bias=False).double()
    model.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    inputs = torch.ones(10, 1).double()
    targets = torch.zeros(10, dtype=torch.long)
    targets[0] = 1
    cosines = [-1.0] + [1.0] * 9
    found = acutance.measure("gradient_weight_alignment", model, (inputs, targets))
    assert found.value == pytest.approx(np.mean(cosines) / (stats.kurtosis(cosines) + 1.2), rel=1e-12)
    assert found.extras["mean"] == pytest.approx(0.8)
    same = acutance.measure("gradient_weight_alignment", model, (inputs[1:], targets[1:]))
    assert same.status is Status.UNSUPPORTED and "no kurtosis" in same.message
    numbers = LossSurface(model, (inputs, torch.zeros(10, 2)), "mse")
    assert "cross-entropy" in acutance.measure("gradient_weight_alignment", numbers).message
