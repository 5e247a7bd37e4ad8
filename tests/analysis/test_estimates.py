"""How far off estimated errors are: sums by hand, and the split that a definition is measured on."""

import inspect

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from findings import findings

from acutance.analysis.association import association
from acutance.analysis.statistics.estimates import Estimates, compared
from acutance.presentation import Presentation, showing

N = 40
# What scipy calls the generator, of old as random_state.
DRAWING = "rng" if "rng" in inspect.signature(scipy.stats.bootstrap).parameters else "random_state"


@pytest.fixture(scope="module")
def columns():
    g = np.random.default_rng(0)
    error = g.uniform(0.05, 0.4, N)
    return error, error - 0.06 + 0.03 * g.normal(size=N), g.uniform(0.3, 0.6, N)


def test_means_and_intervals_are_those_by_hand(columns):
    error, estimate, _ = columns
    found = compared(error, estimate, resamples=1999)
    off, g = estimate - error, np.random.default_rng(1)
    assert found["n"] == N and found["bias"] == pytest.approx(off.mean(), rel=1e-12) and found["bias"] < -0.04
    assert found["mean_absolute_error"] == pytest.approx(np.abs(off).mean(), rel=1e-12)
    for name, values in (("bias", off), ("mean_absolute_error", np.abs(off))):
        peer = scipy.stats.bootstrap((values,), np.mean, n_resamples=1999, method="BCa", **{DRAWING: g})
        ends = found[f"{name}_low"], found[f"{name}_high"]
        width = peer.confidence_interval.high - peer.confidence_interval.low
        assert ends == pytest.approx(tuple(peer.confidence_interval), abs=0.1 * width)
    tau = association(error, estimate, resamples=1999, permutations=0)
    assert (found["tau"], found["tau_low"], found["tau_high"]) == (tau.value, tau.low, tau.high)


def test_models_without_both_numbers_are_left_out(columns):
    error, estimate, _ = (column.copy() for column in columns)
    error[0], estimate[1] = np.nan, np.inf
    found = compared(error, estimate, resamples=99)
    assert found["n"] == N - 2 and found["bias"] == pytest.approx((estimate - error)[2:].mean())
    few = compared(error[:3], estimate[:3])
    assert few["n"] == 1 and "fewer than" in few["note"] and "bias" not in few


def test_a_definition_is_compared_with_the_error_on_its_own_split(columns):
    error, estimate, shifted = columns
    names = [f"m{i}" for i in range(N)]
    models = pd.DataFrame({
        "model": names, "admitted": True, "target.test_error": error, "target.ood.error": shifted,
        "target.test_loss": 2 * error,
    })  # fmt: skip

    def rows(measure, split, points, value):
        return pd.DataFrame({
            "model": names, "measure": measure, "split": split, "spec.points": points, "replicate": 0, "value": value,
            "status": "ok",
        })  # fmt: skip

    results = pd.concat([
        rows("guess", "test", None, estimate), rows("guess", "ood", "ood", estimate), rows("guess", "train", "train", estimate),
        rows("other", "test", None, estimate),
    ], ignore_index=True)  # fmt: skip
    with showing({"guess": Presentation(label="guess", estimates="error"), "other": Presentation(label="other")}):
        found = findings(models, results, targets=["test_error", "ood.error", "test_loss"], resamples=99)
        table = found.estimates
        assert list(table[["definition", "target", "split"]].itertuples(index=False, name=None)) == [
            ("guess", "test_error", "test"), ("guess on ood", "ood.error", "ood"),
        ]  # fmt: skip
        assert table["bias"].tolist() == pytest.approx([(estimate - error).mean(), (estimate - shifted).mean()])
        section = Estimates().section(table)
        assert (
            section.rows[0][2].text == f"{100 * np.abs(estimate - error).mean():.1f}"
            and section.rows[0][3].text[0] == "\u2212"
        )
        assert section.rows[0][5] == str(N)
        without = findings(models, results.drop(columns="split"), targets=["test_error"], resamples=99)
        assert not len(without.estimates) and Estimates().section(without.estimates) is None


def test_what_a_measure_estimates_is_kept_with_a_run():
    shown = Presentation(label="guess", estimates="error")
    assert Presentation.of_json(shown.as_json()) == shown
    older = shown.as_json()
    del older["estimates"]
    assert Presentation.of_json(older).estimates == ""
