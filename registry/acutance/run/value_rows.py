"""One value as a row: of the table of results, and as sinks get it."""

from __future__ import annotations

from typing import Any

from acutance.measure import Estimate
from acutance.plugins import Catalog
from acutance.run.members import Member, PlannedCell


def value_row(plugins: Catalog, member: Member, cell: PlannedCell, estimate: Estimate) -> dict[str, Any]:
    """Return what a cell is of, what it holds, and what else there is to say of it."""
    row: dict[str, Any] = {"model": member.label, "pool": member.pool.item.name}
    row |= {f"attr.{name}": value for name, value in member.attributes.items()}
    row |= {"measure": short_name(plugins, cell.planned.item.id), "split": cell.split}
    row |= spec_columns(cell)
    row |= {
        "replicate": cell.planned.replicate,
        "value": estimate.value,
        "stderr": estimate.stderr,
        "status": estimate.status.value,
        "message": estimate.message,
    }
    return row | {f"extra.{name}": v for name, v in estimate.extras.items() if isinstance(v, int | float | str)}


def spec_columns(cell: PlannedCell) -> dict[str, Any]:
    """Return every setting of a cell's measure: the entries of a list with spaces between them."""
    return {
        f"spec.{name}": " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in cell.planned.settings.items()
    }


def short_name(plugins: Catalog, measure: str) -> str:
    """Return ``NAME`` for ``DIST/NAME``, as long as that says which measure is meant."""
    dist, _, name = measure.partition("/")
    twins = [item for item in plugins.items("measures") if item.name == name]
    return name if len(twins) == 1 or dist == "acutance" else measure
