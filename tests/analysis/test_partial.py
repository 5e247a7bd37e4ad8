"""Partial rank correlations against their formula, regression and the precision matrix; the table of confounds."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from acutance import UserError, kendall_tau
from acutance.analysis.kernels import sign_products, signs
from acutance.analysis.partial import confounds, numeric_columns, partial


def columns(n=30, seed=0, levels=None):
    g = np.random.default_rng([seed, n])
    z = g.normal(size=(2, n))
    t, s = z[0] + z[1] + g.normal(size=n), z[0] - z[1] + g.normal(size=n)
    out = [t, s, z[0], z[1]]
    return out if levels is None else [np.round(levels * c) for c in out]


def cosines(cs, kind):
    f = scipy.stats.kendalltau if kind == "kendall" else scipy.stats.spearmanr
    return np.array([[f(a, b).statistic for b in cs] for a in cs])


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("kind", ["kendall", "spearman"])
def test_one_control_is_the_formula_and_two_are_the_precision_matrix(kind, levels):
    t, s, z, w = columns(levels=levels)
    c = cosines([t, s, z], kind)
    formula = (c[0, 1] - c[0, 2] * c[1, 2]) / math.sqrt((1 - c[0, 2] ** 2) * (1 - c[1, 2] ** 2))
    found = partial(t, s, {"z": z}, kind, permutations=99)
    assert found.value == pytest.approx(formula) and found.raw == pytest.approx(c[0, 1])
    assert (found.n, found.controls, found.note) == (30, ("z",), "")
    precision = np.linalg.inv(cosines([t, s, z, w], kind))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    assert partial(t, s, {"z": z, "w": w}, kind, permutations=99).value == pytest.approx(expected)


def test_partial_spearman_is_the_correlation_of_rank_residuals():
    t, s, z, w = columns(25, 1)
    r = [scipy.stats.rankdata(c) for c in (t, s, z, w)]
    design = np.stack([np.ones(25), r[2], r[3]], 1)
    a, b = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in r[:2])
    found = partial(t, s, pd.DataFrame({"z": z, "w": w}), "spearman", permutations=99)
    assert found.value == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_redundant_controls_and_increasing_scales_change_nothing():
    t, s, z, _ = columns()
    for kind in ("kendall", "spearman"):
        one = partial(t, s, {"z": z}, kind, permutations=99)
        two = partial(np.exp(t), s**3, {"z": np.exp(z), "again": z}, kind, permutations=99)
        assert two.value == pytest.approx(one.value) and two.p == pytest.approx(one.p, abs=0.021)


def test_labels_are_held_fixed_level_by_level():
    g = np.random.default_rng(2)
    label = np.repeat(["a", "b", "c"], 20)
    shift = np.repeat([0.0, 9.0, 4.0], 20)
    t, s = g.normal(size=60) + shift, g.normal(size=60) + shift
    found = partial(t, s, {"label": label}, "spearman", permutations=199)
    assert found.raw > 0.7 and abs(found.value) < 0.3
    assert len(numeric_columns(label)) == 3 and len(numeric_columns(label[:40])) == 1
    assert numeric_columns([True, None, False])[0] == pytest.approx([1, np.nan, 0], nan_ok=True)
    mixed = numeric_columns(["a", None, "b"])
    assert len(mixed) == 1 and mixed[0] == pytest.approx([1, np.nan, 0], nan_ok=True)


def test_sums_of_signs_are_brute_force():
    g = np.random.default_rng(3)
    values, y = np.round(g.normal(size=(6, 9)), 0), np.stack([signs(v) for v in g.normal(size=(2, 9))])
    upper = np.triu_indices(9, 1)
    for v, sums in zip(values, sign_products(values, y)):
        x = signs(v)
        assert list(sums) == [*((x * k)[upper].sum(dtype=int) for k in y), (x != 0)[upper].sum()]


@pytest.mark.parametrize("kind", ["kendall", "spearman"])
def test_p_is_nearly_uniform_when_t_and_s_are_independent_given_a_strong_confound(kind):
    g = np.random.default_rng(9)
    p = []
    for seed in range(200):
        z = g.normal(size=40)
        t, s = z + 0.7 * g.normal(size=40), z + 0.7 * g.normal(size=40)
        p.append(partial(t, s, {"z": z}, kind, permutations=199, seed=seed).p)
    # The raw correlation is significant nearly always.
    assert 0.05 <= np.mean(np.array(p) <= 0.1) <= {"kendall": 0.19, "spearman": 0.15}[kind]
    assert 0.42 <= np.mean(p) <= 0.58


def test_an_association_beyond_the_control_is_found():
    t, s, z, _ = columns(60, 5)
    s = s + 2 * t
    assert partial(t, s, {"z": z}, permutations=999).p < 0.01


def test_a_model_without_a_control_is_left_out_and_degenerate_columns_are_noted():
    t, s, z, _ = columns()
    z[:3] = np.nan
    found = partial(t, s, {"z": z}, permutations=99)
    assert found.n == 27 and "3 models have no value" in found.note
    same = partial(t, s, {"z": np.ones(30)}, permutations=99)
    assert same.value == pytest.approx(same.raw) and "same for all models: z" in same.note
    assert same.raw == pytest.approx(kendall_tau(t, s, "b", resamples=9, permutations=9).tau)
    itself = partial(t, s, {"s": s}, permutations=99)
    assert math.isnan(itself.value) and "leave nothing" in itself.note
    assert "same value" in partial(np.ones(30), s, {"s": t}).note
    assert "fewer than 3" in partial([1, 2], [1, 2], {"z": [1, 2]}).note
    with pytest.raises(UserError, match="at least one"):
        partial(t, s, {})
    with pytest.raises(UserError, match="choose kendall or spearman"):
        partial(t, s, {"z": z}, "pearson")


def test_the_table_of_confounds_counts_the_models_of_each_row():
    t, s, z, w = columns()
    z[:4] = np.nan
    measures = pd.DataFrame({"a": t, "b": s})
    attributes = pd.DataFrame({"lr": z, "optimizer": ["x", "y", "z"] * 10, "mixup": w > 0, "loss": w})
    table = confounds(measures, attributes, resamples=99, permutations=99).set_index(["attribute", "measure"])
    assert len(table) == 8
    assert table.loc[("lr", "a"), "n"] == 26 and table.loc[("loss", "a"), "n"] == 30
    assert table.loc[("loss", "b"), "value"] == pytest.approx(scipy.stats.kendalltau(s, w).statistic)
    assert table.loc[("mixup", "b"), "value"] == pytest.approx(scipy.stats.kendalltau(s, w > 0).statistic)
    assert (
        math.isnan(table.loc[("optimizer", "a"), "value"])
        and "without an order" in table.loc[("optimizer", "a"), "note"]
    )
    with pytest.raises(UserError, match="same models"):
        confounds(measures, attributes.iloc[::-1])
