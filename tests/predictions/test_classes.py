"""Classes in feature space: brute force in NumPy, scikit-learn, collapsed features, and what cannot be measured."""

import collections
import math

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import Status


class Head(nn.Module):
    """Features that are the inputs, in front of a linear head of given weights."""

    def __init__(self, weight):
        super().__init__()
        self.body = nn.Identity()
        self.head = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            self.head.weight.copy_(torch.as_tensor(weight))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(self.body(x))


def problem(n=60, d=7, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    f = rng.normal(size=(classes, d))[y] * 2 + rng.normal(size=(n, d)) + 1
    return f, y, rng.normal(size=(classes, d))


def measured(name, f, y, weight, **fields):
    data = (torch.as_tensor(np.asarray(f)), None if y is None else torch.as_tensor(np.asarray(y)))
    return acutance.measure(name, Head(np.asarray(weight)), data, **fields)


def class_parts(f, y):
    means = np.array([f[y == c].mean(0) for c in np.unique(y)])
    within = sum(np.outer(row - f[y == c].mean(0), row - f[y == c].mean(0)) for row, c in zip(f, y)) / len(f)
    return means, means - means.mean(0), within


def test_nc1_is_the_trace_with_the_pseudo_inverse():
    f, y, w = problem()
    _, m, within = class_parts(f, y)
    between = sum(np.outer(row, row) for row in m) / len(m)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(m)
    found = measured("neural_collapse", f, y, w)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.extras["rank"] == 3 and found.cost.forwards == 60
    named = measured("neural_collapse", f, y, w, layer="body")
    assert named.value == pytest.approx(expected, rel=1e-9) and named.cost.forwards == 120


def test_nc1_of_fewer_dimensions_than_classes():
    f, y, w = problem(d=2)
    _, m, within = class_parts(f, y)
    expected = np.trace(within @ np.linalg.inv(m.T @ m / len(m))) / len(m)
    assert measured("neural_collapse", f, y, w).value == pytest.approx(expected, rel=1e-9)


def test_nc2_is_the_spread_of_norms_and_angles():
    f, y, w = problem()
    _, m, _ = class_parts(f, y)
    norms = [math.sqrt(sum(row**2)) for row in m]
    cosines = [
        a @ b / p / q for i, (a, p) in enumerate(zip(m, norms)) for j, (b, q) in enumerate(zip(m, norms)) if i != j
    ]
    found = measured("neural_collapse", f, y, w, metric="nc2")
    assert found.extras["equinorm"] == pytest.approx(np.std(norms) / np.mean(norms), rel=1e-10)
    assert found.extras["equiangularity"] == pytest.approx(np.std(cosines), rel=1e-10)
    assert found.extras["distance_from_maximal_angle"] == pytest.approx(np.mean(np.abs(np.array(cosines) + 1 / 3)))
    assert found.value == pytest.approx(found.extras["equinorm"] + found.extras["equiangularity"], rel=1e-14)


def test_nc3_and_nc4_are_brute_force():
    f, y, w = problem()
    means, m, _ = class_parts(f, y)
    expected = sum(((w / np.sqrt((w**2).sum()) - m / np.sqrt((m**2).sum())) ** 2).ravel())
    assert measured("neural_collapse", f, y, w, metric="nc3").value == pytest.approx(expected, rel=1e-12)
    other = [int(np.argmax(w @ row)) != min(range(4), key=lambda c: math.dist(row, means[c])) for row in f]
    assert 0 < sum(other) < 60
    assert measured("neural_collapse", f, y, w, metric="nc4").value == pytest.approx(sum(other) / 60, rel=1e-14)
    assert "leave 'layer' away" in measured("neural_collapse", f, y, w, metric="nc3", layer="body").message


@pytest.mark.parametrize("metric", ["nc1", "nc2", "nc3", "nc4"])
def test_collapsed_features_have_none_of_it(metric):
    simplex = np.eye(4) - 1 / 4
    y = np.arange(20) % 4
    found = measured("neural_collapse", simplex[y] * 3, y, simplex, metric=metric)
    assert found.value == pytest.approx(0, abs=1e-12) and found.status is Status.OK


def test_classes_without_points_are_left_out():
    f, y, w = problem()
    y = np.where(y == 2, 3, y)
    _, m, within = class_parts(f, y)
    expected = np.trace(within @ np.linalg.pinv(m.T @ m / 3, rcond=1e-10)) / 3
    assert measured("neural_collapse", f, y, w).value == pytest.approx(expected, rel=1e-9)
    present = w[[0, 1, 3]]
    expected = (((present / np.sqrt((present**2).sum())) - m / np.sqrt((m**2).sum())) ** 2).sum()
    assert measured("neural_collapse", f, y, w, metric="nc3").value == pytest.approx(expected, rel=1e-12)


def test_variance_over_distance_is_the_mean_over_pairs():
    f, y, w = problem()
    means = {c: f[y == c].mean(0) for c in range(4)}
    variances = {c: np.mean([math.dist(row, means[c]) ** 2 for row in f[y == c]]) for c in range(4)}
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    expected = np.mean([(variances[a] + variances[b]) / 2 / math.dist(means[a], means[b]) ** 2 for a, b in pairs])
    found = measured("class_distance_normalized_variance", f, y, w)
    assert found.value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", ["class_distance_normalized_variance", "davies_bouldin"])
@pytest.mark.parametrize("power", [-100, 30, 60, 200])
def test_the_unit_of_the_features_does_not_matter(name, power):
    f, y, w = problem()
    expected = measured(name, f, y, w)
    found = measured(name, 2.0**power * f, y, 2.0**-power * w)
    assert found.status is Status.OK and found.value == expected.value
    same = measured(name, np.where(y[:, None] == 3, f, 1.0) * 2.0**power, y, 2.0**-power * w)
    assert same.status is Status.UNSUPPORTED and "classes 0 and 1 have the same mean" in same.message


def test_the_index_is_that_of_scikit_learn():
    score = pytest.importorskip("sklearn.metrics").davies_bouldin_score
    f, y, w = problem()
    assert measured("davies_bouldin", f, y, w).value == pytest.approx(score(f, y), rel=1e-10)
    y = np.where(y == 1, 0, y)
    assert measured("davies_bouldin", f, y, w).value == pytest.approx(score(f, y), rel=1e-10)


def test_mixed_points_are_of_one_class_and_another_point():
    from acutance import Streams
    from acutance_predictions.representations.changed_points import partners

    y = torch.tensor([0, 1, 0, 2, 1, 0, 1, 1])
    seen = set()
    for draw in range(20):
        found = partners(y, Streams("test"), draw)
        assert sorted(found.tolist()) == list(range(8)) and torch.equal(y[found], y)
        assert [i for i in range(8) if found[i] == i] == [3]
        seen.add(tuple(found.tolist()))
    assert len(seen) > 5


def test_mixup_accuracy_is_that_of_the_mixed_points():
    from acutance import Streams
    from acutance_predictions.representations.changed_points import mixed, partners

    f, y, w = problem()
    surface = acutance.LossSurface(Head(w), (torch.tensor(f), torch.tensor(y)))
    rng, right, losses = Streams("test"), [], []
    for draw in range(3):
        j = partners(torch.tensor(y), rng, draw).numpy()
        logits = (0.3 * f + 0.7 * f[j]) @ w.T
        right.append(np.mean(logits.argmax(1) == y))
        losses.append(np.mean([math.log(sum(np.exp(z))) - z[c] for z, c in zip(logits, y)]))
    found = mixed(surface, 0.3, 3, rng)
    assert found.accuracies == pytest.approx(right, rel=1e-14) and found.losses == pytest.approx(losses, rel=1e-12)
    value = measured("mixup_accuracy", f, y, w, draws=4)
    assert 0 < value.value < 1 and value.cost.forwards == 300 and value.stderr is not None


def test_the_product_is_index_times_loss_or_error():
    f, y, w = problem()
    index, accuracy = measured("davies_bouldin", f, y, w).value, measured("mixup_accuracy", f, y, w)
    error = measured("mixup_davies_bouldin", f, y, w, factor="error")
    assert error.value == pytest.approx(index * (1 - error.extras["mixup_accuracy"]), rel=1e-12)
    loss = measured("mixup_davies_bouldin", f, y, w)
    assert loss.value > 0 and loss.extras["davies_bouldin"] == pytest.approx(index, rel=1e-14)
    assert loss.value != pytest.approx(error.value) and loss.cost.forwards == accuracy.cost.forwards == 180


def test_images_that_are_moved_keep_their_class_or_not():
    # The class says in which column the one bright pixel is; a mirrored image has it on the other side.
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3, bias=False)).double()
    x = torch.zeros(3, 1, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.arange(9) % 3 == c for c in range(3)]).double())
    for i in range(3):
        x[i, 0, 1, i] = 1.0
    flip = acutance.measure("augmentation_consistency", model, (x, None), change="flip")
    assert flip.value == pytest.approx(1 / 3) and flip.cost.forwards == 6
    found = acutance.measure("augmentation_consistency", model, (x, None), pixels=1)
    # Up and down: all stay. To the left (0, 1, 2) -> (out, 0, 1), to the right -> (1, 2, out); what is out is class 0.
    assert found.value == pytest.approx((3 + 3 + 1 + 0) / 12) and found.cost.forwards == 15
    assert "leaves nothing" in acutance.measure("augmentation_consistency", model, (x, None), pixels=3).message
    flat = acutance.measure("augmentation_consistency", nn.Linear(4, 2), (torch.randn(5, 4), None))
    assert flat.status is Status.UNSUPPORTED and "images (n, channels, height, width)" in flat.message


