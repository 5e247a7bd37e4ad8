"""Errors that are estimated without labels: brute force, on tables of logits beside validation points."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tables_of_logits import measured

import acutance
from acutance import Status

VALIDATED = ["difference_of_confidences", "average_thresholded_confidence", "cot"]


def drawn(n, k=4, seed=0, sharp=2.0):
    g = np.random.default_rng(seed)
    logits = sharp * g.normal(size=(n, k))
    return logits, np.array([g.choice(k, p=softmax(0.5 * row)) for row in logits])


POINTS, VALIDATION = drawn(60, seed=1, sharp=1.5)[0], drawn(45, seed=2)


def test_average_confidence_is_what_the_confidence_leaves():
    found = measured("average_confidence", POINTS)
    assert found.value == pytest.approx(1 - softmax(POINTS, axis=1).max(1).mean(), rel=1e-13)


def test_difference_of_confidences_adds_the_fall_to_the_validation_error():
    z, y = VALIDATION
    error = np.mean(z.argmax(1) != y)
    fall = softmax(z, axis=1).max(1).mean() - softmax(POINTS, axis=1).max(1).mean()
    found = measured("difference_of_confidences", POINTS, validation=VALIDATION)
    assert found.value == pytest.approx(error + fall, rel=1e-12) and abs(fall) > 0.01
    assert found.extras == pytest.approx({"validation_error": error, "fall": fall})
    assert found.cost.forwards == 60 + 45


@pytest.mark.parametrize("score", ["max_confidence", "negative_entropy"])
def test_the_share_below_the_threshold_is_the_validation_error_there(score):
    def scores(z):
        p = softmax(z, axis=1)
        return [max(row) if score == "max_confidence" else sum(v * math.log(v) for v in row) for row in p]

    z, y = VALIDATION
    wrong = sum(z.argmax(1) != y)
    found = measured("average_thresholded_confidence", POINTS, validation=VALIDATION, score=score)
    threshold = found.extras["threshold"]
    assert threshold in [pytest.approx(s, rel=1e-12) for s in scores(z)]
    assert sum(s < threshold - 1e-9 for s in scores(z)) == wrong > 0
    assert found.value == sum(s < threshold for s in scores(POINTS)) / 60
    assert found.extras["validation_error"] == found.extras["validation_below"] == wrong / 45
    same = measured("average_thresholded_confidence", np.vstack([z, z]), validation=VALIDATION, score=score)
    assert same.value == wrong / 45


def test_thresholds_of_the_two_scores_differ():
    points, beside = drawn(900, seed=5, sharp=1.5)[0], drawn(900, seed=6)
    values = {s: measured("average_thresholded_confidence", points, validation=beside, score=s).value
              for s in ("max_confidence", "negative_entropy")}  # fmt: skip
    assert len(set(values.values())) == 2


def test_without_errors_on_validation_only_points_less_sure_than_all_of_them_count():
    z = VALIDATION[0]
    found = measured("average_thresholded_confidence", POINTS, validation=(z, z.argmax(1)))
    assert found.value == np.mean(softmax(POINTS, axis=1).max(1) < softmax(z, axis=1).max(1).min())
    wrong = measured("average_thresholded_confidence", POINTS, validation=(z, z.argmin(1)))
    assert wrong.status is Status.UNSUPPORTED and "every validation point is wrong" in wrong.message


@pytest.mark.parametrize("score", ["max_confidence", "negative_entropy"])
def test_scores_that_tie_have_no_threshold_unless_few_do(score):
    saturated = (1000.0 * np.eye(3)[np.arange(60) % 3], np.zeros(60, dtype=int))  # wrong on 2/3, always sure
    lost = measured("average_thresholded_confidence", POINTS[:, :3], validation=saturated, score=score)
    assert lost.status is Status.UNSUPPORTED
    assert "scores of validation points tie" in lost.message and "0 of them" in lost.message and "0.667" in lost.message
    z, y = drawn(400, seed=3)
    z[np.argsort(softmax(z, axis=1).max(1))[::100]] = z[0]
    few = measured("average_thresholded_confidence", POINTS, validation=(z, y), score=score)
    assert few.status is Status.OK and abs(few.extras["validation_below"] - few.extras["validation_error"]) < 0.05


@pytest.mark.parametrize("name", VALIDATED)
def test_validation_points_that_are_missing_or_measured_themselves_are_refused(name):
    none = measured(name, POINTS)
    assert none.status is Status.UNSUPPORTED and "no validation points are known" in none.message
    model = torch.nn.Linear(3, 4)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 4
    own = acutance.measure(name, model, (x, None), validation=(x.clone(), y))
    assert own.status is Status.UNSUPPORTED and "name another split as validation" in own.message
    other = acutance.measure(name, model, (x + 1, None), validation=(x, y))
    assert other.status is Status.OK
    beyond = ([[1.0, 2.0, 0.0, 0.0], [1e308, 0.0, 0.0, 0.0]], [0, 1])
    lost = measured(name, POINTS, validation=beyond, scale=10.0)
    assert lost.status is Status.NONFINITE and "1 of 2 validation points" in lost.message


@pytest.mark.parametrize("name", ["average_confidence", *VALIDATED, "mano", "nuclear_norm"])
def test_labels_of_the_points_change_nothing(name):
    values = {measured(name, POINTS, y, validation=VALIDATION).value for y in (None, [0] * 60, [3] * 60)}
    assert len(values) == 1 and math.isfinite(*values)
