"""A run's folder: what is written is what is read, once."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from acutance.data.pointsets import PointSets
from acutance.errors import UserError
from acutance.io import written
from acutance.plugins import catalog
from acutance.run.directory import OLD, STATISTICS, TABLES, Recorded, RunDirectory, read_csv
from acutance.run.harness import run_study
from acutance.run.statistics import table_names
from acutance.study.config import load_config

CONFIG = {
    "format": 1,
    "pools": [{"name": "toy", "size": 6}],
    "dataset": {"name": "toy"},
    "surface": {"points": 16, "m": 8},
    "targets": ["test_error"],
    "within": [],
    "measures": [{"name": "weight_norm"}],
}
TABLE = pd.DataFrame(
    {
        "model": ["007", "12e45", "=1+1"], "attr.mixup": [True, None, False], "attr.name": ["none", "NA", ""],
        "attr.number": ["007", "1", "2"], "value": [0.1, float("nan"), float("inf")], "rows": [1, None, 3],
    }
)  # fmt: skip


@pytest.fixture
def watched(monkeypatch):
    """Count what is opened, written and read of a run."""
    opened, put, read = Counter(), Counter(), Counter()
    made, opening, replace, reading = PointSets.__init__, toy_data().open, Path.replace, pd.read_csv

    def made_(sets, *args, **options):
        opened["data"] += 1
        made(sets, *args, **options)

    def opening_(dataset, split):
        opened[split] += split != "train"  # the toy pool trains on that itself
        return opening(dataset, split)

    def replace_(partial, target):
        put[f"{target.parent.name}/{target.name}"] += target.name != written.MANIFEST
        return replace(partial, target)

    def reading_(source, *args, **options):
        read["files"] += isinstance(source, str | Path)
        return reading(source, *args, **options)

    monkeypatch.setattr(PointSets, "__init__", made_)
    monkeypatch.setattr(toy_data(), "open", opening_)
    monkeypatch.setattr(Path, "replace", replace_)
    monkeypatch.setattr(pd, "read_csv", reading_)
    return opened, put, read


def toy_data():
    return catalog().find("datasets", "toy").target


def test_a_serial_run_opens_each_split_once_writes_each_file_once_and_reads_no_table(watched, tmp_path):
    opened, put, read = watched
    run = run_study(load_config(CONFIG), tmp_path / "run")
    assert +opened == {"data": 1, "test": 1}
    assert set((+put).values()) == {1}
    assert {f"run/{name}.csv" for name in (*TABLES, *table_names(RunDirectory(tmp_path)))} | {"run/report.html"} <= set(
        put
    )
    assert any(name.startswith("tables/tau") for name in put) and not +read
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(run, name), read_csv(run.directory / f"{name}.csv"))
    # Nothing stays open: the next run sees the points as they are then.
    run_study(load_config(CONFIG), tmp_path / "other", report=False)
    assert +opened == {"data": 2, "test": 2}


def test_a_table_is_known_as_its_file_says_it(tmp_path):
    folder = RunDirectory(tmp_path)
    folder.put_tables({"models": TABLE})
    pd.testing.assert_frame_equal(folder.table("models"), RunDirectory(tmp_path).table("models"))
    assert list(folder.table("models")["model"]) == ["007", "12e45", "=1+1"]
    assert list(folder.table("models")["attr.number"]) == [7, 1, 2]


def test_a_table_that_only_some_runs_have_goes_with_them(tmp_path):
    folder = RunDirectory(tmp_path)
    folder.put_tables({"models": TABLE, "curves": TABLE}, gone=["curves"])
    assert folder.has("curves") and [name for name, _ in folder.tables(("curves", "radii"))] == ["curves"]
    folder.put_tables({"models": TABLE}, gone=["curves"])
    assert not folder.has("curves")
    with pytest.raises(UserError, match="no such file"):
        RunDirectory(tmp_path).table("curves")
    (tmp_path / "radii.csv").write_text("")
    with pytest.raises(UserError, match=r"is not a table.*move it away and give the command that made it again"):
        folder.table("radii")


def test_a_folder_tells_runs_from_statistics_and_from_what_is_neither(tmp_path):
    folder = RunDirectory(tmp_path)
    assert not folder.holds_run and not folder.holds_statistics
    folder.put_study({"targets": ["a"], "source": {}, "seed": 0}, {"cores": 2})
    assert folder.holds_statistics and folder.config()["targets"] == ["a"] and folder.environment() == {"cores": 2}
    folder.store.write_text("")
    assert folder.holds_run and not folder.holds_statistics
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(UserError, match="give the directory of a run"):
        folder.config()


def test_stamps_take_what_was_written_and_a_reader_takes_what_is_there(tmp_path, monkeypatch):
    folder, read = RunDirectory(tmp_path), []
    folder.put_study({"title": "t"}, {})
    folder.put_tables({"models": TABLE, "results": TABLE})
    monkeypatch.setattr(RunDirectory, "table", lambda self, name: read.append(name))
    monkeypatch.setattr(Path, "read_bytes", lambda self, old=Path.read_bytes: read.append(self.name) or old(self))
    folder.stamp("statistics")
    assert folder.is_current("statistics") and not {"models.csv", "results.csv", "config.yaml"} & set(read)
    assert RunDirectory(tmp_path).is_current("statistics") and {"models.csv", "results.csv", "config.yaml"} <= set(read)
    for name in ("models.csv", "results.csv", "config.yaml"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "\n")
        assert not RunDirectory(tmp_path).is_current("statistics"), name
        (tmp_path / name).write_text(text)
    assert RunDirectory(tmp_path).is_current("statistics")


def test_what_was_made_is_current_until_what_it_was_made_from_changes(tmp_path):
    folder = RunDirectory(tmp_path)
    folder.put_tables({"models": TABLE})
    folder.stamp("statistics")
    folder.put_page("<html><body></body></html>")
    assert folder.is_current("statistics") and folder.is_current("page")
    folder.put_tables({"models": TABLE[:2]})
    assert not folder.is_current("statistics") and not folder.is_current("page")
    folder.put_tables({"models": TABLE})
    assert folder.is_current("page")
    folder.mark_old()
    assert folder.is_current("statistics") and not folder.is_current("page") and "older than" in folder.page.read_text()
    folder.mark_old()
    assert folder.page.read_text().count(OLD) == 1
    folder.stamp("page")
    folder.stamp("statistics")  # the page is made from them
    assert not folder.is_current("page")


def test_a_copied_table_is_what_its_file_says_and_is_no_longer_what_was_written(tmp_path):
    folder, other = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    for directory, table in ((folder, TABLE), (other, TABLE[:2])):
        directory.put_tables({"models": table})
    folder.stamp("statistics")
    folder.put_copy("models", other)
    assert len(folder.table("models")) == 2 and not folder.is_current("statistics")


def test_tables_of_statistics_that_are_not_made_again_go(tmp_path):
    about = {"mine": Recorded("acme", "1.0", "Mine")}
    for tables, recorded in (({"mine": TABLE}, about), ({}, {}), ({"mine": TABLE}, about), ({}, about)):
        RunDirectory(tmp_path).put_statistics(tables, recorded)
        folder = RunDirectory(tmp_path)
        assert folder.has("mine") == bool(tables) and folder.recorded() == recorded
        assert (tmp_path / STATISTICS).exists() == bool(recorded)
