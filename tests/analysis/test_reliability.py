"""Agreement of replicates against the analysis of variance, and what their noise does to intervals."""

import math

import numpy as np
import pytest

from acutance import UserError, kendall_tau
from acutance.analysis.reliability import reliability


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss():
    """Their Table 2: six targets, four judges; ICC(1,1) = .17, ICC(1,4) = .44 (Shrout and Fleiss 1979, Table 4)."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    found = reliability(np.arange(6.0), ratings)
    assert found.icc == pytest.approx(0.166, abs=5e-4) and found.icc_mean == pytest.approx(0.443, abs=5e-4)
    assert found.replicates == 4 and found.n == 6


def test_variance_of_models_over_that_of_values():
    g = np.random.default_rng(0)
    true, t = g.normal(size=2000), g.normal(size=2000)
    values = true[:, None] + 0.5 * g.normal(size=(2000, 3))
    found = reliability(t, values)
    assert found.icc == pytest.approx(1 / 1.25, abs=0.02)
    assert found.icc_mean == pytest.approx(1 / (1 + 0.25 / 3), abs=0.01)


def test_the_range_is_that_of_single_replicates():
    g = np.random.default_rng(3)
    t = g.normal(size=20)
    values = t[:, None] + g.normal(size=(20, 3))
    found = reliability(t, values)
    alone = [kendall_tau(t, column).tau for column in values.T]
    assert (found.lowest, found.highest) == (min(alone), max(alone)) and min(alone) < max(alone)


@pytest.mark.slow
def test_the_interval_over_models_covers_noisy_measures_too():
    """What the docstring says: no second stage for the replicates is needed."""
    g = np.random.default_rng(0)
    rho, noise, n, replicates = math.sin(0.4 * math.pi), 1.0, 50, 3
    truth = 2 / math.pi * math.asin(rho / math.sqrt(1 + noise**2 / replicates))
    hits = 0
    for _ in range(1000):
        t = g.normal(size=n)
        s = rho * t + math.sqrt(1 - rho**2) * g.normal(size=n)
        mean = (s[:, None] + noise * g.normal(size=(n, replicates))).mean(1)
        found = kendall_tau(t, mean, resamples=499, permutations=0)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 1000 <= 0.985


def test_what_is_missing_is_told():
    values = np.array([[1.0, 2.0], [np.nan, 2.0], [3.0, np.inf], [4.0, 5.0], [5.0, 7.0], [6.0, 9.0], [7.0, 7.5]])
    found = reliability([1, 2, 3, 4, 5, np.nan, 7], values)
    assert found.n == 4 and "3 models" in found.note
    assert "fewer than 3" in reliability([1, 2], [[1, 2], [2, 3]]).note
    with pytest.raises(UserError, match="must be"):
        reliability([1, 2, 3], [1, 2, 3])
