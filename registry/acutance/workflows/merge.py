"""Merging the runs of one study that were made apart: on several machines, or for parts of its pools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.run.directory import STORE, RunDirectory, reading
from acutance.run.recorded import RecordedPoints
from acutance.run.store import Store
from acutance.spec import canonical_json
from acutance.workflows.stored import Row, write_stored

if TYPE_CHECKING:
    from acutance.run.harness import Run

SAME = 1e-6  # relative difference up to which two values are the same (float32 on another path or device)
# Where two runs of one study may differ: nothing here enters a key.
FREE = {
    "pools",
    "executor",
    "paper",
    "surface.microbatch",
    "surface.cuda_graphs",
    "surface.checkpointing",
    "surface.select.indices",
}

WORDS = {
    "points": "preprocessed points", "initial": "initial weights", "update": "steps of the optimizer",
    "log": "logs of training",
}  # fmt: skip


@dataclass
class Source:
    """What one run directory holds.

    Attributes:
        directory: the folder.
        config: its resolved study.
        environment: what its newest run was made with.
        points: digests of its points, none where nothing was measured on any; None where the run did not say.
        facts: what enters the keys of its models besides their tensors.
        tables: rows by table.
    """

    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    points: dict[str, list[str]] | None
    facts: dict[str, dict[str, str]]
    tables: dict[str, list[Row]]


@dataclass
class Merged:
    """Outcome of a merge.

    Attributes:
        run: the merged run with its tables.
        conflicts: one sentence for everything that two runs disagree on; the first run was believed.
        notes: what a reader should know.
    """

    run: Run
    conflicts: list[str]
    notes: list[str]


def merge(directories: Sequence[Path], out: Path, report: bool = True) -> Merged:
    """Merge the stores of several runs of one study into a new one, and write its tables and report.

    The sources are only read, also while other processes write to them.

    Args:
        directories: run directories, at least two; where they disagree the first is believed.
        out: the new run directory.
        report: whether to draw figures and write the page.

    Raises:
        UserError: for a folder that holds no run, runs of different studies or points, or an ``out`` that is one
            of the runs or holds a run already.
    """
    if len(directories) < 2:
        raise UserError("merge: give at least two run directories")
    merged = RunDirectory(out)
    if merged.holds_run:
        raise UserError(f"--out {out}: holds a run already", "choose a new folder")
    merged.refuse_foreign(ours=False)
    sources = [read_source(directory) for directory in directories]
    for other in sources[1:]:
        _refuse_another_study(sources[0], other)
    points = _points(sources)
    tables, conflicts = combine(sources)
    facts, disagreements = _facts(sources)
    conflicts += disagreements
    config = sources[0].config | {"pools": _pools(sources)}
    merged.take(ours=False)
    store = Store(merged.store)
    try:
        store.put_tables(tables)
        store.put_points(points)
        store.put_facts(facts)
        environment = sources[0].environment | {"merged": [str(source.directory) for source in sources]}
        run_id = store.start_run(config, environment)
        merged.put_study(config, environment)
        with reading(*directories):
            run, notes = write_stored(
                config,
                store,
                tables["model"],
                RecordedPoints(points, config["surface"].get("validation", "")),
                merged,
                report,
            )
        store.end_run(run_id, "failed" if run.failed else "done")
    except BaseException:
        # Half a merge would pass for a run.
        store.close()
        for path in out.glob(f"{STORE}*"):
            path.unlink()
        raise
    store.close()
    return Merged(run, conflicts, notes + _never_loaded(sources, {row["entry"] for row in tables["model"]}))


# -- reading --------------------------------------------------------------------------------------------------


def read_source(directory: Path) -> Source:
    """Return what a run directory holds, at one moment."""
    path = RunDirectory(directory).store
    while True:
        store = Store(path, write=False)
        quiet = not store.written
        try:
            config, environment, _ = store.last_run()
            source = Source(directory, config, environment, store.points(), store.facts(), store.tables())
        finally:
            store.close()
        if not quiet or not store.written:
            return source


def _refuse_another_study(first: Source, other: Source) -> None:
    """Refuse two runs whose studies differ in anything but what ``FREE`` names."""
    changes = [d for d in differences(first.config, other.config) if d[0] not in FREE]
    if changes:
        lines = [
            f"{path}: {_short(a)} in {first.directory}, {_short(b)} in {other.directory}" for path, a, b in changes
        ]
        raise UserError(
            "the runs are not of one study:\n" + "\n".join(f"  {line}" for line in lines),
            "only pools, limit and executor may differ",
        )


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, value in a, value in b) wherever two resolved studies differ; None for what is not there."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            where = f"{path}.{key}" if path else str(key)
            if where in FREE:
                continue
            yield from differences(a.get(key), b.get(key), where)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}.{i}")
    elif a != b:
        yield path, a, b


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _points(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Return the digests that all sources agree on."""
    known = [(source.directory, source.points) for source in sources if source.points is not None]
    if not known:
        raise UserError(
            f"{sources[0].directory}: does not say which points it was computed on",
            "run the study once more in one of the folders: it computes nothing and writes that down",
        )
    first_directory, first = known[0]
    for directory, points in known[1:]:
        for name in first.keys() & points.keys():
            if first[name] != points[name]:
                raise UserError(
                    f"the points of split '{name.rpartition('/')[0]}' differ between {first_directory} and {directory}",
                    "the data are not the same on both machines",
                )
    return {name: digests for _, points in reversed(known) for name, digests in points.items()}


