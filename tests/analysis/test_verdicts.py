"""The line on a measure, on tables whose answer is known by construction."""

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.decompose import Stratified, stratified_tau
from acutance.analysis.explained import Check, attribute_checks, group_check
from acutance.analysis.tables import correlations
from acutance.analysis.verdicts import ORDER, _weighed, conclusion, in_order, verdicts

SETTINGS = {"resamples": 199, "seed": 0}


def study(
    n=60, seed=0, targets=("test_error",), groups=("aug",), within=(), attributes=("aug", "lr", "opt"), names=None
):
    """Errors that an augmentation and (second target) a learning rate move, and measures of every kind."""
    g = np.random.default_rng(seed)
    aug, z = g.random(n) < 0.5, g.uniform(-3, 0, n)
    error = 0.05 + 0.02 * aug + 0.01 * g.normal(size=n)
    known = {"aug": aug, "lr": 10**z, "opt": np.where(np.arange(n) % 3, "sgd", "adam")}
    models = pd.DataFrame({
        "model": [f"m{i}" for i in range(n)], "admitted": True, "architecture": np.where(np.arange(n) % 2, "a", "b"),
        "target.test_error": error, "target.ood_error": 0.1 + 0.02 * z + 0.008 * g.normal(size=n),
        "target.given:test_error": error, **{f"attr.{k}": known[k] for k in attributes},
    })  # fmt: skip
    values = {
        "perfect": error, "near": error + 0.006 * g.normal(size=n), "inverse": -error, "null": g.normal(size=n),
        "augmented": aug + 0.3 * g.normal(size=n), "rate": z + 0.05 * g.normal(size=n),
        "signs": error - 0.02 * models["target.ood_error"].rank() / n * 10, "missing": np.full(n, np.nan),
    }  # fmt: skip
    results = pd.concat([
        pd.DataFrame({"model": models["model"], "measure": k, "value": v, "status": "ok"})
        for k, v in values.items()
        if names is None or k in names
    ])  # fmt: skip
    options = {"targets": list(targets), "groups": list(groups), "within": list(within)}
    table = correlations(models, results, resamples=199, permutations=999, **options)
    return verdicts(models, results, table, **options, **SETTINGS), table


@pytest.fixture(scope="module")
def judged():
    return study(targets=("test_error", "ood_error", "attr:lr"))[0].set_index("definition")


@pytest.mark.parametrize(
    ("name", "verdict", "parts"),
    [
        (
            "perfect",
            "good",
            ("good: +1.00 with test error", "holds within aug (+1.00/+1.00)", "; 1 of 2 correlations hold"),
        ),
        ("near", "good", ("good: +0.7", "holds within aug (+0.")),
        ("inverse", "inverse", ("inverse: -1.00 with test error", "holds within aug (-1.00/-1.00)")),
        ("augmented", "confounded", ("confounded: +0.", "vanishes within aug (")),
        ("rate", "follows", ("follows lr: +0.", "with ood error, but it is lr (+0.9", "no relation beyond it")),
        ("signs", "mixed", ("mixed: +", " with test error but -", " with ood error; the sign depends")),
        ("missing", "no value", ("no value: 60 models have no value; fewer than 3 models",)),
    ],
)
def test_each_kind_of_measure_has_its_line(judged, name, verdict, parts):
    row = judged.loc[name]
    assert row["verdict"] == verdict and all(part in row["line"] for part in parts), row["line"]


def test_what_does_not_hold_is_excluded_or_cannot_be_told():
    table, _ = study(names=("null", "near"), n=60)
    row = table.set_index("definition").loc["null"]
    assert (
        row["verdict"] == "none" and row["line"].startswith("no relation: ") and -0.3 < row["low"] < row["high"] < 0.3
    )
    few, _ = study(names=("null", "perfect", "near"), n=12)
    row = few.set_index("definition").loc["null"]
    assert row["verdict"] == "unclear" and "of 12 models, adjusted p = " in row["line"]
    five, _ = study(names=("perfect", "near", "null"), n=5)
    assert five["line"].str.match(r"cannot tell: 5 models \([+-]\d\.\d\d\)").all()
    assert (
        conclusion(five)
        == "Nothing holds: none of 3 correlations of 3 measures does after adjustment (family-wise error 5%)."
    )


