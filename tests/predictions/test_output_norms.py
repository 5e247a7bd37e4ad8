"""Norms of predictions: numpy's own, closed forms, and the published polynomial."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from tables_of_logits import measured

from acutance import Status


def logits(n=30, k=6, sharp=1.0, seed=0):
    return sharp * np.random.default_rng(seed).normal(size=(n, k))


def polynomial(z):
    rows = []
    for row in z:
        q = [1 + v + v * v / 2 for v in row]
        least = min(q)
        total = sum(v - least for v in q)
        rows.append([(v - least) / total for v in q])
    return np.array(rows)


@pytest.mark.parametrize("p", [1.0, 2.5, 4.0])
def test_mano_is_the_norm_of_the_normalized_outputs(p):
    z = logits()
    for normalization, q in (("softmax", softmax(z, axis=1)), ("taylor", polynomial(z))):
        expected = (q**p).sum() ** (1 / p) / (30 * 6) ** (1 / p)
        found = measured("mano", z, p=p, normalization=normalization)
        assert found.value == pytest.approx(expected, rel=1e-12)


def test_mano_takes_the_softmax_where_predictions_are_far_from_uniform():
    for sharp, name in ((1.0, "taylor"), (20.0, "softmax")):
        z = logits(sharp=sharp)
        found = measured("mano", z)
        assert found.extras["normalization"] == name
        assert found.extras["criterion"] == pytest.approx(-log_softmax(z, axis=1).mean(), rel=1e-12)
        assert found.value == measured("mano", z, normalization=name).value
    at = found.extras["criterion"]
    assert measured("mano", z, threshold=at).extras["normalization"] == "taylor"


def test_mano_lies_between_its_bounds():
    assert measured("mano", np.zeros((5, 4))).value == pytest.approx(1 / 4)
    assert measured("mano", [[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]]).value == pytest.approx(
        ((4 * 4**-4 + 1) / 8) ** 0.25
    )
    sure = measured("mano", 900 * np.eye(4), normalization="softmax")
    assert sure.value == pytest.approx(4**-0.25)


@pytest.mark.parametrize(("n", "k"), [(40, 6), (5, 9), (7, 7)])
def test_nuclear_norm_is_the_sum_of_singular_values_over_its_largest_value(n, k):
    z = logits(n, k, sharp=3.0)
    expected = np.linalg.svd(softmax(z, axis=1), compute_uv=False).sum() / np.sqrt(n * min(n, k))
    assert measured("nuclear_norm", z).value == pytest.approx(expected, rel=1e-11)


def test_nuclear_norm_is_exact_where_singular_values_vanish():
    # Equal rows: one singular value, sqrt(n) times the length of the row.
    row = softmax(logits(1, 50)[0])
    found = measured("nuclear_norm", np.tile(np.log(row), (200, 1)))
    assert found.value == pytest.approx(np.linalg.norm(row) / np.sqrt(50), rel=1e-13)
    # A tiny direction beside a large one.
    z = np.zeros((4, 2))
    z[0, 0] = 1e-7
    p = softmax(z, axis=1)
    expected = np.linalg.svd(p, compute_uv=False).sum() / np.sqrt(8)
    assert measured("nuclear_norm", z).value == pytest.approx(expected, rel=1e-13)


def test_a_sure_model_that_predicts_all_classes_has_the_largest_nuclear_norm():
    assert measured("nuclear_norm", 900 * np.tile(np.eye(5), (3, 1))).value == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", ["mano", "nuclear_norm"])
def test_outputs_that_are_no_probabilities_have_no_value(name):
    one = measured(name, [[1.0], [2.0]])
    assert one.status is Status.UNSUPPORTED and "let the model return (0, f)" in one.message
    lost = measured(name, [[1e308, 0.0]], scale=10.0)
    assert lost.status is Status.NONFINITE


@pytest.mark.parametrize("normalization", ["softmax", "taylor"])
def test_many_points_are_taken_block_by_block(normalization):
    z = logits(n=20_000)
    q = softmax(z, axis=1) if normalization == "softmax" else polynomial(z)
    assert measured("mano", z, normalization=normalization).value == pytest.approx((q**4).mean() ** 0.25, rel=1e-12)


def test_the_polynomial_says_nothing_of_two_classes():
    z = np.random.default_rng(0).normal(size=(20, 2))
    found = measured("mano", z)
    assert found.status is Status.UNSUPPORTED and "softmax" in found.message
    assert measured("mano", z, normalization="softmax").value == pytest.approx((softmax(z, 1) ** 4).mean() ** 0.25)


@pytest.mark.parametrize("normalization", ["softmax", "taylor"])
def test_high_orders_of_many_classes_do_not_underflow(normalization):
    z = logits(n=40, k=3000, sharp=0.01)
    z[30, 5] = 1.5  # the largest is not in the first block
    q = softmax(z, axis=1) if normalization == "softmax" else polynomial(z)
    expected = q.max() * ((q / q.max()) ** 100).mean() ** 0.01
    assert measured("mano", z, p=100, normalization=normalization).value == pytest.approx(expected, rel=1e-12)
