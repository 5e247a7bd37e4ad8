"""A monitor as a callback of transformers' ``Trainer``."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from acutance.monitor.continued import Counted
from acutance.monitor.monitor import Monitor


class MonitorCallback(TrainerCallback):
    """Tells a monitor of every update of a ``transformers.Trainer``: the first step, steps, epochs, the end.

    A training that resumes from a checkpoint goes on at the trainer's own ``state.global_step``. At steps that the
    trainer logs, its loss (the mean since it logged before) is logged with what is measured. Leave a ``with`` block
    around ``trainer.train()``, or end the process, and tables are written also where an error ends the training. A
    second training of the same model, with a monitor that was left open, goes on counting; of another model it is
    refused.

    Args:
        monitor: what is measured, when, on which points.
        close: whether the end of a training closes the monitor, and so writes tables and page; a monitor that is closed
            measures no second training.
        model: gives the module that is measured, from the trainer's; itself by default.

    Example:
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[MonitorCallback(monitor)])  # doctest: +SKIP
    """

    def __init__(self, monitor: Monitor, close: bool = True, model: Callable[[Any], Any] = lambda model: model) -> None:
        self.monitor, self._close, self._inside = monitor, close, model
        self._counted = Counted(monitor)
        self._waiting: Callable[..., object] | None = None
        self._logged = -1  # step of the last loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the start, or go on at the step of the checkpoint."""
        atexit.register(self.monitor.close)  # a training that ends in an error says nothing to its callbacks
        self._waiting, self._logged = None, state.global_step
        if state.global_step:
            self._counted.at(state.global_step, int(state.epoch or 0))
        else:
            self._counted.anew()
            self.monitor.start(self._inside(given["model"]), given.get("optimizer"))

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure what waited for a loss that never came."""
        self._measure()

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Say that the weights were updated; where the trainer will log its loss now, wait for that."""
        self._measure()
        step, epoch = self._counted.steps + state.global_step, self._counted.epochs + (state.epoch or 0)
        model = self._inside(given["model"])
        optimizer = given.get("optimizer")
        self._waiting = lambda **logged: self.monitor.step(model, optimizer, step=step, epoch=epoch, **logged)
        if not control.should_log:
            self._measure()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Measure with the loss that is logged."""
        if logs and "loss" in logs:
            self._logged = state.global_step
            self._measure(loss=logs["loss"])

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure what waited for a loss that never came."""
        self._measure()

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure what waited for a loss that never came."""
        self._measure()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Say that an epoch has ended; one that the trainer broke off has not."""
        self._measure()
        if control.should_training_stop and not float(state.epoch or 0).is_integer():
            return
        model, optimizer = self._inside(given["model"]), given.get("optimizer")
        self._waiting = lambda **logged: self.monitor.epoch(model, optimizer, **logged)
        if not control.should_log or state.global_step <= self._logged:
            self._measure()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Write tables and page."""
        if args.load_best_model_at_end:
            self._waiting = None  # the weights are others by now
        self._measure()
        atexit.unregister(self.monitor.close)
        if self._close:
            self.monitor.close()

    def _measure(self, **logged: Any) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(**logged)
