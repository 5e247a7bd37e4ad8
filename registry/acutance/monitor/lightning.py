"""A monitor as a callback of Lightning's ``Trainer``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from acutance.errors import UserError
from acutance.monitor.continued import Counted
from acutance.monitor.monitor import Monitor

# The same library under two names, whose classes are not the same: whichever the program has taken already.
NAMES = ("lightning.pytorch", "pytorch_lightning")


def _base() -> Any:
    for name in sorted(NAMES, key=lambda name: name not in sys.modules):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    raise UserError("the callback for Lightning needs Lightning", "pip install 'lightning>=2.2'")


class MonitorCallback(_base()):  # type: ignore[misc]
    """Tells a monitor of every update of a Lightning ``Trainer``: the first step, steps, epochs, the end.

    How far it is goes into Lightning's checkpoints, and comes back from them. Steps are ``trainer.global_step``:
    updates, however many batches make one. The loss that ``training_step`` returned for the last batch is logged. A
    second ``fit`` of the same model, with a monitor that was left open, goes on counting; of another it is refused.

    Args:
        monitor: what is measured, when, on which points.
        close: whether the end of a training closes the monitor, and so writes tables and page; a monitor that is closed
            measures no second training.
        model: gives the module that is measured, from the LightningModule: ``lambda module: module.net``. The
            LightningModule by default, whose ``forward`` gives the outputs then.

    Example:
        >>> trainer = Trainer(max_epochs=3, callbacks=[MonitorCallback(monitor)])  # doctest: +SKIP
    """

    def __init__(self, monitor: Monitor, close: bool = True, model: Callable[[Any], Any] = lambda model: model) -> None:
        super().__init__()
        self.monitor, self._close, self._inside = monitor, close, model
        self._counted, self._loaded = Counted(monitor), False

    def state_dict(self) -> dict[str, Any]:
        """Return how far training is."""
        return dict(self.monitor.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was saved."""
        self.monitor.load_state_dict(state_dict)
        self._loaded = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the start; a training that resumes has begun already."""
        loaded, self._loaded = self._loaded, False
        if trainer.global_step == 0:
            self._counted.anew()
            self.monitor.start(self._inside(pl_module), _optimizer(trainer))
        elif loaded:
            self._counted.loaded(trainer.global_step, trainer.current_epoch)
        else:
            self._counted.at(trainer.global_step, trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Say that the weights were updated, where they were."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None and pl_module.automatic_optimization:
            loss = loss * trainer.accumulate_grad_batches  # by which Lightning has divided it
        logged = {} if loss is None else {"loss": loss}
        self.monitor.step(
            self._inside(pl_module),
            _optimizer(trainer),
            step=self._counted.steps + trainer.global_step,
            epoch=self._counted.epochs + trainer.current_epoch,
            **logged,
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Say that an epoch has ended."""
        self.monitor.epoch(self._inside(pl_module), _optimizer(trainer))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write tables and page of what was measured until then."""
        self.monitor.close()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write tables and page."""
        if self._close:
            self.monitor.close()


def _optimizer(trainer: Any) -> Any:
    """Return the first optimizer, whose learning rate and next step are meant."""
    return trainer.optimizers[0] if trainer.optimizers else None
