"""What a measure may ask for beside its points: other points, the training, the optimizer's step; and what keys say of it."""

import json
import sqlite3

import needing
import pandas as pd
import pytest
import torch
from models import MLP, mlp_data
from shell import cli
from third_parties import distribution, python
from torch import nn

import acutance
from acutance import LossSurface, Status, Unsupported, UserError
from acutance.plugins import Item, extended
from acutance.run import members
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.system.progress import Silent
from acutance.testing import examine
from acutance.workflows.merge import merge

MEASURES = (needing.Rise, needing.LastLoss, needing.Step, needing.InputNorm, needing.Confidence)
ITEMS = [Item("measures", m.name, "acme-needs", "1.0", m) for m in MEASURES]
ITEMS.append(Item("pools", "logged", "acme-needs", "1.0", needing.Logged))


@pytest.fixture(autouse=True)
def installed():
    with extended(ITEMS) as found:
        yield found


@pytest.fixture
def study(three_models, tmp_path):
    needing.write_logs(tmp_path / "logs", [[2.0, 1.0 + i] for i in range(4)])
    return three_models | {
        "pools": [{"name": "logged", "logs": str(tmp_path / "logs"), "momentum": 0.5}],
        "surface": {"points": 32, "m": 8, "validation": "ood"},
        "measures": [{"name": m.name} for m in MEASURES],
        "figures": {},
    }


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def values(done, name):
    rows = done.results[done.results["measure"] == name]
    assert list(rows["status"]) == ["ok"] * 4, rows["message"].tolist()
    return rows["value"].tolist()


def test_a_measure_gets_what_it_asks_for(study, tmp_path):
    done = run(study, tmp_path / "run")
    assert values(done, "last_train_loss") == [1.0, 2.0, 3.0, 4.0]
    pool, spec = needing.Logged(), needing.LoggedSpec()
    model = pool.load(pool.entries(spec)[1], spec)
    p = sum(q.numel() for q in model.parameters())
    assert values(done, "step_length") == [pytest.approx(0.5 * p**0.5)] * 4
    steps = done.results.loc[done.results["measure"] == "step_length", "extra.step"]
    assert set(steps) == {"optimizer"}
    # The validation points are chosen as the points are.
    other = run(
        study | {"surface": {"points": 32, "m": 8, "split": "ood"}, "measures": [{"name": "loss"}]}, tmp_path / "o"
    )
    own = run(study | {"measures": [{"name": "loss"}]}, tmp_path / "own")
    there, here = (r.results.query("measure == 'loss'")["value"].to_numpy() for r in (other, own))
    assert values(done, "rise_on_validation") == pytest.approx(list(there - here), rel=1e-6)
    with sqlite3.connect(tmp_path / "run" / "acutance.db") as db:
        forwards = dict(db.execute("SELECT measure, sum(forwards) FROM attempt GROUP BY measure").fetchall())
    # Both surfaces are booked: the points, and the validation points.
    assert forwards["acme-needs/rise_on_validation"] + forwards["acme-needs/confidence"] == 4 * (32 + 32)


def test_what_is_not_there_is_said_and_never_made_up(study, tmp_path):
    study["pools"] = [{"name": "logged"}]
    study["surface"] = {"points": 32, "m": 8}
    rows = run(study, tmp_path).results.set_index("measure")
    said = "nothing is known of this model's training: its pool's entry names no log that is there"
    assert rows.loc["last_train_loss", "message"].str.startswith(said).all()
    assert (
        rows.loc["rise_on_validation", "message"]
        .str.contains("name a split of the dataset as surface.validation")
        .all()
    )
    assert set(rows.loc[["last_train_loss", "rise_on_validation"], "status"]) == {"unsupported"}
    # Minus the gradient stands for the step, and the value says so.
    assert set(rows.loc["step_length", "extra.step"]) == {"gradient"} and (rows.loc["step_length", "value"] > 0).all()


