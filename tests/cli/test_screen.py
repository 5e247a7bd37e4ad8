"""What is printed: names as they stand, tables that fit, streams that fail."""

import io
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from shell import cli

from acutance.analysis.text import visible
from acutance.cli.screen import console, print_grid

NAMES = ["sharp[bs=64]", "sharp[/64]", "trace:ok:", "a\x1b[2Jb", "bidi\u202eab", "x\ty", "[bold]b"]


def table(path, columns=4, **more):
    g = np.random.default_rng(0)
    names = {name: g.normal(size=8) for name in NAMES[:columns]}
    frame = pd.DataFrame({"net": [f"m{i}" for i in range(8)], **names, "err": g.uniform(size=8), **more})
    frame.to_csv(path, index=False)
    return path


def test_names_are_texts(tmp_path):
    said = cli("correlate", table(tmp_path / "t.csv", len(NAMES)), "--targets", "err", "--model", "net").stdout
    for name in NAMES:
        assert visible(name) in said
    assert "\x1b" not in said and "\u202e" not in said


def test_a_note_and_an_error_show_control_characters(tmp_path):
    said = cli("correlate", table(tmp_path / "t.csv"), "--targets", "e\x1b[2Jr", code=2).stderr
    assert r"no column 'e\x1b[2Jr'" in said and "\x1b" not in said


@pytest.mark.parametrize("width", [36, 40, 80, 150])
def test_tables_fit_and_numbers_are_whole(width):
    out = io.StringIO()
    heads = [f"error_on_dataset_{i}" for i in range(6)]
    cells = [f"{i - 3:+.2f} [-0.12, +0.{i}4]*" for i in range(6)]
    rows = [[f"adaptive worst-case, ρ = 0.{k}", *cells] for k in range(3)]
    print_grid(console(out, width), "Kendall's tau", ["definition"], heads, rows, ["ceiling", *cells])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in out.getvalue()
    for cell in cells:
        assert out.getvalue().count(cell) == 4


def test_columns_of_the_environment_set_the_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    assert console(io.StringIO()).width == 72
    monkeypatch.delenv("COLUMNS")
    assert console(io.StringIO()).width == 150


def run(arguments, stdout, **env):
    return subprocess.run(
        [sys.executable, "-m", "acutance", *map(str, arguments)],
        stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **env}, timeout=200,
    )  # fmt: skip


def test_output_that_cannot_be_encoded_is_escaped(tmp_path):
    path = table(tmp_path / "t.csv", 1, **{"höhe": np.arange(8.0)})
    done = run(["correlate", path, "--targets", "err"], subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and rb"h\xf6he" in done.stdout and not done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_quietly_with_the_verbs_own_status(unbuffered):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = run(["list"], gone, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0 and not done.stderr
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = run(["results", "/no/such/folder"], gone)
    assert done.returncode == 2 and b"no such file" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
def test_a_full_device_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = run(["list"], full)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[0] == "error: the output: cannot be written: No space left on device"
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_a_folder_that_one_may_not_write_to_is_one_sentence(tmp_path, monkeypatch):
    from pathlib import Path

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    path = table(tmp_path / "t.csv")
    monkeypatch.setattr(Path, "write_text", refuse)
    for out in ("out.csv", "folder"):
        said = cli("correlate", path, "--targets", "err", "--out", tmp_path / out, "--no-report", code=2).stderr
        assert "cannot be written: Permission denied" in said and "choose a folder you may write to" in said
