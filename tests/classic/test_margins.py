"""Margins, against numpy on logits that are known, and against the geometry of a linear map."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.errors import UserError

MEASURES = ("output_margin", "inverse_squared_margin", "normalized_margin", "hidden_margin")


class Table(nn.Module):
    """A matrix whose rows are the logits of the examples, in turn."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64))

    def forward(self, x):
        return self.logits[x[:, 0].long()]


def table(logits, targets, **options):
    return LossSurface(Table(logits), (torch.arange(len(logits)).double()[:, None], torch.tensor(targets)), **options)


def seeded_points(n=31, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)) * 3, rng.integers(0, classes, n)


def margins_by_loop(logits, targets):
    return np.array(
        [row[y] - max(f for k, f in enumerate(row) if k != y) for row, y in zip(logits, targets, strict=True)]
    )


def network(widths=(6, 9, 7, 4), seed=0, n=40, bias=True):
    """A ReLU network with its points, labelled as it predicts but for every fifth, which has the class after that."""
    g = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(widths):
        layer = nn.Linear(a, b, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(n, widths[0], generator=g, dtype=torch.float64)
    labels = model(x).argmax(1).detach()
    labels[::5] = (labels[::5] + 1) % widths[-1]
    return model, x, labels


@pytest.mark.parametrize("percentile", [0, 1.5, 10, 50, 73.2, 100])
def test_the_percentile_is_numpys_of_the_margins_one_by_one(percentile):
    logits, targets = seeded_points()
    found = acutance.measure("output_margin", table(logits, targets), percentile=percentile)
    assert found.value == pytest.approx(np.percentile(margins_by_loop(logits, targets), percentile), rel=1e-13)
    assert found.cost.forwards == len(targets) and found.cost.backwards == 0


def test_the_default_is_the_tenth_percentile():
    logits = [[float(i), 0.0] for i in range(11)]  # margins 0 to 10: the tenth percentile is the second of them
    assert acutance.measure("output_margin", table(logits, [0] * 11)).value == 1.0
    assert acutance.measure("inverse_squared_margin", table(logits, [0] * 11), percentile=20).value == 0.25
    assert acutance.measure("output_margin", table([[3.0, 1.0]], [1])).value == -2.0


def test_a_margin_that_is_not_positive_has_no_inverse():
    logits = [[float(i), 0.0] for i in range(-5, 6)]
    for percentile, margin in ((10, "-4"), (50, "0")):
        found = acutance.measure("inverse_squared_margin", table(logits, [0] * 11), percentile=percentile)
        assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
        assert found.message.startswith(f"percentile {percentile} of the margins is {margin}, not positive")


def test_measures_of_the_logits_share_one_forward():
    logits, targets = seeded_points()
    surface = table(logits, targets, microbatch=7)
    for name in ("output_margin", "normalized_margin", "inverse_squared_margin"):
        acutance.measure(name, surface, percentile=90)
    acutance.measure("hidden_margin", surface, layer="output")
    assert surface.cost.forwards == len(targets)


@pytest.mark.parametrize("complexity", ["spectral", "bartlett"])
def test_the_normalized_margin_by_singular_values(complexity):
    model, x, labels = network()
    with torch.no_grad():
        margins = margins_by_loop(model(x).numpy(), labels.numpy())
    matrices = [m.weight.detach().numpy() for m in model if isinstance(m, nn.Linear)]
    size = np.prod([np.linalg.svd(w)[1][0] for w in matrices])
    if complexity == "bartlett":
        # Of the transpose the columns are the rows of w.
        ratios = [sum(np.linalg.norm(row) for row in w) / np.linalg.svd(w)[1][0] for w in matrices]
        size *= sum(r ** (2 / 3) for r in ratios) ** 1.5
    found = acutance.measure("normalized_margin", model, (x, labels), complexity=complexity, percentile=60)
    assert found.value == pytest.approx(np.percentile(margins, 60) / size, rel=1e-12)
    assert found.extras["log_complexity"] == pytest.approx(math.log(size))


def test_kernels_are_taken_as_matrices_and_normalization_is_left_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 4)).double().eval()
    x, y = torch.randn(9, 2, 5, 5).double(), torch.randint(0, 4, (9,))
    sizes = [np.linalg.svd(w.detach().flatten(1).numpy())[1][0] for w in (model[0].weight, model[3].weight)]
    margin = acutance.measure("output_margin", model, (x, y)).value
    found = acutance.measure("normalized_margin", model, (x, y))
    assert found.value == pytest.approx(margin / np.prod(sizes), rel=1e-12)
    product = acutance.measure("log_product_of_spectral_norms", model)
    assert product.value / 2 == pytest.approx(found.extras["log_complexity"])


def test_the_hidden_margin_is_the_distance_in_feature_space():
    """The features are moved by the distance along the normal: the two classes then tie."""
    model, x, labels = network()
    with torch.no_grad():
        h = model[:-1](x)
        w, b = model[-1].weight, model[-1].bias
        distances = []
        for hi, y in zip(h, labels, strict=True):
            f = w @ hi + b
            j = max((k for k in range(4) if k != y), key=lambda k: float(f[k]))
            normal = (w[y] - w[j]) / (w[y] - w[j]).norm()
            distance = float((f[y] - f[j]) / ((w[y] - w[j]) @ normal))
            moved = w @ (hi - distance * normal) + b
            assert float(moved[y] - moved[j]) == pytest.approx(0, abs=1e-12)
            distances.append(distance)
    distances = np.array(distances) / math.sqrt(float(h.var(0, unbiased=False).sum()))
    right = distances[distances > 0]
    assert 0 < len(right) < len(distances)
    for examples, chosen in (("right", right), ("all", distances)):
        quartiles = np.percentile(chosen, [25, 50, 75])
        for statistic, value in zip(("lower_quartile", "median", "upper_quartile"), quartiles, strict=True):
            found = acutance.measure("hidden_margin", model, (x, labels), statistic=statistic, examples=examples)
            assert found.value == pytest.approx(value, rel=1e-11)
            assert found.extras["share_right"] == pytest.approx(len(right) / len(distances))
            assert found.extras["median"] == pytest.approx(quartiles[1], rel=1e-11)
    assert found.cost.forwards == len(x)


