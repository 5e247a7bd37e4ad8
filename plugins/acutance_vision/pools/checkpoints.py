"""A user's own checkpoints: a CSV file that lists them, or a pattern of file names."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat

from acutance.errors import UserError, did_you_mean, some
from acutance.io.checkpoint_files import INDEX, SUFFIXES, is_checkpoint, known_suffix
from acutance.io.checkpoints import make_model
from acutance.io.delimited import Delimited, parse_delimited, read_delimited
from acutance.io.remote import beside, fetched, is_remote, listed, read_text, without_query
from acutance.pool import Attribute, ModelEntry, ModelPool
from acutance.spec import Spec, canonical_json
from acutance.study.attributes import parse_field
from acutance_vision.networks.normalize import normalization
from acutance_vision.networks.states import described, load_file

if TYPE_CHECKING:
    from torch import nn

    from acutance_vision.networks.normalize import Normalize

ARGUMENT = "arg."  # before the name of a column that holds an argument of the architecture
NAMED = ("path", "id", "architecture", "train_set", "key", "prefix", "log", "initial")  # columns that are no attributes
TARGET = "target."  # before the name of a column that holds a published target


class CheckpointsSpec(Spec):
    """Where the checkpoints are and what they are checkpoints of."""

    files: str
    """A CSV file with a column ``path``, or a pattern such as ``runs/*/step_*.pt``; ``**`` goes through folders. Both,
    and the paths in the file, may be URLs that fsspec reads, as ``s3://bucket/runs/*.pt``. A column ``log`` names what
    the training of each wrote down: CSV or JSON lines on disk, with a column ``step``. A column ``initial`` names the
    checkpoint at which the training of each began."""
    architecture: str = ""
    """``timm:NAME``, ``torchvision:NAME`` or ``module:function``; a column ``architecture`` takes its place."""
    arguments: dict[str, bool | int | float | str] | None = None
    """Keyword arguments of the architecture, as ``num_classes``; columns ``arg.NAME`` take their place."""
    key: str = ""
    """Where in the file the state dict lies, as ``ema.model``; usual names (state_dict, model ...) need no naming; a
    column ``key`` takes its place."""
    prefix: str = ""
    """Taken off the names in the file; names without it are left out. What all names share (``module.``) is found where
    the names then fit; a column ``prefix`` takes its place."""
    initial: str = ""
    """Checkpoint at which the training of all began, read as the others are; a column ``initial`` takes its place."""
    targets: tuple[str, ...] = ()
    """Columns that hold published targets; so do columns named ``target.NAME``."""
    train_set: str = ""
    """What the models were trained on; a column ``train_set`` takes its place."""
    preprocess: Literal["none", "timm"] = "none"
    """timm: normalize inputs by the architecture's data config, for a dataset that gives them between 0 and 1."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel of the inputs; in place of the data config's."""
    std: tuple[PositiveFloat, ...] | None = None
    """Divides each channel of the inputs; in place of the data config's."""


class Checkpoints(ModelPool[CheckpointsSpec]):
    """Any folder of checkpoints (.safetensors, .pt, .ckpt, .npz ...) of a timm, torchvision or own architecture."""

    name = "checkpoints"
    loads_ahead = True

    @classmethod
    def settings_for_several(cls, source: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the settings of a CSV list, a pattern, or a folder of checkpoints of one kind.

        Raises:
            UserError: for a folder with files of several kinds, and where nothing says what the architecture is.
        """
        files = _pattern_of(source)
        if files is None:
            return None
        if not settings.get("architecture") and not without_query(files).endswith(".csv"):
            raise UserError(
                f"{source}: nothing says what these are checkpoints of",
                "give one: timm:NAME, torchvision:NAME or module:function, or a CSV list with a column for it",
            )
        return {"files": files, **settings}

    def entries(self, spec: CheckpointsSpec) -> Sequence[ModelEntry]:
        """Return one entry a row of the CSV file or a file of the pattern; no checkpoint is opened.

        Raises:
            UserError: naming the file, line and column of what is wrong.
        """
        _listing.cache_clear()
        rows = _listing(spec.files)
        names = _names([row["path"] for _, row in rows])
        entries = [self._entry(place, row, name, spec) for (place, row), name in zip(rows, names, strict=True)]
        places: dict[str, str] = {}
        for (place, _), entry in zip(rows, entries, strict=True):
            if entry.id in places:
                raise UserError(f"{place}: '{entry.id}' is there already ({places[entry.id]})", "give each its own id")
            places[entry.id] = place
        return entries

    def _entry(self, place: str, row: Mapping[str, str], name: str, spec: CheckpointsSpec) -> ModelEntry:
        """Return the entry of a row: its columns are attributes, targets, or arguments of the architecture.

        Args:
            place: file and line, for messages.
            row: texts by column.
            name: the id where the row gives none.
            spec: settings of the pool.

        Raises:
            UserError: naming the place of what is wrong.
        """
        known_suffix(without_query(row["path"]))
        architecture = row.get("architecture") or spec.architecture
        if ":" not in architecture:
            wrong = f"'{architecture}' is no architecture" if architecture else "no architecture is given"
            raise UserError(
                f"{place}: {wrong}",
                "write timm:NAME, torchvision:NAME or module:function in pools.architecture or a column 'architecture'",
            )  # fmt: skip
        unknown = [column for column in spec.targets if column not in row]
        if unknown:
            hint = did_you_mean(unknown[0], list(row))
            raise UserError(f"{place}: there is no column '{unknown[0]}', which pools.targets names", hint)
        arguments: dict[str, Attribute] = dict(spec.arguments or {})
        attributes: dict[str, Attribute] = {}
        targets: dict[str, float] = {}
        for column, text in row.items():
            value = parse_field(text)
            if column in spec.targets or column.startswith(TARGET):
                if value is not None:
                    targets[column.removeprefix(TARGET)] = _number(value, f"{place}, column '{column}'")
            elif column.startswith(ARGUMENT):
                arguments |= {column.removeprefix(ARGUMENT): value} if value is not None else {}
            elif column not in NAMED and value is not None:
                attributes[column] = text if column == "run" else value
        step = attributes.get("step")
        if step is not None and type(step) is not int:
            raise UserError(f"{place}, column 'step': '{step}' is no whole number", "leave it empty where unknown")
        return ModelEntry(
            id=row.get("id") or name,
            attributes=attributes,
            targets=targets,
            architecture=described(architecture, arguments),
            train_set=row.get("train_set") or spec.train_set,
            run=str(attributes.get("run", "")),
            step=step if type(step) is int else None,
            log=row.get("log") or None,
            # Its key is remembered only where the file alone tells the weights: not of several states, or of parts.
            path=None if any(self._state(row, spec)) or row["path"].endswith(INDEX) else row["path"],
        )

    def load(self, entry: ModelEntry, spec: CheckpointsSpec) -> nn.Module:
        """Return the model.

        Raises:
            UserError: for a file that is missing or damaged, or the first names that do not fit the architecture.
        """
        row = self._row(entry, spec)
        return self._read(entry, row, spec, row["path"])

    def initial(self, entry: ModelEntry, spec: CheckpointsSpec) -> nn.Module | None:
        """Return the model where its training began, as far as a column or the setting says.

        Raises:
            UserError: as ``load``.
        """
        row = self._row(entry, spec)
        place = row.get("initial") or spec.initial
        return self._read(entry, row, spec, place) if place else None

    def _read(self, entry: ModelEntry, row: Mapping[str, str], spec: CheckpointsSpec, place: str) -> nn.Module:
        """Return the model of a row with the weights of a file."""
        name, arguments = self._model(entry, row, spec)
        path = fetched(place) if is_remote(place) else Path(place).expanduser()
        try:
            return load_file(make_model(name, arguments), path, *self._state(row, spec))
        except UserError as error:
            # Messages name the address that the user wrote, not the local copy.
            raise UserError(error.message.replace(str(path), place), error.hint) from None

    def preprocess(self, entry: ModelEntry, spec: CheckpointsSpec) -> Normalize | None:
        """Return the normalization that the spec asks for."""
        name = entry.architecture.partition("(")[0]
        return normalization(name, spec.preprocess, spec.mean, spec.std, "checkpoints")

    @staticmethod
    def _state(row: Mapping[str, str], spec: CheckpointsSpec) -> tuple[str, str]:
        """Return where in its file a row's state lies, and what is taken off its names."""
        return row.get("key") or spec.key, row.get("prefix") or spec.prefix

    @staticmethod
    def _model(entry: ModelEntry, row: Mapping[str, str], spec: CheckpointsSpec) -> tuple[str, dict[str, Any]]:
        """Return architecture and arguments; an entry tells them as text for people only."""
        of_row = {c.removeprefix(ARGUMENT): parse_field(t) for c, t in row.items() if c.startswith(ARGUMENT)}
        arguments = dict(spec.arguments or {}) | {k: v for k, v in of_row.items() if v is not None}
        return entry.architecture.partition("(")[0], arguments

    def _row(self, entry: ModelEntry, spec: CheckpointsSpec) -> dict[str, str]:
        rows = [row for _, row in _listing(spec.files)]
        for row, name in zip(rows, _names([row["path"] for row in rows]), strict=True):
            if (row.get("id") or name) == entry.id:
                return row
        raise UserError(f"{spec.files}: no longer has '{entry.id}'", "start the run again")


Row = tuple[str, dict[str, str]]


@lru_cache(maxsize=8)
def _listing(files: str) -> list[Row]:
    """Return the rows as they were when entries were made last: a place far away takes seconds to list."""
    if is_remote(files):
        if without_query(files).endswith(".csv"):
            table = parse_delimited(read_text(files).encode(), files)
            return _rows(files, table, lambda path: beside(files, path))
        urls = listed(files)
        if not urls:
            raise UserError(f"pools: files: {files}: no such file", "check the pattern, and that you may list it")
        return [(url, {"path": url}) for url in urls]
    where = Path(files).expanduser()
    return _local_table(where) if where.suffix == ".csv" else _pattern(where)


def _pattern_of(source: str) -> str | None:
    """Return the list or pattern that a source means; None where it is no checkpoints'."""
    if is_remote(source) or source.endswith(".csv"):
        return source
    path = Path(source).expanduser()
    if not path.is_dir():
        there = (name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        return source if any(is_checkpoint(name) for name in there) else None
    if (path / "config.json").is_file():
        return None
    kinds = sorted({file.suffix for file in path.iterdir() if file.is_file() and is_checkpoint(file.name)})
    if len(kinds) > 1:
        raise UserError(
            f"{source}: has files of several kinds: {', '.join(kinds)}", f"write a pattern: {source}/*{kinds[0]}"
        )
    return f"{glob.escape(str(path))}/*{kinds[0]}" if kinds else None


def _pattern(pattern: Path) -> list[Row]:
    paths = sorted(path for path in glob.glob(str(pattern), recursive=True) if os.path.isfile(path))
    if not paths:
        hint = f"it is a folder: write {pattern}/*.pt" if pattern.is_dir() else "relative paths begin where you are"
        raise UserError(f"pools: files: {pattern}: no such file", hint)
    return [(path, {"path": os.path.abspath(path)}) for path in paths]


def _local_table(path: Path) -> list[Row]:
    """Return the rows of a file on disk; paths are relative to it."""
    if not path.exists():
        raise UserError(f"pools: files: {path}: no such file", "relative paths begin where you are")
    return _rows(str(path), read_delimited(path), lambda name: os.path.abspath(path.parent / Path(name).expanduser()))


def _rows(path: str, table: Delimited, absolute: Callable[[str], str]) -> list[Row]:
    """Return the rows, each with its place for messages and an absolute path, or a URL."""
    header = table.header
    if "path" not in header:
        raise UserError(f"{path}: has no column 'path'", f"its columns are: {some(header) or 'none'}")
    rows: list[Row] = []
    for number, row in table.rows:
        place, fields = f"{path}: line {number}", dict(zip(header, row, strict=True))
        if not fields["path"]:
            raise UserError(f"{place} names no file", "fill its column 'path'")
        for name in ("path", "log", "initial"):
            if fields.get(name) and not is_remote(fields[name]):
                fields[name] = absolute(fields[name])
        rows.append((place, fields))
    if not rows:
        raise UserError(f"{path}: has no rows", "list one checkpoint a line")
    return rows


def _names(paths: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths, without suffix, that tell them all apart."""
    parts = [_bare(Path(without_query(path))).parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(paths)):
            return names
    return list(paths)


def _bare(path: Path) -> Path:
    """Return a path without the suffixes of checkpoints, of which it may have two (``best.pth.tar``)."""
    while path.suffix.lower() in SUFFIXES and path.stem:
        path = path.with_suffix("")
    return path


def _number(value: Attribute, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise UserError(f"{where}: {canonical_json(value)} is no number", "a target is a number, as 0.24")
