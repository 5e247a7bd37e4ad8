"""Cells of one measure on one set of points: they share passes, and are evaluated together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acutance.measure import Cost, Estimate
from acutance.plugins import catalog
from acutance.run.hooks import with_retries
from acutance.run.jobs import Cell, Part, Parts, Passes
from acutance.spec import validate
from acutance.study.surface_config import Scope

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface


@dataclass(frozen=True)
class Ready:
    """A cell of a job with its measure, opened."""

    cell: Cell
    instance: Any
    spec: Any

    @classmethod
    def of(cls, cell: Cell) -> Ready:
        """Open the measure of a cell at its settings."""
        target = catalog().get("measures", cell.measure)
        return cls(cell, target(), validate(target.Spec, cell.spec, cell.measure))


@dataclass
class Unit:
    """The cells of one measure on one batch, which share passes."""

    split: str
    scope: Scope
    batch: int
    measure: str
    replicate: int
    family: list[Ready]

    def outcome(self, job: str, estimates: list[Estimate], device: str, seconds: float, cost: Cost) -> Parts:
        """Return the outcome that the driver gets, with one part for each cell."""
        return Parts(
            job=job, measure=self.measure, split=self.split, batch=self.batch, device=device, seconds=seconds,
            cost=Passes.of(cost),
            parts=tuple(Part.of(r.cell.index, e) for r, e in zip(self.family, estimates, strict=True)),
        )  # fmt: skip


def units(cells: list[Ready]) -> Iterator[Unit]:
    """Yield the work of a job in the order of its plan: split, then batch, then measure."""
    for split, scope in dict.fromkeys((r.cell.split, r.cell.scope) for r in cells):
        here = [r for r in cells if (r.cell.split, r.cell.scope) == (split, scope)]
        for batch in sorted({b for r in here for b in r.cell.batches}):
            families: dict[tuple[str, int], list[Ready]] = {}
            for ready in here:
                if batch in ready.cell.batches:
                    families.setdefault((ready.cell.measure, ready.cell.replicate), []).append(ready)
            for (measure, replicate), family in families.items():
                yield Unit(split, scope, batch, measure, replicate, family)


def family_estimates(unit: Unit, surface: LossSurface, seed: int) -> list[Estimate]:
    """Evaluate a family; what raises is decided by the hook ``on_cell_error``."""
    from acutance.surface.evaluation import evaluate_family
    from acutance.surface.integrity import untouched

    def evaluated(cells: list[Ready], catch: bool = False) -> list[Estimate]:
        with untouched(surface, unit.measure):
            return evaluate_family(
                unit.measure, cells[0].instance, surface, [ready.spec for ready in cells], seed=seed, batch=unit.batch,
                replicate=unit.replicate, catch=catch,
            )  # fmt: skip

    def shrink(microbatch: int) -> None:
        surface.microbatch = microbatch

    return with_retries(
        unit.measure,
        len(unit.family),
        lambda: evaluated(unit.family),
        # One by one, so that what fails takes nothing else with it.
        lambda _: [evaluated([ready], catch=True)[0] for ready in unit.family],
        lambda: surface.microbatch or surface.n,
        shrink,
    )
