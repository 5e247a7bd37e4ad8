"""Spectra and dimension of features: brute force in NumPy, closed forms, and what cannot be measured."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import Status

NAMES = ["rankme", "feature_stable_rank", "effective_rank", "alpha_req", "intrinsic_dimension"]


class Rows(nn.Module):
    """Features that are the inputs times a weight, in front of a linear head."""

    def __init__(self, d, classes=3, stretch=None):
        super().__init__()
        self.body = nn.Linear(d, d, bias=False)
        self.head = nn.Linear(d, classes)
        with torch.no_grad():
            self.body.weight.copy_(torch.eye(d) if stretch is None else stretch)
        self.double()

    def forward(self, x):
        return self.head(self.body(x))


def points(n=40, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(2.0 ** -np.arange(d)) + 0.3


def measured(name, f, **fields):
    f = torch.as_tensor(np.asarray(f), dtype=torch.float64)
    return acutance.measure(name, Rows(f.shape[1]), (f, None), **fields)


def entropy_rank(weights):
    p = [w / sum(weights) for w in weights]
    return math.exp(-sum(v * math.log(v) for v in p if v > 0))


def covariance_eigenvalues(f, unit=False):
    z = f - f.mean(0)
    if unit:
        z = np.array([row / math.sqrt(sum(row**2)) for row in z])
    return np.linalg.eigvalsh(sum(np.outer(row, row) for row in z) / len(z))[::-1]


def test_ranks_are_those_of_numpy():
    f = points()
    sigma = np.linalg.svd(f, compute_uv=False)
    found = measured("rankme", f)
    assert found.value == pytest.approx(entropy_rank(sigma), rel=1e-12)
    assert found.extras["largest_possible"] == 6 and found.cost.forwards == 40
    assert measured("feature_stable_rank", f).value == pytest.approx(sum(sigma**2) / max(sigma) ** 2, rel=1e-12)
    assert measured("effective_rank", f).value == pytest.approx(entropy_rank(covariance_eigenvalues(f)), rel=1e-10)
    unit = measured("effective_rank", f, rows="unit").value
    assert unit == pytest.approx(entropy_rank(covariance_eigenvalues(f, unit=True)), rel=1e-10)


def test_orthonormal_features_have_full_rank_and_repeated_ones_rank_one():
    f = np.concatenate([np.eye(5)] * 3)
    assert measured("rankme", f).value == pytest.approx(5, rel=1e-12)
    assert measured("feature_stable_rank", f).value == pytest.approx(5, rel=1e-12)
    assert measured("effective_rank", f).value == pytest.approx(4, rel=1e-10)  # the mean takes one away
    one = np.outer(np.arange(1.0, 9), [1.0, 2.0, -1.0])
    for name in ("rankme", "feature_stable_rank", "effective_rank"):
        assert measured(name, one).value == pytest.approx(1, rel=1e-9)


def test_with_fewer_points_than_dimensions_ranks_count_points():
    found = measured("rankme", points(3, 6))
    assert found.value <= 3 and found.extras["largest_possible"] == 3
    assert measured("effective_rank", points(3, 6)).extras["largest_possible"] == 2


@pytest.mark.parametrize("weights", ["equal", "inverse_rank"])
def test_alpha_is_the_slope_of_polyfit(weights):
    f = points(60, 8)
    y, x = np.log(covariance_eigenvalues(f)), np.log(np.arange(1, 9))
    w = np.ones(8) if weights == "equal" else 1 / np.arange(1, 9)
    for first, last in ((1, 50), (2, 6)):
        rows = slice(first - 1, min(last, 8))
        # polyfit takes weights of residuals, not of their squares.
        slope = np.polyfit(x[rows], y[rows], 1, w=np.sqrt(w[rows]))[0]
        found = measured("alpha_req", f, first=first, last=last, weights=weights)
        assert found.value == pytest.approx(-slope, rel=1e-9)
        assert (found.extras["first"], found.extras["last"]) == (first, min(last, 8))


def test_alpha_of_a_power_law_is_its_exponent():
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(50, 11)) - 0)[0]
    q = np.linalg.qr(q - q.mean(0))[0][:, :10]
    q = q - q.mean(0)
    q = np.linalg.qr(q)[0]
    found = measured("alpha_req", q @ np.diag(np.arange(1, 11) ** -0.75))
    assert found.value == pytest.approx(1.5, rel=1e-9) and found.extras["r_squared"] == pytest.approx(1)


def test_alpha_of_too_few_points_or_eigenvalues_is_refused():
    few = measured("alpha_req", points(6, 6))
    assert few.status is Status.UNSUPPORTED and "give more points, or a smaller 'last'" in few.message
    assert measured("alpha_req", points(6, 6), last=4).status is Status.OK
    flat = measured("alpha_req", np.outer(np.arange(9.0), [1.0, 2.0]))
    assert flat.status is Status.UNSUPPORTED and "1 eigenvalues that are not zero" in flat.message


def test_the_change_of_the_rank_is_that_of_the_initial_weights():
    f, stretch = points(30, 4), torch.diag(torch.tensor([1.0, 5.0, 0.2, 2.0]))
    surface = acutance.LossSurface(Rows(4), (torch.tensor(f), None), initial=Rows(4, stretch=stretch))
    found = acutance.measure("diff_erank", surface)
    before, after = (entropy_rank(covariance_eigenvalues(g, unit=True)) for g in (f @ stretch.numpy(), f))
    assert found.value == pytest.approx(before - after, rel=1e-9) and found.value != 0
    assert found.cost.forwards == 60
    centred = acutance.measure("diff_erank", surface, rows="centred")
    before, after = (entropy_rank(covariance_eigenvalues(g)) for g in (f @ stretch.numpy(), f))
    assert centred.value == pytest.approx(before - after, rel=1e-9)
    named = acutance.measure("diff_erank", surface, layer="body")
    assert named.value == pytest.approx(found.value, rel=1e-12)
    unknown = measured("diff_erank", f)
    assert unknown.status is Status.UNSUPPORTED and "initial weights" in unknown.message


def neighbour_distances(f):
    return [sorted(math.dist(a, b) for j, b in enumerate(f) if j != i) for i, a in enumerate(f)]


def test_dimensions_are_those_of_brute_force():
    f = points(50, 4)
    r = neighbour_distances(f)
    logs = sorted(math.log(row[1] / row[0]) for row in r)
    value = measured("intrinsic_dimension", f, fit="likelihood").value
    assert value == pytest.approx(50 / sum(logs), rel=1e-10)
    for discard, kept in ((0.1, 45), (0.5, 25)):
        x, y = np.array(logs[:kept]), np.array([-math.log(1 - i / 50) for i in range(kept)])
        slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
        assert measured("intrinsic_dimension", f, discard=discard).value == pytest.approx(slope, rel=1e-10)
    for k in (5, 20):
        mean = sum(math.log(row[k - 1] / row[j]) for row in r for j in range(k - 1)) / (50 * (k - 1))
        assert measured("intrinsic_dimension", f, method="mle", k=k).value == pytest.approx(1 / mean, rel=1e-10)


def test_two_nn_and_mle_agree_with_scikit_dimension():
    skdim = pytest.importorskip("skdim")
    f = np.random.default_rng(3).normal(size=(200, 3)) @ np.random.default_rng(4).normal(size=(3, 7))
    assert measured("intrinsic_dimension", f).value == pytest.approx(skdim.id.TwoNN().fit(f).dimension_, rel=1e-6)
    peer = skdim.id.MLE().fit(f, n_neighbors=10, comb="mle").dimension_
    assert measured("intrinsic_dimension", f, method="mle", k=10).value == pytest.approx(peer, rel=1e-6)


def test_a_plane_in_many_dimensions_has_two():
    rng = np.random.default_rng(0)
    plane = rng.uniform(size=(1500, 2)) @ rng.normal(size=(2, 30))
    for fields in ({}, {"fit": "likelihood"}, {"method": "mle"}):
        assert measured("intrinsic_dimension", plane, **fields).value == pytest.approx(2, abs=0.25)


def test_near_neighbours_far_from_the_origin_keep_their_digits():
    f = points(40, 3)
    moved = np.concatenate([f * 1e-5, f * 1e-5 + 10])
    expected = 80 / sum(math.log(row[1] / row[0]) for row in neighbour_distances(moved))
    assert measured("intrinsic_dimension", moved, fit="likelihood").value == pytest.approx(expected, rel=1e-7)


def test_points_with_the_same_features_count_once():
    f = points(30, 3)
    once, twice = measured("intrinsic_dimension", f), measured("intrinsic_dimension", np.concatenate([f, f[:7]]))
    assert twice.value == pytest.approx(once.value, rel=1e-12)
    assert (once.extras["duplicates"], twice.extras["duplicates"]) == (0, 7)
    nearly = measured("intrinsic_dimension", np.concatenate([f, f[:7] * (1 + 1e-16) + 1e-16]))
    assert nearly.value == pytest.approx(once.value, rel=1e-9)


def test_a_large_point_or_feature_makes_no_others_the_same():
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    for size in (1e4, 1e6, 1e7, 1e9):
        far, constant = x.copy(), x.copy()
        far[0] *= size
        constant[:, 3] = size
        for f in (far, constant):
            found = acutance.measure("intrinsic_dimension", Rows(4).float(), (torch.tensor(f), None), fit="likelihood")
            logs = [math.log(row[1] / row[0]) for row in neighbour_distances(f.astype(np.float64))]
            assert found.extras["duplicates"] == 0 and found.value == pytest.approx(100 / sum(logs), rel=1e-9)


def test_differences_that_are_rounding_have_no_dimension():
    x = np.random.default_rng(0).normal(size=(100, 4))
    for size in (1e-6, 1e-7):
        f = torch.tensor(x * size + 1, dtype=torch.float32)
        lost = acutance.measure("intrinsic_dimension", Rows(4).float(), (f, None))
        assert lost.status is Status.UNSUPPORTED
        assert (
            "than their features are rounded" in lost.message
            or "differ by more than rounding are too few" in lost.message
        )
    assert measured("intrinsic_dimension", x * 1e-6 + 1).status is Status.OK


def test_neighbours_are_right_where_a_product_loses_all_digits():
    from acutance_predictions.representations.neighbours import nearest

    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
    x[::2] += 1e9  # two clusters: wherever the origin is, one of them is far away
    table = (x[:, None] - x).norm(dim=2).fill_diagonal_(math.inf)
    distances, indices = nearest(x, 2)
    ordered, places = table.sort(dim=1, stable=True)
    assert torch.equal(distances, ordered[:, :2]) and torch.equal(indices, places[:, :2])


def test_too_few_points_and_lattices_have_no_dimension():
    few = measured("intrinsic_dimension", np.ones((9, 3)))
    assert few.status is Status.UNSUPPORTED and few.message.startswith(
        "1 points that differ by more than rounding are too few for 2"
    )
    mle = measured("intrinsic_dimension", points(20, 3), method="mle")
    assert (
        mle.status is Status.UNSUPPORTED
        and "20 points that differ by more than rounding are too few for 20" in mle.message
    )
    square = measured("intrinsic_dimension", [[0, 0], [0, 1], [1, 0], [1, 1]], fit="likelihood")
    assert square.status is Status.UNSUPPORTED and "lattice" in square.message


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_not_read(name):
    x = torch.tensor(points())
    values = [acutance.measure(name, Rows(6), (x, y)).value for y in (torch.zeros(40).long(), torch.arange(40) % 3)]
    assert values[0] == values[1] == acutance.measure(name, Rows(6), (x, None)).value


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_features_has_no_value(name):
    f = points()
    missing = measured(name, f, layer="nowhere")
    assert missing.status is Status.UNSUPPORTED and "there is no layer 'nowhere'" in missing.message
    several = measured(name, f, layer="*")
    assert several.status is Status.UNSUPPORTED and "is not one layer: name one of body, head" in several.message
    tanh = acutance.measure(name, nn.Sequential(nn.Linear(6, 3), nn.Tanh()).double(), (torch.tensor(f), None))
    assert tanh.status is Status.UNSUPPORTED and "something comes after it" in tanh.message
    f[3] = 1e308
    stretched = Rows(6, stretch=torch.full((6, 6), 1e5))
    lost = acutance.measure(name, stretched, (torch.tensor(f), None))
    assert lost.status is Status.NONFINITE and "of 1 of 40 points are not finite" in lost.message


@pytest.mark.parametrize("name", ["rankme", "feature_stable_rank", "effective_rank"])
def test_features_that_are_all_zero_have_no_spectrum(name):
    found = measured(name, np.zeros((5, 3)))
    assert found.status is Status.UNSUPPORTED and "no spectrum" in found.message


def test_a_named_layer_is_flattened_and_passed_once_for_all_measures():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randn(20, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    surface = acutance.LossSurface(model, (x, None))
    before = surface.cost.forwards
    found = acutance.measure("rankme", surface, layer="0")
    sigma = np.linalg.svd(model[0](x).detach().flatten(1).numpy(), compute_uv=False)
    assert found.value == pytest.approx(entropy_rank(sigma), rel=1e-12)
    acutance.measure("intrinsic_dimension", surface, layer="0")
    assert surface.cost.forwards - before == 20
    penultimate = acutance.measure("rankme", surface)
    assert penultimate.value == pytest.approx(acutance.measure("rankme", surface, layer="1").value, rel=1e-12)
