"""A worker compares models: one job of all that agree in ``within``, the values of its cells for every one of them.

What the models put out is read where it is kept; a model is opened where it is not, or where a measure asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from acutance.data.batch import dtype_of
from acutance.data.pointsets import PointSets
from acutance.data.prefetch import loaded
from acutance.errors import Unsupported, UserError
from acutance.measure import Cost, Estimate, Status
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.run.hooks import with_retries
from acutance.run.jobs import Begun, Cell, Compare, Compared, Comparison, Outcome, Part, Passes
from acutance.run.points import open_points, opened_pool
from acutance.run.predictions import FEATURES, LOGITS, Predictions, outputs_identity
from acutance.spec import validate
from acutance.study.surface_config import Scope
from acutance.surface.compared import evaluate_peers
from acutance.surface.core import Ledger
from acutance.surface.evaluation import reason
from acutance.surface.loss_surface import LossSurface
from acutance.surface.open_model import WHOLE_MICROBATCH, OpenModel, Surfaces


def compare(job: Compare) -> Iterator[Outcome]:
    """Yield the values of a job's cells, one outcome a cell."""
    sets = open_points(job.dataset, job.surface, job.seed)
    for split, scope in dict.fromkeys((cell.split, cell.scope) for cell in job.cells):
        together = _Together(job, sets, split, scope)
        for cell in job.cells:
            if (cell.split, cell.scope) == (split, scope):
                if job.announce:
                    yield Begun(job=job.id, cells=(cell.index,))
                yield together.evaluated(cell)


class _Together:
    """The models of a job on one set of points, or by their weights alone."""

    def __init__(self, job: Compare, sets: PointSets, split: str, scope: Scope) -> None:
        self.job, self.sets, self.split, self.scope = job, sets, split, scope
        self.ledger = Ledger()  # of all surfaces that are opened
        self.microbatch: int | None = None  # where memory did not hold larger passes
        self._outputs: dict[str, Tensor] = {}  # the logits of the models that were opened, on the CPU

    def evaluated(self, cell: Cell) -> Comparison:
        """Return the values of a cell; what goes wrong is its own failure."""
        target = catalog().get("measures", cell.measure)
        measure, spec = target(), validate(target.Spec, cell.spec, cell.measure)
        start, before = time.perf_counter(), replace(self.ledger)
        needs = measure.needs(spec)
        labelled = "unlabeled" not in needs

        def together() -> list[Estimate]:
            try:
                return evaluate_peers(
                    cell.measure, measure, self._peers(labelled, "trajectory" in needs), spec, seed=self.job.seed,
                    points=self._digest(labelled), replicate=cell.replicate, device=self.job.device,
                    dtype=dtype_of(self.job.surface.dtype), catch=False,
                )  # fmt: skip
            except UserError as error:  # smaller passes are no help
                return self._without(error)

        count = len(self.job.models)
        estimates = with_retries(cell.measure, count, together, self._without, self._size, self._shrink)
        after = self.ledger
        spent = Cost(
            after.forwards - before.forwards, after.backwards - before.backwards, after.hvps - before.hvps
        )  # fmt: skip
        return Comparison(
            job=self.job.id, measure=cell.measure, split=self.split, device=self.job.device,
            seconds=time.perf_counter() - start, cost=Passes.of(spent),
            parts=tuple(Part.of(cell.index, estimate) for estimate in estimates),
        )  # fmt: skip

    def _without(self, error: Exception) -> list[Estimate]:
        """Return estimates that say what went wrong."""
        state = Status.UNSUPPORTED if isinstance(error, Unsupported) else Status.FAILED
        return [Estimate.without_value(state, reason(error))] * len(self.job.models)

    def _size(self) -> int:
        """Return how many examples go through a model in one pass."""
        config = self.job.surface
        every = 1 if self.scope == "weights" else config.points
        return min(self.microbatch or config.microbatch or WHOLE_MICROBATCH, every)

    def _shrink(self, microbatch: int) -> None:
        self.microbatch = microbatch

    # -- what a measure sees ------------------------------------------------------------------------------------

    def _peers(self, labelled: bool, along: bool) -> list[Peer]:
        """Return the models as a measure sees them; it gets copies, so that the next one finds what this one found."""
        targets = self._points[1].clone() if labelled and self.scope == "points" else None
        return [
            Peer(
                model.name, None if self.scope == "weights" else self._logits(model).clone(), targets,
                partial(self._surface, model, labelled), partial(self._features, model),
                model.run if along else "", model.entry.step if along else None,
            )
            for model in self.job.models
        ]  # fmt: skip

    @cached_property
    def _points(self) -> tuple[Any, Tensor]:
        return self.sets.sets(self.split, self.scope)[0]

    def _digest(self, labelled: bool) -> str:
        """Return what names the noise: the points before any preprocessing, the same for all models."""
        if self.scope == "weights":
            return ""
        return self.sets.digests(self.split, "points")[0] if labelled else self.sets.digest_of_inputs(self.split)

    def _logits(self, model: Compared) -> Tensor:
        """Return the logits of a model, computed once: a try that ran out of memory loses none that were there."""
        if model.name not in self._outputs:
            self._outputs[model.name] = self._computed(model)
        return self._outputs[model.name]

    def _computed(self, model: Compared) -> Tensor:
        kept, n = self._predictions(model).load()[0], len(self._points[1])
        if len(kept.get(LOGITS, ())) == n:
            return kept[LOGITS]
        surface = self._surface(model, labelled=False)
        logits = surface.clean_logits().detach().cpu().clone()
        self._predictions(model).take(surface)
        surface.release()
        return logits

    def _features(self, model: Compared) -> Tensor:
        kept, n = self._predictions(model).load()[0], len(self._points[1])
        if len(kept.get(FEATURES, ())) == n:
            return kept[FEATURES]
        surface = self._surface(model, labelled=False)
        features = surface.last_layer().features.detach().cpu().clone()
        self._predictions(model).take(surface)
        surface.release()
        return features

    def _surface(self, model: Compared, labelled: bool) -> LossSurface:
        """Open a model on the points.

        Raises:
            UserError: when it cannot be opened, or is another one than it was.
        """
        job = self.job
        try:
            pool, spec, entry = opened_pool(model)
            module, key = loaded(pool, spec, entry)
            if key != model.key:
                raise UserError("its weights have changed since the run began", "run the study again")
            opened = OpenModel.entry(
                pool, spec, entry, self.sets.dataset, job.device, job.surface.dtype, module, job.asked
            )
            surface = Surfaces(opened, self.sets, job.surface, job.workers).on(self.split, self.scope, 0)
        except Exception as error:
            raise UserError(f"model {model.name} cannot be opened: {reason(error)}") from error
        surface.core.known.ledger = self.ledger
        if self.scope == "weights":
            return surface
        if self.microbatch is not None:
            surface.microbatch = self._size()
        self._predictions(model).give(surface)
        return surface if labelled else surface.unlabelled()

    # -- what is kept -------------------------------------------------------------------------------------------

    def _predictions(self, model: Compared) -> Predictions:
        pool, spec, entry = opened_pool(model)
        inputs = self.sets.digest_of_inputs(self.split, pool.preprocess(entry, spec))
        return Predictions.of(self.job.outputs, model.key, inputs, self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return outputs_identity(self.job.surface, self.sets)
