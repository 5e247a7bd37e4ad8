"""Only what we wrote, and nobody changed since, is replaced or removed: files of a run, and files by themselves."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from acutance import UserError
from acutance.cli import cli
from acutance.io.written import MANIFEST, begin, foreign, put, put_file, require_ours, written
from acutance.workflows.calibrated import write_study


def invoke(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "given" / "models.csv"
    path.parent.mkdir()
    pd.DataFrame({"name": list("abcde"), "sharp": [1, 2, 3, 4, 5.5], "error": [0.1, 0.2, 0.3, 0.5, 0.4]}).to_csv(
        path, index=False
    )
    return path


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "given" / "taus.csv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame({"measure": ["a", "b"], "target": "error", "tau": [0.1, 0.2]}).to_csv(path, index=False)
    return path


@pytest.fixture(params=["correlate", "compare", "schema", "calibrate"])
def write(request, table, rows, toy_config):
    """A command that writes one file."""
    return {
        "correlate": lambda out: invoke(
            "correlate", table, "--model", "name", "--targets", "error", "--resamples", 99, "--out", out
        ),
        "compare": lambda out: invoke("compare", rows, rows, "--out", out),
        "schema": lambda out: invoke("schema", "--write", out),
        "calibrate": lambda out: write_study(out, toy_config),
    }[request.param]


def test_a_file_by_itself_is_replaced_only_while_it_is_as_we_left_it(write, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(UserError, match=rf"{out}: is there, and acutance did not write it \(name another file, or de"):
        write(out)
    assert out.read_text() == "mine"
    out.unlink()
    write(out)
    made = out.read_bytes()
    write(out)
    assert out.read_bytes() == made and {p.name for p in tmp_path.iterdir()} == {"given", "out.csv", MANIFEST}
    out.write_bytes(made + b"\n")
    with pytest.raises(UserError, match="was changed since acutance wrote it"):
        write(out)
    assert out.read_bytes() == made + b"\n"
    with pytest.raises(UserError, match=r"there is no folder .*away"):
        write(tmp_path / "away" / "out.csv")


def test_a_file_by_itself_never_replaces_one_of_a_run_nor_the_other_way_round(tmp_path):
    put(tmp_path, {"correlations.csv": "of the run"})
    with pytest.raises(UserError, match="did not write it"):
        put_file(tmp_path / "correlations.csv", "x")
    put_file(tmp_path / "results.csv", "asked for")
    with pytest.raises(UserError, match=r"results.csv is there, and acutance did not write it"):
        put(tmp_path, {"correlations.csv": "new", "results.csv": "x"})
    assert (tmp_path / "correlations.csv").read_text() == "of the run"
    assert (tmp_path / "results.csv").read_text() == "asked for"


@pytest.mark.parametrize("first", [True, False])
def test_a_file_by_itself_in_a_run_folder_without_manifest_leaves_it_one(tmp_path, first):
    """A run of before there were manifests goes on, also when a command has written a file into its folder."""
    (tmp_path / "models.csv").write_text("of the run")
    if first:
        put_file(tmp_path / "asked.csv", "x")
    begin(tmp_path, ["models.csv"], ours=True)
    assert written(tmp_path) == {"models.csv"} and not foreign(tmp_path, ["models.csv", "results.csv"])
    put(tmp_path, {"models.csv": "new"})
    (tmp_path / "models.csv").write_text("edited")
    assert foreign(tmp_path, ["models.csv"]) == "models.csv was changed since acutance wrote it"


def test_what_a_pattern_removes_is_ours_and_unchanged(tmp_path):
    put(tmp_path, {"tau-a.md": "a", "tau-b.md": "b"})
    (tmp_path / "tau-b.md").write_text("with my remarks")
    (tmp_path / "tau-c.md").write_text("mine")
    put(tmp_path, {"tau-d.md": "d"}, "tau-*")
    assert {p.name for p in tmp_path.glob("tau-*")} == {"tau-b.md", "tau-c.md", "tau-d.md"}
    assert written(tmp_path) == {"tau-d.md"}


def test_a_file_that_was_being_written_when_we_were_killed_is_ours(tmp_path, monkeypatch):
    put_file(tmp_path / "a.csv", "old")
    put(tmp_path, {"b.csv": "old"})

    def killed(*_):
        raise KeyboardInterrupt

    for again in (lambda: put_file(tmp_path / "a.csv", "new"), lambda: put(tmp_path, {"b.csv": "new"})):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", killed)
            with pytest.raises(KeyboardInterrupt):
                again()
        again()
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text() == "new"


def test_manifests_of_earlier_versions_and_of_others(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    for listed, theirs in ((["a.csv"], "b.csv is there"), (["*", "a.csv"], ""), ({"mine": 1}, "a.csv is there")):
        (tmp_path / MANIFEST).write_text(json.dumps(listed))
        assert foreign(tmp_path, ["a.csv", "b.csv"], ours=False).partition(",")[0] == theirs
    with pytest.raises(UserError, match="did not write it"):
        require_ours(tmp_path / "a.csv")


def test_commands_that_write_at_the_same_time_all_know_their_files(tmp_path):
    names = [f"{i}.csv" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: put_file(tmp_path / name, name), names))
    for name in names:
        require_ours(tmp_path / name)


def test_a_table_in_a_run_folder_that_was_edited_is_not_replaced(table, tmp_path):
    out = tmp_path / "judged"
    command = ("correlate", table, "--model", "name", "--targets", "error", "--resamples", 99, "--no-report")
    invoke(*command, "--out", out)
    invoke(*command, "--out", out)
    for name in ("correlations.csv", "config.yaml"):
        before = (out / name).read_text()
        (out / name).write_text(before + "\n")
        with pytest.raises(UserError, match=re.escape(f"--out {out}: {name} was changed since acutance wrote it")):
            invoke(*command, "--out", out)
        (out / name).write_text(before)
    with pytest.raises(UserError, match=r"correlations.csv: is there, and acutance did not write it"):
        invoke(*command, "--out", out / "correlations.csv")
