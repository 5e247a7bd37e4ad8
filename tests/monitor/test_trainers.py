"""Trainers with a monitor and without: the same training, bit by bit, and the curve that belongs to it."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from tests.monitor.trainings import network, points, same
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import acutance
from acutance.monitor import Monitor

MEASURES = ["gradient_norm", {"name": "critical_sharpness", "direction": "update"}]


def monitored(folder, **options):
    return Monitor(MEASURES, points(32, seed=5), **{"every": 2, "out": folder, "report": False, **options})


def values(monitor, measure="gradient_norm"):
    return {row["step"]: row["value"] for row in monitor.rows if row["measure"] == measure}


def column(monitor, name):
    return {row["step"]: row[f"attr.{name}"] for row in monitor.rows if f"attr.{name}" in row}


def state_of(model, order, optimizer=None):
    return {
        "tensors": [t.clone() for t in model.state_dict().values()],
        "generators": [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype("int64"))],
        "python": random.getstate(),
        "order": list(order),
        "forward": [name for name, module in model.named_modules() if "forward" in vars(module)],
    }


def seed():
    torch.manual_seed(2), random.seed(2), np.random.seed(2)


def gradient_norm_of(state):
    model = network()
    model.load_state_dict(state)
    return acutance.measure("gradient_norm", acutance.LossSurface(model.eval(), points(32, seed=5))).value


def saw_the_next_step(monitor, last):
    """Every update was seen but that after the last step, which is never made."""
    blind = [row["step"] for row in monitor.rows if row["status"] == "unsupported"]
    assert (
        blind == [step for step in (last,) if step % 2 == 0]
        and sum(map(np.isfinite, values(monitor, "critical_sharpness").values())) > 1
    )


# -- transformers ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """As transformers wants it: a loss where there are labels."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels=None):
        logits = self.net(x)
        return (logits,) if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset):
    def __init__(self, order, n=64):
        self.x, self.y = points(n)
        self.order = order

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.order.append(i)
        return {"x": self.x[i], "labels": self.y[i]}


class Breaks(Exception):
    pass


def trained(folder, monitor=None, close=True, breaks_at=None, resume=None, callbacks=(), **arguments):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from acutance.monitor.transformers import MonitorCallback

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            if state.global_step == breaks_at:
                raise Breaks

    given = {
        "per_device_train_batch_size": 8, "num_train_epochs": 2, "logging_steps": 1, "report_to": [], "seed": 3, "log_level": "error",
        "learning_rate": 0.01, "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, **arguments,
    }  # fmt: skip
    order = []
    seed()
    model = Net()
    seed()
    mine = [] if monitor is None else [MonitorCallback(monitor, close, lambda model: model.net)]
    args = TrainingArguments(str(folder), **given)
    trainer = Trainer(
        model, args, train_dataset=Rows(order), eval_dataset=Rows([], 16), callbacks=[*mine, Break(), *callbacks]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, state_of(model, order)


CASES = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 4},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 3},
    "max_steps": {"max_steps": 5},
    "bf16": {"bf16": True},
}


@pytest.mark.parametrize("case", CASES)
def test_a_transformers_training_is_bitwise_what_it_is_without(case, tmp_path):
    _, without = trained(tmp_path / "a", **CASES[case])
    monitor = monitored(tmp_path / "run")
    trainer, with_it = trained(tmp_path / "b", monitor, **CASES[case])
    same(without, with_it)
    last = {"accumulated": 4, "max_steps": 5}.get(case, 16)
    assert sorted(values(monitor)) == list(range(0, last + 1, 2)) and trainer.state.global_step == last
    assert (tmp_path / "run" / "results.csv").exists()
    # The loss that the trainer logged at the step, and the epoch.
    logged = {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}
    assert column(monitor, "loss") == {step: pytest.approx(logged[step]) for step in range(2, last + 1, 2)}
    assert column(monitor, "learning_rate")[0] == 0.01 and column(monitor, "epoch")[2] == pytest.approx(
        1.0 if case == "accumulated" else 0.25
    )
    saw_the_next_step(monitor, last)


def test_values_of_a_transformers_training_are_those_of_its_checkpoints_in_float32(tmp_path):
    monitor = monitored(tmp_path / "run", every=4)
    trained(tmp_path / "b", monitor, bf16=True, save_strategy="steps", save_steps=4)
    from safetensors.torch import load_file

    found = values(monitor)
    for step in (4, 8, 12, 16):
        state = load_file(tmp_path / "b" / f"checkpoint-{step}" / "model.safetensors")
        assert found[step] == gradient_norm_of({name.removeprefix("net."): t for name, t in state.items()})


@pytest.mark.parametrize("logging", [{"logging_steps": 3}, {"logging_strategy": "epoch"}, {"logging_strategy": "no"}])
def test_steps_are_measured_at_their_weights_whether_the_trainer_logs_or_not(logging, tmp_path):
    plain, sparse = monitored(tmp_path / "a"), monitored(tmp_path / "b")
    trained(tmp_path / "c", plain)
    trainer, _ = trained(tmp_path / "d", sparse, **{"logging_steps": 500, **logging})
    assert values(plain) == values(sparse)
    expected = {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log and log["step"] % 2 == 0}
    expected = {} if logging.get("logging_strategy") == "epoch" else expected  # which it says after the step
    assert column(sparse, "loss") == {step: pytest.approx(loss) for step, loss in expected.items()}