def test_few_models_and_a_table_without_attributes_know_no_confounds():
    table, _ = study(names=("perfect",), n=6)
    assert table["line"].tolist() == ["holds: +1.00, but 6 models are too few to look for confounds"]
    bare, _ = study(names=("perfect",), n=20, groups=(), attributes=())
    assert bare["line"].tolist() == ["holds: +1.00; no groups and no attributes are known, so no confounds"]
    assert "whether beyond groups and attributes cannot be told: perfect." in conclusion(bare)
    ungrouped, _ = study(names=("near",), groups=(), attributes=("opt",))
    assert ungrouped["line"][0].endswith("goes with none of opt")


def test_a_given_and_a_measured_target_count_once():
    twice, table = study(names=("near",), targets=("given:test_error", "test_error"))
    once, _ = study(names=("near",))
    assert len(table[table["group"] == "all"]) == 2
    pd.testing.assert_frame_equal(twice, once)


def test_levels_and_radii_are_told_apart():
    table, _ = study(names=("near",), within=("architecture",))
    assert table["within"].tolist() == ["architecture=a", "architecture=b"] and (table["n"] == 30).all()
    models = pd.DataFrame({
        "model": list("abcdefghijkl"), "admitted": True, "target.test_error": np.arange(12.0), "attr.lr": np.ones(12),
    })  # fmt: skip
    radii = {0.1: np.arange(12.0), 0.2: np.array([3, 0, 2, 1, 5, 4, 7, 6, 8, 11, 9, 10.0])}
    results = pd.concat([
        pd.DataFrame({"model": models["model"], "measure": "m", "spec.rho": rho, "value": v, "status": "ok"})
        for rho, v in radii.items()
    ])  # fmt: skip
    found = correlations(models, results, targets=["test_error"], resamples=99, permutations=999)
    (row,) = verdicts(models, results, found, targets=["test_error"], **SETTINGS).to_dict("records")
    assert row["line"].startswith("holds: +1.00 at ρ = 0.1; no groups") and (row["rho"], row["holding"]) == (0.1, 2)


@pytest.mark.parametrize(
    ("tau", "found", "result", "text"),
    [
        (0.6, Stratified(0.5, 0.2, 0.7, 0.01, 40, 2), "survives", "holds within aug, mix up (+0.4/+0.6)"),
        (
            0.6,
            Stratified(0.5, -0.01, 0.7, 0.01, 40, 2),
            "unknown",
            "cannot tell within aug, mix up (+0.50, [-0.01, +0.70])",
        ),
        (0.6, Stratified(0.3, 0.05, 0.5, 0.06, 40, 2), "vanishes", "vanishes within aug, mix up (+0.4/+0.6)"),
        (
            0.6,
            Stratified(0.1, -0.2, 0.61, 0.5, 40, 2),
            "unknown",
            "cannot tell within aug, mix up (+0.10, [-0.20, +0.61])",
        ),
        (0.6, Stratified(-0.4, -0.6, -0.2, 0.01, 40, 2), "turns", "turns within aug, mix up (+0.4/+0.6)"),
        (-0.6, Stratified(0.0, -0.2, 0.2, 1.0, 40, 2), "vanishes", "vanishes within aug, mix up (+0.4/+0.6)"),
        (-0.6, Stratified(-0.5, -0.7, -0.2, 0.01, 40, 2), "survives", "holds within aug, mix up (+0.4/+0.6)"),
        (
            0.6,
            Stratified(np.nan, np.nan, np.nan, np.nan, 0, 0),
            "unknown",
            "within aug, mix up: no two models to compare",
        ),
    ],
)
def test_what_groups_leave(tau, found, result, text):
    check = group_check(tau, found, ["aug", "mix_up"], "+0.4/+0.6")
    assert (check.result, check.text) == (result, text)


