"""The tutorials do what they show: all their cells run, in an empty folder, and what their words rest on is so."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from cells import cells, run

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
PAGES = sorted(page.stem for page in TUTORIALS.glob("*.md") if page.stem != "index")


@pytest.fixture
def tutorial(tmp_path, monkeypatch):
    """A function that runs a page in an empty folder, and returns its names; modules of the folder are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    before = set(sys.modules)
    yield lambda name: run(TUTORIALS / f"{name}.md")
    for name, module in list(sys.modules.items()):
        if name not in before and str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


def test_every_tutorial_is_executed_and_says_what_to_read_next():
    for name in PAGES:
        text = (TUTORIALS / f"{name}.md").read_text()
        assert text.startswith("---\nfile_format: mystnb\n") and cells(TUTORIALS / f"{name}.md"), name
        assert re.findall(r"^## .*", text, re.M)[-1:] == ["## What to read next"], name
        for cell in cells(TUTORIALS / f"{name}.md"):
            commands = cell.replace("\\\n", "").strip().splitlines()[1:] if cell.startswith("%%bash") else []
            assert len(commands) < 2 or commands[0] == "set -e", f"{name}: a failure in the middle would go on: {cell}"
        assert not re.search(r"raises-exception|remove-input|skip-execution", text), (
            f"{name}: it hides an error or a cell"
        )


def test_the_first_numbers(tutorial, capsys):
    assert tutorial("first_numbers")["found"].value > 0
    assert "converged" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint(tutorial):
    names = tutorial("checkpoint")
    assert sorted(names["rises"]) == names["rises"] and names["rises"][0] < 0.1
    assert names["found"].status == "not_converged"


@pytest.mark.slow
def test_a_folder(tutorial):
    names = tutorial("folder")
    assert names["run"].failed == 0 and names["more"].failed == 0 and 0 < names["more"].computed < 40
    tau = names["run"].correlations.set_index(["measure", "target"])["tau"]
    # What the page says: larger margins go with more errors, and so do flatter networks.
    assert tau["output_margin", "test_error"] > 0.3 and tau["worst_case", "test_error"].max() < -0.3


@pytest.mark.slow
def test_a_landscape(tutorial):
    names = tutorial("landscape")
    assert names["seen"].curvature["trace_share"] < 0.02 and names["steep"].curvature["trace_share"] > 0.25
    assert names["seen"].curvature["parameters"] == 522 and names["line"].barrier["train"]["loss"]["height"] > 0.1


@pytest.mark.slow
def test_a_training(tutorial):
    last = tutorial("callback")["rows"].query("step >= 350").groupby("attr.learning_rate")["value"]
    assert last.mean().to_dict() == pytest.approx({0.1: 20, 0.2: 10}, rel=0.05)


@pytest.mark.slow
def test_a_classifier(tutorial):
    pytest.importorskip("transformers")
    found = tutorial("classifier")
    models, values = found["run"].models.set_index("model"), found["values"]
    assert models.loc["fast", "target.shifted.error"] < 0.1 < models.loc["slow", "target.shifted.error"]
    assert values.loc["fast", "worst_case"] > values.loc["slow", "worst_case"]
    assert values.loc["fast", "output_margin"] < values.loc["slow", "output_margin"]


@pytest.mark.slow
def test_a_language_model(tutorial, capsys):
    found = tutorial("language_model")["run"]
    assert found.failed == 0 and 1.3 < float(
        found.models["target.code.perplexity"][0] / found.models["target.test.perplexity"][0]
    )
    assert 10 < found.models["target.test.perplexity"][0] < 22
    assert re.search(r"rho 0.3: \S+, ok.*rho 0.001: \S+, not_converged", capsys.readouterr().out, re.S)


@pytest.mark.slow
def test_a_measure_of_ones_own(tutorial, tmp_path_factory, monkeypatch):
    if not find_spec("hatchling"):
        # What builds the package, as pip fetches it for a build; the site has it by its extra.
        tools = tmp_path_factory.mktemp("tools")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, "hatchling"]
        subprocess.run(pip, check=True)
        monkeypatch.setenv("PYTHONPATH", f"{tools}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    run = tutorial("own_measure")["run"]
    assert run.failed == 0 and set(run.correlations["measure"]) == {"wrong_confidence", "output_margin"}
    assert run.correlations.set_index("measure")["tau"]["wrong_confidence"].max() < -0.5


@pytest.mark.slow
def test_a_cluster(tutorial, capfd):
    run = tutorial("cluster")["run"]
    assert run.failed == 0 and len(run.results) == 12 * 5 and 0 < run.computed < len(run.results)
    assert "the same values, to the last digit" in capfd.readouterr().out
