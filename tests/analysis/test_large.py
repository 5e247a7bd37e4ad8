"""Tables of many measures: how many resamples are taken, and that work grows with the table and no faster."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from acutance import UserError
from acutance.analysis import labels, tables, verdicts, workload
from acutance.analysis.external import Columns, as_run
from acutance.analysis.hypotheses import strong, weak
from acutance.cli import cli
from acutance.report.data import ReportData
from acutance.report.page.methods import methods
from acutance.run.directory import read_csv


def table(measures, models=12):
    g = np.random.default_rng(measures)
    made = pd.DataFrame(g.normal(size=(models, measures)), columns=[f"measure_{k}" for k in range(measures)])
    made.insert(0, "err", g.permutation(models) / 100)
    return made


def correlate(folder, *options):
    table(2).to_csv(folder / "t.csv", index=False)
    command = ["correlate", str(folder / "t.csv"), "--targets", "err", "--out", str(folder / "out"), "--no-report"]
    return CliRunner().invoke(cli, [*command, *options])


def test_asked_resamples_are_taken_and_written_down(tmp_path):
    done = correlate(tmp_path, "--resamples", "150")
    assert done.exit_code == 0 and "note: " not in done.output
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["analysis"] == {"resamples": 150}
    found = read_csv(tmp_path / "out" / "correlations.csv")
    models, results, _ = as_run(table(2), Columns(targets=["err"]))
    settings = {"targets": ["err"], "nonfinite": "rank_max", "seed": 0}
    asked, usual = (tables.correlations(models, results, resamples=n, permutations=n, **settings) for n in (150, 9999))
    for column in ("low", "high", "p", "p_adjusted"):
        assert found[column].tolist() == pytest.approx(asked[column].tolist(), abs=1e-12), column
    assert found["low"].tolist() != pytest.approx(usual["low"].tolist(), abs=1e-4)
    # A later call with other settings starts from what the folder says.
    again = CliRunner().invoke(cli, ["correlate", str(tmp_path / "out"), "--out", str(tmp_path / "b"), "--no-report"])
    assert again.exit_code == 0 and read_csv(tmp_path / "b" / "correlations.csv")["low"].equals(found["low"])


def test_fewer_resamples_than_usual_are_said_on_the_terminal_and_in_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "AFFORDABLE", 0.0)
    done = correlate(tmp_path)
    told = [
        line for line in done.stderr.splitlines() if line.startswith("note: 999 resamples and permutations, not 9999")
    ]
    assert len(told) == 1 and "(--resamples 9999, or analysis.resamples of a study, takes them)" in told[0]
    assert "analysis" not in yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    notes = read_csv(tmp_path / "out" / "correlations.csv")["note"]
    assert notes.str.startswith("999 resamples and permutations").all()
    # What is said of progress can be silenced, what is said of numbers cannot.
    assert correlate(tmp_path, "--quiet").stderr == f"{told[0]}\n"
    assert "statistics ..." in done.stderr
    assert workload.reduced([None, math.nan, "", *notes]) == 999 and workload.reduced(["of 9 models"]) is None
    assert "note: 999" not in correlate(tmp_path, "--resamples", "200").stderr


def test_too_few_resamples_are_refused(tmp_path):
    done = correlate(tmp_path, "--resamples", "98")
    assert done.exit_code == 2 and "98 is not in the range x>=99" in done.stderr


def test_naming_and_judging_grow_with_the_measures_and_no_faster(monkeypatch):
    calls = Counter()

    def count(owner, name):
        plain = getattr(owner, name)

        def counting(*args, **settings):
            calls[name] += 1
            return plain(*args, **settings)

        monkeypatch.setattr(owner, name, counting)

    for owner, name in (
        (labels, "definition_name"), (verdicts, "holding"), (verdicts, "counted"), (pd.DataFrame, "__init__"),
        (pd.DataFrame, "__getitem__"), (pd.DataFrame, "drop_duplicates"),
    ):  # fmt: skip
        count(owner, name)

    def work(measures):
        models, results, _ = as_run(table(measures), Columns(targets=["err"]))
        found = tables.correlations(models, results, targets=["err"], resamples=99, permutations=99)
        data = ReportData("t", {}, {}, models, results, found, found[:0], {}, ["err"], [], {})
        calls.clear()
        judged = verdicts.verdicts(models, results, found, targets=["err"], resamples=99)
        assert list(judged["definition"]) == data.definitions and methods(data).count("measure_") == measures
        return dict(calls)

    few, many = work(30), work(60)
    assert few["holding"] == many["holding"] == 1 and few["counted"] == many["counted"] == 1
    assert many["drop_duplicates"] == few["drop_duplicates"]
    assert 30 < many["definition_name"] <= 2 * few["definition_name"] <= 2 * 8 * 30
    for name in ("__init__", "__getitem__"):  # frames of the whole table alone
        assert many[name] - few[name] < 30, name


def test_a_hypothesis_makes_its_table_when_it_is_asked_for(monkeypatch):
    g = np.random.default_rng(0)
    t, s = g.normal(size=(2, 20))
    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "__init__", lambda *_, **__: pytest.fail("a frame"))
        first = strong({"err": t}, s, resamples=99, permutations=0)
        second = weak(t, s, slopes=False)
    assert list(first.table.columns) == ["target", "scope", "n", "tau", "low", "high", "p", "verdict", "note"]
    assert first.table is first.table and second.table.loc[0, "scope"] == "pooled"
    with pytest.raises(UserError, match="at least one"):
        strong({}, s)
