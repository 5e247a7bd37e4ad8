"""Trainings one after another with one monitor: whose steps are counted, where a trainer begins to count anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from acutance.errors import UserError

if TYPE_CHECKING:
    from acutance.monitor.monitor import Monitor

OWN = "give each training a Monitor of its own, with its own run="


class Trained:
    """The model whose steps a monitor counts: what shares a parameter with the model that it was given last.

    A module that wraps another, or was made anew around the same parameters, is the same model so.

    Args:
        run: name of the training.
        tell: told in one sentence what goes wrong.
    """

    def __init__(self, run: str, tell: Callable[[str], None]) -> None:
        self._run, self._tell = run, tell
        self._model: Any = None

    def begins(self, model: Any, steps: int) -> None:
        """Take a model that begins to train, or goes on.

        Raises:
            UserError: where another model has made steps already: they would lie on one curve.
        """
        if steps and self._is_another(model):
            raise UserError(
                f"monitor: run '{self._run}' is at step {steps} of another model",
                f"{OWN}; where a model made anew goes on with the same training, call "
                "monitor.load_state_dict(monitor.state_dict()) before",
            )
        self._model = model

    def steps(self, model: Any, step: int) -> None:
        """Take a model that has made a step; tell where it is another than before."""
        if model is self._model:
            return
        if self._is_another(model):
            self._tell(f"step {step}: this model is another than before, and both lie on one curve ({OWN})")
        self._model = model

    def forget(self) -> None:
        """Take whatever model comes next for the one that trains."""
        self._model = None

    def _is_another(self, model: Any) -> bool:
        if model is self._model or not (isinstance(model, nn.Module) and isinstance(self._model, nn.Module)):
            return False
        known = {id(p) for p in self._model.parameters()}
        return bool(known) and not any(id(p) in known for p in model.parameters())


class Counted:
    """Steps and epochs of a trainer as those of a monitor, which has counted those of trainings before it.

    Args:
        monitor: that counts.

    Attributes:
        steps, epochs: how many there were before the trainer's first.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor, self.steps, self.epochs = monitor, 0, 0

    def anew(self) -> None:
        """Say that the trainer counts from nought now, and the monitor goes on."""
        self.steps, self.epochs = self._monitor.step_count, self._monitor.epoch_count

    def at(self, step: int, epoch: int) -> None:
        """Say where the trainer goes on, by its own count, which is the monitor's where that is not as far."""
        if self._monitor.step_count != self.steps + step:
            self.steps = self.epochs = 0
        self._monitor.load_state_dict({"step": self.steps + step, "epoch": self.epochs + epoch})

    def loaded(self, step: int, epoch: int) -> None:
        """Say where the trainer goes on, by its own count, after the monitor was set there from the same checkpoint."""
        self.steps, self.epochs = self._monitor.step_count - step, self._monitor.epoch_count - epoch