def test_what_was_needed_is_part_of_the_key_and_of_no_others(study, tmp_path):
    first = run(study, tmp_path / "run")
    assert first.computed == 4 * 6 and run(study, tmp_path / "run").computed == 0
    # One log, one step, other validation points: what reads them is computed anew.
    needing.write_logs(tmp_path / "logs", [[2.0, 7.0]])
    assert run(study, tmp_path / "run").computed == 1
    study["pools"][0]["momentum"] = 0.25
    again = run(study, tmp_path / "run")
    assert again.computed == 4 and values(again, "last_train_loss")[0] == 7.0
    study["surface"]["validation"] = "test"
    assert run(study, tmp_path / "run").computed == 4
    study["surface"]["validation"] = "ood"
    assert run(study, tmp_path / "run").computed == 0


def test_processes_give_the_values_of_serial(study, tmp_path):
    serial = run(study, tmp_path / "serial")
    folder = tmp_path / "site"
    distribution(folder, "acme-needs", {"needing": "needing"})
    code = (
        "import json, sys; from acutance.run.harness import run_study; from acutance.study.config import load_config\n"
        "run_study(load_config(json.loads(sys.argv[1])), sys.argv[2], report=False)"
    )
    config = json.dumps(study | {"executor": {"name": "processes", "workers": 1}})
    tests = str(needing.__file__).rpartition("/")[0]
    python("-c", code, config, tmp_path / "apart", path=[folder, tests], forked=True)
    apart = pd.read_csv(tmp_path / "apart" / "results.csv")
    assert apart["value"].tolist() == serial.results["value"].tolist() and len(apart) == 4 * 6


def test_runs_merge_without_the_files(study, tmp_path):
    run(study, tmp_path / "a", limit=2)
    whole = run(study, tmp_path / "b")
    for path in (tmp_path / "logs").iterdir():
        path.unlink()
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    assert merged.run.results["value"].tolist() == whole.results["value"].tolist() and merged.run.failed == 0


def test_a_log_that_is_none_fails_its_measure_alone(study, tmp_path):
    (tmp_path / "logs" / "toy1.jsonl").write_text('{"epoch": 1, "train_loss": 0.5}')
    rows = run(study, tmp_path / "run").results
    failed = rows[rows["status"] != "ok"]
    assert failed[["model", "measure", "status"]].to_numpy().tolist() == [["toy1", "last_train_loss", "failed"]]
    assert "toy1.jsonl: the log has no column 'step'" in failed["message"].item()


@pytest.mark.parametrize("select", ["balanced", "first"])
def test_a_smaller_validation_split_is_taken_as_it_is(study, tmp_path, select):
    study["surface"] = {"split": "test", "points": 56, "m": 8, "validation": "ood", "select": select}
    study["measures"] = [{"name": "rise_on_validation"}, {"name": "difference_of_confidences"}, {"name": "loss"}]
    said = Said()
    done = run(study | {"targets": ["test_error", "ood.loss"]}, tmp_path / "run", reporter=said)
    own, there = done.results.query("measure == 'loss' and split == 'test'")["value"], done.models["target.ood.loss"]
    assert values(done, "rise_on_validation") == pytest.approx(list(there.to_numpy() - own.to_numpy()), rel=1e-5)
    assert len(values(done, "difference_of_confidences")) == 4
    notes = [line for line in said.lines if "all taken for validation" in line]
    assert notes == ["note: dataset 'toy', split 'ood': its 50 points are all taken for validation"]
    for measured in ({"name": "loss", "points": "ood"}, {"name": "confidence", "points": "ood"}):
        with pytest.raises(UserError, match="56 points, but dataset 'toy', split 'ood' has 50"):
            run(study | {"measures": [*study["measures"], measured]}, tmp_path / "small")
    study["surface"]["points"] = 48
    enough = Said()
    assert values(run(study, tmp_path / "enough", reporter=enough), "rise_on_validation")
    assert not any("all taken for validation" in line for line in enough.lines)


