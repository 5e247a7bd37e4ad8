"""What the pages of the documentation show in Python does what they say."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["notebook.md"])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    scope = {}
    for block in blocks:
        exec(block, scope)
    printed, told = capsys.readouterr().out, re.findall(r"^print\(.*\)  # (runs/.*?):", "\n".join(blocks), re.M)
    assert told and all(line in printed.splitlines() for line in told)
    first, last = scope["run"].directory, scope["run"]
    assert str(first) == "runs/My-networks" and (first / "report.html").exists()
    # The second call shares folder and models with the first: only its targets are new.
    assert last.computed == 8 * 2 and last.failed == 0


NEEDS = ("tensorboard", "accelerate")


def test_the_python_of_the_page_on_training_measures_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "monitor.md").read_text(), re.S):
        if all(find_spec(name) for name in NEEDS if name in block):
            exec(block, scope)
            monitor = scope["monitor"]
            assert monitor.directory.is_dir() and {row["measure"] for row in monitor.rows} >= {"gradient_norm"}
    assert {"trainer", "training"} <= {path.name for path in Path("runs").iterdir()}
