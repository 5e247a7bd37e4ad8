"""A study at several values of a setting: the runs are those of `run`, the table theirs, mistakes are told first."""

import pandas as pd
import pytest
from click.testing import CliRunner

import acutance
from acutance import UserError
from acutance.cli import cli
from acutance.report.sweeps import sweep_figure
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.workflows.sweeps import Axis


@pytest.fixture
def small(toy_config):
    return toy_config | {
        "measures": [{"name": "weight_norm"}, {"name": "average_case", "rho": [0.1, 0.2], "draws": 2}],
        "targets": ["test_error", "attr:learning_rate"], "within": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text,keys,values",
    [
        ("surface.m=4,8", ("surface.m",), (4, 8)),
        ("a.x, b.0.x = 0, 0.5", ("a.x", "b.0.x"), (0, 0.5)),
        ("surface.dtype=float32,float64", ("surface.dtype",), ("float32", "float64")),
        ("surface.batches=[partition, {sampled: 3}]", ("surface.batches",), ("partition", {"sampled": 3})),
    ],
)
def test_the_axis(text, keys, values):
    axis = Axis.parse(text)
    assert (axis.keys, axis.values, axis.name) == (keys, values, keys[0].split(".")[-1])


@pytest.mark.parametrize("text", ["surface.m", "=1,2", "surface.m=4", "surface.m=4,4", "surface.m={a: 1"])
def test_an_axis_that_is_none(text):
    with pytest.raises(UserError):
        Axis.parse(text)


def test_a_sweep_is_the_runs_side_by_side(small, tmp_path):
    found = acutance.sweep(small, "surface.m=4,8", tmp_path / "s", report=False)
    single = run_study(load_config(small, {"surface.m": 4}), tmp_path / "alone", report=False).correlations
    part = found.correlations[found.correlations["m"] == 4].drop(columns="m").reset_index(drop=True)
    pd.testing.assert_frame_equal(part, single, check_dtype=False)
    assert set(found.correlations["m"]) == {4, 8} and len(found.correlations) == 2 * len(single)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "s" / "sweep.csv", keep_default_na=False, na_values=[""]), found.correlations,
        check_dtype=False,
    )  # fmt: skip
    assert {p.name for p in (tmp_path / "s").iterdir()} == {".written.json", "m=4", "m=8", "sweep.csv", "figures"}
    pictures = sorted(p.name for p in (tmp_path / "s" / "figures").iterdir() if p.name != ".written.json")
    assert pictures == [
        f"sweep-{t}.{e}" for t in ("attr_learning_rate", "test_error") for e in ("pdf", "png")
    ]  # fmt: skip
    again = acutance.sweep(small, "surface.m=4,8", tmp_path / "s", report=False)
    pd.testing.assert_frame_equal(again.correlations, found.correlations)


def test_a_mistake_in_one_study_is_told_before_any_is_run(small, tmp_path):
    with pytest.raises(UserError, match=r"m = 64: config: surface.m: 64 examples in a batch, but only 32 points"):
        acutance.sweep(small, "surface.m=4,64", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_the_figure_draws_every_definition_at_every_value(small, tmp_path):
    found = acutance.sweep(small, "surface.dtype=float32,float64", tmp_path / "s", report=False)
    rows = found.correlations[(found.correlations["group"] == "all") & (found.correlations["target"] == "test_error")]
    rows = rows.assign(definition=rows["measure"] + rows["spec.rho"].fillna(0).astype(str))
    figure = sweep_figure(rows, "dtype")
    lines = [line for line in figure.axes[0].lines if line.get_label()[0] != "_"]
    assert len(lines) == rows["definition"].nunique() == 3 and all(len(line.get_xdata()) == 2 for line in lines)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["float32", "float64"]
    by_label = {line.get_label(): line for line in lines}
    for definition, part in rows.groupby("definition"):
        assert by_label[definition].get_ydata().tolist() == part["tau"].tolist()


def test_the_verb(small, tmp_path):
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    out = tmp_path / "s"
    result = CliRunner().invoke(cli, ["sweep", str(path), "--over", "surface.m=4,8", "--out", str(out), "--no-report"])
    assert result.exit_code == 0, result.output
    assert "Kendall's tau-a with 95% interval, test_error" in result.output and "weight_norm" in result.output
    assert (out / "sweep.csv").exists() and not (out / "m=4" / "report.html").exists()


def test_a_table_that_no_sweep_wrote_is_named_before_anything_is_computed(small, tmp_path):
    (tmp_path / "sweep.csv").write_text("mine")
    with pytest.raises(UserError, match=r"sweep.csv is there, and acutance did not write it"):
        acutance.sweep(small, "surface.m=4,8", tmp_path, report=False)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]
    (tmp_path / "sweep.csv").unlink()
    acutance.sweep(small, "surface.m=4,8", tmp_path, report=False)
    acutance.sweep(small, "surface.m=4,8", tmp_path, report=False)
    for path in tmp_path.rglob(".written.json"):
        path.unlink()
    # A sweep of before there were manifests.
    acutance.sweep(small, "surface.m=4,8", tmp_path, report=False)
