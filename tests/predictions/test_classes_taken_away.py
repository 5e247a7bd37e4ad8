"""Classes whose logits are minus infinity: as if the model had never had them, and where that is no number, why."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from tables_of_logits import measured
from torch import nn

import acutance
from acutance import Status
from acutance.numerics.draws import Streams
from acutance.peers import Peer
from acutance.plugins import catalog

KEPT = [0, 2, 3, 5]
UNLABELED = ["mean_confidence", "prediction_entropy", "confidence_margin", "average_confidence"]
LABELLED = ["expected_calibration_error", "negative_log_likelihood", "brier_score", "temperature"]
VALIDATED = ["difference_of_confidences", "average_thresholded_confidence", "cot"]


def problem(n=60, k=4, seed=0):
    g = np.random.default_rng(seed)
    logits = 2 * g.normal(size=(n, k))
    return logits, np.array([g.choice(k, p=softmax(0.5 * row)) for row in logits])


def among(logits, y=None):
    """Return the same logits among six classes, two of which are taken away."""
    wide = np.full((len(logits), 6), -np.inf)
    wide[:, KEPT] = logits
    return wide if y is None else (wide, np.array(KEPT)[y])


@pytest.mark.parametrize("name", [*UNLABELED, *LABELLED, *VALIDATED])
@pytest.mark.parametrize("n", [60, 30_000])
def test_the_value_is_that_of_the_classes_that_are_left(name, n):
    if n > 60 and name not in ("temperature", "prediction_entropy"):
        pytest.skip("in one block")
    (points, y), beside = problem(n), problem(45, seed=1)
    y = y if name in LABELLED else None
    expected = measured(name, points, y, validation=beside)
    found = measured(name, among(points), None if y is None else np.array(KEPT)[y], validation=among(*beside))
    assert found.status is expected.status is Status.OK
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    numbers = {k: v for k, v in expected.extras.items() if isinstance(v, float)}
    assert {k: found.extras[k] for k in numbers} == pytest.approx(numbers, rel=1e-9)


def test_each_point_may_have_classes_of_its_own():
    logits, y = problem(80, 5)
    away = np.random.default_rng(3).random(logits.shape) < 0.4
    away[np.arange(80), y] = False
    away[0] = True
    away[0, y[0]] = False
    masked = np.where(away, -np.inf, logits)
    p = softmax(masked, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(np.where(away, 0, p * np.log(p)), axis=1).mean()
    assert measured("prediction_entropy", masked).value == pytest.approx(entropy, rel=1e-12)
    assert measured("mean_confidence", masked).value == pytest.approx(p.max(1).mean(), rel=1e-13)
    one_hot = np.eye(5)[y]
    assert measured("brier_score", masked, y).value == pytest.approx(((p - one_hot) ** 2).sum(1).mean(), rel=1e-12)
    loss = lambda t: -log_softmax(masked / math.exp(t), axis=1)[np.arange(80), y].mean()  # noqa: E731
    assert measured("negative_log_likelihood", masked, y).value == pytest.approx(loss(0), rel=1e-12)
    best = minimize_scalar(loss, bracket=(-1, 2), tol=1e-10)
    found = measured("temperature", masked, y)
    assert found.status is Status.OK and found.value == pytest.approx(math.exp(best.x), rel=1e-6)


def test_norms_of_predictions_have_zeros_of_the_classes_that_are_gone():
    points = problem()[0]
    p = np.pad(softmax(points, axis=1), ((0, 0), (0, 2)))
    nuclear = np.linalg.svd(p, compute_uv=False).sum() / math.sqrt(60 * 6)
    assert measured("nuclear_norm", among(points)).value == pytest.approx(nuclear, rel=1e-9)
    for normalization in ("auto", "softmax"):
        found = measured("mano", among(points), normalization=normalization)
        assert found.value == pytest.approx((p**4).mean() ** 0.25, rel=1e-12)
        assert found.extras == {"normalization": "softmax"}
    none = measured("mano", among(points), normalization="taylor")
    assert none.status is Status.UNSUPPORTED and "no polynomial of a logit of minus infinity" in none.message


def test_labels_that_are_taken_away_are_counted():
    points, y = problem()
    wide, labels = among(points, y)
    labels[:3] = 1
    found = measured("negative_log_likelihood", wide, labels)
    assert found.status is Status.NONFINITE
    assert "the labels of 3 of 60 points (the first in row 0) have a logit of minus infinity" in found.message
    own = measured("negative_log_likelihood", wide, labels, loss=lambda f, y: f[:, 0].mean())
    assert own.status is Status.NONFINITE and "the labels of 3 of 60 points have a logit" in own.message
    none = measured("temperature", wide, labels)
    assert none.status is Status.UNSUPPORTED and "no temperature makes them likely" in none.message
    p = softmax(wide, axis=1)
    brier = ((p - np.eye(6)[labels]) ** 2).sum(1).mean()
    assert measured("brier_score", wide, labels).value == pytest.approx(brier, rel=1e-12)
    assert measured("expected_calibration_error", wide, labels, bins=1).value == pytest.approx(
        abs(p.max(1).mean() - (p.argmax(1) == labels).mean()), rel=1e-12
    )


@pytest.mark.parametrize("name", ["mean_confidence", "brier_score", "temperature", "mano"])
@pytest.mark.parametrize("row", [[-math.inf] * 3, [1.0, math.inf, 0.0], [1.0, math.nan, -math.inf]])
def test_a_point_that_has_no_class_left_or_no_number_has_no_value(name, row):
    found = measured(name, [[1.0, 0.0, 2.0], row], [0, 0])
    assert found.status is Status.NONFINITE and "1 of 2 points are not finite" in found.message


@pytest.mark.parametrize(
    ("kept", "temperature"), [([0.0, 0.0], None), ([1.0, 1.0], None), ([2.0, 0.0], 2 / math.log(3))]
)
def test_classes_that_are_gone_make_no_temperature(kept, temperature):
    found = measured("temperature", [[*kept, *[-math.inf] * 3]] * 4, [0, 0, 0, 1])
    if temperature is None:
        assert found.status is Status.UNSUPPORTED and "are all equal: every temperature" in found.message
    else:
        assert found.value == pytest.approx(temperature, rel=1e-11)


class Masked(nn.Module):
    """A linear model of six classes, of which two are taken away."""

    def __init__(self, seed=0, gone=-torch.inf):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.Linear(3, 6)
        self.gone = gone

    def forward(self, x):
        return self.head(x).masked_fill(~torch.isin(torch.arange(6), torch.tensor(KEPT)), self.gone)


def drawn(n=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=g), torch.tensor(KEPT)[torch.arange(n) % 4]


GONE = (-torch.inf, -1e4)  # of the latter the probability is 0 too


@pytest.mark.parametrize("name", ["mixup_accuracy", "prediction_depth", "input_gradient_norm"])
def test_measures_of_other_points_and_of_layers_read_such_outputs(name):
    fields = {"layers": "head"} if name == "prediction_depth" else {}
    found, expected = (acutance.measure(name, Masked(gone=gone), drawn(), **fields) for gone in GONE)
    assert found.status is Status.OK and found.value == pytest.approx(expected.value, rel=1e-6)


def test_mixed_points_of_a_class_that_is_gone_have_no_loss():
    x, y = drawn()
    y[:5] = 1
    fields = {"layer": "head", "loss": lambda f, y: f[:, 0].mean()}
    lost = acutance.measure("mixup_davies_bouldin", Masked(), (x, y), **fields)
    assert lost.status is Status.NONFINITE and "the labels of mixed points have a logit of minus" in lost.message
    error = acutance.measure("mixup_davies_bouldin", Masked(), (x, y), factor="error", **fields)
    assert error.status is Status.OK and error.value > 0


def test_models_are_compared_by_the_classes_that_are_left():
    target = catalog().get("measures", "disagreement")
    values = []
    for gone in GONE:
        peers = [Peer.of(f"m{i}", acutance.LossSurface(Masked(i, gone), drawn()).unlabelled()) for i in range(3)]
        values.append([e.value for e in target().evaluate_pool(peers, target.Spec(), Streams("test"))])
    assert values[0] == values[1] and min(values[0]) > 0


def test_a_ranking_knows_the_errors_of_such_models():
    found, expected = (
        acutance.rank({f"m{i}": Masked(i, gone) for i in range(2)}, drawn()[0], drawn(60, 1), ["mean_confidence"])
        for gone in GONE
    )
    assert found.errors["error"].notna().all() and found.errors.equals(expected.errors)
    assert found.table["value"].tolist() == pytest.approx(expected.table["value"].tolist())
