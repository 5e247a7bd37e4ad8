"""A third party's measure reads like a built-in one, also where its plugin is no longer installed."""

import json

import pandas as pd
import pytest
import yaml
from shell import cli
from third_parties import plugin, python

from acutance.analysis.labels import definition_name
from acutance.presentation import UNKNOWN, Presentation, presentation
from acutance.report.curves import curve_figure
from acutance.report.page import figures
from acutance.report.page.drawing import draw_apart
from acutance.report.page.figures import FigureKey, render
from acutance.report.scatter import symbol
from acutance.run.directory import MEASURES, RunDirectory, reading
from acutance.run.outputs import report_data

SOURCE = '''
from typing import Annotated, Literal

from acutance import hookimpl
from acutance.measure import Estimate, Measure, SharpnessSpec, Traits
from acutance.spec import estimation, labelled

class RoughnessSpec(SharpnessSpec):
    rho: float = 0.1
    """Radius."""
    kernel: Annotated[Literal["box", "tent"], labelled({"box": "flat"})] = "box"
    """Kernel."""
    window: Annotated[int, labelled(adds=", σ = {window}")] = 3
    """Width of the kernel."""
    sweeps: Annotated[int, estimation()] = 2
    """Number of sweeps."""

class Roughness(Measure[RoughnessSpec]):
    """Roughness."""
    name = "roughness"
    traits = Traits(level="weights", needs={"weights"}, symbol="R_w", label="{scaling} {kernel}-kernel roughness",
                    curves={"profile": ("distance θ", "rise of the loss")}, reference="these tests")

    def evaluate(self, surface, spec, rng):
        value = float(surface.w.norm()) * spec.window * spec.rho
        return Estimate(value, extras={"profile": {"x": [1.0, 2.0], "y": [value, 2 * value]}})

@hookimpl
def register_measures():
    return [Roughness]
'''
PLAIN, WIDE = "adaptive flat-kernel roughness", "standard tent-kernel roughness, σ = 5"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Names are cut where a terminal is too narrow for them."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that a process made which had the plugin; this one does not."""
    folder = tmp_path_factory.mktemp("roughness")
    plugin(folder / "site", "acme-rough", SOURCE)
    study = {
        "format": 1, "pools": [{"name": "toy", "size": 4}], "dataset": {"name": "toy"}, "surface": {"points": 16, "m": 8},
        "targets": ["test_error", "measure:roughness(window=5)"], "within": [],
        "measures": [
            {"name": "roughness", "rho": [0.1, 0.2]},
            {"name": "roughness", "kernel": "tent", "window": 5, "scaling": "none", "logit_norm": True},
        ],
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    arguments = ("run", folder / "study.yaml", "--out", folder / "run", "--no-report")
    python("-m", "acutance", *arguments, path=[folder / "site"], forked=True)
    assert presentation("roughness") == UNKNOWN
    return folder / "run"


def test_the_run_says_how_its_measures_are_shown(run):
    written = json.loads((run / MEASURES).read_text())
    assert list(written) == ["roughness"] and written["roughness"]["estimation"] == ["norm_scale", "sweeps"]
    with reading(run):
        assert presentation("roughness") == Presentation.of_json(written["roughness"])
    assert presentation("roughness") == UNKNOWN


def test_tables_and_verdicts_have_its_label(run):
    text = cli("results", run).stdout
    assert f"{PLAIN}, ρ = 0.1" in text and "standard tent-kernel roughness, logit-norm, σ = 5" in " ".join(text.split())
    assert "measure:" not in text
    latex = cli("results", run, "--format", "latex").stdout
    assert rf"{PLAIN} & No & 0.1" in latex and r"standard tent-kernel roughness, $\sigma$ = 5 & Yes" in latex
    assert PLAIN in (run / "tables" / "tau.md").read_text()
    assert set(pd.read_csv(run / "verdicts.csv")["definition"]) == {
        PLAIN,
        "standard tent-kernel roughness, logit-norm, σ = 5",
    }


def test_figures_and_page_have_label_symbol_and_axes(run, monkeypatch, figures_are_drawn_here):
    monkeypatch.setattr(figures, "SETTINGS", figures_are_drawn_here)  # as in a process that draws
    with reading(run):
        data = report_data(RunDirectory(run), {})
        assert PLAIN in data.definitions and symbol(data, PLAIN) == "$R_{w}$"
        axis = curve_figure(data, "all", PLAIN).axes[0]
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("distance θ", "rise of the loss")
        key = FigureKey("curve", "all", PLAIN)
        # A drawing process has not installed it either.
        assert draw_apart(data, [key], 1) == {key: render(data, key)}
    cli("report", run)
    page = (run / "report.html").read_text()
    assert PLAIN in page and f'alt="Curves of {PLAIN}' in page
    assert any("flat_kernel_roughness" in path.name for path in (run / "figures").glob("target-*.png"))


def test_two_tables_and_other_statistics_of_the_run_have_its_label(run, tmp_path):
    table = pd.read_csv(run / "correlations.csv").drop(columns="spec.sweeps")
    table.to_csv(tmp_path / "theirs.csv", index=False)
    assert PLAIN in cli("compare", run, tmp_path / "theirs.csv").stdout
    assert PLAIN in cli("correlate", run, "--out", tmp_path / "again", "--no-report", "--quiet").stdout
    assert json.loads((tmp_path / "again" / MEASURES).read_text()) == json.loads((run / MEASURES).read_text())
    assert PLAIN in cli("results", tmp_path / "again").stdout


@pytest.mark.parametrize("text", ["{", "[]", '{"roughness": 3}', '{"roughness": {"label": "x"}}', "\\udc80"])
def test_a_file_that_cannot_be_read_stops_nothing(run, tmp_path, text):
    (tmp_path / MEASURES).write_text(text)
    row = {"measure": "roughness", "spec.kernel": "box"}
    with reading(tmp_path, tmp_path / "nowhere"):
        assert definition_name(row) == "roughness (kernel=box)"
    with reading(tmp_path, run):
        assert definition_name(row) == "flat-kernel roughness"
