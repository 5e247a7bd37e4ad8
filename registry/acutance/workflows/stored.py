"""Tables and report of what a store holds, made with neither models nor data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acutance.plugins import extended
from acutance.run.admission import admit
from acutance.run.directory import RunDirectory
from acutance.run.ledger import Ledger
from acutance.run.levels import set_levels
from acutance.run.members import measure_cells, members, target_cells
from acutance.run.recorded import RecordedPoints, dataset_item, pool_items
from acutance.run.store import Store
from acutance.study.attributes import require
from acutance.study.config import Study, load_config
from acutance.system.progress import Silent

if TYPE_CHECKING:
    from acutance.run.harness import Run

Row = dict[str, Any]


def write_stored(
    config: dict[str, Any], store: Store, models: Sequence[Row], points: RecordedPoints, out: RunDirectory, report: bool
) -> tuple[Run, list[str]]:
    """Complete cells whose parts are all there, and write tables and report, with neither models nor data."""
    from acutance.run.outputs import write_outputs

    descriptions = {(row["pool"], row["entry"]): json.loads(row["description"]) for row in models}
    # A study of weights alone names a split of which it touches no point.
    splits = tuple(dict.fromkeys([*points.splits, config["surface"]["split"]]))
    pools, data = pool_items(models, descriptions), dataset_item(config["dataset"]["name"], splits)
    with extended([*pools, data]) as plugins:
        study = _study(config, [item.id for item in pools])
        ledger, everyone = Ledger(study, store), members(study)
        require(study, everyone)
        for member in everyone:
            ledger.recall(member)
        targets, cells = target_cells(study, plugins, points), measure_cells(study, points)
        absent = sum(len(ledger.missing(member, targets)) for member in everyone)
        admitted = admit(everyone, ledger, targets)
        set_levels(study, everyone)
        absent += sum(len(ledger.missing(member, cells)) for member in admitted)
        run = write_outputs(ledger, everyone, out, targets, cells, report, Silent())
    return run, [f"{absent} cells have no value yet: run the study in {out.path} to compute them"] if absent else []


def write_run(store: Store, directory: RunDirectory, report: bool = False) -> Run | None:
    """Write what a run has stored so far, as its newest config says; None where it has stored no model."""
    models, (config, _, _) = store.tables()["model"], store.last_run()
    if not models:
        return None
    points = RecordedPoints(store.points() or {}, config["surface"].get("validation", ""))
    return write_stored(config, store, models, points, directory, report)[0]


def _study(config: dict[str, Any], pools: Sequence[str]) -> Study:
    """Return the study, reading nothing that may lie on another machine only."""
    surface = dict(config["surface"])
    if isinstance(surface["select"], Mapping):
        surface["select"] = "first"
    sections = {"pools": [{"name": pool} for pool in pools], "executor": {"name": "serial"}, "surface": surface}
    return load_config(config | sections)
