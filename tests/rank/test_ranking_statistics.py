"""The statistics of a ranking: jackknife against bootstrap, Holm, sure ranks, costs and luck, without torch."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.choosing import leave_one_out, picks, random_regret, recommended, regret
from acutance.analysis.ranking import (
    GROUPS,
    conclusive,
    groups_of,
    holm,
    jackknife_errors,
    mean_ranks,
    overall,
    possibly_best,
    ranks,
    sentence,
    without_rounding,
)
from acutance.errors import UserError


def without(data, statistic, group):
    return np.stack([statistic(data[group != g]) for g in range(GROUPS)])[None]


@pytest.mark.parametrize("statistic", [lambda x: x.mean(0), lambda x: np.median(x, 0), lambda x: np.log(x.var(0))])
def test_the_jackknife_agrees_with_a_bootstrap(statistic):
    g = np.random.default_rng(1)
    data = g.gamma(2.0, size=(2000, 12))
    boot = np.stack([statistic(data[g.integers(0, 2000, 2000)]) for _ in range(200)]).std(0)
    found = np.mean([jackknife_errors(without(data, statistic, groups_of(2000, seed=s))) for s in range(4)], 0)
    assert found.mean() == pytest.approx(boot.mean(), rel=0.12)


def test_the_jackknife_of_a_mean_is_its_standard_error_over_groups_and_samples_add():
    g = np.random.default_rng(0)
    x = g.normal(size=GROUPS)
    one = without(x, lambda v: v.mean(), np.arange(GROUPS))
    assert jackknife_errors(one) == pytest.approx(x.std(ddof=1) / math.sqrt(GROUPS))
    assert jackknife_errors(np.concatenate([one, 2 * one])) == pytest.approx(math.sqrt(5) * jackknife_errors(one))
    one[0, 3] = math.nan
    assert np.isnan(jackknife_errors(one))


def test_groups_are_as_large_as_each_other_and_need_points():
    counts = np.bincount(groups_of(103))
    assert set(counts) == {5, 6} and len(counts) == GROUPS
    assert (groups_of(103) == groups_of(103)).all() and (groups_of(103, seed=1) != groups_of(103)).any()
    with pytest.raises(UserError, match="19 points are too few"):
        groups_of(19)


def test_holm_is_the_step_down_of_bonferroni():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def paired(means, noise, seed=0):
    """Values and replicates of models with these means and independent noise, besides noise that all share."""
    g = np.random.default_rng(seed)
    x = np.array(means) + noise * g.normal(size=(400, len(means))) + 5 * g.normal(size=(400, 1))
    return x.mean(0), without(x, lambda v: v.mean(0), groups_of(400))


def test_models_apart_have_their_ranks_and_paired_noise_does_not_matter():
    values, parts = paired([3.0, 1.0, 2.0], 0.1)
    small, large = ranks(values, parts), ranks(values, parts, larger_is_better=True)
    assert small.low.tolist() == small.high.tolist() == [3, 1, 2]
    assert large.low.tolist() == large.high.tolist() == [1, 3, 2]
    assert small.better[1].tolist() == [True, False, True] and (small.stderr > 0.2).all()


def test_equal_models_and_what_has_no_value_can_have_any_rank():
    values, parts = paired([1.0, 1.0, 9.0], 0.0)
    found = ranks(values, parts)
    assert found.low.tolist() == [1, 1, 3] and found.high.tolist() == [2, 2, 3]
    parts[0, 0, 2] = math.nan
    lost = ranks(values, parts)
    assert lost.low.tolist() == [1, 1, 1] and lost.high.tolist() == [3, 3, 3]
    # Rounding is no difference, though it is there in every group.
    assert ranks([1.0, 1.0 + 1e-8], np.ones((1, GROUPS, 2)) + [0, 1e-8]).low.tolist() == [1, 1]


def test_sure_ranks_are_rarely_wrong():
    wrong = 0
    for seed in range(150):
        values, parts = paired([0.0] * 4, 1.0, seed)
        wrong += ranks(values, parts).better.any()
    assert wrong <= 15  # 5% of 150 are 7.5


def table(measure, values, low, high):
    ranked = mean_ranks(values)
    return pd.DataFrame({"measure": measure, "model": list("abc"), "value": values, "rank": ranked, "rank_low": low,
                         "rank_high": high})  # fmt: skip


def test_sentences():
    sure, open_, any_ = (
        table("x", [1.0, 2, 3], [1, 2, 2], [1, 3, 3]),
        table("y", [1.0, 2, 3], [1, 1, 3], [2, 2, 3]),
        table("z", [1.0, 2, 3], [1, 1, 1], [3, 3, 3]),
    )
    assert conclusive(sure) and not conclusive(open_) and possibly_best(open_) == ["a", "b"]
    assert sentence(sure) == "a comes first" and sentence(any_) == "the first can be any of the 3 models"
    assert sentence(open_) == "the first is one of 2 of 3: a, b"
    assert overall(pd.concat([sure, open_])) == "a comes first by 1 of 2 measures, and none rules it out."
    assert overall(open_) == "Inconclusive: no measure tells the first model from the second."
    other = table("w", [3.0, 1, 2], [2, 1, 2], [3, 1, 3])
    assert "measures disagree, a, b each come" in overall(pd.concat([sure, other]))
    against = table("v", [3.0, 1, 2], [3, 1, 1], [3, 2, 2])
    assert overall(pd.concat([sure, against])) == "Inconclusive: a comes first by 1 of 2 measures, and 1 rules it out."
    none = table("n", [math.nan] * 3, [1] * 3, [3] * 3)
    assert sentence(none) == "no model has a value" and np.isnan(mean_ranks([math.nan])).all()
    assert mean_ranks([2.0, 1, 1, 5], True).tolist() == [2, 3.5, 3.5, 1]


def test_a_pick_and_its_regret():
    assert picks([2.0, 1, 1, math.nan]).tolist() == [0, 0.5, 0.5, 0]
    errors = np.array([0.1, 0.3, 0.5])
    g = np.random.default_rng(0)
    parts = errors + 0.01 * g.normal(size=(GROUPS, 3))
    cost, deviation = regret([2.0, 1.0, 3.0], errors, parts)
    assert cost == pytest.approx(0.2)
    assert deviation == pytest.approx(float(jackknife_errors((parts[:, 1] - parts[:, 0])[None])))
    assert regret([1.0, 2.0, 3.0], errors, parts) == (0.0, 0.0)
    assert math.isnan(regret([math.nan] * 3, errors, parts)[0])


def test_the_regret_of_models_that_are_equally_good_is_zero_whatever_they_are_called():
    errors = np.array([0.1, 0.7, 0.1, 0.1])
    parts = np.random.default_rng(1).random((GROUPS, 1)) * [1, 0, 1, 1] + [0, 0.7, 0, 0]
    for badness in ([1.0, 2, 1, 1], [1.0, 2, 1, 3], [3.0, 2, 1, 1], [1.0, 1, 1, 1]):
        cost, deviation = regret(badness, errors, parts)
        assert cost == pytest.approx(0.15 if badness[1] == 1 else 0, abs=0)
        assert (deviation == 0) == (cost == 0)
    same = np.tile(np.full(3, 0.1), (2, 1))
    assert random_regret(same[0]) == random_regret(same) == 0
    assert "no less than a model picked at random" in recommended({"x": np.array([[1.0, 2, 3]] * 2)}, same).why
    assert [c.random for c in leave_one_out({"x": np.array([[1.0, 2, 3]] * 2)}, same, ["a", "b"])] == [0, 0]
    # All models chosen: no better than one picked at random, though the two are summed up in another way.
    g = np.random.default_rng(0)
    for _ in range(50):
        tied = recommended({"x": np.ones((3, 7))}, g.random((3, 7)))
        assert "no less than a model picked at random" in tied.why


def test_what_is_rounding_beside_the_other_values_of_a_measure_is_shown_as_zero():
    rows = pd.DataFrame(
        {"measure": ["a", "a", "a", "b", "b"], "value": [-1.39e-17, 0.3, math.inf, -1.39e-17, math.nan]}
    )
    shown = without_rounding(rows)
    assert shown.tolist()[:4] == [0, 0.3, math.inf, -1.39e-17] and math.isnan(shown[4])


def brute(values, errors):
    """The same by its definition: one tau after the other, over all orders of the models."""

    def tau(a, b):
        pairs = list(itertools.combinations(range(len(a)), 2))
        s = sum(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs)
        scale = sum(a[i] != a[j] for i, j in pairs) * sum(b[i] != b[j] for i, j in pairs)
        return s / math.sqrt(scale) if scale else 0.0

    def largest(order):
        e = errors[:, order]
        return [np.mean([tau(x, y) for x, y in zip(v, e, strict=True)]) for v in values.values()]

    observed = largest(list(range(errors.shape[1])))
    orders = [list(o) for o in itertools.permutations(range(errors.shape[1]))]
    return observed, [max(largest(o)) for o in orders]


def test_the_recommended_measure_is_told_from_luck_by_all_orders_of_the_models():
    g = np.random.default_rng(3)
    errors = np.sort(g.random((2, 5)), axis=1)
    values = {"good": errors + 0.01, "bad": g.random((2, 5)), "tied": np.ones((2, 5))}
    found = recommended(values, errors)
    observed, every = brute(values, errors)
    assert found.measure == "good" and found.regret == 0 and not found.why
    assert found.p == pytest.approx(np.mean([t >= observed[0] - 1e-9 for t in every]))
    assert found.random == pytest.approx((errors.mean(1) - errors.min(1)).mean())


def test_a_choice_that_is_no_better_than_luck_is_not_recommended():
    errors = np.array([[0.1, 0.2, 0.3, 0.4]])
    assert "no less than a model picked at random" in recommended({"x": np.array([[4.0, 3, 2, 1]])}, errors).why
    assert "not told from luck" in recommended({"x": np.array([[1.0, 4, 3, 2]])}, errors).why
    assert "2 models are too few" in recommended({"x": np.array([[1.0, 2]])}, np.array([[0.1, 0.2]])).why
    assert not recommended({}, errors).measure
    many = np.arange(12.0)[None] / 20
    assert recommended({"x": many}, many).p == pytest.approx(1e-4) and not recommended({"x": many}, many).why


def test_a_set_that_is_left_out_did_not_choose():
    errors = np.array([[0.1, 0.2, 0.6], [0.1, 0.2, 0.6], [0.6, 0.2, 0.1]])
    values = {"a": np.array([[1.0, 2, 3]] * 3), "c": np.array([[3.0, 2, 1]] * 3)}
    found = leave_one_out(values, errors, ["s", "t", "u"])
    assert [c.set for c in found] == ["s", "t", "u"]
    assert found[2].measure == ("a",) and found[2].regret == pytest.approx(0.5)
    assert found[0].measure == ("a", "c") and found[0].regret == pytest.approx(0.25)
    assert leave_one_out(values, errors[:1], ["s"]) == []
