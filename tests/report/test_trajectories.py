import numpy as np
import pytest
import torch
from torch import nn

from acutance import UserError
from acutance.monitor import Monitor
from acutance.report.recipes.trajectories import ABOVE, Trajectories
from acutance.run.directory import RunDirectory
from acutance.run.outputs import report_data

MEASURES = [
    {"name": "hessian_top_eigenvalue", "scaling": "none"},
    "hessian_top_eigenvalue",
    {"name": "average_case", "rho": [0.1, 0.2], "draws": 2},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("trajectories") / "run"
    x, y = torch.randn(24, 5, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
    for rate in (0.1, 0.5):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.5)
        with Monitor(MEASURES, (x, y), every=2, out=out, run=f"lr={rate}", report=False) as monitor:
            for _ in range(6):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                monitor.step(model, optimizer, loss=loss)
    return RunDirectory(out)


def test_panels_hold_the_values_of_each_run_against_its_steps(folder):
    data, recipe = report_data(folder, {}), Trajectories()
    (key,) = recipe.keys(data)
    axes = recipe.draw(data, key).axes
    assert [axis.get_title() for axis in axes[:3]] == [*data.definitions[:2], f"{data.definitions[2]}, ρ = 0.1, 0.2"]
    assert [axis.get_ylabel() for axis in axes[3:]] == ["train loss", "logged loss", "learning rate"]
    results = data.results[
        (data.results["measure"] == "hessian_top_eigenvalue") & (data.results["spec.scaling"] == "none")
    ]
    for line, run in zip(axes[0].lines, ("lr=0.1", "lr=0.5"), strict=False):
        rows = results[results["attr.run"] == run]
        assert list(line.get_xdata()) == [2, 4, 6] == list(rows["attr.step"])
        assert np.array_equal(line.get_ydata(), rows["value"])
    assert len(axes[2].lines) == 4 and len(axes[2].collections) == 4  # two radii, with their errors
    assert axes[0].get_legend() is not None


def test_the_edge_of_stability_stands_where_the_value_is_a_curvature_in_the_weights(folder):
    data = report_data(folder, {})
    axes = Trajectories().draw(data, Trajectories().keys(data)[0]).axes
    dashed = [[line for line in axis.lines if line.get_linestyle() == "--"] for axis in axes[:2]]
    # Momentum of a half: 3 / learning rate. The rescaled eigenvalue has another scale.
    assert [list(line.get_ydata()) for line in dashed[0]] == [[30.0] * 3, [6.0] * 3] and not dashed[1]


def test_many_definitions_are_several_figures(folder):
    import dataclasses

    data = report_data(folder, {})
    many = dataclasses.replace(data)
    many.__dict__["definitions"] = [f"d{i}" for i in range(2 * ABOVE + 1)]
    assert [key.what for key in Trajectories().keys(many)] == ["1", "2", "3"]


def test_models_of_no_training_are_told(folder):
    import dataclasses

    data = report_data(folder, {})
    apart = dataclasses.replace(data, models=data.models.drop(columns="attr.step"))
    with pytest.raises(UserError, match=r"acutance\.monitor"):
        Trajectories().keys(apart)
    once = dataclasses.replace(data, models=data.models.drop_duplicates("attr.run"))
    with pytest.raises(UserError, match="no two models"):
        Trajectories().keys(once)


def test_the_page_has_the_figure_and_the_table(folder):
    from tests.shell import cli

    cli("report", folder.path)
    page = folder.page.read_text()
    assert "Along the training" in page and (folder.figures / "trajectories.png").exists()
