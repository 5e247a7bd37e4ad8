"""Correlations between definitions against scipy, and clusters that are there."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from acutance import UserError
from acutance.analysis.matrix import matrix


def family(n=40):
    g = np.random.default_rng(0)
    a, b = g.normal(size=(2, n))
    near = lambda x: x + 0.05 * g.normal(size=n)  # noqa: E731
    return pd.DataFrame(
        {"a1": near(a), "b1": near(b), "a2": near(a), "c": g.normal(size=n), "b2": near(b), "minus": -near(a)}
    )


def test_every_pair_is_scipys_tau_b_of_the_models_that_have_both():
    values = family().round(1)
    values.iloc[:5, 0] = np.nan
    values.iloc[3:12, 2] = np.nan
    values.iloc[0, 1] = np.inf
    found = matrix(values)
    for x in values:
        for y in values:
            both = values[x].notna() & values[y].notna()
            assert found.n.loc[x, y] == both.sum()
            expected = scipy.stats.kendalltau(values[x][both], values[y][both]).statistic
            assert found.tau.loc[x, y] == pytest.approx(expected)


def test_definitions_that_rank_alike_are_neighbours_and_one_cluster():
    found = matrix(family())
    assert sorted(found.order) == sorted(family().columns) and list(found.clusters) == found.order
    clusters = found.clusters
    assert clusters["a1"] == clusters["a2"] != clusters["b1"] == clusters["b2"]
    assert len(set(clusters.values())) == 4 and list(clusters.values()) == sorted(clusters.values())
    at = found.order.index
    assert abs(at("a1") - at("a2")) == abs(at("b1") - at("b2")) == 1
    unsigned = matrix(family(), signed=False)
    assert unsigned.clusters["minus"] == unsigned.clusters["a1"] and unsigned.tau.loc["minus", "a1"] < -0.7


def test_degenerate_definitions():
    values = family().assign(flat=1.0, empty=np.nan)
    values["few"] = [1.0, 2.0] + [np.nan] * 38
    found = matrix(values)
    assert (
        found.tau.loc["flat"].isna().all() and found.tau.loc["empty"].isna().all() and found.tau.loc["few"].isna().all()
    )
    assert (found.n.loc["few", "a1"], found.n.loc["empty", "empty"]) == (2, 0)
    assert len({found.clusters[k] for k in ("flat", "empty", "few", "a1")}) == 4
    one = matrix(family()[["a1"]])
    assert one.order == ["a1"] and one.clusters == {"a1": 1}
    two = values[["a1", "a2"]].set_axis(["a", "a"], axis=1)
    with pytest.raises(UserError, match="name of its own"):
        matrix(two)
    with pytest.raises(UserError, match="threshold"):
        matrix(family(), threshold=1)
