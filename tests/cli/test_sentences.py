"""What is easily written wrong is understood, or told in one sentence: devices, batches, executors, numbers, texts."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from models import MLP, mlp_data
from shell import cli as shell
from torch import nn

import acutance
from acutance import UserError
from acutance.cli import cli
from acutance.io.checkpoints import make_model
from acutance.io.data_files import read_points
from acutance.io.yaml_files import read_yaml
from acutance.study.config import load_config

POINTS = torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3


def invoke(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


@pytest.fixture
def study(toy_config, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(toy_config))
    return path


# -- devices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "GPU", "cuda:99", "xpu", "meta", "cpu,cuda"])
def test_a_device_that_is_not_there_is_one_sentence_wherever_it_is_given(device, study, tmp_path):
    torch.save(dict(zip("xy", mlp_data(8), strict=True)), tmp_path / "points.pt")
    data = ("--data", tmp_path / "points.pt", "--measure", "gradient_norm")
    for command in (
        ("measure", "models:MLP", *data), ("check", study, "--time"), ("calibrate", study),
        ("run", study, "--out", tmp_path / "run"), ("sweep", study, "--over", "surface.m=4,8", "--out", tmp_path / "s"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"device '{device}'"):
            invoke(*command, "--device", device)
    with pytest.raises(UserError, match=f"device '{device}'"):
        acutance.measure("gradient_norm", MLP(), mlp_data(8), device=device)
    with pytest.raises(UserError, match=f"device '{device}'"):
        acutance.LossSurface(MLP(), mlp_data(8), device=device)


# -- batches --------------------------------------------------------------------------------------------------


def test_the_command_line_says_of_m_what_python_says(tmp_path):
    points = mlp_data(10)
    torch.save(points, tmp_path / "points.pt")
    command = ("measure", "models:MLP", "--data", tmp_path / "points.pt", "--measure", "gradient_norm")
    dropped = "2 of 10 points do not fill a batch of 4 and are dropped"
    told = invoke(*command, "-m", 4)
    assert f"note: {dropped}" in told.output + told.stderr and "(2 batches)" in told.output
    assert acutance.measure("gradient_norm", MLP(), points, m=4).notes == (dropped,)
    for m in (5, 10, None):
        assert not acutance.measure("gradient_norm", MLP(), points, m=m).notes
    assert "(1 batches)" in invoke(*command).output  # all points, where they are fewer than 128
    for way in (lambda: invoke(*command, "-m", 11), lambda: acutance.measure("gradient_norm", MLP(), points, m=11)):
        with pytest.raises(UserError, match="m: 11 examples in a batch, but there are 10 points"):
            way()


# -- executors ------------------------------------------------------------------------------------------------


def test_an_executor_replaces_the_studys_before_its_settings_are_judged(toy_config, study, tmp_path):
    found = load_config(toy_config, ["executor.workers=2", "executor.time_limit=9"], executor="processes")
    assert found.executor.item.name == "processes" and found.executor.spec.workers == 2
    assert found.resolved["executor"]["time_limit"] == 9.0
    other = toy_config | {"executor": {"name": "processes", "workers": 2}}
    assert load_config(other, executor="serial").executor.item.name == "serial"
    with pytest.raises(UserError, match=r"executor.workers: unknown field"):
        load_config(other, ["executor.workers=2"], executor="serial")
    with pytest.raises(UserError, match=r"executor.name: unknown executor 'proceses'.*processes"):
        load_config(other, executor="proceses")
    for command in (("run",), ("sweep", "--over", "surface.m=4,8")):
        with pytest.raises(UserError, match=r"executor\.workers"):
            invoke(*command, study, "--set", "executor.workers=0", "--executor", "processes", "--out", tmp_path / "o")


# -- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written,told",
    [
        ("0,05", r"rho: .*write 0\.05, with a decimal point"),
        ("-1,5e-3", r"write -1\.5e-3, with"),
        ("1/255", r"write 0\.00392157"),
        ("auto", r"rho: .*unable to parse string as a number, got 'auto'$"),
        ("1/0", r"got '1/0'$"),
    ],
)
def test_a_number_written_otherwise_says_how_to_write_it(written, told, toy_config):
    toy_config["measures"] = [{"name": "average_case", "rho": written}]
    with pytest.raises(UserError, match=told):
        load_config(toy_config)
    with pytest.raises(UserError, match=told):
        acutance.measure("average_case", MLP(), mlp_data(8), rho=written)


def test_a_decimal_comma_in_braces_is_told_at_its_place(tmp_path, toy_config):
    toy_config["measures"] = "HERE"
    text = yaml.safe_dump(toy_config).replace("HERE", "[{name: average_case, rho: 0,05}]")
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=r"measures.0: 5 stands where a name is wanted: .*decimal comma"):
        load_config(tmp_path / "s.yaml")
    with pytest.raises(UserError, match=r"dataset: .*got 'toy': write \{name: toy\}"):
        load_config(toy_config | {"dataset": "toy"})


# -- what Python holds ----------------------------------------------------------------------------------------


def squared(logits, targets):
    return (logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]).square().mean()


def nets():
    return {f"m{i}": torch.nn.Linear(4, 3) for i in range(3)}


def held(tmp_path, **changes):
    points = torch.randn(16, 4), torch.arange(16) % 3
    settings = {"targets": {"gap": [0.1, 0.2, 0.3]}, "measures": ["gradient_norm"], "within": [], "report": False}
    return acutance.study(nets(), points, out=tmp_path / "run", **{**settings, **changes})


def test_a_function_of_a_file_is_a_loss_in_a_study_too(tmp_path):
    found = held(tmp_path, surface={"loss": squared, "dtype": torch.float64, "m": np.int64(8)})
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["surface"]["loss"] == f"{__name__}:squared" and config["surface"]["dtype"] == "float64"
    assert found.failed == 0 and config["surface"]["m"] == 8


@pytest.mark.parametrize("loss", [lambda f, t: f.sum(), torch.nn.CrossEntropyLoss()], ids=["lambda", "module"])
def test_a_loss_that_no_file_names_says_where_to_write_it(loss, tmp_path):
    told = r"surface.loss: .* is in the memory of this process alone \(write it into a file .*'module:function'"
    with pytest.raises(UserError, match=told):
        held(tmp_path, surface={"loss": loss})
    with pytest.raises(UserError, match=r"measures.0.scaling: "):
        held(tmp_path, measures=[{"name": "average_case", "rho": 0.1, "scaling": loss}])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rho", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array([0.5]), (0.5,)])
def test_numbers_of_numpy_and_torch_are_numbers_in_a_study(rho, toy_config):
    toy_config["measures"] = [{"name": "average_case", "rho": rho}]
    (planned,) = load_config(toy_config, {"surface.points": np.int64(16)}).measures
    assert planned.spec.rho == 0.5 and type(planned.spec.rho) is float


def test_a_target_is_not_called_as_a_measure(tmp_path):
    with pytest.raises(UserError, match=r"targets.gradient_norm: is the name of a measure too"):
        held(tmp_path, targets={"gradient_norm": [1, 2, 3]})
    table = long_of_radii(tmp_path / "t.csv", "0.1").read_text().replace("err", "worst_case")
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UserError, match=r"--long: 'worst_case' is a measure and a target"):
        invoke("correlate", tmp_path / "t.csv", "--model", "name", "--long", "measure,value", "--targets", "worst_case")


# -- texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_yaml_is_read_in_the_encodings_of_its_standard(encoding, tmp_path):
    (tmp_path / "s.yaml").write_bytes("title: caf\u00e9\n".encode(encoding))
    assert read_yaml(tmp_path / "s.yaml") == {"title": "caf\u00e9"}


def test_yaml_in_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "s.yaml").write_bytes("format: 1\ntitle: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"s.yaml: line 2 is no text in UTF-8 or UTF-16 \(save the file as UTF-8"):
        read_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    "held,told",
    [
        ({"texts": ["a", "b"], "labels": [0, 1]}, r"'texts' is texts, 'labels' is a list \(give texts as a table"),
        (["a", "b"], r"holds texts, no tensors: '0' is a text, '1' is a text \(give texts as a table"),
        ({"inputs": ["a"], "targets": torch.ones(1)}, r"holds a dict, no tensors: 'inputs' is texts \(give texts"),
        ({"x": 1.0, "y": torch.ones(1)}, r"holds a dict, no tensors: 'x' is a float \(save a dict of tensors, x and y"),
        (torch.ones(3, 2), r"holds one tensor, of shape \(3, 2\), and no targets \(save"),
        ({}, r"is empty \(save"),
        (3, r"holds an int \(save"),
    ],
)
def test_a_file_of_data_without_tensors_says_what_it_holds(held, told, tmp_path):
    torch.save(held, tmp_path / "text.pt")
    with pytest.raises(UserError, match=told):
        read_points(tmp_path / "text.pt")


# -- tables ---------------------------------------------------------------------------------------------------


def table_of_radii(path, *radii):
    rng = np.random.default_rng(0)
    wide = {"name": list("abcde"), "err": np.arange(5) / 10}
    pd.DataFrame(wide | {f"worst_case(rho={r})": rng.random(5) for r in radii}).to_csv(path, index=False)
    return path


def long_of_radii(path, *radii):
    rng = np.random.default_rng(0)
    rows = [(m, "worst_case", r, rng.random(), i / 10) for r in radii for i, m in enumerate("abcde")]
    pd.DataFrame(rows, columns=["name", "measure", "spec.rho", "value", "err"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("form", [table_of_radii, long_of_radii])
def test_a_radius_in_a_table_is_a_number_or_a_fraction(form, tmp_path):
    more = ["--long", "measure,value"] if form is long_of_radii else []
    common = ["--model", "name", "--targets", "err", "--resamples", "99", *more]
    out = tmp_path / "out"
    invoke("correlate", form(tmp_path / "t.csv", "1/255", "0.1"), *common, "--out", out, "--no-report")
    found = pd.read_csv(out / "correlations.csv")
    assert sorted(found["spec.rho"]) == [1 / 255, 0.1]
    assert "\u03c1 = 0.00392157" in invoke("results", out).output
    for radius in ("auto", "1/0", "1/2/3"):
        with pytest.raises(UserError, match=f"measure 'worst_case' has rho = '{radius}', and a radius is a number"):
            invoke("correlate", form(tmp_path / "t.csv", "0.1", radius), *common)


def test_a_radius_in_a_table_of_correlations_is_one_too(tmp_path):
    rows = pd.DataFrame({"measure": "worst_case", "target": "e", "tau": [0.1, 0.2], "spec.rho": ["1/255", "0.1"]})
    rows.to_csv(tmp_path / "a.csv", index=False)
    rows.assign(**{"spec.rho": [repr(1 / 255), "0.10"]}).to_csv(tmp_path / "b.csv", index=False)
    assert "2 correlations are in both" in invoke("compare", tmp_path / "a.csv", tmp_path / "b.csv").output
    rows.replace("1/255", "auto").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"a.csv: measure 'worst_case' has rho = 'auto'"):
        invoke("compare", tmp_path / "a.csv", tmp_path / "b.csv")


@pytest.mark.parametrize("role", ["measures", "groups", "within", "attributes"])
def test_a_column_is_not_held_against_itself(role, tmp_path):
    table = pd.DataFrame({"name": list("abcd"), "trace": [1, 2, 3, 5], "err": [1, 3, 2, 4]})
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(UserError, match=f"--{role}: column 'err' is a target too"):
        invoke("correlate", tmp_path / "t.csv", "--model", "name", "--targets", "err", f"--{role}", "trace,err")
    with pytest.raises(UserError, match="--attributes: column 'trace' is a measure too"):
        invoke(
            "correlate", tmp_path / "t.csv", "--model", "name", "--targets", "err", "--measures", "trace",
            "--attributes", "trace",
        )  # fmt: skip


# -- modes, tables and functions of a user's own ------------------------------------------------------------


class Keeps(nn.Sequential):
    """Has a say in its mode."""

    def train(self, mode=True):
        return super().train(mode)


def test_a_mode_that_is_not_the_users_is_told():
    part = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    part[1].train()
    with pytest.warns(acutance.AcutanceWarning, match=r"in all of its parts, though some are left in training: 1$"):
        acutance.measure("loss", part, POINTS)
    with pytest.warns(acutance.AcutanceWarning, match=r"without asking train\(\) of its own, .*: Keeps$"):
        acutance.measure("loss", Keeps(nn.Linear(4, 3)), POINTS)
    plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    assert not acutance.measure("loss", plain, POINTS).notes  # all of it in training: as documented


def test_a_table_is_no_pair_and_no_points_are_none():
    table = pd.DataFrame({"a": [1.0, 2.0], "label": [0, 1]})
    with pytest.raises(UserError, match="is one table, which does not say which of its columns are the targets"):
        acutance.measure("loss", nn.Linear(1, 2), table)
    assert acutance.measure("loss", nn.Linear(1, 2), (table[["a"]].to_numpy("float32"), table["label"])).value > 0
    with pytest.raises(UserError, match=r"^data: there are no points"):
        acutance.measure("loss", nn.Linear(4, 3), (POINTS[0][:0], POINTS[1][:0]))


def test_targets_may_be_the_columns_of_a_table(tmp_path):
    nets = {f"n{i}": nn.Linear(4, 3) for i in range(4)}
    given = pd.DataFrame({"later": [4.0, 3.0, 2.0, 1.0]}, index=["n3", "n2", "n1", "n0"])
    done = acutance.study(
        nets, POINTS, given, ["weight_norm"], surface={"points": 8, "m": 8}, out=tmp_path, report=False
    )
    assert done.models.set_index("model")["target.later"].loc[["n0", "n3"]].tolist() == [1.0, 4.0]


def test_what_the_function_of_a_model_raises_is_told(tmp_path, monkeypatch):
    (tmp_path / "raisingnets.py").write_text("def bad():\n    raise ValueError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be made: raisingnets.bad raises ValueError: boom"):
        make_model("raisingnets:bad", {})


def test_what_users_wrote_instead_is_told(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    assert "table.csv: is a file, not the folder of a run" in shell("results", tmp_path / "table.csv", code=2).stderr
    text = shell("calibrate", "mnist", "--shares", "0,200", code=2).stderr
    assert "at most at 100%, got 0%, 200%" in text
    points = (torch.zeros(4, 6, device="meta"), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UserError, match="the inputs have no values"):
        acutance.measure("loss", MLP(), points)
    with pytest.raises(UserError, match=r"rho: Field required \(Radius of the ball"):
        acutance.measure("worst_case", MLP(), mlp_data())
    with pytest.raises(UserError, match="module math has no 'sqr'") as told:
        make_model("math:sqr", {})
    assert "sqrt" in told.value.hint


def test_verdicts_that_are_not_shown_are_said_to_be_where_they_are(tmp_path):
    wide = pd.DataFrame({"err": range(9), **{f"m{i}": [(i * k) % 11 for k in range(9)] for i in range(30)}})
    wide.to_csv(tmp_path / "wide.csv", index=False)
    common = ("correlate", tmp_path / "wide.csv", "--targets", "err", "--resamples", 99)
    assert "measures more, which --out DIRECTORY writes to verdicts.csv" in " ".join(shell(*common).stdout.split())
    out = ("--out", tmp_path / "out", "--no-report")
    assert "measures more, in verdicts.csv" in shell(*common, *out).stdout