def depth_of(outputs, y, predicted, k):
    depths = []
    for i in range(len(y)):
        agree = []
        for f in outputs:
            near = sorted((math.dist(f[i], f[j]), j) for j in range(len(y)) if j != i)[:k]
            count = collections.Counter(int(y[j]) for _, j in near)
            agree.append(min(c for c in count if count[c] == max(count.values())) == predicted[i])
        depth = len(agree)
        while depth and agree[depth - 1]:
            depth -= 1
        depths.append(depth)
    return np.mean(depths)


def test_depth_is_brute_force_over_neighbours():
    f, y, _ = problem(50, 5, 3)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Identity(), nn.ReLU(), nn.Linear(4, 3)
    ).double()
    x, outputs = torch.tensor(f), []
    for i, layer in enumerate(model):
        x = layer(x)
        if i != 3:  # it repeats what the layer before gave
            outputs.append(x.detach().numpy())
    predicted = outputs[-1].argmax(1)
    for k in (1, 4, 7):
        found = acutance.measure("prediction_depth", model, (torch.tensor(f), torch.tensor(y)), k=k)
        assert found.value == pytest.approx(depth_of(outputs, y, predicted, k), rel=1e-14)
        assert found.extras["layers"] == 5 and found.cost.forwards == 100
    named = acutance.measure("prediction_depth", model, (torch.tensor(f), torch.tensor(y)), k=4, layers="1,4")
    assert named.value == pytest.approx(depth_of([outputs[1], outputs[3]], y, predicted, 4), rel=1e-14)
    assert (
        "too few for 50"
        in acutance.measure("prediction_depth", model, (torch.tensor(f), torch.tensor(y)), k=50).message
    )
    nowhere = acutance.measure("prediction_depth", model, (torch.tensor(f), torch.tensor(y)), k=4, layers="nowhere")
    assert nowhere.status is Status.UNSUPPORTED and "cannot be looked at" in nowhere.message


