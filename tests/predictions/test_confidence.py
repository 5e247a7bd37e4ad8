"""Confidence of predictions: brute force over the points, without labels."""

import math

import pytest
import torch
from tables_of_logits import Table, measured
from torch import nn

import acutance
from acutance import Status

LOGITS = [[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-3.0, 5.0, 1.0], [1.0, 1.0, -2.0]]


def probabilities():
    for row in LOGITS:
        e = [math.exp(z) for z in row]
        yield [v / sum(e) for v in e]


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("mean_confidence", lambda p: max(p)),
        ("prediction_entropy", lambda p: -sum(v * math.log(v) for v in p)),
        ("confidence_margin", lambda p: sorted(p)[-1] - sorted(p)[-2]),
    ],
)
def test_it_is_the_mean_over_the_points(name, one):
    expected = sum(map(one, probabilities())) / len(LOGITS)
    found = measured(name, LOGITS)
    assert found.value == pytest.approx(expected, rel=1e-14) and found.status is Status.OK
    assert found.cost.forwards == len(LOGITS)


@pytest.mark.parametrize("name", ["mean_confidence", "prediction_entropy", "confidence_margin"])
def test_outputs_that_are_no_probabilities_have_no_value(name):
    one = measured(name, [[1.0], [2.0]])
    assert one.status is Status.UNSUPPORTED and "let the model return (0, f)" in one.message
    numbers = acutance.measure(name, nn.Linear(2, 3), (torch.randn(4, 2), torch.randn(4, 3)), loss="mse")
    assert numbers.status is Status.UNSUPPORTED and "cross_entropy" in numbers.message
    lost = measured(name, [[1.0, 2.0], [1e308, 0.0]], scale=10.0)
    assert lost.status is Status.NONFINITE and "the outputs of 1 of 2 points are not finite" in lost.message


def test_a_certain_model_has_no_entropy():
    assert measured("prediction_entropy", [[1e4, 0.0]]).value == 0
    assert measured("mean_confidence", [[1e4, 0.0]]).value == 1


def test_probabilities_are_computed_once_for_views_with_and_without_targets():
    surface = acutance.LossSurface(Table(LOGITS), (torch.arange(4).double()[:, None], torch.tensor([0, 1, 1, 2])))
    made = []
    assert surface.shared("x", lambda: made.append(1) or 5) == surface.unlabelled().shared("x", lambda: 6) == 5
    surface.release()
    assert surface.unlabelled().shared("x", lambda: 7) == 7 and made == [1]


def test_which_values_promise_a_lower_error_is_written_down_for_readers_without_the_plugin():
    from acutance.plugins import catalog
    from acutance.presentation import Presentation, presentation

    assert catalog().get("measures", "mean_confidence").traits.better == "larger"
    shown = presentation("prediction_entropy")
    assert shown.better == "smaller" and Presentation.of_json(shown.as_json()) == shown
    older = {name: value for name, value in shown.as_json().items() if name != "better"}
    assert Presentation.of_json(older).better == ""