class Said(Silent):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_validation_split_that_is_none_is_told(study):
    study["surface"]["validation"] = "valid"
    with pytest.raises(UserError, match=r"surface\.validation: unknown split 'valid'"):
        load_config(study)


# -- without a study ----------------------------------------------------------------------------------------


def test_in_python_they_are_arguments(tmp_path):
    model, (x, y) = MLP(), mlp_data()
    clean = acutance.measure("loss", model, (x, y)).value
    rise = acutance.measure("rise_on_validation", model, (x[:10], y[:10]), validation=(x, y))
    assert rise.value == pytest.approx(clean - acutance.measure("loss", model, (x[:10], y[:10])).value)
    assert rise.cost.forwards == 10 + len(x)
    needing.write_logs(tmp_path, [[3.0, 0.25]])
    assert acutance.measure("last_train_loss", model, log=tmp_path / "toy0.jsonl").value == 0.25
    step = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    found = acutance.measure("step_length", model, (x, y), update=step)
    assert found.value == pytest.approx(sum(p.numel() for p in model.parameters()) ** 0.5) and found.cost.units == 0
    with pytest.raises(UserError, match="the steps of the optimizer do not fit the model"):
        acutance.measure("step_length", model, (x, y), update={"nothing": x})
    with pytest.raises(UserError, match="go with a model and its data"):
        acutance.measure("step_length", LossSurface(model, (x, y)), update=step)
    assert acutance.measure("rise_on_validation", model, (x, y)).status is Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_loss\n1\n", "the log has no column 'step'"),
        ("step,train_loss\n1,2\n1,3\n", "'step' must be numbers that grow from row to row"),
        ("step,train_loss\na,2\n", "'step' must be numbers that grow from row to row"),
        ("step,train_loss\n1,inf\n", "column 'train_loss' has an infinite value"),
    ],
)
def test_a_file_that_is_no_log_is_one_sentence(tmp_path, text, message):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        acutance.measure("last_train_loss", MLP(), log=tmp_path / "log.csv")


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    (tmp_path / "log.csv").write_text("step;loss;text\n1;0,5;a\n2;;b\n")
    found = acutance.measure("last_train_loss", MLP(), log=tmp_path / "log.csv")
    assert found.status is Status.UNSUPPORTED and "no column 'train_loss'" in found.message and "loss" in found.message


def test_the_command_asks_the_pool_for_the_step():
    class Moving(needing.Logged):
        """Models whose optimizer would move every weight by 0.5."""

        name = "moving"

        def update(self, entry, spec):
            return {name: torch.full_like(p, 0.5).detach() for name, p in self.load(entry, spec).named_parameters()}

    with extended([Item("pools", "moving", "acme-needs", "1.0", Moving)]):
        told = cli("measure", "moving/toy1", "--data", "toy", "--measure", "step_length", "--json").stdout
    found = json.loads(told)["step_length"]
    p = sum(
        q.numel() for q in Moving().load(Moving().entries(needing.LoggedSpec())[1], needing.LoggedSpec()).parameters()
    )
    assert found["value"] == pytest.approx(0.5 * p**0.5) and found["extras"]["step"] == "optimizer"


def test_logs_are_read_where_a_measure_needs_them(study, tmp_path, monkeypatch):
    def read(path):
        raise AssertionError(path)

    monkeypatch.setattr(members, "read_training_log", read)
    assert run(study | {"measures": [{"name": "confidence"}]}, tmp_path).failed == 0


# -- derivatives by the inputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "squared_sum", nn.functional.cross_entropy])
@pytest.mark.parametrize("microbatch", [None, 3])
def test_the_input_gradient_is_that_of_each_examples_own_loss(loss, microbatch):
    x, y = mlp_data()
    targets = nn.functional.one_hot(y).double() if loss in ("mse", "squared_sum") else y
    surface = LossSurface(MLP(), (x, targets), loss=loss, microbatch=microbatch)
    for view in (surface, surface.transformed()):
        found = view.input_gradient()
        for i in (0, len(x) - 1):
            own = torch.autograd.functional.jacobian(
                lambda row, i=i, view=view: view.core.head.example(
                    view.transform(view.model(row[None])), targets[i : i + 1], 1
                ),
                x[i],
            )
            assert torch.allclose(found[i], own, rtol=1e-10, atol=1e-14)
    assert surface.cost.forwards >= 2 * len(x) and surface.cost.backwards == 2 * len(x)


