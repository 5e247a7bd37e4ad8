"""The correlations table."""

import io

import numpy as np
import pandas as pd
import pytest

from acutance import UserError, kendall_tau
from acutance.analysis.labels import Namer, definition_label, definition_name
from acutance.analysis.tables import correlations


def make(n=24, definitions=3):
    g = np.random.default_rng(0)
    models = pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(n)],
            "pool": "p",
            "architecture": ["a"] * (n // 2) + ["b"] * (n - n // 2),
            "train_set": "d",
            "admitted": True,
            "attr.learning_rate": g.random(n),
            "attr.augment": np.arange(n) % 2 == 0,
            "target.test_error": g.random(n),
            "target.gap": g.random(n),
        }
    )
    rows = [
        {"model": m, "measure": "worst_case", "spec.rho": 0.1 * (d + 1), "spec.norm": "l2", "replicate": 0,
         "value": g.random(), "stderr": np.nan, "status": "ok"}
        for d in range(definitions)
        for m in models["model"]
    ]  # fmt: skip
    return models, pd.DataFrame(rows)


OPTIONS = {"targets": ["test_error", "attr:learning_rate"], "groups": ["augment"], "within": ["architecture"]}


def test_every_row_is_kendalls_tau_of_its_models():
    models, results = make()
    table = correlations(models, results, **OPTIONS, resamples=99, permutations=99)
    assert len(table) == 3 * 2 * 2 * 3
    wide = results.pivot(index="model", columns="spec.rho", values="value").loc[models["model"]]
    for _, row in table.iterrows():
        keep = ("architecture=" + models["architecture"]) == row["within"]
        if row["group"] != "all":
            keep &= ("augment=" + models["attr.augment"].astype(int).astype(str)) == row["group"]
        column = "attr.learning_rate" if row["target"].startswith("attr:") else "target.test_error"
        t, s = models.loc[keep, column], wide.loc[keep.to_numpy(), row["spec.rho"]]
        expected = kendall_tau(t, s, resamples=99, permutations=99)
        assert (row["n"], row["tau"], row["p"]) == (keep.sum(), expected.tau, expected.p)
        assert row["low"] == pytest.approx(expected.low, nan_ok=True)


def test_only_admitted_models_are_compared():
    models, results = make()
    models.loc[:3, "admitted"] = False
    table = correlations(models, results, **OPTIONS, resamples=9, permutations=9)
    assert set(table[table["group"] == "all"]["n"]) == {8, 12}


def test_missing_values_are_counted_and_said():
    models, results = make()
    results.loc[results["model"] == "m0", ["status", "value"]] = ["failed", np.nan]
    table = correlations(models, results, **OPTIONS, resamples=9, permutations=9)
    row = table[(table["within"] == "architecture=a") & (table["group"] == "all")].iloc[0]
    assert row["n"] == 11 and "1 models have no value" in row["note"]


def test_replicates_are_averaged():
    models, results = make()
    again = results.assign(replicate=1, value=results["value"] + 1)
    once = correlations(models, results, **OPTIONS, resamples=9, permutations=9)
    twice = correlations(models, pd.concat([results, again]), **OPTIONS, resamples=9, permutations=9)
    pd.testing.assert_frame_equal(once, twice)


def test_too_few_models_leave_a_row_with_its_reason():
    models, results = make(n=4)
    table = correlations(models, results, **OPTIONS, resamples=9, permutations=9)
    assert table["tau"].isna().all() and table["note"].str.contains("fewer than 3").all()


def test_infinite_values_follow_the_policy():
    models, results = make()
    results.loc[0, ["value", "status"]] = [np.inf, "nonfinite"]
    with pytest.raises(UserError, match="non-finite"):
        correlations(models, results, **OPTIONS, resamples=9, permutations=9)
    ranked = correlations(models, results, **OPTIONS, nonfinite="rank_max", resamples=9, permutations=9)
    assert ranked["note"].str.contains("infinite").any() and ranked["tau"].notna().all()


