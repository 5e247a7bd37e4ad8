"""A user's study with the radii of a calibration in place, and the file that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.io.written import put_file
from acutance.io.yaml_files import dump_yaml
from acutance.plugins import catalog
from acutance.study.config import Study, load_config
from acutance.study.plan import expand_measures
from acutance.study.surface_config import Indices

if TYPE_CHECKING:
    from acutance.workflows.calibration import Calibration, Definition


def sections(calibration: Calibration) -> list[dict[str, Any]]:
    """Return the entries of ``measures``: proposed radii, or the study's own where none could be proposed."""
    return [_section(definition) for definition in calibration.definitions] + calibration.others


def with_radii(study: Study, calibration: Calibration) -> dict[str, Any]:
    """Return a study as its author wrote it, overrides included, with the proposed radii in their places.

    An entry of ``measures`` that holds one definition keeps its place and its settings, with another ``rho``; a sweep
    over several becomes an entry for each, as each has radii of its own. What has no radius stays as written. A file of
    indices is named by its whole path, as it is looked for beside the study.
    """
    from acutance.workflows.calibration import identity

    waiting = {identity(planned): None for planned in study.measures}
    calibrated = {definition.identity: definition for definition in calibration.definitions}
    measures: list[dict[str, Any]] = []
    for entry in study.written["measures"]:
        names = dict.fromkeys(
            identity(planned) for planned in expand_measures([entry], catalog(), split=study.surface.split)[0]
        )
        if not any(name in calibrated for name in names):
            measures.append(dict(entry))
            continue
        here = [calibrated[name] for name in names if name in waiting]
        for name in names:
            waiting.pop(name, None)
        measures += [_placed(entry, here[0])] if len(names) == 1 and here else [_section(d) for d in here]
    data = dict(study.written) | {"measures": measures}
    if isinstance(study.surface.select, Indices):
        data["surface"] = {**data["surface"], "select": {"indices": study.surface.select.indices}}
    return data


def _section(definition: Definition) -> dict[str, Any]:
    return definition.section(definition.proposal or definition.radii)


def _placed(entry: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """Return an entry with the radii of its one definition, and as many repetitions as any entry asked of it."""
    repeats = {"replicates": definition.replicates} if definition.replicates > 1 else {}
    return {**entry, "rho": definition.proposal or definition.radii, **repeats}


def write_study(path: Path, data: Mapping[str, Any]) -> None:
    """Write a study.

    Raises:
        UserError: for data that is no valid study, or a file that is not ours or cannot be written; nothing is written.
    """
    load_config(data)
    put_file(path, dump_yaml(dict(data)))
