import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from acutance import kendall_tau
from acutance.analysis.along_training import along, at_loss, common_levels
from acutance.analysis.statistics import StudyTables
from acutance.analysis.statistics.trainings import Trainings


def test_p_counts_the_circular_shifts_that_agree_as_much():
    rng = np.random.default_rng(0)
    t, s = rng.normal(size=9), rng.normal(size=9)
    found = along(t, s)
    taus = [kendall_tau(t, np.concatenate([s[k:], s[:k]]), resamples=0, permutations=0).tau for k in range(9)]
    assert found.tau == taus[0] and found.n == 9
    assert found.p == sum(abs(tau) >= abs(taus[0]) for tau in taus) / 9
    assert found.changes == kendall_tau(np.diff(t), np.diff(s), resamples=0, permutations=0).tau


def test_a_free_permutation_finds_too_much_in_two_walks_where_shifts_do_not():
    rng = np.random.default_rng(1)
    shifts, free = [], []
    for _ in range(200):
        # Stationary, but slow: each value is nearly the one before.
        noise = rng.normal(size=(2, 60))
        walks = np.zeros((2, 60))
        for i in range(1, 60):
            walks[:, i] = 0.95 * walks[:, i - 1] + noise[:, i]
        shifts.append(along(*walks).p)
        free.append(kendall_tau(*walks, resamples=0, permutations=199).p)
    assert np.mean(np.array(free) < 0.05) > 0.3
    assert np.mean(np.array(shifts) < 0.05) < 0.12


def test_a_common_trend_counts_nothing_in_the_changes():
    rng = np.random.default_rng(2)
    trend = np.arange(200.0)
    found = along(trend + rng.normal(size=200), trend + rng.normal(size=200))
    assert found.tau > 0.9 and abs(found.changes) < 0.15


def test_levels_lie_evenly_inside_what_all_trainings_pass():
    losses = [np.array([2.0, 1.0, 0.02]), np.array([1.6, 0.01])]
    levels = common_levels(losses, 3)
    assert levels == pytest.approx(np.exp(np.linspace(math.log(1.6), math.log(0.02), 5)[1:-1]))
    assert not len(common_levels([np.array([2.0, 1.5]), np.array([1.0, 0.1])]))


def test_values_at_a_loss_lie_between_checkpoints_by_its_logarithm_and_count_the_first_fall():
    loss = np.array([1.0, 0.1, 0.5, 0.001])
    columns = {"a": np.array([0.0, 1.0, 7.0, 9.0])}
    assert at_loss(loss, columns, 10**-0.25)["a"] == pytest.approx(0.25)
    assert at_loss(loss, columns, 0.1)["a"] == pytest.approx(1.0)
    assert at_loss(loss, columns, 1.0)["a"] == 0.0


def tables(runs=6, steps=8, matched=True):
    """Trainings whose measure at a loss is that loss times a number of the run, which is its error too."""
    models, results = [], []
    for r in range(runs):
        for step in range(steps):
            name, loss = f"r{r}@{step}", 2.0 * 0.5 ** (step * (1 + 0.1 * r))
            models.append(
                {"model": name, "pool": "p", "architecture": "a", "admitted": True, "attr.run": f"r{r}",
                 "attr.step": step, "target.train_loss": loss, "target.test_error": 0.1 + 0.01 * r + 0.001 * loss}
            )  # fmt: skip
            results.append(
                {"model": name, "pool": "p", "measure": "toy", "split": "train", "replicate": 0,
                 "value": (r if matched else 0) + 0.001 * loss, "status": "ok"}
            )  # fmt: skip
    return StudyTables(
        pd.DataFrame(models), pd.DataFrame(results), pd.DataFrame(), ["train_loss", "test_error"], within=["run"],
        resamples=199,
    )  # fmt: skip


def test_trainings_are_compared_with_each_other_at_the_same_loss():
    table = Trainings().compute(tables())
    matched = table[table["kind"] == "matched"]
    assert set(matched["target"]) == {"test_error"} and len(matched) == 5
    assert list(matched["tau"]) == [1.0] * 5 and set(matched["n"]) == {6}
    assert (matched["p"] < 0.01).all() and (matched["low"] > 0).all()


def test_each_training_has_its_own_row():
    table = Trainings().compute(tables())
    alone = table[table["kind"] == "along"]
    assert len(alone) == 6 * 2 and set(alone["n"]) == {8}
    assert set(alone["tau"]) == {1.0} and set(alone["changes"]) == {1.0}
    section = Trainings().section(table)
    assert len(section.rows) == 17 and section.rows[0][0] == "run r0"
    assert len(Trainings().methods(table)) == 2


@pytest.mark.parametrize("runs", [1, 4])
def test_few_trainings_are_not_compared(runs):
    assert set(Trainings().compute(tables(runs))["kind"]) == {"along"}


def test_models_of_no_training_have_no_rows():
    study = tables()
    study = dataclasses.replace(study, models=study.models.drop(columns="attr.step"))
    assert not len(Trainings().compute(study)) and Trainings().section(Trainings().compute(study)) is None
