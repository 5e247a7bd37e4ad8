"""Ceilings, confounds, hypotheses and redundant measures of a study's tables, against the functions they come from."""

import numpy as np
import pandas as pd
import pytest
from findings import findings

from acutance.analysis.association import association
from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.decompose import decompose
from acutance.analysis.hypotheses import strong, weak
from acutance.analysis.multiplicity import false_discovery
from acutance.analysis.tables import correlations

N = 40


@pytest.fixture(scope="module")
def tables():
    g = np.random.default_rng(2)
    lr, error = 10 ** g.uniform(-3, 0, N), g.uniform(0.02, 0.1, N)
    models = pd.DataFrame({
        "model": [f"m{i}" for i in range(N)], "architecture": "a", "admitted": True, "attr.lr": lr,
        "attr.aug": np.arange(N) % 2 == 0, "attr.same": 1.0, "target.test_error": error, "target.measure:x": lr,
    })  # fmt: skip
    values = {"follows": error + 0.002 * g.normal(size=N), "lr": np.log(lr), "noise": g.normal(size=N)}
    results = pd.concat([
        pd.DataFrame({"model": models["model"], "measure": k, "spec.rho": np.nan, "value": v, "status": "ok"})
        for k, v in values.items()
    ])  # fmt: skip
    return models, results, values


@pytest.fixture(scope="module")
def found(tables):
    models, results, _ = tables
    return findings(
        models, results, targets=["test_error", "attr:lr", "measure:x"], groups=["aug"], within=["architecture"],
        points={"test_error": 1000}, resamples=199,
    )  # fmt: skip


def test_the_ceiling_is_that_of_the_test_set(tables, found):
    (row,) = found.ceilings.to_dict("records")
    exact = noise_ceiling(tables[0]["target.test_error"], 1000)
    assert (row["target"], row["tau"], row["low"], row["high"], row["n"]) == (
        "test_error", exact.tau, exact.low, exact.high, N,
    )  # fmt: skip
    assert row["within"] == "architecture=a" and 0.5 < row["tau"] < 1


def test_confounds_are_tau_b_with_every_attribute_that_differs(tables, found):
    models, _, values = tables
    table = found.confounds.set_index(["definition", "attribute"])
    assert {a for _, a in table.index} == {"lr", "aug"} and len(table) == 6
    exact = association(models["attr.lr"], values["follows"], "tau_b", resamples=199, permutations=199)
    row = table.loc[("follows", "lr")]
    assert (row["tau"], row["low"], row["p"]) == (exact.value, exact.low, exact.p)
    assert table.loc[("lr", "lr"), "tau"] == pytest.approx(1)


def test_hypotheses_are_about_generalization(tables, found):
    models, _, values = tables
    table = found.hypotheses.set_index(["definition", "hypothesis"])
    assert set(table["target"]) == {"all targets", "test_error"} and len(table) == 9
    assert table.loc[("follows", "strong"), "verdict"] == "supported"
    assert table.loc[("noise", "strong"), "verdict"] != "supported"
    alone = strong(
        {"test_error": models["target.test_error"]}, values["noise"], models["attr.aug"].map({True: "1", False: "0"}),
        comparisons=3, resamples=199, permutations=199,
    )  # fmt: skip
    assert table.loc[("noise", "strong"), "reason"] == alone.reason
    assert set(table.loc[("noise", "strong"), ["short", "needed"]]) == {0}
    labels = models["attr.aug"].map({True: "1", False: "0"})
    for hypothesis, form in (("weak", "strict"), ("weak_wide", "wide")):
        alone = weak(models["target.test_error"], values["noise"], labels, form=form, comparisons=3, slopes=False)
        row = table.loc[("noise", hypothesis)]
        assert alone.name == hypothesis and list(row[["verdict", "reason"]]) == [alone.verdict, alone.reason]
        assert list(row[["short", "needed"]]) == [alone.short, alone.needed]


def test_measures_that_say_the_same_are_one_cluster(tables):
    models, results, _ = tables
    twin = results[results["measure"] == "noise"].assign(measure="twin")
    found = findings(models, pd.concat([results, twin]), targets=["test_error"], resamples=99)
    clusters = found.pairwise.drop_duplicates("definition").set_index("definition")["cluster"]
    assert clusters["noise"] == clusters["twin"] != clusters["lr"]
    pair = found.pairwise.set_index(["definition", "other"]).loc[("noise", "twin")]
    assert pair["tau"] == pytest.approx(1) and pair["n"] == N


def test_the_table_of_correlations_knows_groups_and_false_discoveries(tables):
    models, results, values = tables
    table = correlations(
        models, results, targets=["test_error"], groups=["aug"], within=["architecture"], resamples=99, permutations=199
    )
    whole = table[table["group"] == "all"].set_index("measure")
    exact = decompose(models["target.test_error"], values["noise"], models["attr.aug"])
    row = whole.loc["noise"]
    assert (row["tau_within"], row["tau_between"], row["simpson"]) == (exact.within, exact.between, exact.simpson)
    assert whole["p_fdr"].tolist() == false_discovery(whole["p"]).tolist()
    assert table.loc[table["group"] != "all", "tau_within"].isna().all()


def test_few_models_and_no_definitions_give_empty_tables(tables):
    models, results, _ = tables
    for m, r in ((models[:2], results), (models, results[:0])):
        found = findings(m, r, targets=["test_error"], resamples=9)
        # Those of the whole study have no levels.
        assert all(not len(t) and ("within" in t) is (name != "trainings") for name, t in found.tables.items())