def _facts(sources: Sequence[Source]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return what enters the models' keys besides their tensors, and a sentence for each disagreement."""
    facts_by_model: dict[str, dict[str, str]] = {}
    conflicts = []
    for source in sources:
        for model, facts in source.facts.items():
            first = facts_by_model.setdefault(model, {})
            others = [WORDS[name] for name, value in facts.items() if first.get(name, value) != value]
            if others:
                conflicts.append(f"model {model}: {source.directory} has other {' and '.join(others)}")
            facts_by_model[model] = facts | first
    return facts_by_model, conflicts


def _pools(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return the pools of all sources; of several settings of one pool, those whose models include the others'."""
    settings: dict[str, dict[str, tuple[dict[str, Any], set[str]]]] = {}
    for source in sources:
        for section in source.config["pools"]:
            entries = {row["entry"] for row in source.tables["model"] if row["pool"] == section["name"]}
            by_settings = settings.setdefault(section["name"], {})
            text = canonical_json(section)
            by_settings[text] = (section, by_settings[text][1] | entries if text in by_settings else entries)
    pools = []
    for by_settings in settings.values():
        sections = list(by_settings.values())
        for i, (section, entries) in enumerate(sections):
            if not any(entries < e or (entries == e and j < i) for j, (_, e) in enumerate(sections)):
                pools.append(section)
    return pools


# -- combining ------------------------------------------------------------------------------------------------


def combine(sources: Sequence[Source]) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows of the merged store, and a sentence for everything the sources disagree on."""
    conflicts: list[str] = []
    runs: dict[str, Row] = {}
    attempts: dict[str, Row] = {}
    models: dict[tuple[str, str], Row] = {}
    for source in sources:
        numbers = {}
        for row in source.tables["run"]:
            # A run that came here with a copied folder is the same run.
            same = json.dumps([row["started"], row["config"], row["environment"]])
            numbers[row["id"]] = runs.setdefault(same, {**row, "id": len(runs) + 1})["id"]
        for row in source.tables["attempt"]:
            attempt = {**row, "run": numbers[row["run"]]}
            same = json.dumps([value for key, value in attempt.items() if key != "id"])
            attempts.setdefault(same, {**attempt, "id": len(attempts) + 1})
        for row in source.tables["model"]:
            first = models.setdefault((row["pool"], row["entry"]), row)
            if first["key"] != row["key"]:
                conflicts.append(f"model {row['pool']}/{row['entry']}: {source.directory} has other weights")
            else:
                models[row["pool"], row["entry"]] = _described(first, row)
    cells, cell_conflicts = _first_values(sources, "cell", "state")
    parts, part_conflicts = _first_values(sources, "part", "status")
    labels = {row["key"]: row["entry"] for row in models.values()}
    cells_by_key = {row["key"]: row for row in cells}
    disputed = {first["key"] for first, _ in cell_conflicts}
    for first, sentence in cell_conflicts:
        conflicts.append(f"{_cell_name(first, labels)}: {sentence}")
    for first, sentence in part_conflicts:
        if first["cell"] not in disputed:
            conflicts.append(
                f"batch {first['batch']} of {_cell_name(cells_by_key.get(first['cell'], {}), labels)}: {sentence}"
            )
    tables = {
        "run": list(runs.values()), "attempt": list(attempts.values()), "model": list(models.values()),
        "cell": cells, "part": parts,
    }  # fmt: skip
    return tables, conflicts


def _cell_name(cell: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Name a cell by its measure, model and settings."""
    if not cell:
        return "an unfinished cell"
    return f"{cell['measure']} of {labels.get(cell['model'], cell['model'][:12])}, {cell['split']}, {cell['spec']}"


def _described(first: Row, other: Row) -> Row:
    """Return the first row of a model, with the attributes that only the other run joined."""
    description, other_description = json.loads(first["description"]), json.loads(other["description"])
    description["attributes"] = other_description.get("attributes", {}) | description.get("attributes", {})
    return {**first, "description": json.dumps(description)}


def _first_values(sources: Sequence[Source], table: str, state: str) -> tuple[list[Row], list[tuple[Row, str]]]:
    """Return the rows of a table by key, the first that did not fail, and (row, sentence) for other values of it."""
    rows: dict[str, tuple[Row, Source]] = {}
    conflicts = []
    for source in sources:
        for row in source.tables[table]:
            first, origin = rows.setdefault(row["key"], (row, source))
            if row[state] == "failed":
                continue
            if first[state] == "failed":
                rows[row["key"]] = (row, source)
            elif not _same(first["value"], row["value"]):
                values = f"{first['value']!r} in {origin.directory}, {row['value']!r} in {source.directory}"
                conflicts.append((first, values))
    return [row for row, _ in rows.values()], conflicts


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return a == b or abs(a - b) <= SAME * max(abs(a), abs(b))


# -- tables ---------------------------------------------------------------------------------------------------


def _never_loaded(sources: Sequence[Source], loaded: set[str]) -> list[str]:
    """Return a note for models that a run lists without a key: the store has nothing of them."""
    notes = []
    for source in sources:
        directory = RunDirectory(source.directory)
        if directory.has("models"):
            models = directory.table("models")
            broken = [name for name in models.loc[models["key"].isna(), "model"] if name not in loaded]
            if broken:
                notes.append(f"{source.directory}: {', '.join(broken[:5])} could not be loaded and is left out")
    return notes
