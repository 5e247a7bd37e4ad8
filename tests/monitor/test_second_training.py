"""A monitor that is left open after a training: the next goes on with its count, or is refused."""

import copy
import warnings

import pandas as pd
import pytest
import torch
from tests.monitor.test_trainers import Net, Rows
from tests.monitor.trainings import network, points, stepped
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import acutance
from acutance import UserError
from acutance.errors import AcutanceWarning
from acutance.monitor import Monitor

UPDATE = {"name": "critical_sharpness", "direction": "update"}


def monitored(folder, measures=("gradient_norm",), **options):
    return Monitor(list(measures), points(32, seed=5), **{"every": 2, "out": folder, "report": False, **options})


def values(monitor, measure="gradient_norm"):
    return {row["step"]: row["value"] for row in monitor.rows if row["measure"] == measure}


def epochs(monitor):
    return {row["step"]: row.get("attr.epoch") for row in monitor.rows if row["measure"] == "gradient_norm"}


def norm_of(model):
    return acutance.measure("gradient_norm", copy.deepcopy(model).eval(), points(32, seed=5)).value


def loop(monitor, model, steps, lr=0.05, start=True):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if start:
        monitor.start(model, optimizer)
    stepped(monitor, model, optimizer, steps)


# -- a loop ---------------------------------------------------------------------------------------------------------


def test_a_second_optimizer_goes_on_with_the_count_and_its_own_step(tmp_path):
    model = network()
    with monitored(tmp_path, ["gradient_norm", UPDATE]) as monitor:
        loop(monitor, model, 4)
        at_4 = copy.deepcopy(model)
        loop(monitor, model, 2, lr=0.2)
    assert sorted(values(monitor)) == [0, 2, 4, 6] and values(monitor)[4] == norm_of(at_4)
    table = pd.read_csv(tmp_path / "results.csv")
    sharp = table[table["measure"] == "critical_sharpness"].set_index("attr.step")
    assert list(sharp["status"]) == ["ok", "ok", "ok", "unsupported"]  # of 4 the second's step, of 6 nothing is known
    assert sharp.loc[4, "attr.learning_rate"] == 0.2


@pytest.mark.parametrize("remade", [False, True])
def test_another_model_is_refused_before_it_trains_and_the_first_is_kept(tmp_path, remade):
    model = network()
    with monitored(tmp_path) as monitor:
        loop(monitor, model, 4)
        other = copy.deepcopy(model)
        if remade:  # which a caller alone can know
            monitor.load_state_dict(monitor.state_dict())
            loop(monitor, other, 2)
        else:
            with pytest.raises(UserError, match=r"run 'training' is at step 4 of another model \(give .* own run="):
                loop(monitor, other, 2)
    assert sorted(values(monitor)) == ([0, 2, 4, 6] if remade else [0, 2, 4])
    assert len(pd.read_csv(tmp_path / "models.csv")) == len(values(monitor))


def test_a_model_around_the_same_parameters_is_the_same(tmp_path):
    model = network()
    with monitored(tmp_path) as monitor, warnings.catch_warnings():
        warnings.simplefilter("error")
        loop(monitor, model, 4)
        loop(monitor, nn.Sequential(model), 2)
        loop(monitor, model, 2, start=False)
    assert sorted(values(monitor)) == [0, 2, 4, 6, 8]


def test_another_model_in_the_middle_is_told_once(tmp_path):
    with monitored(tmp_path) as monitor:
        loop(monitor, network(), 3)
        with pytest.warns(AcutanceWarning, match="step 4: this model is another than before") as told:
            loop(monitor, network(), 3, start=False)
        assert len(told) == 1
    assert sorted(values(monitor)) == [0, 2, 4, 6]


def test_a_monitor_that_was_closed_says_that_it_measures_no_more(tmp_path):
    monitor = monitored(tmp_path)
    loop(monitor, network(), 2)
    monitor.close()
    with pytest.warns(AcutanceWarning, match=r"it was closed, and measures no second training \(give") as told:
        loop(monitor, network(), 4)
    assert len(told) == 1 and sorted(values(monitor)) == [0, 2]


# -- transformers ---------------------------------------------------------------------------------------------------


