"""Measures of a model while it trains."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from acutance.errors import UserError, in_words, warn
from acutance.monitor.budget import Budget
from acutance.monitor.continued import OWN, Trained
from acutance.monitor.plan import as_numbers, plain_attributes, plan_of, require_name, scheduled
from acutance.monitor.record import Record, Row
from acutance.monitor.schedule import Schedule, schedule_of
from acutance.monitor.visits import Visits
from acutance.pool import Attribute
from acutance.system.kept import preserved_rng
from acutance.workflows.sections import measures_section, names_of, splits_of, surface_section

if TYPE_CHECKING:
    from torch import nn

    from acutance.run.harness import Run

FLUSH = 60.0  # seconds after which tables are written again while training goes on


class Monitor(AbstractContextManager["Monitor"]):
    """Measures a model on fixed points while it trains, on a schedule, and keeps the curves.

    Training is bitwise what it is without: weights, buffers, gradients, flags, random generators and the order of the
    data are left as they are. A measure that fails is a row with the reason, never the end of a training.

    Rows go to the store of a run directory, so a training that was killed goes on with its curves, several trainings
    lie in one directory, and ``acutance report DIRECTORY`` draws them.

    Args:
        measures: as for ``acutance.study``: names, or mappings with settings; a list for a setting is a sweep. One may
            have a schedule of its own, ``{"name": "hessian_top_eigenvalue", "every": 200}``.
        points: the points that are measured on, always the same: (inputs, targets), a Dataset or DataLoader of torch.
        every: when: a number of steps, ``"epoch"``, ``"2 epochs"``, ``"log"`` (evenly on a logarithmic axis), or a
            function of the step. The first call of ``start`` is always measured.
        test: the split ``test``, as ``points``.
        splits: more splits, {name: points}.
        targets: what is measured to be predicted, as for ``acutance.study``: ``test_error`` where there is a split
            ``test``, else ``train_loss``.
        out: run directory.
        run: name of this training among those in the directory.
        attributes: more attributes of this training, for tables and figures.
        surface: settings of the surface section: ``points``, ``m``, ``loss``, ``dtype`` ...
        title: headline of the report.
        seed: study seed: names all noise.
        budget: share of the time of training that measuring may take, as 0.05: measurements are put off until they fit
            in, and the first that was put off is told.
        sinks: where rows go beside the store: names, or mappings with settings.
        device: where the model is measured; where it is by default.
        report: whether ``close`` draws figures and writes the page.

    Attributes:
        directory: of the run.
        step_count: updates of the weights so far.

    Raises:
        UserError: for whatever does not fit together, before training begins.

    Example:
        >>> import torch, tempfile, acutance.monitor
        >>> model, (x, y) = torch.nn.Linear(4, 3), (torch.randn(64, 4), torch.arange(64) % 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with acutance.monitor.Monitor(
        ...     ["gradient_norm"], (x, y), every=5, out=tempfile.mkdtemp(), report=False
        ... ) as monitor:
        ...     for _ in range(10):
        ...         optimizer.zero_grad()
        ...         loss = torch.nn.functional.cross_entropy(model(x), y)
        ...         loss.backward()
        ...         optimizer.step()
        ...         _ = monitor.step(model, optimizer, loss=loss)
        >>> [row["step"] for row in monitor.rows if row["measure"] == "gradient_norm"]
        [5, 10]
    """

    def __init__(
        self,
        measures: Sequence[Mapping[str, Any] | str],
        points: Any,
        *,
        every: int | str | Schedule | Callable[[int], object] = 100,
        test: Any = None,
        splits: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
        out: str | Path = Path("runs") / "training",
        run: str = "training",
        attributes: Mapping[str, Attribute] | None = None,
        surface: Mapping[str, Any] | None = None,
        title: str = "",
        seed: int = 0,
        budget: float | None = None,
        sinks: Sequence[Mapping[str, Any] | str] = (),
        device: str | torch.device | None = None,
        report: bool = True,
    ) -> None:
        require_name(run)
        self._attributes = plain_attributes(attributes or {})
        self._budget, self._report = Budget(budget), report
        self.step_count = self.epoch_count = 0
        self._closed = False
        self._cost: dict[frozenset[int], float] = {}
        self._told: set[str] = set()
        self._trained = Trained(run, self._tell)
        with preserved_rng():  # a loader may shuffle
            points_of = splits_of(points, test, splits, "points")
        sections, schedules = scheduled(measures_section(measures), schedule_of(every))
        if targets is None:
            targets = ["test_error" if "test" in points_of else "train_loss"]
        is_main = not (
            torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank()
        )
        self._record: Record | None = None
        self._visits: Visits | None = None
        if not is_main:
            return
        with preserved_rng():
            study = {
                "format": 1, "title": title or run, "seed": seed, "measures": sections,
                "targets": names_of(targets, "targets"), "within": ["run"],
                "surface": surface_section(points_of["train"], surface or {}),
                "sinks": [{"name": sink} if isinstance(sink, str) else dict(sink) for sink in sinks],
            }  # fmt: skip
            try:
                self._record = Record(study, points_of, Path(out), run)
            except UserError as error:
                raise UserError(error.message.replace("config: ", ""), error.hint) from None
        self.directory = self._record.directory.path
        self._plan = plan_of(self._record, sections, schedules)
        self._visits = Visits(self._record, device, self._budget, self._tell)

    # -- while it trains ----------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[Row]:
        """What was measured so far, a row a value, as sinks get them."""
        return [] if self._record is None else list(self._record.rows)

    def start(self, model: nn.Module, optimizer: Any = None, **logged: Any) -> list[Row]:
        """Measure before the first step, and keep the weights for measures that compare with the initial ones.

        Of a training that goes on where ``load_state_dict`` says, the initial weights are those kept when it began.
        Called again for the same model, as where a second optimizer goes on with it, it measures at the step of now.

        Raises:
            UserError: where steps of another model were counted.
        """
        if self._closed:
            self._tell(f"it was closed, and measures no second training ({OWN}; or close=False for a callback)")
            return []
        self._trained.begins(model, self.step_count)
        if self._visits is None:
            return []
        self._told_of(self._visits.settle)
        if self._visits.initial is not None and not self.step_count:
            self._visits.initial.keep(model)
        return self._measured(model, optimizer, range(len(self._plan)), logged)

    def step(
        self, model: nn.Module, optimizer: Any = None, *, step: int | None = None, epoch: float | None = None,
        **logged: Any,
    ) -> list[Row]:  # fmt: skip
        """Say that the weights have been updated; measure if it is time.

        Args:
            model: as it trains; within ``torch.compile`` or DistributedDataParallel or not.
            optimizer: for the learning rate, and for measures that look at the optimizer's next step.
            step: how many updates there have been; one more than before by default.
            epoch: how many epochs, for tables.
            logged: more numbers of this step for tables and figures, as ``loss=loss``; a tensor is read only when
                something is measured.

        Returns:
            The rows that were measured now; empty where it was not time.
        """
        before = self.step_count
        self.step_count = before + 1 if step is None else int(step)
        if self._record is not None and self.step_count < before:
            self._record.begin_again()
        if self._closed or self.step_count <= before:
            return []
        self._trained.steps(model, self.step_count)
        if self._record is None or self._visits is None:
            return []
        self._told_of(self._visits.moved)
        due = [i for i, part in enumerate(self._plan) if part.schedule.due(before, self.step_count)]
        return self._measured(model, optimizer, due, logged | ({} if epoch is None else {"epoch": epoch}))

    def epoch(self, model: nn.Module, optimizer: Any = None, **logged: Any) -> list[Row]:
        """Say that an epoch has ended; measure if it is time. Arguments as of ``step``."""
        self.epoch_count += 1
        if self._record is None or self._closed:
            return []
        due = [i for i, part in enumerate(self._plan) if part.schedule.due_at_epoch(self.epoch_count)]
        return self._measured(model, optimizer, due, {"epoch": self.epoch_count, **logged})

    def state_dict(self) -> dict[str, int]:
        """Return how far training is, to be saved with its checkpoint."""
        return {"step": self.step_count, "epoch": self.epoch_count}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where a checkpoint was saved."""
        self.step_count, self.epoch_count = state["step"], state["epoch"]
        self._trained.forget()
        if self._record is not None:
            self._record.begin_again()
        if self._visits is not None and self._visits.initial is not None and self.step_count:
            self._visits.initial.find()

    def close(self) -> Run | None:
        """Write tables, figures and page; None where nothing was measured. May be called again."""
        if self._record is None or self._closed:
            return None
        self._closed = True
        with preserved_rng():
            if self._visits is not None:
                self._visits.end()
            return self._record.close(self._report)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- measuring ----------------------------------------------------------------------------------------------

    def _measured(self, model: Any, optimizer: Any, due: Sequence[int], logged: Mapping[str, Any]) -> list[Row]:
        """Measure parts of the plan now; whatever goes wrong is told, and is no end of the training."""
        record, visits = self._record, self._visits
        if not due or record is None or visits is None:
            return []
        if not self._budget.allows(self._cost.get(frozenset(due))):
            share = f"{self._budget.share:.3g}"
            self._tell(f"measurements are put off from step {self.step_count} on, to keep within the budget of {share}")
            return []
        already = len(record.rows)
        with self._budget.spent() as taken, preserved_rng():
            try:
                cells = [*record.targets, *(cell for i in due for cell in self._plan[i].cells)]
                numbers = as_numbers(logged, lambda error: self._tell(f"step {self.step_count}: {error}"))
                with torch.inference_mode(False), torch.enable_grad():
                    visits.measure(model, optimizer, self.step_count, cells, {**self._attributes, **numbers})
                if time.monotonic() - record.written > FLUSH:
                    record.write(False)
            except Exception as error:
                self._tell(f"step {self.step_count}: {in_words(error)}; training goes on")
        self._cost[frozenset(due)] = taken[0]
        return record.rows[already:]

    def _told_of(self, does: Callable[[], None]) -> None:
        """Do it; what goes wrong is told, and is no end of the training."""
        try:
            does()
        except Exception as error:
            self._tell(f"step {self.step_count}: {in_words(error)}; training goes on")

    def _tell(self, sentence: str) -> None:
        """Warn, once for what is the same at every step."""
        bare_sentence = re.sub(r"step \d+", "step", sentence)
        if bare_sentence not in self._told:
            self._told.add(bare_sentence)
            warn(f"monitor: {sentence}")
