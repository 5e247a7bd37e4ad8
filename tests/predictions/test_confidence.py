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


class OneNumber(torch.nn.Module):
    """A number f a point, or what a message says to return in its place."""

    def __init__(self, instead="f"):
        super().__init__()
        self.head, self.instead = torch.nn.Linear(3, 1), instead

    def forward(self, x):
        return eval(self.instead, {"torch": torch, "f": self.head(x)[:, 0]})


@pytest.mark.parametrize(
    ("name", "labels"),
    [("mean_confidence", False), ("mean_confidence", True), ("brier_score", True), ("jacobian_norm", False),
     ("geometric_complexity", False), ("ntk_alignment", True)],
)  # fmt: skip
def test_a_model_that_gives_a_number_a_point_is_told_what_to_return(name, labels):
    x, y = torch.randn(16, 3), torch.arange(16) % 2
    points = (x, y if labels else None)
    own = {"loss": lambda f, y: (f * (1 - 2 * y)).mean()} if labels else {}
    found = acutance.measure(name, OneNumber(), points, **own)
    assert found.status is Status.UNSUPPORTED and "the model gives one number f: let it return" in found.message
    told = found.message.partition("let it return ")[2].removeprefix("the logits of two classes, ")
    assert acutance.measure(name, OneNumber(told), points).status is Status.OK


def test_cross_entropy_of_one_number_a_point_says_what_to_return():
    points = torch.randn(16, 3), torch.arange(16) % 2
    with pytest.raises(acutance.UserError, match="the model gives one number f a point") as told:
        acutance.measure("brier_score", OneNumber(), points)
    instead = told.value.hint.partition("let it return ")[2].partition(", the logits")[0]
    assert acutance.measure("brier_score", OneNumber(instead), points).status is Status.OK
    with pytest.raises(acutance.UserError, match=r"the model gives outputs of shape \(n, 1, 1\)") as told:
        acutance.measure("brier_score", OneNumber("f[:, None, None]"), points)
    assert "one row a point" in told.value.hint
    places = acutance.measure("mean_confidence", OneNumber("f[:, None, None]"), (points[0], None))
    assert "have shape (n, 1, 1): let the model return the (n, K) of one answer" in places.message
