"""Partial rank correlations against their formula, regression and the precision matrix; the table of confounds."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from acutance import UserError, kendall_tau
from acutance.analysis import partial as module
from acutance.analysis.partial import _basis, _correlation, _covariance, _effects, confounds, numeric_columns, partial


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
    found = partial(t, s, {"z": z}, kind, draws=99)
    assert found.value == pytest.approx(formula) and found.raw == pytest.approx(c[0, 1])
    assert (found.n, found.controls, found.note) == (30, ("z",), "")
    precision = np.linalg.inv(cosines([t, s, z, w], kind))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    assert partial(t, s, {"z": z, "w": w}, kind, draws=99).value == pytest.approx(expected)


def test_partial_spearman_is_the_correlation_of_rank_residuals():
    t, s, z, w = columns(25, 1)
    r = [scipy.stats.rankdata(c) for c in (t, s, z, w)]
    design = np.stack([np.ones(25), r[2], r[3]], 1)
    a, b = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in r[:2])
    found = partial(t, s, pd.DataFrame({"z": z, "w": w}), "spearman", draws=99)
    assert found.value == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_redundant_controls_and_increasing_scales_change_nothing():
    t, s, z, _ = columns()
    for kind in ("kendall", "spearman"):
        one = partial(t, s, {"z": z}, kind, draws=99)
        two = partial(np.exp(t), s**3, {"z": np.exp(z), "again": z}, kind, draws=99)
        assert two.value == pytest.approx(one.value) and two.p == pytest.approx(one.p, abs=0.15)


def test_labels_are_held_fixed_level_by_level():
    g = np.random.default_rng(2)
    label = np.repeat(["a", "b", "c"], 20)
    shift = np.repeat([0.0, 9.0, 4.0], 20)
    t, s = g.normal(size=60) + shift, g.normal(size=60) + shift
    found = partial(t, s, {"label": label}, "spearman", draws=199)
    assert found.raw > 0.7 and abs(found.value) < 0.3
    assert len(numeric_columns(label)) == 3 and len(numeric_columns(label[:40])) == 1
    assert numeric_columns([True, None, False])[0] == pytest.approx([1, np.nan, 0], nan_ok=True)
    mixed = numeric_columns(["a", None, "b"])
    assert len(mixed) == 1 and mixed[0] == pytest.approx([1, np.nan, 0], nan_ok=True)


def bent(z):
    return (z + z**2 - 1) / math.sqrt(3)


def rejected(n, loading, controls=1, power=0.0, noise=0.0, pools=200, draws=99, effect=None):
    """Share of pools of a confounder with p <= 0.05; t and s share ``power`` of the rest, z is seen with noise."""
    g, rest, hits = np.random.default_rng(n), math.sqrt(1 - loading**2), 0
    for seed in range(pools):
        z, e = g.normal(size=(controls, n)), g.normal(size=(2, n))
        own = power * e[0] + math.sqrt(1 - power**2) * e[1]
        seen = z + noise * g.normal(size=z.shape)
        held = {str(k): v for k, v in enumerate(seen)}
        common = loading * (z[0] if effect is None else effect(z).sum(0) / math.sqrt(controls))
        hits += partial(common + rest * e[0], common + rest * own, held, draws=draws, seed=seed).p <= 0.05
    return hits / pools


def test_a_confounder_alone_is_found_as_often_as_the_level_says():
    assert rejected(25, 0.9, pools=400) <= 0.085  # permuted residuals: 0.09 to 0.12, and the raw tau always
    assert rejected(25, 0.9, power=0.7, pools=100) >= 0.6
    # What the noise of a control hides stays in both.
    assert rejected(50, 0.9, noise=0.4, pools=100) > 0.3


def test_a_bent_effect_of_two_confounders_is_no_association():
    """With cubes alone p is at most 5% in 17% of these pools, with cubes and a correlation in 22%."""
    assert rejected(200, 0.9, controls=2, pools=200, effect=bent) <= 0.1


def test_what_is_left_is_compared_by_sums_of_products_and_their_own_variance():
    left = np.array([[[1.0, -2.0, 3.0], [2.0, 1.0, 1.0]]])
    assert _covariance(left) == pytest.approx(3 / math.sqrt(4 + 4 + 9))
    assert _correlation(left) == pytest.approx(3 / math.sqrt(14 * 6))
    for n, powers in ((24, 3), (25, 4), (50, 5), (149, 8), (150, 9), (400, 9)):
        z = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
        assert _basis(n, [z]).shape == (n, powers + 1)
    # Half of the models at least are left, and the square of two levels is one number.
    g = np.random.default_rng(0)
    assert _basis(24, list(g.normal(size=(5, 24)))).shape[1] == 11
    assert _basis(50, [np.repeat([-0.7, 0.7], 25)]).shape[1] == 2


def test_fewer_than_fifty_models_are_compared_by_the_correlation(monkeypatch):
    asked = []
    for name in ("_correlation", "_covariance"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda left, name=name, real=real: asked.append(name) or real(left))
    for n, name in ((49, "_correlation"), (50, "_covariance")):
        asked.clear()
        t, s, z, _ = columns(n)
        partial(t, s, {"z": z}, draws=9)
        assert asked == [name] * 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [25, 50, 100])
@pytest.mark.parametrize("controls", [1, 2])
def test_the_level_is_held_under_bent_effects(n, controls):
    assert 0.03 <= rejected(n, 0.9, controls=controls, pools=1000, draws=199, effect=bent) <= 0.085


@pytest.mark.slow
@pytest.mark.parametrize("n", [25, 50, 100])
@pytest.mark.parametrize("loading", [0.5, 0.9, 0.95])
def test_the_level_is_held_and_the_power_is_as_documented(n, loading):
    assert 0.03 <= rejected(n, loading, pools=2000, draws=199) <= 0.065
    assert rejected(n, loading, controls=3, pools=1000, draws=199) <= 0.075
    assert rejected(n, loading, power=0.5, pools=400, draws=199) >= {25: 0.45, 50: 0.75, 100: 0.97}[n]


def test_p_is_that_of_simulated_ranks_and_the_same_for_both_methods():
    t, s, z, _ = columns()
    kendall, spearman = (partial(t, s, {"z": z}, kind, draws=199, seed=3) for kind in ("kendall", "spearman"))
    assert kendall.p == spearman.p == partial(np.exp(t), s**3, {"z": z**3}, draws=199, seed=3).p
    assert (kendall.p * 200 / 2) % 1 == pytest.approx(0, abs=1e-9) and kendall.p >= 2 / 200
    assert math.isnan(partial(t, s, {"z": z}, draws=0).p) and not partial(t, s, {"z": z}, draws=0).note
    # The order of the models says nothing, nor which of the two is the target.
    g = np.random.default_rng(0)
    order = g.permutation(30)
    assert partial(t[order], s[order], {"z": z[order]}, draws=999).p == pytest.approx(kendall.p, abs=0.12)
    many = partial(t[:8], s[:8], {str(k): g.normal(size=8) for k in range(7)}, draws=9)
    assert math.isnan(many.p)


def test_the_size_of_the_errors_is_known_from_few_models_by_hand():
    """Six models and the control in their order: the slope is that of a line through 0, for scores have the mean 0."""
    z = scipy.stats.norm.ppf((np.arange(6) + 0.5) / 6)
    x, y = z[[1, 0, 2, 4, 3, 5]], z[[0, 2, 1, 3, 5, 4]]
    effects, spread = _effects(np.stack([x, y]), np.stack([np.ones(6), z], axis=1))
    for column, effect, size in zip((x, y), effects.T, spread, strict=True):
        slope = (z * column).sum() / (z**2).sum()
        assert effect == pytest.approx([0, slope], abs=1e-12)
        left = (column**2).sum() - slope**2 * (z**2).sum()
        assert size == pytest.approx(math.sqrt(left / 3))  # six less one, less the rank of two
    # Three controls, one of them twice, leave one; four leave none, of which one is made.
    g = np.random.default_rng(4)
    w = g.normal(size=(4, 6))
    for controls, freedom in ((w[[0, 1, 2, 2]], 1), (w, 1)):
        design = np.stack([np.ones(6), *controls], axis=1)
        residuals = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
        _, (size, _) = _effects(np.stack([x, y]), design)
        assert size == pytest.approx(math.sqrt((residuals**2).sum() / freedom))


@pytest.mark.slow
def test_p_without_an_association_is_uniform():
    g = np.random.default_rng(9)
    p = np.array([partial(*g.normal(size=(2, 20)), {"z": g.normal(size=20)}, draws=199, seed=k).p for k in range(1500)])
    for level in (0.02, 0.1, 0.3, 0.6):
        assert (p <= level).mean() == pytest.approx(level, abs=0.04)


def test_an_association_beyond_the_control_is_found():
    t, s, z, _ = columns(60, 5)
    s = s + 2 * t
    assert partial(t, s, {"z": z}, draws=999).p < 0.01


def test_a_model_without_a_control_is_left_out_and_degenerate_columns_are_noted():
    t, s, z, _ = columns()
    z[:3] = np.nan
    found = partial(t, s, {"z": z}, draws=99)
    assert found.n == 27 and "3 models have no value" in found.note
    same = partial(t, s, {"z": np.ones(30)}, draws=99)
    assert same.value == pytest.approx(same.raw) and "same for all models: z" in same.note
    assert same.raw == pytest.approx(kendall_tau(t, s, "b", resamples=9, permutations=9).tau)
    noisy = partial(t, s, {"z": z, "one": np.ones(30)}, measured=("z", "one", "other"), draws=0)
    assert "what the noise of z hides is not held fixed" in noisy.note and "noise" not in found.note
    itself = partial(t, s, {"s": s}, draws=99)
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