def test_a_transformers_training_resumes_with_its_curve(tmp_path):
    whole = monitored(tmp_path / "whole")
    trained(tmp_path / "a", whole)
    with pytest.raises(Breaks), monitored(tmp_path / "run") as first:
        trained(tmp_path / "b", first, breaks_at=7, save_strategy="steps", save_steps=5)
    assert len(pd.read_csv(tmp_path / "run" / "models.csv")) == 4  # the tables of what was measured: 0, 2, 4, 6
    again = monitored(tmp_path / "run")
    trained(tmp_path / "b", again, resume=str(tmp_path / "b" / "checkpoint-5"))
    assert {**values(first), **values(again)} == values(whole)
    tables = [pd.read_csv(tmp_path / name / "results.csv") for name in ("whole", "run")]
    assert list(tables[0]["value"].dropna()) == list(tables[1]["value"].dropna())


@pytest.mark.parametrize(
    "case,expected", [({}, [8, 16]), ({"max_steps": 12}, [8]), ({"logging_strategy": "epoch"}, [8, 16])]
)
def test_epochs_of_a_transformers_training(case, expected, tmp_path):
    monitor = monitored(tmp_path / "run", every="epoch")
    trainer, _ = trained(tmp_path / "b", monitor, **case)
    assert sorted(values(monitor)) == [0, *expected]
    if case.get("logging_strategy"):
        logged = {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}
        assert column(monitor, "loss") == {step: pytest.approx(loss) for step, loss in logged.items()}


def test_a_best_model_that_is_loaded_at_the_end_is_no_step(tmp_path):
    monitor = monitored(tmp_path / "run", every=4)
    given = {
        "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1.0,
        "logging_steps": 500,
    }  # fmt: skip
    trained(tmp_path / "b", monitor, load_best_model_at_end=True, **given)
    plain = monitored(tmp_path / "plain", every=4)
    trained(tmp_path / "c", plain, **given)
    assert values(monitor) == values(plain)


# -- Lightning ------------------------------------------------------------------------------------------------------


def fitted(folder, monitor=None, breaks_at=None, resume=None, epochs=2, close=True, **arguments):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is in the extra 'trainers'")
    from acutance.monitor.lightning import MonitorCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.order, self.losses = network(), [], {}

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            x, y, rows = batch
            self.order += rows.tolist()
            if self.global_step == breaks_at:
                raise Breaks
            loss = nn.functional.cross_entropy(self(x), y)
            self.losses[self.global_step + 1] = float(loss.detach())
            return loss

        def validation_step(self, batch, index):
            self.log("val", nn.functional.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    seed()
    module = Module()
    seed()
    data = TensorDataset(*points(), torch.arange(64))
    mine = [] if monitor is None else [MonitorCallback(monitor, close)]
    saving = lightning.callbacks.ModelCheckpoint(
        str(folder), every_n_train_steps=5, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False
    )
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=epochs,
        callbacks=[*mine, saving], **arguments,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=32), ckpt_path=resume)
    return trainer, module, state_of(module, module.order)


LIGHTNING = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 3},
    "max_steps": {"max_steps": 5},
    "bf16": {"precision": "bf16-mixed"},
    "often evaluated": {"val_check_interval": 3},
}


@pytest.mark.parametrize("case", LIGHTNING)
def test_a_lightning_training_is_bitwise_what_it_is_without(case, tmp_path):
    _, _, without = fitted(tmp_path / "a", **LIGHTNING[case])
    monitor = monitored(tmp_path / "run")
    trainer, module, with_it = fitted(tmp_path / "b", monitor, **LIGHTNING[case])
    same(without, with_it)
    last = {"accumulated": 6, "max_steps": 5}.get(case, 16)
    assert sorted(values(monitor)) == list(range(0, last + 1, 2)) and trainer.global_step == last
    assert (tmp_path / "run" / "results.csv").exists()
    assert column(monitor, "loss") == {step: pytest.approx(module.losses[step]) for step in range(2, last + 1, 2)}
    assert set(column(monitor, "learning_rate").values()) == {0.05}
    saw_the_next_step(monitor, last)


def test_a_lightning_training_resumes_with_its_curve(tmp_path):
    whole = monitored(tmp_path / "whole")
    fitted(tmp_path / "a", whole)
    first = monitored(tmp_path / "run")
    with pytest.raises(Breaks):
        fitted(tmp_path / "b", first, breaks_at=7)
    assert len(pd.read_csv(tmp_path / "run" / "models.csv")) == 4  # written though nobody closed it: 0, 2, 4, 6
    checkpoint = tmp_path / "b" / "step=5.ckpt"
    kept = torch.load(checkpoint, weights_only=True)
    assert next(iter(kept["callbacks"].values())) == {"step": 5, "epoch": 0}
    again = monitored(tmp_path / "run")
    trainer, _, _ = fitted(tmp_path / "b", again, resume=str(checkpoint))
    assert sorted(values(again)) == list(range(6, 17, 2)) and trainer.global_step == 16
    state = {name.removeprefix("net."): t for name, t in kept["state_dict"].items()}
    assert gradient_norm_of(state) > 0
    assert sorted(pd.read_csv(tmp_path / "run" / "models.csv")["attr.step"]) == list(range(0, 17, 2))