OF_CLASSES = ["neural_collapse", "class_distance_normalized_variance", "davies_bouldin", "mixup_davies_bouldin"]


@pytest.mark.parametrize("name", OF_CLASSES)
def test_points_without_classes_to_compare_are_refused(name):
    f, y, w = problem()
    assert "all points are of one class" in measured(name, f, y * 0, w).message
    assert "no class has two points" in measured(name, f[:4], np.arange(4), w).message
    same = measured(name, np.concatenate([f, f]), np.repeat([0, 1], 60), w)
    assert same.status is Status.UNSUPPORTED and "the same mean: nothing lies between them" in same.message
    numbers = acutance.measure(name, Head(w), (torch.tensor(f), torch.randn(60, 4).double()), loss="mse")
    assert numbers.status is Status.UNSUPPORTED and "one class label a point" in numbers.message
    with pytest.raises(acutance.UserError, match=r"needs targets \(labels\)"):
        measured(name, f, None, w)


def test_mixed_points_need_numbers():
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3))
    found = acutance.measure("mixup_accuracy", tokens, (torch.randint(5, (8, 2)), torch.arange(8) % 3))
    assert found.status is Status.UNSUPPORTED and "cannot be mixed" in found.message


def test_a_class_whose_mean_is_the_mean_of_all_has_no_direction():
    f = np.array([[1.0, 0], [1, 0], [-1, 0], [-1, 0], [0, 1], [0, -1]])
    found = measured("neural_collapse", f, [0, 0, 1, 1, 2, 2], np.eye(3)[:, :2], metric="nc2")
    assert found.status is Status.UNSUPPORTED and "no direction" in found.message


@pytest.mark.parametrize("name", ["davies_bouldin", "class_distance_normalized_variance"])
@pytest.mark.parametrize("scale", [2.0**-60, 2.0**20, 2.0**60])
def test_the_size_of_features_matters_not(name, scale):
    f, y, w = problem()
    assert measured(name, f * scale, y, w).value == pytest.approx(measured(name, f, y, w).value, rel=1e-12)
