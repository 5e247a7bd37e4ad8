"""Runs of one study, made apart, as one: nothing lost, conflicts told, sources untouched."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from forked import python_that_forks

import acutance
from acutance.cli import cli
from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.config import load_config
from acutance.workflows.merge import Source, _facts, _never_loaded, _points, _pools, combine, differences, merge


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def copied(finished, folder):
    """Return the finished toy run, with its directory copied to a folder."""
    shutil.copytree(finished.directory, folder)
    return replace(finished, directory=folder)


def table(frame):
    keys = ["model", "measure", "split", "replicate", *sorted(c for c in frame if c.startswith("spec."))]
    return frame[sorted(frame.columns)].astype(object).fillna("").sort_values(keys).reset_index(drop=True)


def rows(folder, name, columns="*"):
    with sqlite3.connect(f"file:{folder}/acutance.db?mode=ro", uri=True) as db:
        return db.execute(f"SELECT {columns} FROM {name}").fetchall()


def files(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def test_halves_make_the_whole(toy_config, finished_once, tmp_path):
    whole = finished_once
    run(toy_config, tmp_path / "a", limit=4)
    toy_config["pools"][0]["size"] = 3
    run(toy_config | {"executor": {"name": "backwards"}}, tmp_path / "b")
    toy_config["pools"][0]["size"] = 6
    run(toy_config, tmp_path / "c")
    before = {name: files(tmp_path / name) for name in "abc"}
    merged = merge([tmp_path / name for name in "abc"], tmp_path / "merged", report=False)
    assert {name: files(tmp_path / name) for name in "abc"} == before
    assert not merged.conflicts and not merged.notes
    pd.testing.assert_frame_equal(table(merged.run.results), table(whole.results), rtol=1e-6)
    pd.testing.assert_frame_equal(merged.run.models, whole.models, rtol=1e-6)
    pd.testing.assert_frame_equal(merged.run.correlations, whole.correlations, rtol=1e-6)
    # The merged folder is a run: it resumes, and computes nothing.
    config = yaml.safe_load((tmp_path / "merged" / "config.yaml").read_text())
    assert [pool["size"] for pool in config["pools"]] == [6]
    assert run(config, tmp_path / "merged").computed == 0


def test_nothing_is_lost(toy_config, tmp_path):
    run(toy_config, tmp_path / "a", limit=2)
    run(toy_config, tmp_path / "b", limit=5)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    for name in ("cell", "part", "model"):
        keys = {key for folder in "ab" for (key,) in rows(tmp_path / folder, name, "key")}
        assert {key for (key,) in rows(tmp_path / "c", name, "key")} == keys
    spent = [len(rows(tmp_path / folder, "attempt")) for folder in "abc"]
    assert spent[0] + spent[1] == spent[2]
    assert len(rows(tmp_path / "c", "run")) == 3
    # A copy of a folder brings nothing new, not even attempts.
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    merge([tmp_path / "b", tmp_path / "copy"], tmp_path / "d", report=False)
    assert rows(tmp_path / "d", "attempt") == rows(tmp_path / "b", "attempt")


def test_cells_whose_parts_lie_apart_are_completed(finished_once, tmp_path):
    done = copied(finished_once, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder, batches in (("a", "batch < 2"), ("b", "batch >= 2")):
        with sqlite3.connect(tmp_path / folder / "acutance.db") as db:
            db.execute("DELETE FROM cell WHERE measure = 'acutance/worst_case'")
            db.execute(f"DELETE FROM part WHERE NOT ({batches}) AND cell NOT IN (SELECT key FROM cell)")
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    assert merged.run.computed == 12 and not merged.notes
    pd.testing.assert_frame_equal(table(merged.run.results), table(done.results))
    alone = merge([tmp_path / "a", tmp_path / "a"], tmp_path / "d", report=False)
    assert alone.notes == [f"12 cells have no value yet: run the study in {tmp_path / 'd'} to compute them"]


def test_conflicts_are_told_and_the_first_is_believed(finished_once, tmp_path):
    copied(finished_once, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with sqlite3.connect(tmp_path / "b" / "acutance.db") as db:
        key, old = db.execute("SELECT key, value FROM cell WHERE measure = 'acutance/worst_case'").fetchone()
        db.execute("UPDATE cell SET value = value * 1.01 WHERE key = ?", (key,))
        db.execute("UPDATE part SET value = value * 1.01 WHERE cell = ?", (key,))
        db.execute("UPDATE cell SET value = value * (1 + 1e-8) WHERE measure = 'acutance/average_case'")
        db.execute("UPDATE model SET key = 'other' WHERE entry = 'toy5'")
    paths = [str(tmp_path / name) for name in ("a", "b")]
    done = CliRunner().invoke(
        cli, ["merge", *paths, "--out", str(tmp_path / "c"), "--no-report"], standalone_mode=False
    )
    assert done.return_value == 1
    lines = [line for line in done.output.splitlines() if line.startswith("conflict: ")]
    assert len(lines) == 2 and "model acme-toy/toy/toy5" in lines[0] and "has other weights" in lines[0]
    assert "acutance/worst_case of toy" in lines[1] and repr(old) in lines[1] and repr(old * 1.01) in lines[1]
    assert dict(rows(tmp_path / "c", "cell", "key, value"))[key] == old
    assert "2 conflicts, 0 without a number" in done.output


def test_a_failure_gives_way_to_a_value(toy_config, tmp_path):
    flag = tmp_path / "flag"
    toy_config["measures"] = [{"name": "moody", "mood": "raise", "flag": str(flag)}]
    assert run(toy_config, tmp_path / "a").failed == 6
    flag.touch()
    run(toy_config, tmp_path / "b", limit=4)
    for order in ("ab", "ba"):
        merged = merge([tmp_path / name for name in order], tmp_path / order, report=False)
        assert merged.run.failed == 2 and not merged.conflicts
        assert rows(tmp_path / order, "run", "state")[-1] == ("failed",)
        assert (merged.run.results.query("model == 'toy1'")["status"] == "ok").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"seed: 0 in .*a, 1 in .*b"),
        ({"surface": {"points": 16, "m": 8}}, r"surface\.points: 32 in"),
        ({"measures": [{"name": "weight_norm"}]}, r"measures: \[.*\.\.\. in"),
        ({"dataset": {"name": "toy", "classes": 3, "shift": -1}}, r"dataset\.shift: 0 in .*, -1 in"),
    ],
)
def test_other_studies_are_refused_with_what_differs(toy_config, tmp_path, change, message):
    run(toy_config, tmp_path / "a", limit=1)
    other = toy_config | change
    store = Store((tmp_path / "b").mkdir() or tmp_path / "b" / "acutance.db")
    store.start_run(load_config(other).resolved, {})
    store.close()
    with pytest.raises(acutance.UserError, match=message):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_other_points_are_refused(toy_config, tmp_path):
    run(toy_config, tmp_path / "a", limit=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    store = Store(tmp_path / "b" / "acutance.db")
    store.put_points({**store.points(), "test/split": ["other"]})
    store.close()
    with pytest.raises(acutance.UserError, match="the points of split 'test' differ"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")


def test_what_may_differ():
    a = {"pools": [1], "executor": {"name": "serial"}, "surface": {"m": 8, "microbatch": None}, "seed": 0}
    b = {"pools": [2], "executor": {"name": "ray"}, "surface": {"m": 8, "microbatch": 4}, "seed": 0}
    assert not list(differences(a, b))
    assert list(differences(a, {**b, "surface": {"m": 4}, "title": "x"})) == [
        ("surface.m", 8, 4), ("title", None, "x")
    ]  # fmt: skip


# -- what each row of the sources becomes ---------------------------------------------------------------------


def source(name, pools=(), points=None, facts=None, **tables):
    """A source made by hand; its tables have rows where they are given."""
    empty = {table: [] for table in ("run", "attempt", "model", "cell", "part")}
    return Source(Path(name), {"pools": list(pools)}, {}, points or {}, facts or {}, empty | tables)


def model(entry, pool="p", **attributes):
    return {
        "pool": pool,
        "entry": entry,
        "key": f"key of {entry}",
        "description": json.dumps({"attributes": attributes}),
    }


def cell(key, value, state="done"):
    return {
        "key": key,
        "measure": "x",
        "model": "key of n",
        "split": "train",
        "spec": "{}",
        "state": state,
        "value": value,
    }


def part(key, of, value, batch=0, status="ok"):
    return {"key": key, "cell": of, "batch": batch, "status": status, "value": value}


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [(1.0, 1 + 0.9e-6, True), (1.0, 1 + 2e-6, False), (-1.0, 1.0, False), (0.0, 1e-9, False), (float("inf"),) * 2 + (True,),
     (None, None, True), (None, 1.0, False), (1.0, None, False)],
)  # fmt: skip
def test_values_are_the_same_to_a_millionth_and_the_first_is_kept(first, other, same):
    a, b = (source(name, model=[model("n")], cell=[cell("k", value)]) for name, value in (("a", first), ("b", other)))
    tables, conflicts = combine([a, b])
    assert [row["value"] for row in tables["cell"]] == [first]
    assert conflicts == ([] if same else [f"x of n, train, {{}}: {first!r} in a, {other!r} in b"])


def test_a_batch_is_told_where_its_cell_is_not():
    parts = [
        part("1", "k", 1.0),
        part("2", "l", 1.0, batch=3),
        part("3", "open", 1.0),
        part("4", "l", None, status="failed"),
    ]
    others = [part("1", "k", 2.0), part("2", "l", 2.0, batch=3), part("3", "open", 2.0), part("4", "l", 5.0)]
    cells = [cell("k", 1.0), cell("l", 1.0)], [cell("k", 2.0), cell("l", 1.0)]
    tables, conflicts = combine(
        [source(name, cell=c, part=p) for name, c, p in zip("ab", cells, (parts, others), strict=True)]
    )
    what = "x of key of n, train, {}: 1.0 in a, 2.0 in b"
    assert conflicts == [what, f"batch 3 of {what}", "batch 0 of an unfinished cell: 1.0 in a, 2.0 in b"]
    assert [row["value"] for row in tables["part"]] == [1.0, 1.0, 1.0, 5.0]


def test_what_only_one_source_knows_is_kept_and_the_first_goes_before():
    a = source("a", points={"train/batch": ["1"]}, facts={"p/n": {"points": "x"}}, model=[model("n", lr=1)])
    b = source("b", points={"train/batch": ["1"], "test/split": ["2"]}, facts={"p/n": {"points": "y", "initial": "i"}},
               model=[model("n", lr=2, seed=3), model("o", lr=4)])  # fmt: skip
    tables, conflicts = combine([a, b])
    assert [json.loads(row["description"])["attributes"] for row in tables["model"]] == [
        {"lr": 1, "seed": 3},
        {"lr": 4},
    ]
    assert not conflicts and _points([a, b]) == b.points == _points([source("without"), a, b])
    assert _facts([a, b]) == (
        {"p/n": {"points": "x", "initial": "i"}}, ["model p/n: b has other preprocessed points"]
    )  # fmt: skip


def test_of_the_settings_of_a_pool_those_stay_that_include_the_others():
    def of(name, size, *entries):
        return source(name, [{"name": "p", "size": size}], model=[model(entry) for entry in entries])

    def sizes(*sources):
        return [section["size"] for section in _pools(sources)]

    assert sizes(of("a", 1, "n"), of("b", 2, "n", "o"), of("c", 1, "n")) == [2]
    assert sizes(of("a", 1, "n"), of("b", 2, "n")) == [1]  # of two that are equal the first
    assert sizes(of("a", 1, "n", "o"), of("b", 2, "o", "q")) == [1, 2]
    assert sizes(of("a", 1, "n"), of("b", 2, "n", "o"), of("c", 1, "q")) == [1, 2]


def test_a_model_that_another_source_could_load_is_not_missed(tmp_path):
    (tmp_path / "models.csv").write_text("model,key\nn,\no,\nq,known\n")
    told = f"{tmp_path}: n, o could not be loaded and is left out"
    assert _never_loaded([source(tmp_path), source(tmp_path / "none")], {"q"}) == [told]
    assert _never_loaded([source(tmp_path)], {"n", "q"}) == [told.replace("n, o", "o")]
    assert _never_loaded([source(tmp_path)], {"n", "o"}) == []


def test_folders_that_cannot_be_merged(toy_config, tmp_path):
    run(toy_config, tmp_path / "a", limit=2)
    with pytest.raises(acutance.UserError, match="holds no run"):
        merge([tmp_path / "a", tmp_path / "none"], tmp_path / "c")
    with pytest.raises(acutance.UserError, match="at least two"):
        merge([tmp_path / "a"], tmp_path / "c")
    with pytest.raises(acutance.UserError, match="holds a run already"):
        merge([tmp_path / "a", tmp_path / "a"], tmp_path / "a")
    with sqlite3.connect(tmp_path / "a" / "acutance.db") as db:
        db.execute("DELETE FROM meta WHERE name = 'points'")
    with pytest.raises(acutance.UserError, match="does not say which points"):
        merge([tmp_path / "a", tmp_path / "a"], tmp_path / "c")


@pytest.mark.parametrize("target", ["attr:learning_rate", "test_error"])
def test_runs_of_weights_alone_touch_no_point_of_their_split(three_models, tmp_path, target):
    study = three_models | {"targets": [target], "measures": [{"name": "weight_norm"}]}
    whole = run(study, tmp_path / "whole")
    for name, limit in (("a", 2), ("b", 3)):
        run(study, tmp_path / name, limit=limit)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    assert not merged.conflicts and not merged.notes
    pd.testing.assert_frame_equal(table(merged.run.results), table(whole.results))
    # What it leaves is a run, which merges in its turn.
    again = merge([tmp_path / "c", tmp_path / "b"], tmp_path / "d", report=False)
    pd.testing.assert_frame_equal(again.run.correlations, whole.correlations)


def test_admission_attributes_and_broken_models(toy_config, tmp_path):
    toy_config["pools"][0]["fault"] = "missing"
    toy_config |= {"admit": {"attr:depth": {"min": 1}}, "groups": ["depth"]}
    table_ = {f"toy{i}": {"depth": i} for i in range(6)}
    run(toy_config, tmp_path / "a", attributes=table_)
    run(toy_config, tmp_path / "b", attributes=table_)
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    assert list(merged.run.models["model"]) == ["toy0", "toy2", "toy3", "toy4", "toy5"]
    assert list(merged.run.models["attr.depth"]) == [0, 2, 3, 4, 5]
    assert merged.run.models["reason"].iloc[0] == "attr:depth 0 < 1"
    # Nothing is told of toy0, of which no measure was asked.
    assert sum("toy1 could not be loaded" in note for note in merged.notes) == 2 == len(merged.notes)


def test_studies_of_models_in_memory_merge_too(tmp_path):
    import torch

    nets = {f"n{i}": torch.nn.Linear(4, 3) for i in range(6)}
    g = torch.Generator().manual_seed(0)
    data = torch.randn(16, 4, generator=g), torch.randint(0, 3, (16,), generator=g)
    for name, part in (("a", list(nets)[:3]), ("b", list(nets)[3:])):
        acutance.study(
            {n: nets[n] for n in part}, data, {"score": {n: int(n[1:]) for n in part}},
            [{"name": "worst_case", "rho": 0.1, "steps": 2}], surface={"points": 16, "m": 8}, out=tmp_path / name,
            report=False,
        )  # fmt: skip
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert list(merged.run.models["target.score"]) == [0, 1, 2, 3, 4, 5] and merged.run.report.exists()
    assert set(merged.run.correlations["n"]) == {6}


WRITER = """
import sys, time
from pathlib import Path
from acutance.measure import Estimate
from acutance.run.rows import Attempt, PartRow
from acutance.run.store import Store
store = Store(Path(sys.argv[1]))
attempt = Attempt(1, "m", "x", "train", 0, 1, "cpu", 0.0, 1.0, 0.0, 0.0)
for i in range(100000):
    store.put_parts([PartRow(f"k{i}", "c", i, Estimate(float(i)))], attempt)
    if i == 20:
        print("writing", flush=True)