def test_values_of_a_lightning_training_are_those_of_its_checkpoints(tmp_path):
    monitor = monitored(tmp_path / "run", every=5)
    fitted(tmp_path / "b", monitor, precision="bf16-mixed")
    for step in (5, 10, 15):
        state = torch.load(tmp_path / "b" / f"step={step}.ckpt", weights_only=True)["state_dict"]
        assert values(monitor)[step] == gradient_norm_of({n.removeprefix("net."): t for n, t in state.items()})


def test_epochs_of_a_lightning_training_and_a_monitor_that_stays_open(tmp_path):
    with monitored(tmp_path / "run", every="epoch") as monitor:
        _, module, _ = fitted(tmp_path / "b", monitor, close=False)
        assert sorted(values(monitor)) == [0, 8, 16]
        assert monitor.step(module, step=17) == [] and not (tmp_path / "run" / "results.csv").exists()
    assert (tmp_path / "run" / "results.csv").exists()


# -- accelerate -----------------------------------------------------------------------------------------------------


def accelerated(monitor=None, precision="no", accumulate=1, folder=None, stop=None, resume=None):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is in the extra 'trainers'")
    accelerate.state.AcceleratorState._reset_state(True)  # of the training before: there is one a process
    accelerate.state.GradientState._reset_state()
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate)
    module, order = network(), []
    seed()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(TensorDataset(*points(), torch.arange(64)), batch_size=8, shuffle=True)
    model, optimizer, loader = accelerator.prepare(module, optimizer, loader)
    states = {}
    if monitor is not None:
        accelerator.register_for_checkpointing(monitor)
    if resume is not None:
        accelerator.load_state(resume)
    elif monitor is not None:
        monitor.start(model, optimizer)
    step = 0
    for _ in range(2):
        for x, y, rows in loader:
            order += rows.tolist()
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                states[step] = {name: t.clone() for name, t in module.state_dict().items()}
                if monitor is not None:
                    monitor.step(model, optimizer, loss=loss)
                if folder is not None and step == 5:
                    accelerator.save_state(folder)
                if step == stop:
                    return states, None
    return states, state_of(module, order)


@pytest.mark.parametrize("precision,accumulate", [("no", 1), ("bf16", 1), ("bf16", 3), ("no", 3)])
def test_an_accelerate_training_is_bitwise_what_it_is_without(precision, accumulate, tmp_path):
    _, without = accelerated(None, precision, accumulate)
    with monitored(tmp_path / "run") as monitor:
        states, with_it = accelerated(monitor, precision, accumulate)
    same(without, with_it)
    assert (precision == "bf16") == ("" in with_it["forward"])  # its autocast is still there
    last = len(states)
    assert sorted(values(monitor)) == list(range(0, last + 1, 2)) and set(
        column(monitor, "learning_rate").values()
    ) == {0.05}
    # Measured is the bare module in float32.
    for step in range(2, last + 1, 2):
        assert values(monitor)[step] == gradient_norm_of(states[step])
    sharpness = values(monitor, "critical_sharpness")
    model = network()
    model.load_state_dict(states[2])
    update = {name: states[3][name] - states[2][name] for name, _ in model.named_parameters()}
    assert sharpness[2] == acutance.measure(
        "critical_sharpness", model.eval(), points(32, seed=5), direction="update", update=update
    ).value  # fmt: skip


def test_a_monitor_goes_into_checkpoints_of_accelerate(tmp_path):
    with monitored(tmp_path / "run") as first:
        accelerated(first, folder=str(tmp_path / "checkpoint"), stop=6)
    with monitored(tmp_path / "run") as again:
        accelerated(again, resume=str(tmp_path / "checkpoint"))
    assert min(values(again)) == 6 and values(first)[6] != values(again)[6]  # from 5 on, with other batches


def test_without_lightning_one_sentence_says_what_to_install(monkeypatch):
    import importlib
    import sys

    monkeypatch.delitem(sys.modules, "acutance.monitor.lightning", raising=False)
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(acutance.UserError, match=r"needs Lightning \(pip install 'lightning"):
        importlib.import_module("acutance.monitor.lightning")


def test_a_prepared_model_is_the_same_one_at_its_next_step(tmp_path, monkeypatch):
    from acutance.monitor.record import Record

    looked = []
    monkeypatch.setattr(Record, "look_anew", lambda self: looked.append(1))
    with monitored(tmp_path / "run") as monitor:
        accelerated(monitor, "bf16")
    assert len(monitor.rows) > 20 and len(looked) == 1
