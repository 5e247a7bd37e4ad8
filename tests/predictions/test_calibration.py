"""Calibration: brute force over the points and bins, scikit-learn, and closed forms of two classes."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from tables_of_logits import measured

import acutance
from acutance import Status

ALL = ["expected_calibration_error", "negative_log_likelihood", "brier_score", "temperature"]


def problem(n=400, k=5, seed=0, sharp=2.0):
    g = np.random.default_rng(seed)
    logits = sharp * g.normal(size=(n, k))
    y = np.array([g.choice(k, p=softmax(0.6 * row)) for row in logits])
    return logits, y


def value(name, logits, y, **fields):
    return measured(name, logits, y, **fields)


def bins_by_hand(logits, y, edges):
    """Yield confidences and hits of each bin (left, right]."""
    p = softmax(logits, axis=1)
    conf, hit = p.max(1), p.argmax(1) == y
    for left, right in itertools.pairwise(edges):
        inside = [i for i in range(len(y)) if left < conf[i] <= right]
        if inside:
            yield conf[inside], hit[inside]


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_ece_is_the_mean_gap_over_right_closed_bins(bins):
    logits, y = problem()
    expected, xs, ys = 0.0, [], []
    for conf, hit in bins_by_hand(logits, y, [b / bins for b in range(bins + 1)]):
        expected += len(conf) / len(y) * abs(conf.mean() - hit.mean())
        xs.append(conf.mean())
        ys.append(hit.mean())
    found = value("expected_calibration_error", logits, y, bins=bins)
    assert found.value == pytest.approx(expected, rel=1e-12) and found.status is Status.OK
    assert found.extras["reliability"]["x"] == pytest.approx(xs, rel=1e-12)
    assert found.extras["reliability"]["y"] == pytest.approx(ys, rel=1e-12)
    assert found.extras["filled_bins"] == len(xs)


def test_bins_are_closed_at_the_right():
    # Two bins: a confidence of exactly 1/2 is in the first, with accuracy 1; the other in the second, with accuracy 0.
    found = value("expected_calibration_error", [[0.0, 0.0], [50.0, 0.0]], [0, 1], bins=2)
    assert found.value == pytest.approx(0.5 * 0.5 + 0.5 * 1, rel=1e-12)
    assert found.extras["reliability"]["x"] == pytest.approx([0.5, 1.0])


def test_bins_of_equal_mass_hold_equally_many_points_and_keep_equal_confidences_together():
    logits, y = problem(n=300)
    conf = np.sort(softmax(logits, axis=1).max(1))
    edges = [0.0, *(conf[math.ceil(j * 300 / 7) - 1] for j in range(1, 7)), 1.0]
    parts = list(bins_by_hand(logits, y, edges))
    assert max(len(c) for c, _ in parts) - min(len(c) for c, _ in parts) <= 1
    expected = sum(len(c) / 300 * abs(c.mean() - h.mean()) for c, h in parts)
    found = value("expected_calibration_error", logits, y, bins=7, binning="equal_mass")
    assert found.extras["reliability"]["x"] == pytest.approx([c.mean() for c, _ in parts], rel=1e-12)
    assert found.value == pytest.approx(expected, rel=1e-12)
    tied = value("expected_calibration_error", [[1.0, 0.5]] * 10, [0] * 5 + [1] * 5, bins=5, binning="equal_mass")
    assert tied.value == pytest.approx(1 / (1 + math.exp(-0.5)) - 0.5) and tied.extras["filled_bins"] == 1


def test_what_is_subtracted_is_what_normal_noise_adds():
    logits, y = problem()
    plain, fair = (value("expected_calibration_error", logits, y, bins=6, debiased=d) for d in (False, True))
    g, bias = np.random.default_rng(1), 0.0
    for conf, hit in bins_by_hand(logits, y, [b / 6 for b in range(7)]):
        sigma = math.sqrt(hit.mean() * (1 - hit.mean()) / len(hit))
        noisy = np.abs(conf.mean() - hit.mean() + sigma * g.normal(size=400_000)).mean()
        bias += len(conf) / len(y) * (noisy - abs(conf.mean() - hit.mean()))
    assert plain.value - fair.value == pytest.approx(bias, abs=2e-4) and bias > 2e-3
    assert plain.extras["bias"] == fair.extras["bias"] == pytest.approx(plain.value - fair.value, rel=1e-9)


def test_bins_without_noise_have_no_bias():
    found = value("expected_calibration_error", [[3.0, 0.0], [0.2, 0.0]], [0, 1], debiased=True)
    plain = value("expected_calibration_error", [[3.0, 0.0], [0.2, 0.0]], [0, 1])
    assert found.value == plain.value > 0


def test_debiased_is_nearer_to_the_truth_of_a_calibrated_model():
    g = np.random.default_rng(3)
    plain, fair = [], []
    for _ in range(20):
        logits = 2 * g.normal(size=(300, 4))
        y = np.array([g.choice(4, p=softmax(row)) for row in logits])
        plain.append(value("expected_calibration_error", logits, y).value)
        fair.append(value("expected_calibration_error", logits, y, debiased=True).value)
    assert abs(np.mean(fair)) < 0.7 * np.mean(plain)


def test_likelihood_and_brier_are_those_of_scikit_learn_and_the_sum_over_classes():
    logits, y = problem()
    p = softmax(logits, axis=1)
    assert value("negative_log_likelihood", logits, y).value == pytest.approx(log_loss(y, p), rel=1e-12)
    by_hand = np.mean([sum((p[i, k] - (k == y[i])) ** 2 for k in range(5)) for i in range(len(y))])
    assert value("brier_score", logits, y).value == pytest.approx(by_hand, rel=1e-12)
    assert value("brier_score", [[40.0, 0.0]], [1]).value == pytest.approx(2)
    assert value("brier_score", [[800.0, 0.0]], [0]).value == 0


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0, 1e39])
@pytest.mark.parametrize("n", [400, 20_000])  # so many begin in float32
def test_temperature_is_the_minimum_of_the_likelihood(scale, n):
    logits, y = problem(n=n, sharp=2.0)
    logits = scale * logits
    loss = lambda t: -np.mean(log_softmax(logits / math.exp(t), axis=1)[np.arange(len(y)), y])  # noqa: E731
    best = minimize_scalar(loss, bracket=(math.log(scale) - 1, math.log(scale) + 2), tol=1e-10)
    found = value("temperature", logits, y)
    assert found.status is Status.OK and found.value == pytest.approx(math.exp(best.x), rel=1e-6)
    assert found.extras["negative_log_likelihood"] == pytest.approx(best.fun, rel=1e-10)


def test_temperature_of_one_logit_is_that_of_the_odds():
    # Three of four right at logit 2: the odds are 3, so 2 / T = log 3.
    found = value("temperature", [[2.0, 0.0]] * 4, [0, 0, 0, 1])
    assert found.value == pytest.approx(2 / math.log(3), rel=1e-11)


def test_there_is_no_temperature_where_the_minimum_is_at_an_end():
    logits, _ = problem(n=30)
    right = value("temperature", logits, logits.argmax(1))
    assert right.status is Status.UNSUPPORTED and "smaller temperatures" in right.message
    for wrong in (logits.argmin(1), np.zeros(2, dtype=int)):
        found = value("temperature", logits if len(wrong) == 30 else np.zeros((2, 3)) + [[1, 2, 3]], wrong)
        assert found.status is Status.UNSUPPORTED and "larger temperatures" in found.message
    even = value("temperature", np.zeros((3, 2)) + [[1], [2], [0]], [0, 1, 0])
    assert even.status is Status.UNSUPPORTED and "all equal: every temperature" in even.message
    # Of two points of two labels with the larger logit, one ties: it is not right, and no logit is above the label's.
    tied = value("temperature", [[1.0, 1.0], [2.0, 0.0]], [1, 0])
    assert tied.status is Status.UNSUPPORTED and "no logit of any point is above that of its label" in tied.message
    assert value("temperature", [[1.0, 1.0], [2.0, 0.0], [0.5, 0.0]], [1, 0, 1]).status is Status.OK


@pytest.mark.parametrize("name", ALL)
def test_labels_that_are_no_classes_and_outputs_that_are_not_finite_have_no_value(name):
    numbers = acutance.measure(name, torch.nn.Linear(2, 3), (torch.randn(4, 2), torch.randn(4, 3)), loss="mse")
    assert numbers.status is Status.UNSUPPORTED and "cross_entropy" in numbers.message
    with pytest.raises(acutance.UserError, match="needs targets"):
        measured(name, [[1.0, 0.3]])
    lost = value(name, [[1.0, 2.0], [1e308, 0.0]], [0, 0], scale=10.0)
    assert lost.status is Status.NONFINITE
