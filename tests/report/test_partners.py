"""The values of pairs of models in a run's table, figures and page."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.matrix import order_of
from acutance.errors import UserError
from acutance.io.written import put
from acutance.report.data import ReportData
from acutance.report.recipes.partners import Partners, profile_distances
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
    first = 100.0 * np.arange(count)[:, None] + np.arange(count) + 0.5
    first[0, 1] = np.nan
    np.fill_diagonal(first, np.nan)
    order = order_of(profile_distances(first))
    assert sorted(order) == list(range(count)) and np.array_equal(shown, first[np.ix_(order, order)], equal_nan=True)
    every = -(-count // 80)
    told = [label.get_text().rpartition(" ")[2] for label in axis.get_yticklabels()]
    assert told == [label.get_text().rpartition(" ")[2] for label in axis.get_xticklabels()]
    assert told == [str(i) for i in order[::every]]
    assert np.isnan(np.diag(shown)).all() and np.isnan(shown[0, 1]) and np.isfinite(shown).sum() == count**2 - count - 1
    assert len(axis.get_yticklabels()) == named and len(axis.texts) == written
    assert max(len(label.get_text()) for label in axis.get_yticklabels()) <= 29 and max(figure.get_size_inches()) < 12


def test_what_it_needs_is_told():
    with pytest.raises(UserError, match="no measure of this run has values of pairs"):
        Partners().keys(made(3, pairs=False))


# -- order and colours -----------------------------------------------------------------------------------------


def groups(count, of, near, far, seed=0):
    """Return values of pairs that are near within groups, the groups in turn."""
    which = np.arange(count) % of
    values = np.where(which[:, None] == which, near, far) + 0.01 * np.random.default_rng(seed).normal(size=(count,) * 2)
    values = (values + values.T) / 2
    np.fill_diagonal(values, np.nan)
    return values, which


def drawn(values):
    """Return the figure of these values, models called by their numbers."""
    names = [f"m{i}" for i in range(len(values))]
    data = made(len(values))
    rows = [
        {"measure": "x", "replicate": 0, "model": names[i], "partner": names[j], "value": values[i, j]}
        for i, j in np.argwhere(np.isfinite(values))
    ]
    data = replace(
        data, models=data.models.assign(model=names), results=data.results.assign(model=names), pairs=pd.DataFrame(rows)
    )
    return Partners().draw(data, Partners().keys(data)[0])


@pytest.mark.parametrize(("near", "far"), [(0.1, 1.0), (1.0, 0.1), (0.9, -0.4)])
@pytest.mark.parametrize("count", [9, 60])
def test_models_of_a_group_are_neighbours_whether_large_values_are_near_or_far(count, near, far):
    values, which = groups(count, 3, near, far)
    axis = drawn(values).axes[0]
    order = [int(label.get_text()[1:]) for label in axis.get_yticklabels()]
    assert sorted(order) == list(range(count)) and len(list(itertools.groupby(which[order]))) == 3
    shown = np.ma.filled(axis.images[0].get_array(), np.nan)
    assert np.allclose(shown, values[np.ix_(order, order)], rtol=1e-12, equal_nan=True)


def test_distances_are_those_of_the_rows_without_the_pair_itself():
    values = np.random.default_rng(1).normal(size=(7, 7)) + 100
    values[2, 5] = values[5, 2] = values[0, 3] = np.nan  # of the last, the other direction is there
    found = profile_distances(values)
    s = np.where(np.isnan(values), values.T, np.where(np.isnan(values.T), values, (values + values.T) / 2))
    np.fill_diagonal(s, np.nan)
    for i, j in itertools.permutations(range(7), 2):
        k = [k for k in range(7) if k not in (i, j) and np.isfinite(s[i, k]) and np.isfinite(s[j, k])]
        assert found[i, j] == pytest.approx(np.sqrt(np.mean((s[i, k] - s[j, k]) ** 2)) / np.nanstd(s), rel=1e-6)
    assert not found.diagonal().any()


def test_models_without_common_partners_are_as_far_as_the_farthest():
    values = np.full((5, 5), np.nan)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        values[i, j] = values[j, i] = 0.3 * i + 0.1 * j
    found = profile_distances(values)
    assert np.isfinite(found).all() and (found[3, :3] == found[:3, :3].max()).all()
    assert np.isfinite(profile_distances(np.full((3, 3), np.nan))).all()
    assert len(drawn(np.array([[np.nan, 0.5], [0.5, np.nan]])).axes[0].texts) == 2


def test_colours_turn_at_zero_where_values_have_both_signs():
    norm = drawn(groups(6, 2, 0.9, -0.4)[0]).axes[0].images[0].norm
    assert norm(0.0) == 0.5 and norm.vmin == -norm.vmax
    values, _ = groups(6, 2, 0.1, 1.0)
    norm = drawn(values).axes[0].images[0].norm
    assert norm.vmin == np.nanmin(values) and norm.vmax == np.nanmax(values)


def test_the_order_of_two_thousand_models_takes_a_moment():
    values, which = groups(2000, 4, 0.1, 1.0)
    start = time.process_time()
    order = order_of(profile_distances(values))
    assert time.process_time() - start < 15 and len(list(itertools.groupby(which[order]))) == 4