def trained(folder, model, monitor, trainer=None, resume=None, **arguments):
    from transformers import Trainer, TrainingArguments

    from acutance.monitor.transformers import MonitorCallback

    given = {
        "per_device_train_batch_size": 8, "num_train_epochs": 1, "report_to": [], "log_level": "error", "use_cpu": True,
        "learning_rate": 0.01, "disable_tqdm": True, "save_strategy": "no", **arguments,
    }  # fmt: skip
    if trainer is None:
        mine = MonitorCallback(monitor, close=False, model=lambda model: model.net)
        trainer = Trainer(model, TrainingArguments(str(folder), **given), train_dataset=Rows([]), callbacks=[mine])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_second_training_of_transformers_goes_on_with_the_count(same_trainer, tmp_path):
    model = Net()
    with monitored(tmp_path / "run", every=4) as monitor:
        trainer = trained(tmp_path / "a", model, monitor)
        at_8 = copy.deepcopy(model.net)
        trained(tmp_path / "b", model, monitor, trainer if same_trainer else None)
    assert sorted(values(monitor)) == [0, 4, 8, 12, 16]
    assert values(monitor)[8] == norm_of(at_8) and values(monitor)[16] == norm_of(model.net)
    assert [epochs(monitor)[step] for step in (4, 12, 16)] == [0.5, 1.5, 2]
    assert list(pd.read_csv(tmp_path / "run" / "models.csv")["attr.step"]) == [0, 4, 8, 12, 16]


def test_a_second_training_of_transformers_from_a_checkpoint_is_set_back(tmp_path):
    with monitored(tmp_path / "run", every=4) as monitor:
        trained(tmp_path / "a", Net(), monitor, num_train_epochs=2, save_strategy="steps", save_steps=5)
        with pytest.warns(AcutanceWarning, match="its steps take their places"):
            model = Net()
            trained(tmp_path / "a", model, monitor, resume=str(tmp_path / "a" / "checkpoint-5"))
    assert monitor.step_count == 8 and values(monitor)[8] == norm_of(model.net)


def test_another_model_of_transformers_is_refused(tmp_path):
    with monitored(tmp_path / "run", every=4) as monitor:
        trained(tmp_path / "a", Net(), monitor)
        with pytest.raises(UserError, match="at step 8 of another model"):
            trained(tmp_path / "b", Net(), monitor)
    assert len(pd.read_csv(tmp_path / "run" / "models.csv")) == 3


# -- Lightning ------------------------------------------------------------------------------------------------------


def fitted(folder, module, monitor, trainer=None, resume=None, epochs=1):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is in the extra 'trainers'")
    from acutance.monitor.lightning import MonitorCallback

    if trainer is None:
        saving = lightning.callbacks.ModelCheckpoint(str(folder), every_n_train_steps=5, filename="{step}")
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[MonitorCallback(monitor, close=False), saving], max_epochs=epochs,
        )  # fmt: skip
    trainer.fit_loop.max_epochs = epochs
    data = DataLoader(TensorDataset(*points()), batch_size=8)
    trainer.fit(module, data, ckpt_path=resume)
    return trainer


def lightning_module():
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is in the extra 'trainers'")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    return Module()


@pytest.mark.parametrize("same_trainer", [True, False])
def test_a_second_fit_goes_on_with_the_count(same_trainer, tmp_path):
    module = lightning_module()
    with monitored(tmp_path / "run", every=4) as monitor:
        trainer = fitted(tmp_path / "a", module, monitor)
        at_8 = copy.deepcopy(module.net)
        if same_trainer:
            fitted(tmp_path / "a", module, monitor, trainer, epochs=2)
        else:
            fitted(tmp_path / "b", module, monitor)
    assert sorted(values(monitor)) == [0, 4, 8, 12, 16]
    assert values(monitor)[8] == norm_of(at_8) and values(monitor)[16] == norm_of(module.net)
    assert (epochs(monitor)[4], epochs(monitor)[12]) == (0, 1) and monitor.epoch_count == 2
    assert list(pd.read_csv(tmp_path / "run" / "models.csv")["attr.step"]) == [0, 4, 8, 12, 16]


def test_a_second_fit_resumes_where_its_checkpoint_was_saved(tmp_path):
    module = lightning_module()
    with monitored(tmp_path / "run", every=4) as monitor:
        fitted(tmp_path / "a", module, monitor)
        fitted(tmp_path / "b", module, monitor)
    with monitored(tmp_path / "run", every=4) as again:
        fitted(tmp_path / "c", lightning_module(), again, resume=str(tmp_path / "b" / "step=5.ckpt"))
    assert epochs(again) == {16: 1}
    # A checkpoint that knows of no training before it sets the monitor back.
    with monitored(tmp_path / "other", every=4) as monitor:
        fitted(tmp_path / "d", lightning_module(), monitor, epochs=2)
        with pytest.warns(AcutanceWarning, match="its steps take their places"):
            fitted(tmp_path / "e", lightning_module(), monitor, resume=str(tmp_path / "a" / "step=5.ckpt"))
    assert monitor.step_count == 8 and monitor.epoch_count == 1


def test_another_model_of_lightning_is_refused_and_the_first_has_its_tables(tmp_path):
    monitor = monitored(tmp_path / "run", every=4)
    fitted(tmp_path / "a", lightning_module(), monitor)
    with pytest.raises(UserError, match="at step 8 of another model"):
        fitted(tmp_path / "b", lightning_module(), monitor)
    assert len(pd.read_csv(tmp_path / "run" / "models.csv")) == 3
