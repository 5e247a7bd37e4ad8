"""The tables beside the correlations are the functions they come from, on the models they say."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from findings import findings

from acutance import kendall_tau
from acutance.analysis.association import association
from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.decompose import stratified_tau
from acutance.analysis.multiplicity import held_out_radius
from acutance.analysis.partial import partial
from acutance.analysis.reliability import reliability
from acutance.analysis.tables import correlations

N = 30


@pytest.fixture(scope="module")
def study():
    g = np.random.default_rng(4)
    lr, error = 10 ** g.uniform(-3, 0, N), g.binomial(1000, g.uniform(0.02, 0.3, N)) / 1000
    lr[3] = np.nan
    models = pd.DataFrame({
        "model": [f"m{i}" for i in range(N)], "admitted": True, "attr.lr": lr, "attr.aug": np.arange(N) % 2 == 0,
        "attr.same": 1, "target.test_error": error, "target.train_loss": g.random(N), "target.gap": error - 0.01,
    })  # fmt: skip
    values = {(rho, k): error + rho * g.normal(size=N) for rho in (0.01, 0.1) for k in range(2)}
    rows = [
        pd.DataFrame({"model": models["model"], "measure": "m", "spec.rho": rho, "replicate": k, "value": v, "status": "ok"})
        for (rho, k), v in values.items()
    ]  # fmt: skip
    rows.append(
        pd.DataFrame(
            {"model": models["model"], "measure": "plain", "replicate": 0, "value": g.random(N), "status": "ok"}
        )
    )
    means = {rho: (values[rho, 0] + values[rho, 1]) / 2 for rho in (0.01, 0.1)}
    return models, pd.concat(rows, ignore_index=True), values, means


@pytest.fixture(scope="module")
def found(study):
    models, results, *_ = study
    return findings(
        models, results, targets=["test_error", "gap"], groups=["aug"], controls=["lr", "train_loss", "same", "other"],
        points={"test_error": 1000}, resamples=199,
    )  # fmt: skip


def test_associations_are_those_of_the_functions(study, found):
    models, _, values, means = study
    table = found.associations.set_index(["definition", "target"])
    assert set(table.index) == {(d, t) for d in ("m, ρ = 0.01", "m, ρ = 0.1", "plain") for t in ("test_error", "gap")}
    row, t, s = table.loc[("m, ρ = 0.1", "test_error")], models["target.test_error"].to_numpy(), means[0.1]
    for method in ("tau_a", "tau_b", "tau_c", "spearman", "weighted"):
        assert row[method] == association(t, s, method, resamples=0, permutations=0).value, method
    assert row["tau_b"] == pytest.approx(scipy.stats.kendalltau(t, s).statistic)
    assert row["spearman"] == pytest.approx(scipy.stats.spearmanr(t, s).statistic)
    jack = association(t, s, interval="jackknife", permutations=0)
    assert (row["jackknife_low"], row["jackknife_high"]) == (jack.low, jack.high)
    strata = stratified_tau(
        t, s, models["attr.aug"].map({True: "aug=1", False: "aug=0"}), resamples=199, permutations=199
    )
    assert (row["stratified"], row["stratified_low"], row["stratified_p"]) == (strata.tau, strata.low, strata.p)
    controls = models[["attr.aug", "attr.lr", "target.train_loss"]].set_axis(["aug", "lr", "train_loss"], axis=1)
    beyond = partial(t, s, controls, draws=199)
    assert (row["partial_kendall"], row["partial_kendall_p"]) == (beyond.value, beyond.p)
    assert row["partial_n"] == N - 1 and row["n"] == N and row["controls"] == "aug, lr, train_loss"
    assert "partial: 1 models have no value" in row["note"]
    # Hyperparameters are what they are; a train loss is measured.
    assert row["note"].endswith("what the noise of train_loss hides is not held fixed")
    noise = reliability(t, np.stack([values[0.1, 0], values[0.1, 1]], axis=1))
    assert (row["icc"], row["replicate_lowest"], row["replicates"]) == (noise.icc, noise.lowest, 2)
    assert np.isnan(table.loc[("plain", "gap"), "icc"])


def test_radii_are_judged_on_models_that_did_not_choose(study, found):
    models, _, _, means = study
    assert len(found.radii) == 2 and set(found.radii["target"]) == {"test_error", "gap"}
    row = found.radii.set_index("target").loc["test_error"]
    exact = held_out_radius(models["target.test_error"], [means[0.01], means[0.1]], [0.01, 0.1])
    assert (row["tau"], row["best"], row["optimism"]) == (exact.tau, exact.best, exact.optimism)
    assert row["chosen"] == 0.01 and row["share"] == exact.chosen[0.01]


def test_the_ceiling_stands_beside_every_tau(study):
    models, results, values, _ = study
    table = correlations(
        models,
        results,
        targets=["test_error", "gap"],
        groups=["aug"],
        points={"test_error": 1000},
        resamples=50,
        permutations=50,
    )
    assert table.columns[-1] == "ceiling" and table.loc[table["target"] == "gap", "ceiling"].isna().all()
    by = table[table["target"] == "test_error"].set_index(["measure", "group", "spec.rho"])["ceiling"].sort_index()
    errors, aug = models["target.test_error"].to_numpy(), models["attr.aug"].to_numpy()
    assert by.loc["plain", "all"].item() == noise_ceiling(errors, 1000).tau
    assert by.loc["plain", "aug=1"].item() == noise_ceiling(errors[aug], 1000).tau
    noise = np.stack([values[0.1, 0], values[0.1, 1]], axis=1)
    assert by[("m", "all", 0.1)] == noise_ceiling(errors, 1000, noise).tau < by[("m", "all", 0.01)]


def test_no_interval_and_no_p_where_none_is_asked_for():
    t, s = np.random.default_rng(0).normal(size=(2, 12))
    for method in ("tau_a", "spearman", "weighted"):
        found = association(t, s, method, resamples=0, permutations=0)
        assert np.isnan([found.low, found.high, found.p]).all() and np.isfinite(found.value)
    assert np.isnan(kendall_tau(t, s, resamples=0, permutations=0).low)
