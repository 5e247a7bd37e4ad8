"""A very large table: what is drawn is bounded and said, what is counted is all of it."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.external import Columns
from acutance.report.page.html import render_page
from acutance.report.shown import shown
from acutance.run.directory import RunDirectory
from acutance.run.outputs import report_data
from acutance.workflows.correlating import of_table, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    g = np.random.default_rng(0)
    error = np.sort(g.normal(size=30))
    columns = {f"m{k}": (k - 4) * error + 3 * g.normal(size=30) for k in range(9)}
    table = pd.DataFrame({"name": [f"model {i:02d}" for i in range(30)], "error": error, **columns})
    folder = tmp_path_factory.mktemp("large")
    write(of_table(table, Columns(["error"], model="name")), folder, report=False, say=lambda _: None)
    return report_data(RunDirectory(folder), {})


def test_what_is_within_the_limits_is_drawn_as_it_is(data):
    assert shown(data) is data


def test_the_strongest_definitions_are_shown_under_their_names_and_the_counts_are_of_all(data):
    few = shown(data, definitions=3)
    tau = data.named.set_index("definition")["tau"].abs().sort_values(ascending=False)
    assert set(few.definitions) == set(tau.index[:3])
    assert few.left_out.startswith("3 of 9 definitions are shown, those with the largest |τ|")
    assert set(few.findings["pairwise"]["definition"]) == set(few.findings["pairwise"]["other"]) == set(tau.index[:3])
    page = render_page(few, {})
    assert few.left_out in page and "30 models, 9 correlations (9 definitions, 1 target)." in page
    assert all(f">{name}</" not in page for name in tau.index[3:]) and f">{tau.index[0]}</" in page
    assert re.findall(r"adjustment for all (\d+) comparisons", page) == ["9"]


def test_models_are_taken_evenly_and_no_number_is_of_fewer(data):
    few = shown(data, models=4)
    assert few.models["model"].tolist() == ["model 00", "model 10", "model 19", "model 29"]
    assert len(few.values("m0", None)) == 4
    assert few.correlations.equals(data.correlations) and (few.named["n"] == 30).all()
    page = render_page(few, {})
    assert "4 of 30 models are drawn, taken evenly; every number is of all of them" in page
    assert "30 of 30 are compared" in page and "model 05" not in page


def test_figures_say_what_they_leave_out(data):
    from acutance.report.page.figures import FigureKey, draw

    few = shown(data, definitions=3, models=4)
    for key in (FigureKey("tau", "all"), FigureKey("target", "all", few.definitions[0])):
        title = draw(few, key).get_suptitle().replace("\n", " ")
        assert "3 of 9 definitions are shown" in title and "4 of 30 models are drawn" in title