"""


def test_a_source_may_be_written_meanwhile(toy_config, tmp_path):
    run(toy_config, tmp_path / "a", limit=3)
    run(toy_config, tmp_path / "b", limit=4)
    writer = subprocess.Popen(
        [python_that_forks(), "-c", WRITER, str(tmp_path / "b" / "acutance.db")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "writing\n"
        merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    kept = len(rows(tmp_path / "c", "part WHERE key LIKE 'k%'"))
    attempts = len(rows(tmp_path / "c", "attempt WHERE measure = 'x'"))
    assert kept == attempts >= 21 and len(merged.run.models) == 4
    # What a killed writer had committed is there too, although it lies in the log still.
    assert (tmp_path / "b" / "acutance.db-wal").exists()
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "d", report=False)
    assert len(rows(tmp_path / "d", "part WHERE key LIKE 'k%'")) >= kept


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_source_may_lie_on_read_only_media(toy_config, tmp_path):
    run(toy_config, tmp_path / "a", limit=3)
    for path in [*(tmp_path / "a").iterdir(), tmp_path / "a"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    merged = merge([tmp_path / "a", tmp_path / "a"], tmp_path / "c", report=False)
    assert len(merged.run.models) == 3


def test_the_record_says_what_was_merged(toy_config, tmp_path):
    toy_config |= {"targets": ["attr:learning_rate"], "measures": [{"name": "average_case", "rho": 0.1, "draws": 4}]}
    run(toy_config, tmp_path / "a", limit=3)
    run(toy_config, tmp_path / "b", limit=4)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    environment = json.loads((tmp_path / "c" / "environment.json").read_text())
    assert environment["merged"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert (tmp_path / "c" / "report.html").exists()
