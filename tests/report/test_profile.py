"""The profile of a measure over the parts of a network."""

import numpy as np
import pytest

from acutance import UserError
from acutance.plugins import catalog
from acutance.report.page.figures import render
from acutance.run.directory import RunDirectory
from acutance.run.harness import run_study
from acutance.run.outputs import report_data
from acutance.study.config import load_config

PARTS = ["0.weight", "0.bias", "2.*"]


@pytest.fixture
def data(toy_config, tmp_path):
    study = toy_config | {
        "targets": ["test_error", "ood.error"], "groups": [],
        "measures": [
            {"name": "gradient_norm", "parameters": PARTS, "scaling": ["none", "elementwise"]},
            {"name": "average_case", "rho": [0.1, 0.2], "draws": 2, "parameters": ["2.weight", "0.*"]},
            {"name": "weight_norm"},
        ],
    }  # fmt: skip
    run_study(load_config(study), tmp_path, report=False)
    return report_data(RunDirectory(tmp_path), {})


def recipe():
    return catalog().get("figures", "profile")()


def test_one_figure_for_each_measure_taken_on_several_parts(data):
    keys = recipe().keys(data)
    assert [key.what.split(",")[-1].strip() for key in keys if "avg" in key.what] == ["ρ = 0.1", "ρ = 0.2"]
    assert len(keys) == 4 and all("[" not in key.what for key in keys)


def test_values_and_taus_are_those_of_the_tables_in_the_order_of_the_study(data):
    key = recipe().keys(data)[0]
    figure = recipe().draw(data, key)
    above, below = figure.axes
    assert [tick.get_text() for tick in below.get_xticklabels()] == PARTS
    rows = data.results[(data.results["measure"] == "gradient_norm") & (data.results["spec.scaling"] == "none")]
    for line, (_, values) in zip(above.get_lines(), rows.groupby("model", sort=False), strict=True):
        by_part = values.set_index("spec.parameters")["value"]
        assert list(line.get_ydata()) == [by_part[part] for part in PARTS]
    taus = data.correlations[(data.correlations["measure"] == "gradient_norm") & (data.correlations["group"] == "all")]
    taus = taus[(taus["spec.scaling"] == "none") & (taus["target"] == "test_error")].set_index("spec.parameters")["tau"]
    assert np.allclose(below.get_lines()[0].get_ydata(), [taus[part] for part in PARTS])
    assert render(data, key)[0].startswith(b"\x89PNG")


def test_a_run_without_parts_says_what_to_write(finished_once):
    data = report_data(RunDirectory(finished_once.directory), {})
    with pytest.raises(UserError, match="no measure of this run is taken on several parts") as error:
        recipe().keys(data)
    assert "parameters: [blocks.{0..3}.*" in str(error.value)
