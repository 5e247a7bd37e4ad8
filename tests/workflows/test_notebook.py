"""A study of models in memory: the tables, keys and resuming of any other study, and errors in one sentence."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from models import MLP, assert_untouched, snapshot
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import acutance
from acutance.workflows.memory import architecture

MEASURES = [{"name": "worst_case", "rho": [0.01, 0.02], "steps": 3}, "weight_norm"]


def points(n=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    return torch.randn(n, 4, generator=g) + 1.5 * nn.functional.one_hot(y, 4), y


def net(seed, hidden=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3))


@pytest.fixture
def models():
    return {f"net{i}": net(i) for i in range(6)}


@pytest.fixture
def call(models, tmp_path):
    def run(**changes):
        given = {
            "models": models, "data": points(), "targets": {"score": [0.3, 0.1, 0.2, 0.6, 0.4, 0.5]},
            "measures": MEASURES, "surface": {"points": 32, "m": 8}, "out": tmp_path / "run", "report": False,
        }  # fmt: skip
        return acutance.study(**(given | changes))

    return run


def test_the_tables_are_those_of_a_run(call, models):
    before = {name: snapshot(model) for name, model in models.items()}
    run = call(attributes={name: {"lr": i, "wide": i % 2 == 0} for i, name in enumerate(models)}, groups=["wide"])
    for name, model in models.items():
        assert_untouched(model, before[name])
    assert run.failed == 0 and run.computed == 6 * 3
    assert list(run.models["target.score"]) == [0.3, 0.1, 0.2, 0.6, 0.4, 0.5]
    assert list(run.models["attr.lr"]) == list(range(6))
    assert set(run.correlations["group"]) == {"all", "wide=0", "wide=1"}
    assert len(run.correlations) == 3 * 3 and set(run.correlations["target"]) == {"score"}
    stored = run.results.query("model == 'net3' and measure == 'worst_case' and `spec.rho` == 0.02")["value"].item()
    from acutance.data.batch import take_rows
    from acutance.data.points import m_batches, select

    x, y = points()
    rows = select(y, 32, "balanced")
    direct = acutance.measure(
        "worst_case", models["net3"], m_batches(take_rows(x, rows), y[rows], 8), rho=0.02, steps=3
    )
    assert stored == pytest.approx(direct.value, rel=1e-12)
    column = run.results.query("measure == 'worst_case' and `spec.rho` == 0.02").set_index("model")["value"]
    expected = acutance.kendall_tau(run.models["target.score"], column[list(models)])
    row = run.correlations.query("measure == 'worst_case' and `spec.rho` == 0.02 and group == 'all'").iloc[0]
    assert (row["tau"], row["p"]) == (expected.tau, expected.p) and row["low"] == pytest.approx(expected.low)


def test_keys_come_from_the_tensors(call, models):
    call()
    copies = {f"again_{name}": copy.deepcopy(model) for name, model in models.items()}
    assert call(models=copies).computed == 0
    with torch.no_grad():
        copies["again_net0"][0].weight[0, 0] += 1
    assert call(models=copies).computed == 3


def test_new_radii_and_other_targets_compute_only_what_is_new(call):
    call()
    assert call(targets={"other": [1, 2, 3, 4, 5, 6]}).computed == 0
    assert call(measures=[{"name": "worst_case", "rho": [0.01, 0.04], "steps": 3}]).computed == 6
    assert call(seed=1, measures=["weight_norm"]).computed == 6


def test_measured_and_given_targets_stand_side_by_side(call):
    given = [0.3, 0.1, 0.2, 0.6, 0.4, 0.5]
    run = call(targets={"test_error": given, "generalization_gap": None, "score": given}, test=points(60, 1))
    assert list(run.models["target.given:test_error"]) == given == list(run.models["target.score"])
    x, y = points(60, 1)
    errors = [float((model(x).argmax(1) != y).double().mean()) for model in [net(i) for i in range(6)]]
    assert run.models["target.test_error"].to_numpy() == pytest.approx(np.array(errors))
    assert set(run.correlations["target"]) == {"test_error", "given:test_error", "generalization_gap", "score"}
    only = call(targets={"test_error": given})
    assert list(only.models["target.test_error"]) == given


def test_more_splits_and_admission(call):
    run = call(
        targets=["ood.error", "test_loss", "attr:lr"], test=points(60, 1), splits={"ood": points(50, 2)},
        attributes=pd.DataFrame({"model": [f"net{i}" for i in range(6)], "lr": np.linspace(0.1, 0.6, 6)}),
    )  # fmt: skip
    assert {"target.ood.error", "target.test_loss", "attr.lr"} <= set(run.models.columns)
    bound = float(run.models["target.test_loss"].median())
    strict = call(
        targets=["ood.error"], test=points(60, 1), splits={"ood": points(50, 2)}, admit={"test_loss": {"max": bound}}
    )
    assert strict.computed == 0 and strict.models["admitted"].sum() == 3
    by_given = call(admit={"score": {"min": 0.35}})
    assert list(by_given.models["admitted"]) == [False, False, False, True, True, True]


@pytest.mark.parametrize("kind", ["loader", "arrays", "list"])
def test_points_may_come_in_batches_or_as_arrays(call, kind):
    x, y = points()
    data = {
        "loader": DataLoader(TensorDataset(x, y), batch_size=7),
        "arrays": (x.numpy(), y.numpy()),
        "list": [(x[:11], y[:11]), (x[11:], y[11:])],
    }[kind]
    first = call()
    assert call(data=data).computed == 0 and first.computed > 0


def test_a_list_of_models_and_values_by_name(call, models):
    values = {f"model{i}": v for i, v in enumerate([0.3, 0.1, 0.2, 0.6, 0.4, 0.5])}
    run = call(models=list(models.values()), targets={"a": values, "b": pd.Series(values)[::-1], "c": torch.arange(6)})
    assert list(run.models["model"]) == list(values)
    assert list(run.models["target.a"]) == list(run.models["target.b"]) == list(values.values())
    assert list(run.models["target.c"]) == list(range(6))


def test_models_of_another_structure_are_compared_apart(call, models):
    wide = {f"wide{i}": net(i, hidden=8) for i in range(4)}
    targets = {"score": dict(zip([*models, *wide], np.linspace(0, 1, 10)))}
    run = call(models=models | wide, targets=targets)
    assert sorted(run.correlations.groupby("within")["n"].first()) == [4, 6]
    assert set(call(models=models | wide, targets=targets, within=[]).correlations["n"]) == {10}


def test_architecture_is_structure_not_weights_nor_dropout():
    assert architecture(net(0)) == architecture(net(1)) != architecture(net(0, 8))
    assert architecture(nn.Sequential(nn.Conv2d(1, 1, 3))) != architecture(nn.Sequential(nn.Conv2d(1, 1, 3, stride=2)))
    a, b = (nn.Sequential(nn.Linear(2, 2), nn.Dropout(p)) for p in (0.1, 0.5))
    assert architecture(a) == architecture(b) and architecture(MLP()).startswith("MLP-")


def test_the_record_is_written_and_is_no_config(call, tmp_path):
    run = call(report=True, title="My question")
    config = yaml.safe_load((run.directory / "config.yaml").read_text())
    assert config["pools"][0]["name"] == "acutance.study/models" and run.report.exists()
    assert "My question" in run.report.read_text()
    with pytest.raises(acutance.UserError, match=r"unknown pool 'acutance\.study/models'"):
        acutance.run(config, out=tmp_path / "other")


def test_the_folder_is_named_by_the_title(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(call(out=None, title="My question / 2").directory) == "runs/My-question-2"


def test_float_targets_need_no_classes(tmp_path):
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    run = acutance.study(
        [nn.Linear(4, 1) for _ in range(4)], (x, x.sum(1, keepdim=True)), {"score": [1, 2, 3, 4]},
        [{"name": "average_case", "rho": 0.1, "draws": 4}], surface={"loss": "mse"}, out=tmp_path, report=False,
    )  # fmt: skip
    assert run.failed == 0 and set(run.correlations["n"]) == {4}


X, Y = points()
MISTAKES = [
    ({"targets": {"score": [1, 2]}}, r"targets\.score: there are 2 values for 6 models"),
    ({"targets": {"score": [1, 2, 3, 4, 5, float("nan")]}}, r"targets\.score: the value of model 'net5' is nan"),
    ({"targets": {"score": [1, 2, 3, 4, 5, "six"]}}, r"the value of model 'net5' is 'six', not a number"),
    ({"targets": {"score": {"net0": 1}}}, r"targets\.score: model 'net1' has no value"),
    ({"targets": {"score": {f"net{i}": i for i in range(7)}}}, r"there is no model 'net6'"),
    ({"targets": {"score": 3}}, r"targets\.score: got 3"),
    ({"targets": ["test_error"]}, r"unknown target 'test_error': there is no split 'test': it is neither given nor can it be measured"),
    ({"targets": {"test_error": None}}, r"give targets={'test_error': \[one number a model\]}"),
    ({"targets": {"attr:x": [1] * 6}}, r"'attr:x' cannot be given a value"),
    ({"targets": ["attr:nope"]}, r"targets: no model has 'nope'"),
    ({"groups": ["nope"]}, r"groups: no model has 'nope'"),
    ({"groups": "wide"}, r'groups: got the text .wide.'),
    ({"models": {}}, r"models: there are none"),
    ({"models": net(0)}, r"models: got Sequential"),
    ({"models": {"a": 3}}, r"'a' is int, not a torch.nn.Module"),
    ({"models": [net(0)] * 2}, r"'model0' and 'model1' are one and the same object"),
    ({"models": {"1": net(0), 1: net(1)}}, r"two models are called '1'"),
    ({"data": X}, r"data: there are no targets"),
    ({"data": (X, None)}, r"data: there are no targets"),
    ({"data": (X, Y[:-1])}, r"data: there are 40 inputs but 39 targets"),
    ({"data": []}, r"data: there are no batches"),
    ({"data": (X.index_fill(0, torch.tensor([3]), float("nan")), Y)}, r"non-finite value \(row 3\)"),
    ({"test": 5}, r"test: got int"),
    ({"splits": {"train": (X, Y)}}, r"splits: 'train' is given twice"),
    ({"splits": {"a b": (X, Y)}}, r"'a b' is not a plain name"),
    ({"measures": []}, r"measures: give a list of at least one"),
    ({"measures": ["worst_cas"]}, r"measures\.0: unknown measure 'worst_cas'.*did you mean 'worst_case'"),
    ({"measures": ["worst_case"]}, r"measures\.0\.rho: Field required"),
    ({"surface": {"points": 100, "m": 8}}, r"100 points, but dataset .data., split .train. has 40"),
    ({"surface": {"points": 16, "m": 32}}, r"surface\.m: 32 examples in a batch, but only 16 points"),
    ({"attributes": {"net9": {"a": 1}}}, r"attributes: there is no model 'net9'"),
    ({"attributes": {"net1": {"a": [1]}}}, r"attributes: 'net1'.a: list is not a number"),
    ({"executor": "processes"}, r"models in memory cannot be sent to other processes"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_is_one_sentence(call, change, message):
    with pytest.raises(acutance.UserError, match=message):
        call(**change)


def test_a_broken_model_is_listed_and_the_others_go_on(call, models):
    with torch.no_grad():
        models["net1"][0].weight[0, 0] = float("nan")
    run = call()
    row = run.models.set_index("model").loc["net1"]
    assert not row["admitted"] and "non-finite" in row["reason"] and set(run.correlations["n"]) == {5}
