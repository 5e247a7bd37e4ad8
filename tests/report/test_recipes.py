"""Named recipes: every figure and table of the paper has one, and each draws the numbers of the tables."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import acutance
from acutance import UserError
from acutance.analysis.kendall import kendall_tau
from acutance.analysis.matrix import matrix
from acutance.analysis.text import number
from acutance.cli import cli
from acutance.io.written import put
from acutance.plugins import catalog
from acutance.report.page.figures import recipe
from acutance.report.recipes import pairwise
from acutance.report.recipes.pairwise import between_figure, pair_values, paired
from acutance.report.settings import of_run, of_sweep, settings_figure
from acutance.run.directory import RunDirectory
from acutance.run.harness import run_study
from acutance.run.outputs import report_data, write_figures
from acutance.study.config import load_config
from acutance.study.targets import parse_target

ROOT = Path(__file__).parents[2]
RECIPES = {item.name: item.target for item in catalog().items("figures")}
PAPER = [*(f"Figure {i}" for i in range(1, 45)), *(f"Table {i}" for i in range(1, 5))]


@pytest.mark.parametrize("printed", PAPER)
def test_every_figure_and_table_of_the_paper_has_a_recipe(printed):
    found = [r for r in RECIPES.values() if printed in r.paper]
    assert len(found) == 1
    assert "Figure" in found[0].__doc__ or "Tables 1-4" in found[0].__doc__


def test_what_the_docstrings_say_is_what_the_recipes_list():
    for found in RECIPES.values():
        said = set()
        for first, last in re.findall(
            r"\b(\d+)(?:-(\d+))?", " ".join(re.findall(r"(?:Figures?|Tables) [\d, and-]+", found.__doc__))
        ):
            said |= set(range(int(first), int(last or first) + 1))
        # "as curves" repeats the tables: the heat map is what makes them.
        assert said == {int(p.split()[1]) for p in found.paper} or found.name == "radii", found.name


def test_what_a_study_may_say_it_makes(toy_config):
    assert load_config({**toy_config, "paper": ["Figure 7", "Table 3"]}).resolved["paper"] == ["Figure 7", "Table 3"]
    with pytest.raises(UserError, match=r"paper.0"):
        load_config({**toy_config, "paper": ["Fig. 7"]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = {
        "format": 1, "title": "toy", "pools": [{"name": "toy", "size": 6}], "dataset": {"name": "toy"},
        "surface": {"points": 16, "m": 8}, "targets": ["test_error", "generalization_gap"], "groups": ["wide"],
        "within": ["architecture"], "figures": {"colour": "learning_rate"},
        "measures": [
            {"name": "worst_case", "rho": [0.01, 0.02], "steps": [2, 4]}, {"name": "weight_norm"},
            {"name": "hessian_density", "probes": 1, "iterations": 4},
        ],
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("recipes") / "run"
    return run_study(load_config(config), folder, report=False)


STEMS = {
    "tau": ["tau-toy"],
    "target": ["target-toy-adaptive_worst_case_linf_steps_2", "target-toy-adaptive_worst_case_linf_steps_4"],
    "gap": ["gap-toy-adaptive_worst_case_linf_steps_2"],
    "hyperparameter": ["hyperparameter-toy-adaptive_worst_case_linf_steps_4"],
    "radii": ["radii-toy-test_error", "radii-toy-generalization_gap"],
    "pairwise": ["pairwise-toy", "pairwise-toy-scatter"],
    "iterations": ["iterations-toy-test_error", "iterations-toy-generalization_gap"],
    "density": ["density-toy"],
    "curve": ["curve-toy-"],
}


# What the others draw is looked at below and by their own tests; that each is written is the same for all.
FAST = ("tau", "target", "density")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in STEMS])
def test_a_recipe_writes_its_figures_and_leaves_others(run, name):
    figures = run.directory / "figures"
    figures.mkdir(exist_ok=True)
    (figures / "other-x.png").write_bytes(b"x")
    put(figures, {f"{name}-old.png": b"x"})
    result = CliRunner().invoke(cli, ["report", str(run.directory), "--figure", name])
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.output.split()]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.with_suffix(".pdf").exists() for path in paths)
    assert {p.name for p in figures.glob(f"{name}-*.png")} == {path.name for path in paths}
    assert all(any(path.stem.startswith(stem) for path in paths) for stem in STEMS[name])
    assert (figures / "other-x.png").exists() and not (run.directory / "report.html").exists()


def test_gap_and_error_stand_beside_each_other(run):
    data = report_data(RunDirectory(run.directory), {})
    chosen = recipe("gap")
    figure = chosen.draw(data, chosen.keys(data)[0])
    panels = figure.axes[:4]
    assert [axis.get_ylabel() for axis in panels] == ["test error", "generalization gap"] * 2
    assert [axis.get_xlabel().split("= ")[1] for axis in panels] == ["0.01", "0.01", "0.02", "0.02"]


def test_an_attribute_that_is_no_target_is_correlated_as_one(run):
    data = report_data(RunDirectory(run.directory), {})
    prepared = recipe("hyperparameter").prepare(data)
    (name,) = (d for d in prepared.definitions if "weight_norm" in d)
    rows = prepared.tau(name, None, "attr:learning_rate", "architecture=toy")
    models = run.models.set_index("model")
    values = run.results[run.results["measure"].str.endswith("weight_norm")].set_index("model")["value"]
    expected = kendall_tau(models["attr.learning_rate"].loc[values.index], values, seed=0).tau
    assert rows.loc["all", "tau"] == pytest.approx(expected) and set(rows.index) == {"all", "wide=0", "wide=1"}
    assert "attr:learning_rate" not in set(data.correlations["target"])


@pytest.mark.parametrize("name,column", [("radii", "spec.rho"), ("iterations", "spec.steps")])
def test_lines_are_the_taus_of_the_table(run, name, column):
    data = report_data(RunDirectory(run.directory), {})
    chosen = recipe(name)
    (key, *_) = chosen.keys(data)
    figure = chosen.draw(data, key)
    lines = [line for line in figure.axes[0].lines if line.get_label()[0] != "_"]
    t = data.correlations
    t = t[(t["measure"] == "worst_case") & (t["group"] == "all") & (t["target"] == "test_error")]
    assert figure.axes[0].get_xscale() == "log" and len(lines) == 2
    drawn = {(round(x, 9), y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata())}
    assert drawn == {(round(float(x), 9), y) for x, y in zip(t[column], t["tau"])}


def test_the_columns_of_the_matrix_are_definitions_and_radii(run):
    data = report_data(RunDirectory(run.directory), {})
    values = pair_values(data, "architecture=toy")
    assert values.shape == (6, 6) and "adaptive worst-case ℓ∞, steps = 4, ρ = 0.02" in values.columns
    figure = recipe("pairwise").draw(data, recipe("pairwise").keys(data)[0])
    assert np.asarray(figure.axes[0].images[0].get_array()) == pytest.approx(matrix(values).tau.to_numpy())


def test_many_definitions_stand_by_cluster_and_what_says_the_same_has_a_frame(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40, 4))
    values = pd.DataFrame({f"d{i}": base[:, i % 4] + 0.05 * rng.normal(size=40) for i in range(12)})
    monkeypatch.setattr(pairwise, "pair_values", lambda data, level: values)
    axis = pairwise.tau_matrix(SimpleNamespace(whole=None), "all").axes[0]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert sorted(names) == sorted(values.columns) and names != list(values.columns)
    assert np.asarray(axis.images[0].get_array()) == pytest.approx(matrix(values).tau.loc[names, names].to_numpy())
    frames = [(patch.get_x() + 0.5, patch.get_width()) for patch in axis.patches]
    assert frames == [(0, 3), (3, 3), (6, 3), (9, 3)]
    assert {frozenset(n) for n in zip(*[iter(names)] * 3)} == {
        frozenset(f"d{i}" for i in (k, k + 4, k + 8)) for k in range(4)
    }
    monkeypatch.setattr(pairwise, "SQUARES", 11)
    monkeypatch.setattr(pairwise, "pair_values", lambda data, level: values if data is None else values.iloc[:, :2])
    assert len(pairwise.tau_matrix(SimpleNamespace(whole=None), "all").axes[0].get_yticklabels()) == 2


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    config = {
        "format": 1, "pools": [{"name": "toy", "size": 5}], "dataset": {"name": "toy"}, "surface": {"points": 16, "m": 8},
        "targets": ["test_error"], "within": [], "measures": [{"name": "worst_case", "rho": [0.01, 0.02], "steps": 2}],
    }  # fmt: skip
    return {
        name: acutance.sweep(config, over, folder / name, report=False)
        for name, over in (("m", "surface.m=4,8"), ("iterations", "measures.0.steps=1,3"))
    }


@pytest.mark.parametrize("name", ["m", "iterations"])
def test_recipes_of_sweeps_draw_a_line_a_definition(sweeps, name):
    found = sweeps[name]
    path, scatter = write_figures(RunDirectory(found.directory), [name])
    assert path.name == f"{name}-test_error.png" and path.with_suffix(".pdf").exists()
    assert scatter.name == f"{name}-adaptive_worst_case_linf_test_error.png"
    chosen = recipe(name)
    panels = chosen.panels(found.correlations, found.axis.name)
    ((key, rows),) = panels.items()
    lines = [x for x in chosen.lines(rows, key, found.axis.name).axes[0].lines if x.get_label()[0] != "_"]
    assert [line.get_label() for line in lines] == [f"adaptive worst-case ℓ∞, ρ = {rho}" for rho in (0.01, 0.02)]
    assert all(list(line.get_xdata()) == list(found.axis.values) for line in lines)


@pytest.mark.parametrize("name", ["m", "iterations"])
def test_each_value_of_a_sweep_is_a_row_of_scatter_plots(sweeps, name):
    found = sweeps[name]
    runs = {
        f"{v:g}": report_data(RunDirectory(found.directory / f"{found.axis.name}={v:g}"), {}) for v in found.axis.values
    }
    ((_, (rows, title, target)),) = of_sweep(runs, name).items()
    figure = settings_figure(rows, recipe(name).label, title, "all", target)
    panels = np.array(figure.axes[:4]).reshape(2, 2)
    for value, row in zip(runs, panels):
        assert row[0].get_ylabel() == f"{recipe(name).label} = {value}\ntest error"
        t = runs[value].correlations.set_index("spec.rho")["tau"]
        for axis, rho in zip(row, (0.01, 0.02)):
            assert len(axis.collections[-1].get_offsets()) == 5
            assert any(f"= {number(t[rho])}" in text.get_text() for text in axis.texts)


def test_each_number_of_steps_of_a_run_is_a_row_of_scatter_plots(run):
    data = report_data(RunDirectory(run.directory), {})
    found = of_run(data, "steps", "iterations")
    assert {target for _, _, target in found.values()} == {"test_error", "generalization_gap"} and len(found) == 2
    for key, (rows, title, _) in found.items():
        assert list(rows) == ["2", "4"] and title == "adaptive worst-case ℓ∞" and key.level == "architecture=toy"
        assert [name for _, name in rows.values()] == [f"{title}, steps = {value}" for value in rows]


def test_gaps_of_shifted_splits_stand_beside_their_errors(run):
    data = dataclasses.replace(
        report_data(RunDirectory(run.directory), {}),
        targets=["ood.error", "ood.gap", "test_error", "generalization_gap", "far_gap"],
    )
    assert recipe("gap").columns(data) == ["ood.error", "ood.gap", "test_error", "generalization_gap", "far_gap"]
    assert parse_target("ood.gap", ("train", "test", "ood")).terms == ((1, "error", "ood"), (-1, "error", "train"))
    assert (
        parse_target("test.gap", ("train", "test")).terms == parse_target("generalization_gap", ("train", "test")).terms
    )
    with pytest.raises(UserError, match=r"unknown target 'od.gap'.*did you mean 'ood.gap'"):
        parse_target("od.gap", ("train", "ood"))


def test_densities_are_a_panel_a_definition(run):
    data = report_data(RunDirectory(run.directory), {})
    (key,) = recipe("density").keys(data)
    figure = recipe("density").draw(data, key)
    names = recipe("density").definitions(data, key.level)
    assert [axis.get_title() for axis in figure.axes[: len(names)]] == names
    assert len(figure.axes[0].lines) == 6


def test_a_measure_at_two_settings_of_a_sweep(sweeps):
    found = sweeps["m"]
    (path,) = write_figures(RunDirectory(found.directory), ["pairwise"])
    assert path.name == "pairwise-adaptive_worst_case_linf.png" and path.with_suffix(".pdf").exists()
    runs = {value: report_data(RunDirectory(found.directory / f"m={value}"), {}) for value in ("4", "8")}
    name = "adaptive worst-case ℓ∞"
    pair = paired(runs["4"], runs["8"], "all", name, 0.02)
    for value, column in (("4", "value"), ("8", "other")):
        r = runs[value].results
        r = r[(r["measure"] == "worst_case") & (r["spec.rho"] == 0.02)].set_index("model")["value"]
        assert pair[column].to_dict() == pytest.approx(r.to_dict()) and len(pair) == 5
    figure = between_figure(runs, "m", "all", name)
    assert [(a.get_xlabel(), a.get_ylabel()) for a in figure.axes[:2]] == [("m = 4", "m = 8")] * 2
    assert len(figure.axes[1].collections[-1].get_offsets()) == 5


@pytest.mark.parametrize(
    "where,name,message",
    [
        ("run", "m", "all measures of a run have the same m.*--over surface.m"),
        ("run", "nothing", "unknown figure 'nothing'.*known: .*hyperparameter"),
        ("sweep", "iterations", "this is a sweep over m.*recipes of such a sweep: m, pairwise;"),
        ("sweep", "target", "this is a sweep over m"),
    ],
)
def test_what_a_recipe_cannot_draw_is_told(run, sweeps, where, name, message):
    with pytest.raises(UserError, match=message):
        write_figures(RunDirectory(run.directory if where == "run" else sweeps["m"].directory), [name])


@pytest.mark.parametrize("name,message", [
    ("gap", "generalization_gap is not among the targets"), ("hyperparameter", "names no attribute that is a number"),
    ("density", "no measure of this run has a spectral density"), ("curve", "no measure of this run has curves"), ("iterations", "same number of steps"),
])  # fmt: skip
def test_a_run_without_what_a_recipe_needs(sweeps, name, message):
    with pytest.raises(UserError, match=message):
        write_figures(RunDirectory(sweeps["m"].directory / "m=4"), [name])


def test_a_run_without_radii_and_with_one_measure():
    from acutance.report.data import ReportData

    table = pd.DataFrame([{"measure": "x", "within": "all", "target": "t", "group": "all", "tau": 0.0}])
    models = pd.DataFrame({"model": ["a", "b"], "admitted": True})
    results = pd.DataFrame([{"model": m, "measure": "x", "value": 1.0, "stderr": np.nan} for m in "ab"])
    data = ReportData("t", {}, {}, models, results, table, pd.DataFrame(), {}, ["t"], [], {})
    for name, message in (("radii", "no measure of this run has radius"), ("pairwise", "fewer than two measures")):
        with pytest.raises(UserError, match=message):
            recipe(name).keys(data)
