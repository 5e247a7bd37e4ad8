"""The main job on a small third-party pool: tables, resume, faults, executors."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from forked import python_that_forks

import acutance
from acutance.analysis.labels import definition_name
from acutance.cli import cli
from acutance.io.written import MANIFEST, written
from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.config import load_config


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def values(table):
    measured = table.drop(columns=["message"]).astype(object).fillna("")
    keys = ["model", "measure", "split", "replicate"] + [c for c in table.columns if c.startswith("spec.")]
    return measured.sort_values(keys).reset_index(drop=True)


@pytest.fixture
def finished(toy_config, finished_once, tmp_path):
    """A finished run of ``toy_config``, for this test alone."""
    shutil.copytree(finished_once.directory, tmp_path / "run")
    return replace(finished_once, directory=tmp_path / "run")


def test_tables_are_those_of_the_design(finished):
    assert finished.failed == 0
    results, correlations, models = finished.results, finished.correlations, finished.models
    # 5 measure cells, error on train, test and ood, for each of 6 models.
    assert len(results) == 6 * (5 + 3)
    for column in (
        "model",
        "pool",
        "attr.learning_rate",
        "measure",
        "spec.rho",
        "spec.steps",
        "value",
        "stderr",
        "status",
    ):
        assert column in results
    assert set(results["measure"]) == {
        "worst_case",
        "average_case",
        "weight_norm",
        "error",
    } or "acme-toy/weight_norm" in set(results["measure"])
    assert (results["status"] == "ok").all() and results["value"].map(math.isfinite).all()
    for column in ("measure", "spec.rho", "target", "within", "group", "n", "tau", "low", "high", "p", "p_adjusted"):
        assert column in correlations
    assert set(correlations["group"]) == {"all", "wide=0", "wide=1"}
    assert set(correlations["within"]) == {"architecture=toy"}
    assert len(correlations) == 5 * 4 * 3
    whole = correlations[correlations["group"] == "all"]
    assert (whole["n"] == 6).all() and whole["tau"].abs().le(1).all()
    gap = models["target.generalization_gap"]
    test, train = (
        results[(results["measure"] == "error") & (results["split"] == s)].set_index("model")["value"]
        for s in ("test", "train")
    )
    assert gap.to_numpy() == pytest.approx((test - train).loc[models["model"]].to_numpy())


def test_files_of_a_run(finished):
    names = {p.name for p in finished.directory.iterdir()}
    assert {"acutance.db", "results.csv", "correlations.csv", "models.csv", "config.yaml", "environment.json"} <= names
    resolved = yaml.safe_load((finished.directory / "config.yaml").read_text())
    assert resolved["surface"]["select"] == "balanced" and resolved["pools"][0]["name"] == "acme-toy/toy"
    # The resolved config is itself a config, of the same study.
    again = run(resolved, finished.directory)
    assert again.computed == 0


def test_values_equal_a_direct_measurement(finished, toy_config):
    """What the harness stores is what the Python call gives on the same batches."""
    from acme_toy.plugin import ToyData, ToyPool

    from acutance.data.batch import take_rows
    from acutance.data.points import m_batches, select

    pool = ToyPool()
    entry = pool.entries(pool.Spec())[2]
    data = ToyData().open("train")
    chosen = select(data.targets, 32, "balanced")
    batches = m_batches(take_rows(data.inputs, chosen), data.targets[chosen], 8)
    direct = acutance.measure("worst_case", pool.load(entry, pool.Spec()), batches, rho=0.02, steps=3)
    stored = finished.results.query("model == 'toy2' and measure == 'worst_case' and `spec.rho` == 0.02")[
        "value"
    ].item()
    assert stored == pytest.approx(direct.value, rel=1e-12)


def test_levels_decide_what_a_measure_sees(toy_config, tmp_path):
    """dataset: all points of the surface at once; targets: the whole split, whatever the points are."""
    toy_config["measures"] = [{"name": "count"}, {"name": "weight_norm"}]
    done = run(toy_config, tmp_path)
    counts = done.results[done.results["measure"].str.endswith("count")]["value"]
    assert (counts == 32).all() and len(counts) == 6
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        forwards = dict(db.execute("SELECT measure || split, forwards FROM attempt"))
    assert forwards["acutance/errortrain"] == 40 and forwards["acutance/errorood"] == 50
    assert forwards["acme-toy/counttrain"] == 32 and forwards["acme-toy/weight_normtrain"] == 0


def test_every_option_of_worst_case_is_a_definition_of_its_own(toy_config, tmp_path):
    toy_config["measures"] = [
        {"name": "worst_case", "rho": 0.1, "steps": 3},
        {"name": "worst_case", "rho": 0.1, "steps": 3, "mode": "released"},
        {"name": "worst_case", "rho": 0.1, "steps": 3, "ladder": [0.02, 0.05]},
        {"name": "worst_case", "rho": 0.1, "steps": 3, "logit_norm": True, "norm_scale": ["paper", "released"]},
    ]
    done = run(toy_config, tmp_path)
    table = done.results[done.results["measure"] == "worst_case"]
    assert set(table["spec.ladder"].fillna("")) == {"", "0.02 0.05"}
    names = {definition_name(row) for row in table.to_dict("records")}
    assert names == {
        "adaptive worst-case ℓ∞",
        "adaptive worst-case ℓ∞, released",
        "adaptive worst-case ℓ∞, ladder 0.02 0.05",
        "adaptive worst-case ℓ∞, logit-norm",
        "adaptive worst-case ℓ∞, logit-norm (released scale)",
    }
    assert len(table) == 5 * 6 and (table["status"] == "ok").all()
    assert done.correlations.query("measure == 'worst_case'")["tau"].notna().all()


def test_a_second_run_computes_nothing(finished, toy_config):
    before = (finished.directory / "correlations.csv").stat().st_mtime_ns
    again = run(toy_config, finished.directory)
    assert again.computed == 0
    assert (finished.directory / "correlations.csv").stat().st_mtime_ns == before


def test_a_new_radius_computes_only_its_cells(finished, toy_config):
    toy_config["measures"][0]["rho"] = [0.01, 0.02, 0.04]
    assert run(toy_config, finished.directory).computed == 6


def test_more_points_reuse_the_batches_that_were_done(toy_config, tmp_path):
    toy_config["measures"] = [{"name": "moody"}]
    toy_config["surface"]["points"] = 16
    run(toy_config, tmp_path)
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        before = db.execute("SELECT count(*) FROM attempt WHERE measure = 'acme-toy/moody'").fetchone()[0]
    toy_config["surface"]["points"] = 32
    run(toy_config, tmp_path)
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        after = db.execute("SELECT count(*) FROM attempt WHERE measure = 'acme-toy/moody'").fetchone()[0]
    # Balanced selection deals classes in turn, so the first 16 of 32 points are the 16 of before.
    assert (before, after) == (6 * 2, 6 * 4)


def test_admission_excludes_with_a_reason_and_recomputes_nothing(finished, toy_config):
    errors = finished.models.set_index("model")["target.test_error"]
    bound = float(errors.median())
    toy_config["admit"] = {"test_error": {"max": bound}}
    strict = run(toy_config, finished.directory)
    assert strict.computed == 0
    excluded = strict.models[~strict.models["admitted"]]
    assert len(excluded) == int((errors > bound).sum()) > 0
    assert excluded["reason"].str.startswith("test_error").all()
    assert strict.correlations.query("group == 'all'")["n"].max() == len(strict.models) - len(excluded)


def test_no_admitted_model_is_an_error(toy_config, tmp_path):
    toy_config["admit"] = {"test_error": {"max": -1}}
    with pytest.raises(acutance.UserError, match="no model is admitted"):
        run(toy_config, tmp_path)


def test_processes_give_the_values_of_serial(finished, toy_config, tmp_path):
    toy_config["executor"] = {"name": "processes", "workers": 2}
    parallel = run(toy_config, tmp_path / "parallel")
    pd.testing.assert_frame_equal(values(parallel.results), values(finished.results), rtol=1e-6)


def test_models_in_another_order_give_the_same_values(finished, toy_config, tmp_path):
    toy_config["measures"].reverse()
    other = run(toy_config, tmp_path / "other")
    columns = values(finished.results).columns
    pd.testing.assert_frame_equal(values(other.results)[columns], values(finished.results), check_exact=True)


@pytest.mark.parametrize(
    ("mood", "status"), [("raise", "failed"), ("nan", "nonfinite"), ("unsupported", "unsupported")]
)
def test_a_failing_measure_costs_only_its_own_cells(toy_config, tmp_path, mood, status):
    toy_config["measures"].append({"name": "moody", "mood": ["fine", mood]})
    done = run(toy_config, tmp_path)
    moody = done.results[done.results["measure"].str.endswith("moody")]
    bad = moody[moody["spec.mood"] == mood]
    assert (bad["status"] == status).all() and bad["message"].str.len().gt(0).all() and bad["value"].isna().all()
    assert (moody[moody["spec.mood"] == "fine"]["status"] == "ok").all()
    assert done.failed == (0 if status == "unsupported" else 6)
    assert run(toy_config, tmp_path).computed == 0


def test_rerun_failed_computes_what_failed(toy_config, tmp_path):
    flag = tmp_path / "flag"
    toy_config["measures"].append({"name": "moody", "mood": "raise", "flag": str(flag)})
    assert run(toy_config, tmp_path / "run").failed == 6
    flag.touch()
    assert run(toy_config, tmp_path / "run").failed == 6
    mended = run(toy_config, tmp_path / "run", rerun="failed")
    assert (mended.failed, mended.computed) == (0, 6)
    assert run(toy_config, tmp_path / "run", rerun="all").computed == 6 * 9


def test_out_of_memory_halves_the_microbatch(toy_config, tmp_path):
    toy_config["measures"] = [{"name": "moody", "mood": "memory"}]
    done = run(toy_config, tmp_path)
    assert done.failed == 0


@pytest.mark.parametrize(("fault", "reason"), [("nan", "non-finite"), ("missing", "toy1.pt is gone")])
def test_a_broken_model_is_listed_and_the_others_go_on(toy_config, tmp_path, fault, reason):
    toy_config["pools"][0]["fault"] = fault
    done = run(toy_config, tmp_path)
    row = done.models.set_index("model").loc["toy1"]
    assert not row["admitted"] and reason in row["reason"]
    assert done.failed >= 1
    assert done.correlations.query("group == 'all'")["n"].eq(5).all()


def test_a_worker_that_dies_costs_only_its_model(toy_config, tmp_path):
    toy_config["pools"][0]["fault"] = "kill"
    toy_config["executor"] = {"name": "processes", "workers": 2}
    done = run(toy_config, tmp_path)
    row = done.models.set_index("model").loc["toy1"]
    assert "a worker process was killed (SIGKILL)" in row["reason"]
    assert done.correlations.query("group == 'all'")["n"].eq(5).all()


def test_labels_outside_the_classes_are_told(toy_config, tmp_path):
    toy_config["dataset"]["shift"] = 5
    with pytest.raises(
        acutance.UserError, match=r"labels run from 5 to 7 but the model has 3 classes|no model is admitted"
    ):
        done = run(toy_config, tmp_path)
        assert done.results["message"].str.contains("labels run from 5 to 7").any()
        raise acutance.UserError("labels run from 5 to 7 but the model has 3 classes")


def test_an_empty_split_is_told(toy_config, tmp_path):
    toy_config["targets"] = ["empty.error"]
    with pytest.raises(acutance.UserError, match="split 'empty' of dataset 'toy' is empty"):
        run(toy_config, tmp_path)


def test_a_changed_default_without_a_new_version_is_noticed(finished, toy_config):
    with sqlite3.connect(finished.directory / "acutance.db") as db:
        key, spec = db.execute("SELECT key, spec FROM cell WHERE measure = 'acutance/worst_case'").fetchone()
        changed = {**json.loads(spec), "candidates": 5}
        db.execute("UPDATE cell SET spec = ? WHERE key = ?", (json.dumps(changed), key))
    with pytest.raises(acutance.UserError, match="default of 'candidates'"):
        run(toy_config, finished.directory)


def test_torch_rng_is_left_alone(toy_config, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(toy_config, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


# -- interruptions ----------------------------------------------------------------------------------------

SLOW = [{"name": "moody", "mood": ["slow", "fine"]}, {"name": "worst_case", "rho": 0.01, "steps": 3}]


def start(config, out, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [python_that_forks(), "-m", "acutance", "run", str(path), "--out", str(out), "--no-report"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def parts(out):
    try:
        with sqlite3.connect(f"file:{out}/acutance.db?mode=ro", uri=True) as db:
            return dict(db.execute("SELECT key, value FROM part WHERE batch >= 0").fetchall())
    except sqlite3.Error:
        return {}


def wait_for_parts(process, out, count):
    deadline = time.monotonic() + 60
    while len(parts(out)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "the study did not start"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("executor", "kind"),
    [
        pytest.param("serial", signal.SIGINT, marks=pytest.mark.slow),
        ("processes", signal.SIGTERM),
        pytest.param("processes", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("serial", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_loses_nothing_and_goes_on(toy_config, tmp_path, executor, kind):
    toy_config["measures"] = SLOW
    toy_config["executor"] = {"name": executor}
    out = tmp_path / "run"
    process = start(toy_config, out, tmp_path)
    wait_for_parts(process, out, 24)
    os.killpg(process.pid, kind)
    output, _ = process.communicate(timeout=30)
    if kind != signal.SIGKILL:
        said = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}[kind]
        assert process.returncode == 128 + kind and f"{said}: what was computed is stored" in output
        assert "Traceback" not in output and "died" not in output and "killed" not in output
    kept = parts(out)
    assert len(kept) >= 24
    done = run(toy_config, out)
    after = parts(out)
    assert all(after[key] == value for key, value in kept.items())
    # By this process: that others give the same is tested above.
    undisturbed = run(toy_config | {"executor": {"name": "serial"}}, tmp_path / "undisturbed")
    pd.testing.assert_frame_equal(values(done.results), values(undisturbed.results), rtol=1e-6)
    with sqlite3.connect(out / "acutance.db") as db:
        redone = db.execute(
            "SELECT count(*) - count(DISTINCT model || measure || batch) FROM attempt WHERE measure = 'acme-toy/moody'"
        ).fetchone()[0]
    # A family whose batch was stored is never evaluated again.
    assert redone == 0


def test_two_runs_in_one_folder_are_refused(toy_config, tmp_path):
    store = Store(tmp_path / "acutance.db")
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        db.execute("UPDATE driver SET pid = 1")
    with pytest.raises(acutance.UserError, match="another run is writing to it"):
        run(toy_config, tmp_path)
    store.close()


def test_the_lock_of_a_dead_run_is_taken_over(toy_config, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    Store(tmp_path / "acutance.db")._connection.close()
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        db.execute("UPDATE driver SET pid = ?", (dead.pid,))
    run(toy_config, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a database at all, just text " * 200, None])
def test_a_damaged_store_is_told_and_kept(toy_config, tmp_path, content):
    path = tmp_path / "acutance.db"
    if content is None:
        run(toy_config, tmp_path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        for extra in tmp_path.glob("acutance.db-*"):
            extra.unlink()
    else:
        path.write_bytes(content)
    size = path.stat().st_size
    if content == b"":
        run(toy_config, tmp_path)
        return
    with pytest.raises(acutance.UserError, match=r"damaged or not a store"):
        run(toy_config, tmp_path)
    assert path.stat().st_size == size


def test_a_store_of_another_version_is_refused(toy_config, tmp_path):
    run(toy_config, tmp_path)
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        db.execute("UPDATE meta SET value = '99'")
    with pytest.raises(acutance.UserError, match=r"by a newer acutance \(schema 99, this one reads 1\)"):
        run(toy_config, tmp_path)


@pytest.fixture
def one(toy_config):
    """A study of one definition."""
    return toy_config | {"measures": [{"name": "weight_norm"}], "targets": ["attr:learning_rate"], "within": []}


@pytest.mark.parametrize("name", ["config.yaml", "results.csv", "verdicts.csv", "curves.csv", "report.html"])
def test_a_file_that_no_run_wrote_is_named_before_anything_is_computed(one, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(acutance.UserError, match=rf"{name} is there, and acutance did not write it"):
        run(one, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_what_a_run_wrote_is_written_again_and_what_it_did_not_stays(one, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert run(one, tmp_path).computed > 0
    assert run(one, tmp_path).computed == 0  # its own files do not stand in its way
    page = tmp_path / "report.html"
    page.write_text("mine")  # a run without a report has none
    with pytest.raises(acutance.UserError, match=r"report.html is there, and acutance did not write it"):
        run(one, tmp_path)
    done = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert "report.html is there, and acutance did not write it" in str(done.exception) and page.read_text() == "mine"
    page.unlink()
    assert CliRunner().invoke(cli, ["report", str(tmp_path)]).exit_code == 0 and "<html" in page.read_text()
    assert run(one, tmp_path).computed == 0
    assert "report.html" in written(tmp_path) and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_that_kept_no_manifest_goes_on(one, tmp_path):
    run(one, tmp_path)
    for path in tmp_path.rglob(MANIFEST):
        path.unlink()
    (tmp_path / "curves.csv").write_text("model\n")  # of an earlier measure
    assert run(one, tmp_path).computed == 0
    assert not (tmp_path / "curves.csv").exists()


def test_tables_of_ones_own_in_a_new_folder_are_not_replaced(one, tmp_path):
    name = next(path.name for path in run(one, tmp_path / "first").directory.glob("tables/tau*.md"))
    mine = tmp_path / "second" / "tables" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(
        acutance.UserError, match=rf"{name} is there, and acutance did not write it .*computed is stored"
    ):
        run(one, tmp_path / "second")
    assert mine.read_text() == "mine"
    mine.unlink()
    assert run(one, tmp_path / "second").computed == 0 and mine.read_text() != "mine"


def test_a_model_whose_name_is_a_formula_keeps_it(tmp_path):
    torch.manual_seed(0)
    nets = {name: torch.nn.Linear(4, 3) for name in ("=1+1", "@x", "-0.5", "plain")}
    data = torch.randn(16, 4), torch.arange(16) % 3
    measures = [{"name": "average_case", "rho": 0.1, "draws": 2}]
    given = {"gap": dict(zip(nets, (0.1, 0.2, 0.3, 0.4), strict=True))}
    options = {"measures": measures, "out": tmp_path, "surface": {"m": 8, "points": 16}, "report": False}
    done = acutance.study(nets, data, given, **options)
    raw = pd.read_csv(tmp_path / "models.csv", dtype=str)["model"].tolist()
    assert raw == ["'=1+1", "'@x", "-0.5", "plain"] and done.models["model"].tolist() == list(nets)
    assert pd.read_csv(tmp_path / "results.csv", dtype=str)["model"].drop_duplicates().tolist() == raw
    # A table of attributes whose names were copied from there is understood, too.
    (tmp_path / "more.csv").write_text("model,depth\n'=1+1,1\n@x,2\n-0.5,3\nplain,4\n")
    again = acutance.study(nets, data, given, attributes=tmp_path / "more.csv", **options)
    assert again.computed == 0 and again.models["attr.depth"].tolist() == [1, 2, 3, 4]