def test_what_attributes_leave():
    g = np.random.default_rng(4)
    n = 80
    z, own = g.normal(size=n), g.normal(size=n)

    def results(t, s, **attributes):
        return [
            (c.what, c.result, c.follows)
            for c in attribute_checks(t, s, pd.DataFrame(attributes), resamples=199, seed=0)
        ]

    noise = 0.5 * g.normal(size=(2, n))
    assert results(z + noise[0], z + 2 * noise[1], lr=z) == [("lr", "vanishes", False)]
    assert results(z + noise[0], z + 0.1 * noise[1], lr=z) == [("lr", "vanishes", True)]
    assert results(own + z + noise[0], own + z + noise[1], lr=z) == [("lr", "survives", False)]
    assert results(-own + 3 * z, own + 3 * z, lr=z) == [("lr", "turns", False)]
    # Each leaves something, both together nothing; an attribute that the measure goes nowhere near is not asked.
    sums = results(z + own + 1.5 * noise[0], z + own + 1.5 * noise[1], lr=z, wd=own)
    assert sums == [("lr and wd", "vanishes", False)]
    assert results(own, own + noise[0], other=g.permutation(own)) == []
    labels = np.where(z > 0.5, "a", np.where(z > -0.5, "b", "c"))
    jumps = 3.0 * (labels == "b") + (labels == "c")
    assert results(jumps + noise[0], jumps + noise[1], kind=labels) == [("kind", "vanishes", False)]
    # A label for every model holds everything fixed: it is not asked.
    assert results(own, own, name=[f"m{i}" for i in range(n)]) == []
    assert results(z + noise[0], z, lr=z) == [("lr", "vanishes", True)]  # the attribute itself leaves nothing


@pytest.mark.parametrize(
    ("tau", "results", "verdict", "line"),
    [
        (0.5, [("a", "survives", 0)], "good", "head, a survives"),
        (-0.5, [("a", "survives", 0), ("b", "survives", 1)], "inverse", "head, a survives, b survives"),
        (0.5, [("a", "unknown", 0), ("b", "vanishes", 0)], "confounded", "head, b vanishes"),
        (0.5, [("a", "survives", 0), ("b", "vanishes", 1)], "follows", "b: head, but b vanishes"),
        (0.5, [("a", "turns", 1)], "confounded", "head, a turns"),
        (0.5, [("a", "survives", 0), ("b", "unknown", 0)], "holds", "head, but b unknown"),
        (0.5, [], "good", "head, goes with none of x y, z"),
    ],
)
def test_what_explains_a_relation_outweighs_the_rest(tau, results, verdict, line):
    checks = [Check(what, result, f"{what} {result}", bool(follows)) for what, result, follows in results]
    assert _weighed(tau, "head", checks, ["x_y", "z"]) == (verdict, line)


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (["good", "inverse", "none"], "2 of 6 correlations of 3 measures hold after adjustment (family-wise error 5%); "
         "beyond groups and attributes: d0, d1 (inverse)."),
        (["follows", "holds"], "whether beyond groups and attributes cannot be told: d1."),
        (["confounded", "follows"], "none beyond groups and attributes: they explain what holds."),
        (["good"] * 5, "beyond groups and attributes: d0, d1, d2 and 2 more."),
        (["confounded"], "1 of 2 correlations of 1 measure holds after"),
        (["unclear"], "Nothing holds: none of 2 correlations of 1 measure does"),
    ],
)  # fmt: skip
def test_the_conclusion(kinds, text):
    rows = [
        {"definition": f"d{i}", "verdict": kind, "holding": int(kind not in ("none", "unclear")), "comparisons": 2}
        for i, kind in enumerate(kinds)
    ]
    assert text in conclusion(pd.DataFrame(rows))
    nothing = pd.DataFrame([{"definition": "d", "verdict": "no value", "holding": 0, "comparisons": 0}])
    assert conclusion(nothing) == "Nothing can be said: there is no correlation."


def test_what_holds_comes_first(judged):
    found = in_order(judged.reset_index())["verdict"].map(ORDER.index)
    assert found.is_monotonic_increasing and found.nunique() > 4


def test_the_groups_are_those_of_the_stratified_tau():
    """The check takes tau inside groups from the function that associations.csv has it from."""
    t, s, g = np.arange(20.0), np.arange(20.0)[::-1], np.arange(20) // 10
    found = stratified_tau(t, s, g, resamples=99, permutations=99)
    assert group_check(0.3, found, ["g"], "").text == "turns within g (-1.00)"
