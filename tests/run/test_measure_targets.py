"""Targets that are measures of the study itself: how two measures are related."""

import numpy as np
import pandas as pd
import pytest

from acutance import kendall_tau
from acutance.analysis.adjust import max_tau_p
from acutance.analysis.labels import target_label
from acutance.run.harness import run_study
from acutance.study.config import load_config


def test_a_measure_is_a_target_of_the_others_and_not_of_itself(toy_config, tmp_path):
    target = "measure:average_case(logit_norm=false)"
    toy_config |= {"targets": ["test_error", "measure:weight_norm", target], "groups": []}
    toy_config["measures"][1]["replicates"] = 2
    run = run_study(load_config(toy_config), tmp_path / "run", report=False)
    results, models, table = run.results, run.models.set_index("model"), run.correlations
    rows = results[(results["measure"] == "average_case") & ~results["spec.logit_norm"].astype(bool)]
    mean = rows.groupby("model")["value"].mean()
    assert np.allclose(models.loc[mean.index, f"target.{target}"], mean, rtol=1e-14, atol=0)

    worst = results[(results["measure"] == "worst_case") & (results["spec.rho"] == 0.01)].set_index("model")["value"]
    for level, row in (
        table[(table["measure"] == "worst_case") & (table["spec.rho"] == 0.01) & (table["target"] == target)]
        .set_index("within")
        .iterrows()
    ):
        names = models.index[models["architecture"] == level.removeprefix("architecture=")]
        assert row["tau"] == kendall_tau(mean[names].to_numpy(), worst[names].to_numpy()).tau

    itself = table[(table["measure"] == "weight_norm") & (table["target"] == "measure:weight_norm")]
    assert len(itself) and itself[["tau", "p", "p_adjusted"]].isna().all(axis=None)
    assert set(itself["note"]) == {"the target itself"}
    others = table[~table.index.isin(itself.index) & (table["note"].fillna("") != "the target itself")]
    assert others.loc[others["n"] > 2, "tau"].notna().all()


def test_pairs_that_are_not_compared_do_not_count_in_the_adjustment():
    g = np.random.default_rng(0)
    t, s = g.normal(size=(2, 20)), g.normal(size=(3, 20))
    s[1] = t[0]
    without = np.zeros((2, 3), bool)
    without[0, 1] = True
    p = max_tau_p(t, s, 499, 0, without)
    assert np.isnan(p[0, 1]) and np.isfinite(p[~without]).all()
    # The same as a measure that has no value for this target: the rest of the table is smaller by one comparison.
    every = max_tau_p(t, s, 499, 0)
    assert every[0, 1] == pytest.approx(1 / 500) and (p[~without] <= every[~without]).all()


def test_attributes_and_measured_targets_with_equal_numbers_are_compared(toy_config):
    from acutance.analysis.tables import correlations

    models = pd.DataFrame({"model": list("abcde"), "admitted": True, "attr.x": range(5), "target.measure:m": range(5)})
    results = pd.DataFrame({"model": list("abcde"), "measure": "m", "value": np.arange(5.0), "status": "ok"})
    table = correlations(models, results, targets=["attr:x", "measure:m"], resamples=99).set_index("target")
    assert table.loc["attr:x", "tau"] == 1 and np.isnan(table.loc["measure:m", "tau"])


@pytest.mark.parametrize(
    "target,label",
    [
        ("test_error", "test_error"),
        ("attr:scale", "attr:scale"),
        ("measure:hessian_trace", "Hessian trace"),
        ("measure:worst_case(norm=l2, rho=0.1, scaling=elementwise)", "adaptive worst-case ℓ2, ρ = 0.1"),
        ("measure:dln_beta_norm(p=1)", "DLN norm of β, p = 1"),
        ("measure:acme/own(x=3)", "own (x=3)"),
    ],
)
def test_a_measure_is_called_as_it_is_elsewhere(target, label):
    assert target_label(target) == label