def test_the_hidden_margin_of_the_logits():
    logits, targets = seeded_points()
    margins = margins_by_loop(logits, targets)
    value = np.median(margins[margins > 0]) / math.sqrt(2) / math.sqrt(logits.var(0).sum())
    assert acutance.measure("hidden_margin", table(logits, targets), layer="output").value == pytest.approx(value)


def test_a_gradient_by_autograd_is_the_closed_form():
    model, x, labels = network(seed=3)
    h = model[:-1](x).detach().requires_grad_()
    f = model[-1](h)
    rows = torch.arange(len(x))
    others = f.detach().scatter(1, labels[:, None], -math.inf).argmax(1)
    difference = f[rows, labels] - f[rows, others]
    (g,) = torch.autograd.grad(difference.sum(), h)
    values = (difference / g.norm(dim=1)).detach().numpy() / math.sqrt(float(h.var(0, unbiased=False).sum().detach()))
    found = acutance.measure("hidden_margin", model, (x, labels), examples="all")
    assert found.value == pytest.approx(np.median(values), rel=1e-12)


def test_a_margin_scales_with_the_logits_and_a_normalized_one_does_not():
    model, x, labels = network()
    names = ("output_margin", "normalized_margin", "hidden_margin")
    before = [acutance.measure(name, model, (x, labels)).value for name in names]
    with torch.no_grad():
        model[-1].weight.mul_(7)
        model[-1].bias.mul_(7)
    after = [acutance.measure(name, model, (x, labels)).value for name in names]
    assert after[0] == pytest.approx(7 * before[0]) and after[1:] == pytest.approx(before[1:])


def unsupported(name, surface, **settings):
    found = acutance.measure(name, surface, **settings)
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    return found.message


@pytest.mark.parametrize("name", MEASURES)
def test_what_has_no_margin_is_told_in_a_sentence(name):
    x, one = torch.randn(6, 3).double(), nn.Linear(3, 1).double()
    assert unsupported(name, LossSurface(one, (x, x[:, :1]), loss="mse")) == (
        "a margin needs class labels, the targets are numbers"
    )

    def logistic(f, y):
        return nn.functional.binary_cross_entropy_with_logits(f[:, 0], y.double())

    found = unsupported(name, LossSurface(one, (x, torch.tensor([0, 1] * 3)), loss=logistic))
    assert found == "a margin needs two classes, the model has one output: let it return (0, f)"
    model, x, _ = network()
    two = model(x).argmax(1) % 2
    judged = LossSurface(model, (x, two), score=lambda f, y: (f.argmax(1) % 2 != y).double())
    assert unsupported(name, judged).startswith("errors are not judged by the largest logit")


def test_labels_that_are_no_classes():
    def skipping(f, y):
        return nn.functional.cross_entropy(f, y, ignore_index=-100, reduction="none"), (y >= 0).double()

    surface = LossSurface(
        nn.Linear(3, 2).double(), (torch.randn(4, 3).double(), torch.tensor([0, 1, -100, 1])), skipping
    )
    assert unsupported("output_margin", surface) == "a margin needs labels from 0 to 1, some targets are none of them"


def test_weights_and_features_without_a_size():
    model, x, _ = network()
    assert "no weight matrix" in unsupported("normalized_margin", table([[1.0, 0.0]], [0]))
    assert "no linear layer" in unsupported("hidden_margin", table([[1.0, 0.0]], [0]))
    with torch.no_grad():
        model[2].weight.zero_()
    assert (
        unsupported("normalized_margin", model_surface(model, x))
        == "the weight matrix '2.weight' is zero: it has no logarithm, and nothing to divide by"
    )
    assert "variation is zero" in unsupported("hidden_margin", model_surface(model, x))
    with torch.no_grad():
        model[-1].weight.copy_(model[-1].weight[:1].expand(4, -1))
    assert "two rows of '4' are equal" in unsupported("hidden_margin", model_surface(model, x))
    assert "no point is classified rightly" in unsupported("hidden_margin", table([[1.0, 0.0]], [1]), layer="output")


def model_surface(model, x):
    return LossSurface(model, (x, model(x).argmax(1).detach()))


def test_sizes_that_leave_the_range_of_numbers():
    model, x, _ = network()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(1e-100)
    assert "leaves the range" in unsupported("normalized_margin", model_surface(model, x))
    for name in MEASURES[:3]:
        surface = table([[1e300, 0.0], [1.0, 0.0]], [0, 0])
        surface.model.register_forward_hook(lambda module, given, logits: logits * 1e300)
        found = acutance.measure(name, surface, percentile=0)
        assert found.status is Status.NONFINITE and "points are not finite" in found.message
    tiny = acutance.measure("inverse_squared_margin", table([[1e-200, 0.0]], [0]))
    assert tiny.status is Status.NONFINITE


@pytest.mark.parametrize("percentile", [-1, 101, float("nan")])
def test_a_percentile_is_between_0_and_100(percentile):
    with pytest.raises(UserError, match=r"output_margin\.percentile"):
        acutance.measure("output_margin", table([[1.0, 0.0]], [0]), percentile=percentile)
