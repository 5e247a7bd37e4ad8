"""The spectral density of every model in a run's table, figures and page."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from acutance.io.written import put
from acutance.report.curves import curve_figure
from acutance.report.data import ReportData
from acutance.run.harness import run_study
from acutance.study.config import load_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = {
        "format": 1, "pools": [{"name": "toy", "size": 4}], "dataset": {"name": "toy"}, "surface": {"points": 16, "m": 8},
        "targets": ["test_error"], "within": [], "figures": {"colour": "learning_rate"},
        "measures": [
            {"name": "hessian_density", "probes": 1, "iterations": 6, "scaling": ["none", "elementwise"]},
            {"name": "weight_norm"},
        ],
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("curves") / "run"
    return folder, run_study(load_config(config), folder)


def test_the_curves_of_a_run_are_a_table(finished):
    folder, run = finished
    table = pd.read_csv(folder / "curves.csv", keep_default_na=False)
    assert set(table["model"]) == set(run.models["model"]) and set(table["spec.scaling"]) == {"none", "elementwise"}
    for _, curve in table.groupby(["model", "spec.scaling"]):
        assert len(curve) == 281 and curve["y"].sum() == pytest.approx(1) and curve["x"].is_monotonic_increasing


def test_the_curves_are_drawn_in_figures_and_page(finished):
    folder, _ = finished
    found = sorted(p.name for p in (folder / "figures").glob("curve-*.png"))
    assert len(found) == 2 and all("Hessian_negative_share" in name for name in found)
    assert (folder / "report.html").read_text().count('alt="Curves of ') == 2


def test_what_a_measure_tells_beside_its_value_is_in_the_table_of_results(finished):
    _, run = finished
    rows = run.results[run.results["measure"] == "hessian_density"]
    assert (rows["extra.largest_seen"] >= rows["extra.smallest_seen"]).all() and len(rows) == 8
    assert not any(column.startswith("extra.density") for column in rows.columns)
    assert run.results.loc[run.results["measure"] == "weight_norm", "extra.largest_seen"].isna().all()


def test_a_run_without_curves_has_no_table(tmp_path, toy_config):
    toy_config["measures"] = [{"name": "weight_norm"}]
    put(tmp_path / "run", {"curves.csv": "model\n"})  # of an earlier run
    run_study(load_config(toy_config), tmp_path / "run", limit=3)
    assert not (tmp_path / "run" / "curves.csv").exists()
    assert not list((tmp_path / "run" / "figures").glob("curve-*"))


def test_one_line_a_model_and_nothing_where_there_is_nothing():
    models = pd.DataFrame(
        {"model": ["a", "b", "c"], "admitted": [True, True, False], "pool": "p", "attr.lr": [1.0, 2.0, 3.0]}
    )
    row = {"measure": "hessian_density", "spec.probes": 1, "replicate": 0}
    results = pd.DataFrame([{"model": m, "value": 0.1, "stderr": np.nan, **row} for m in models["model"]])
    x, y = [-1.0, 0.0, 1.0], [0.2, 0.8, 0.0]
    curves = pd.concat(
        [pd.DataFrame({"x": x, "y": y}).assign(model=m, curve="density", **row) for m in models["model"]]
    )
    table = pd.DataFrame([{**row, "within": "all", "target": "t", "group": "all", "tau": 0.0}])
    data = ReportData("t", {}, {}, models, results, table, pd.DataFrame(), {}, ["t"], [], {"colour": "lr"}, curves)
    (definition,) = data.definitions
    figure = curve_figure(data, "all", definition)
    lines = figure.axes[0].lines
    assert len(lines) == 2
    assert np.isnan(lines[0].get_ydata()[2]) and lines[0].get_ydata()[0] == 0.2
    assert not len(data.curve_rows("all", "another")) and figure.axes[0].get_xlabel() == "eigenvalue"
    plt.close("all")
