"""What counts and what holds: one rule, whatever a target is called."""

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.adjust import family_p
from acutance.analysis.judging import counted, families, holding, holds, open_sign, outcomes
from acutance.analysis.multiplicity import false_discovery
from acutance.analysis.tables import correlations

NAN = float("nan")


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["test_error", "attr:lr", "measure:trace(rho=0.1)", "ood.loss"], ["test_error", "ood.loss"]),
        (["test_error", "given:test_error"], ["test_error"]),
        (["given:test_error", "test_error"], ["test_error"]),  # the measured one, wherever it stands
        (["given:test.error", "given:test_error"], ["given:test.error"]),
        (["test.gap", "generalization_gap", "given:generalization_gap"], ["test.gap"]),
        (["a.error", "b.error", "a_loss"], ["a.error", "b.error", "a_loss"]),
        (["v1.5", "v1_5"], ["v1.5", "v1_5"]),  # a point that separates no quantity is part of a name
    ],
)
def test_errors_losses_and_gaps_count_once(targets, found):
    assert outcomes(targets) == found
    parts = families(targets)
    assert sorted(i for part in parts for i in part) == list(range(len(targets)))
    assert [targets[i] for i in parts[0]] == found


@pytest.mark.parametrize(
    ("p", "low", "high", "sure", "unknown"),
    [
        (0.049, 0.1, 0.5, True, False),
        (0.05, 0.1, 0.5, False, False),
        (0.01, -0.04, 1.0, False, True),  # "+0.79 [-0.04, +1.00]*" is impossible
        (0.01, 0.0, 0.5, False, True),
        (0.01, -0.5, 0.0, False, True),
        (0.01, -0.5, -0.1, True, False),
        (0.01, NAN, NAN, True, True),
        (NAN, 0.1, 0.5, False, False),
    ],
)
def test_what_holds(p, low, high, sure, unknown):
    row = {"p_adjusted": p, "low": low, "high": high}
    assert holds(row) is sure and open_sign(row) is unknown
    assert holding(pd.DataFrame([row])).tolist() == [sure]


@pytest.fixture(scope="module")
def study():
    g = np.random.default_rng(3)
    n = 24
    models = pd.DataFrame({
        "model": [f"m{i}" for i in range(n)], "admitted": True, "attr.lr": g.normal(size=n),
        "target.test_error": g.normal(size=n), "target.given:test_error": g.normal(size=n),
    })  # fmt: skip
    values = {"a": models["attr.lr"] + 0.01 * g.normal(size=n), "b": models["target.test_error"] + g.normal(size=n)}
    results = pd.concat([
        pd.DataFrame({"model": models["model"], "measure": k, "value": v, "status": "ok"}) for k, v in values.items()
    ])  # fmt: skip
    return models, results, values


def test_the_family_of_adjusted_p_is_what_counts(study):
    models, results, values = study
    settings = {"resamples": 9, "permutations": 199}
    names = ["test_error", "attr:lr", "given:test_error"]
    table = correlations(models, results, targets=names, **settings)
    alone = correlations(models, results, targets=["test_error"], **settings)
    found = counted(table)
    assert found["target"].unique().tolist() == ["test_error"] and len(found) == 2
    for column in ("p", "p_adjusted", "p_fdr", "tau"):
        assert found[column].tolist() == alone[column].tolist()
    # The other targets are a family of their own.
    other = table[table["target"] != "test_error"]
    t = models[["attr.lr", "target.given:test_error"]].to_numpy().T
    _, adjusted = family_p(t, np.stack([values["a"], values["b"]]), 199, 0)
    assert other["p_adjusted"].tolist() == adjusted.T.ravel().tolist()
    assert other["p_fdr"].tolist() == false_discovery(other["p"]).tolist()


def test_what_is_counted_is_whole_and_has_a_number(study):
    models, results, _ = study
    table = correlations(
        models.assign(**{"attr.g": np.arange(24) % 2}), results, targets=["test_error"], groups=["g"], resamples=9,
        permutations=9,
    )  # fmt: skip
    assert len(table) == 6 and len(counted(table)) == 2
    assert len(counted(table.assign(tau=[np.nan, *table["tau"][1:]]))) == 1
    # The study's targets decide, not those that a level happens to have.
    assert counted(table.assign(target="given:test_error"), ["given:test_error", "test_error"]).empty
