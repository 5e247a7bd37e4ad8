"""One look at a model in training: it is opened at its weights of now, and what is due is measured and stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from acutance.data.fingerprint import digest_initial, model_key
from acutance.errors import UserError, in_words
from acutance.model.sharded import refuse_shared
from acutance.model.wrappers import unwrapped
from acutance.monitor.budget import Budget
from acutance.monitor.initial import InitialWeights
from acutance.monitor.optimizers import Left, NextStep, Steps, bare, learning_rate, stability_threshold
from acutance.monitor.plan import key_without_model
from acutance.monitor.record import Record
from acutance.pool import Attribute
from acutance.run.members import Member, PlannedCell
from acutance.run.standing import Identity
from acutance.surface.open_model import OpenModel
from acutance.system.kept import preserved_rng
from acutance.workflows.memory import architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

    from acutance.checks.tracking import Tracking

STEPLESS = "it looks at the optimizer's next step: give monitor.step the optimizer"
ENDED = "the training ended before the optimizer's next step"
ELSEWHERE = (
    "the weights changed, and not by a step of the optimizer that monitor.step got: give it the one whose step() moves "
    "them (an average of weights has none)"
)
PARTLY = (
    "the weights moved again behind the step of the optimizer that monitor.step got, which was measured alone: of "
    "several optimizers give the one that steps last"
)
BEGINLESS = "the initial weights of this training are not known: call monitor.start before its first step"


@dataclass
class _LookedAt:
    """What is known of the module in training, whatever its weights are."""

    module: nn.Module
    slots: Sequence[Sequence[str]]
    kind: str
    tracking: dict[int, Tracking]


@dataclass(eq=False)
class _Waiting:
    """What will be measured when the optimizer has made its next step."""

    step: NextStep
    member: Member
    cells: list[PlannedCell]
    opened: OpenModel
    identity: Identity


class Visits:
    """Opens the model in training, again and again, and measures it.

    Args:
        record: where values go.
        device: where it is measured; where the model is by default.
        budget: what is measured within a step of the optimizer is counted there.
        tell: told in one sentence what goes wrong.
    """

    def __init__(
        self, record: Record, device: str | torch.device | None, budget: Budget, tell: Callable[[str], None]
    ) -> None:
        self._record, self._device, self._budget, self._tell = record, device, budget, tell
        self.initial: InitialWeights | None = None
        if any("initial_weights" in cell.needs for cell in record.measures):
            self.initial = InitialWeights(record.directory.path, record.run, tell)
        self._known: _LookedAt | None = None
        self._waiting: list[_Waiting] = []
        self._left: list[Left] = []
        self._steps = Steps(self._stepped, self._steps_again)

    def measure(
        self, model: Any, optimizer: Any, step: int, cells: Sequence[PlannedCell], attributes: Mapping[str, Attribute]
    ) -> None:
        """Measure cells at the weights of now; those that look at the optimizer's next step when it has been made.

        A model that cannot be opened is stored with the reason.

        Args:
            model: as it trains.
            optimizer: likewise; None where it is not given.
            step: updates so far.
            cells: targets and measures that are due.
            attributes: of this step.
        """
        record, inner = self._record, self._bare(optimizer)
        attributes = {**attributes, **_settings(inner)}
        try:
            module = unwrapped(model)
            opened, kind = self._opened(module)
        except UserError as error:
            member = record.member(step, type(model).__name__, attributes)
            record.identify(member, Identity(key_without_model(member, model), 0))
            record.fail(member, cells, str(error))
            self._tell(f"step {step}: {error}; training goes on")
            return
        member = record.member(step, kind, attributes)
        initial = None
        if self.initial is not None:
            initial = "" if opened.functional.w0 is None else digest_initial(opened.functional.w0)
        identity = Identity(model_key(kind, module), opened.functional.size, initial, "")
        record.identify(member, identity)
        if initial == "":
            record.decline(member, [cell for cell in cells if "initial_weights" in cell.needs], BEGINLESS)
            cells = [cell for cell in cells if "initial_weights" not in cell.needs]
        later = [cell for cell in cells if "update" in cell.needs]
        if later and inner is None:
            record.decline(member, later, STEPLESS)
        elif later and inner is not None:
            self._steps.of(inner)
            self._waiting.append(_Waiting(NextStep(module, inner), member, later, opened, identity))
        record.measure(opened, member, [cell for cell in cells if cell not in later])

    def moved(self) -> None:
        """Wait no longer where the weights have changed, and the optimizer made no step."""
        self._steps.made()
        self._look_behind(self._left)
        for one in [one for one in self._waiting if one.step.changes() is not None]:
            self._waiting.remove(one)
            self._record.decline(one.member, one.cells, ELSEWHERE)

    def end(self) -> None:
        """Wait for no step any more."""
        self._steps.end()
        self.settle()
        self._known = None
        self._left.clear()

    def settle(self) -> None:
        """Wait no longer for the step of a training that has ended; another may go on from its weights."""
        for one in self._waiting:
            self._record.decline(one.member, one.cells, ENDED)
        self._waiting.clear()

    def _bare(self, optimizer: Any) -> torch.optim.Optimizer | None:
        try:
            return bare(optimizer)
        except UserError as error:
            self._tell(str(error))
            return None

    def _opened(self, module: nn.Module) -> tuple[OpenModel, str]:
        """Open the model, and give it what was learned of it at an earlier step; return its architecture too."""
        refuse_shared(module)  # the other processes train on, and would leave this one waiting
        opened = OpenModel(module, device=self._device, dtype=self._record.study.surface.dtype)
        functional, known = opened.functional, self._known
        slots = [slot.names for slot in functional.slots]
        # Without accelerate's mixed precision the module is made anew at each step, and shares its tables of weights.
        if known is None or known.module._parameters is not module._parameters or known.slots != slots:
            self._record.look_anew()
            known = self._known = _LookedAt(module, slots, architecture(module), functional.tracking)
        functional.tracking = known.tracking
        functional.initial = lambda: None if self.initial is None else self.initial.weights
        return opened, known.kind

    def _stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure, within a step of the optimizer, at the weights from before it what waited for it.

        A step that changes nothing is none: one that a gradient scaler skips, or that is not of this model.
        """
        for one in [one for one in self._waiting if one.step.optimizer is optimizer]:
            with self._budget.spent(), preserved_rng():
                try:
                    if (changes := one.step.changes()) is None:
                        continue
                    self._waiting.remove(one)
                    self._left.append(Left(one.step, one.member.entry.step or 0))
                    self._measure_step(one, changes)
                except Exception as error:
                    self._tell(f"step {one.member.entry.step}: {in_words(error)}; training goes on")

    def _steps_again(self, optimizer: torch.optim.Optimizer) -> None:
        """Look what happened since the last step of an optimizer that begins another."""
        if mine := [left for left in self._left if left.optimizer is optimizer]:
            with self._budget.spent():
                self._look_behind(mine)

    def _look_behind(self, steps: Sequence[Left]) -> None:
        """Tell of measured steps behind which the weights moved again, and forget them."""
        for left in list(steps):
            self._left.remove(left)
            if left.moved():
                self._tell(f"step {left.step}: {PARTLY}")

    def _measure_step(self, one: _Waiting, changes: dict[str, Tensor]) -> None:
        one.opened.functional.update = lambda: changes
        known = one.identity
        with torch.inference_mode(False), torch.enable_grad():
            self._record.identify(one.member, Identity(known.key, known.parameters, known.initial, _digest(one.opened)))
            self._record.measure(one.opened, one.member, one.cells)


def _settings(optimizer: torch.optim.Optimizer | None) -> dict[str, Attribute]:
    """Return what tables say of an optimizer."""
    if optimizer is None:
        return {}
    threshold = stability_threshold(optimizer)
    found: dict[str, Attribute] = {"learning_rate": learning_rate(optimizer)}
    return found if threshold is None else {**found, "stability_threshold": threshold}


def _digest(opened: OpenModel) -> str:
    """Return the digest of the optimizer's step, as keys have it."""
    step = opened.functional.update_step
    parts = step if isinstance(step, list) else [step]
    return digest_initial(*(part for part in parts if part is not None))