def test_a_product_with_the_jacobian_by_the_inputs_needs_no_targets():
    x, _ = mlp_data()
    surface = LossSurface(MLP(), (x, None), microbatch=7)
    u = torch.randn(len(x), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(surface.model, x)
    assert torch.allclose(surface.input_gradient(u), torch.einsum("nk,nkmd->nd", u, jacobian), rtol=1e-10)
    with pytest.raises(Unsupported, match="there are no targets"):
        surface.input_gradient()
    with pytest.raises(UserError, match="u has 3 rows, this surface has 24 examples"):
        surface.input_gradient(u[:3])


def test_where_there_is_no_derivative_it_is_told():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = MLP()

        def forward(self, x):
            return self.inner(x.detach())

    with pytest.raises(Unsupported, match="cuts them off"):
        for p in (model := Cut()).parameters():
            p.requires_grad_(False)
        LossSurface(model, mlp_data()).input_gradient()
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    with pytest.raises(Unsupported, match="whole numbers, tokens say"):
        LossSurface(tokens, (torch.ones(4, 2, dtype=torch.long), torch.zeros(4, dtype=torch.long))).input_gradient()


class Rounding(torch.autograd.Function):
    """Rounds, with the derivative of the identity."""

    @staticmethod
    def forward(ctx, x):
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx, g):
        return g


class Doubled(torch.autograd.Function):
    """The identity, with a derivative of two."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Before(nn.Module):
    """Something that is done with the inputs, and a network of which every weight has its derivative."""

    def __init__(self, change, dtype):
        super().__init__()
        self.change, self.inner = change, MLP(torch.relu).to(dtype)

    def forward(self, x):
        return self.inner(self.change(x))


WRONG_BY_INPUTS = {
    "a part detached": lambda x: x + 0.3 * x.detach(),
    "all of it by numpy": lambda x: torch.as_tensor(x.detach().numpy().copy()),
    "rounded": Rounding.apply,
    "a backward of its own": Doubled.apply,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", WRONG_BY_INPUTS)
def test_a_derivative_by_the_inputs_that_is_none_is_told_though_that_by_the_weights_is_right(change, dtype):
    x, y = mlp_data()
    surface = LossSurface(Before(WRONG_BY_INPUTS[change], dtype), (x.to(dtype), y))
    surface.gradient()
    with pytest.raises(Unsupported, match=r"by its inputs is not the derivative|cuts them off"):
        surface.input_gradient()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kinks_and_ties_of_the_inputs_are_no_faults(dtype):
    """Pixels that are all the same, where maxima and ReLUs have no derivative; the check is made once, and booked."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 3)
        ).to(dtype)
    images = torch.zeros(20, 1, 8, 8, dtype=dtype)
    images[::2, :, 2:5, 2:5] = 1
    surface = LossSurface(model, (images, torch.arange(20) % 3))
    assert surface.input_gradient().shape == images.shape
    before = surface.cost
    surface.input_gradient()
    assert surface.cost.checks == before.checks > 0 and surface.cost.backwards == 2 * 20


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_they_pass_the_kit(measure):
    # In this process alone: the declarations of a fresh one are those of a distribution that is installed there.
    item = next(item for item in ITEMS if item.target is measure)
    ran = [o for o in examine(item, plugin_modules=["needing"]).run() if o.check.name != "survives_a_fresh_process"]
    assert not [(o.check.name, o.message) for o in ran if o.state == "failed"]
    assert sum(o.state == "passed" for o in ran) > 10
