"""Optimal transport to label frequencies: linear programming, matching, and the certificate itself."""

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import softmax
from tables_of_logits import measured

from acutance import Status
from acutance_predictions import transport_numerics
from acutance_predictions.transport_numerics import transported


def least_cost(p, counts):
    n, k = p.shape
    rows = scipy.sparse.kron(scipy.sparse.eye(n), np.ones((1, k)))
    columns = scipy.sparse.kron(np.ones((1, n)), scipy.sparse.eye(k))
    sums = np.concatenate([np.full(n, 1 / n), counts / counts.sum()])
    found = linprog((1 - p).ravel(), A_eq=scipy.sparse.vstack([rows, columns]), b_eq=sums, method="highs")
    return found.fun


def problem(seed):
    n, k, m, sharp, used = [
        (30, 4, 17, 1, 4), (50, 10, 50, 3, 10), (5, 7, 9, 10, 7), (40, 3, 1, 2, 3), (60, 5, 33, 0, 2), (20, 20, 40, 5, 9),
        (1, 3, 5, 1, 3), (64, 2, 7, 40, 2),
    ][seed]  # fmt: skip
    g = np.random.default_rng(seed)
    return sharp * g.normal(size=(n, k)), g.integers(used, size=m)


@pytest.mark.parametrize("seed", range(8))
def test_the_cost_is_the_least_within_the_tolerance(seed):
    z, y = problem(seed)
    p, k = softmax(z, axis=1), z.shape[1]
    expected = least_cost(p, np.bincount(y, minlength=k))
    for tolerance in (1e-2, 1e-7):
        g = np.random.default_rng(9)
        others = g.normal(size=(len(y), k))
        found = measured("cot", z, validation=(others, y), tolerance=tolerance)
        assert found.status is Status.OK and 0 <= found.extras["gap"] <= tolerance
        assert -1e-9 <= found.value - expected <= found.extras["gap"] + 1e-9
        assert found.extras["lower_bound"] <= expected + 1e-9


def test_it_is_a_matching_where_every_class_is_wanted_once():
    p = softmax(3 * np.random.default_rng(0).normal(size=(25, 25)), axis=1)
    rows, columns = linear_sum_assignment(-p)
    found = transported(p, np.ones(25, dtype=int), 1e-9)
    assert found.cost == pytest.approx(1 - p[rows, columns].mean(), abs=2e-9)


def test_where_the_predicted_classes_are_as_frequent_it_is_the_average_confidence_error():
    z = 4 * np.random.default_rng(1).normal(size=(40, 5))
    found = measured("cot", z, validation=(z[::-1] + 0.1, z.argmax(1)), tolerance=1e-8)
    assert found.value == pytest.approx(measured("average_confidence", z).value, abs=2e-8)
    other = measured("cot", z, validation=(z[::-1] + 0.1, np.zeros(40, dtype=int)))
    assert other.value == pytest.approx(1 - softmax(z, axis=1)[:, 0].mean(), abs=1e-12)


def test_what_is_not_converged_says_how_far_it_is_off(monkeypatch):
    monkeypatch.setattr(transport_numerics, "BIDS", 1)
    z, y = problem(1)
    expected = least_cost(softmax(z, axis=1), np.bincount(y, minlength=10))
    found = measured("cot", z, validation=(z + 1, y), tolerance=1e-9)
    assert found.status is Status.NOT_CONVERGED and "after 60 bids" in found.message
    assert found.extras["lower_bound"] <= expected <= found.value and found.extras["gap"] > 1e-4
