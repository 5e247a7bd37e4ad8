"""The values of pairs of models in a run's table, figures and page."""

import numpy as np
import pandas as pd
import pytest

from acutance.errors import UserError
from acutance.io.written import put
from acutance.report.data import ReportData
from acutance.report.recipes.partners import Partners
from acutance.run.directory import RunDirectory
from acutance.run.harness import run_study
from acutance.study.config import load_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = {
        "format": 1, "pools": [{"name": "toy", "size": 4}], "dataset": {"name": "toy"}, "surface": {"points": 16, "m": 8},
        "targets": ["test_error"], "within": [], "measures": [{"name": "disagreement"}, {"name": "weight_norm"}],
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("partners") / "run"
    return folder, run_study(load_config(config), folder)


def test_the_pairs_of_a_run_are_a_table_whose_means_are_the_values(finished):
    folder, run = finished
    table = pd.read_csv(folder / "pairs.csv", keep_default_na=False)
    assert list(table.columns) == ["measure", "split", "replicate", "model", "partner", "value"]
    assert (
        len(table) == 4 * 3 and set(table["measure"]) == {"disagreement"} and (table["model"] != table["partner"]).all()
    )
    rows = run.results[run.results["measure"] == "disagreement"].set_index("model")
    for model, pairs in table.groupby("model"):
        assert pairs["value"].mean() == pytest.approx(rows.loc[model, "value"], abs=1e-12)


def test_the_pairs_are_drawn_in_figures_and_page(finished):
    folder, _ = finished
    assert len(list((folder / "figures").glob("partners-*.png"))) == 1
    assert "Pairs of models" in (folder / "report.html").read_text()


def test_a_run_without_pairs_has_no_table(tmp_path, toy_config):
    toy_config["measures"] = [{"name": "weight_norm"}]
    put(tmp_path / "run", {"pairs.csv": "model\n"})  # of an earlier run
    run_study(load_config(toy_config), tmp_path / "run", limit=3)
    assert not (tmp_path / "run" / "pairs.csv").exists()


def test_names_that_look_like_numbers_stay_names(tmp_path):
    folder = RunDirectory(tmp_path / "run")
    folder.put_tables({"pairs": pd.DataFrame({"model": ["007"], "partner": ["12e45"], "value": [1.0]})})
    again = RunDirectory(tmp_path / "run").table("pairs")
    assert again["model"].tolist() == ["007"] and again["partner"].tolist() == ["12e45"]


def made(count, pairs=True):
    names = [f"a model with a long name, number {i}" for i in range(count)]
    models = pd.DataFrame({"model": names, "admitted": True})
    results = pd.DataFrame([{"model": m, "measure": "x", "value": 1.0, "stderr": np.nan} for m in names])
    taus = pd.DataFrame([{"measure": "x", "within": "all", "target": "t", "group": "all", "tau": 0.0}])
    rows = [
        {"measure": "x", "replicate": r, "model": a, "partner": b, "value": 100.0 * i + j + r}
        for i, a in enumerate(names) for j, b in enumerate(names) for r in (0, 1) if i != j and (i, j) != (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows) if pairs else None
    return ReportData("t", {}, {}, models, results, taus, pd.DataFrame(), {}, ["t"], [], {}, pairs=table)


@pytest.mark.parametrize(("count", "named", "written"), [(3, 3, 5), (60, 60, 0), (170, 57, 0)])
def test_a_matrix_has_a_row_a_model_and_room_for_its_names(count, named, written):
    data = made(count)
    (key,) = Partners().keys(data)
    figure = Partners().draw(data, key)
    axis = figure.axes[0]
    shown = np.ma.filled(axis.images[0].get_array(), np.nan)
    assert shown.shape == (count, count) and shown[2, 1] == 201.5 and shown[1, 2] == 102.5
    assert np.isnan(np.diag(shown)).all() and np.isnan(shown[0, 1]) and np.isfinite(shown).sum() == count**2 - count - 1
    assert len(axis.get_yticklabels()) == named and len(axis.texts) == written
    assert max(len(label.get_text()) for label in axis.get_yticklabels()) <= 29 and max(figure.get_size_inches()) < 12


def test_what_it_needs_is_told():
    with pytest.raises(UserError, match="no measure of this run has values of pairs"):
        Partners().keys(made(3, pairs=False))