def test_within_nothing_is_one_level():
    models, results = make()
    table = correlations(models, results, targets=["gap"], within=[], resamples=9, permutations=9)
    assert set(table["within"]) == {"all"} and set(table["n"]) == {24}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["test_eror"]}, "did you mean 'test_error'"),
        ({"targets": ["attr:learning"]}, "no model has 'attr:learning'"),
        ({"groups": ["augmnt"]}, "did you mean 'augment'"),
        ({"within": ["archi"]}, "no model has 'archi'"),
    ],
)
def test_unknown_columns_are_named(change, message):
    models, results = make()
    with pytest.raises(UserError, match=message):
        correlations(models, results, **{**OPTIONS, **change}, resamples=9, permutations=9)


def test_names_are_the_papers():
    row = {"measure": "worst_case", "spec.norm": "linf", "spec.scaling": "elementwise", "spec.logit_norm": "True",
           "spec.rho": 0.002, "spec.steps": 20}  # fmt: skip
    assert definition_name(row) == "adaptive worst-case ℓ∞, logit-norm"
    assert definition_label(row) == "adaptive worst-case ℓ∞, logit-norm, ρ = 0.002"
    plain = {"measure": "average_case", "spec.norm": "l2", "spec.scaling": "none", "spec.logit_norm": False}
    assert definition_name(plain) == "standard avg-case ℓ2"
    assert definition_name({"measure": "acme/x", "spec.p": 2.0, "spec.rho": np.nan}) == "acme/x (p=2.0)"


WORST = {"measure": "worst_case", "spec.norm": "linf", "spec.scaling": "elementwise", "spec.logit_norm": False,
         "spec.steps": 20, "spec.restarts": 1, "spec.mode": "paper", "spec.parameters": "all"}  # fmt: skip
AVERAGE = {"measure": "average_case", "spec.norm": "l2", "spec.scaling": "none", "spec.draws": 100,
           "spec.variance_reduction": "none"}  # fmt: skip


def names(rows):
    name = Namer(rows)
    return [name(row) for row in rows]


@pytest.mark.parametrize("through_csv", [False, True])
def test_definitions_of_one_table_have_names_of_their_own(through_csv):
    rows = [
        {**WORST, "spec.rho": 0.1},
        {**WORST, "spec.rho": 0.2},
        {**WORST, "spec.rho": 0.1, "spec.steps": 50},
        {**WORST, "spec.rho": 0.1, "spec.restarts": 4},
        {**WORST, "spec.rho": 0.1, "spec.mode": "released"},
        {**WORST, "spec.rho": 0.1, "spec.norm": "l2"},
        {**AVERAGE, "spec.rho": 0.1},
        {**AVERAGE, "spec.rho": 0.1, "spec.variance_reduction": "linear"},
        {"measure": "hessian_trace", "spec.estimator": "hutchinson", "spec.draws": 8},
        {"measure": "hessian_trace", "spec.estimator": "hutchinson", "spec.draws": 64},
        {"measure": "acme/x", "spec.p": 2.0},
    ]
    if through_csv:
        rows = pd.read_csv(io.StringIO(pd.DataFrame(rows).to_csv(index=False)), keep_default_na=False, na_values=[""])
        rows = rows.to_dict("records")
    assert names(rows) == [
        "adaptive worst-case ℓ∞, steps = 20, restarts = 1",
        "adaptive worst-case ℓ∞, steps = 20, restarts = 1",
        "adaptive worst-case ℓ∞, steps = 50, restarts = 1",
        "adaptive worst-case ℓ∞, steps = 20, restarts = 4",
        "adaptive worst-case ℓ∞, released",
        "adaptive worst-case ℓ2",
        "standard avg-case ℓ2, variance_reduction = none",
        "standard avg-case ℓ2, variance_reduction = linear",
        "Hessian trace, draws = 8",
        "Hessian trace, draws = 64",
        "acme/x (p=2.0)",
    ]


@pytest.mark.parametrize(
    "field", ["steps", "restarts", "candidates", "start", "parameters", "norm_scale", "ladder", "mode"]
)
def test_any_field_tells_two_definitions_apart(field):
    first, second = names([{**WORST, "spec.rho": 0.1}, {**WORST, "spec.rho": 0.1, f"spec.{field}": "else"}])
    assert first != second


def test_names_stay_short_where_nothing_else_differs():
    rows = [{**WORST, "spec.rho": rho, "spec.logit_norm": norm} for rho in (0.1, 0.2) for norm in (True, False)]
    assert names(rows) == [definition_name(row) for row in rows]
    assert len({definition_label(row, Namer(rows)) for row in rows}) == 4
