"""A run's folder: what its files are called, how they are written and read back, and what they were made from."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from acutance import __version__
from acutance.errors import UserError
from acutance.io.written import begin, foreign, put
from acutance.io.yaml_files import dump_yaml, read_yaml
from acutance.plugins import TABLE, catalog
from acutance.presentation import UNKNOWN, Presentation, presentations, showing

if TYPE_CHECKING:
    import pandas as pd

STORE = "acutance.db"
CONFIG, ENVIRONMENT, PAGE = "config.yaml", "environment.json", "report.html"
MEASURES = "measures.json"  # how measures are shown
STATISTICS = "statistics.json"  # statistics of third parties, and those that failed
FIGURES, MARKUP, OUTPUTS = "figures", "tables", "outputs"  # folders in it
TABLES = ("models", "results", "correlations")
CURVES, PAIRS, SWEEP = "curves", "pairs", "sweep"  # tables that not every folder has
# Columns of names: a model may be called 007 or 12e45.
TEXTS = ("model", "partner", "pool", "architecture", "train_set", "key", "measure", "target", "within", "group")

STAMPS = ".outputs"
SOURCES = ("models.csv", "results.csv", CONFIG)  # what statistics and page are made from
AGAIN = "move it away and give the command that made it again: what was computed is stored"
OLD = (
    '<p role="alert"><strong>This page and its figures are older than the tables beside it, which a run without a '
    "report has written since: 'acutance report DIRECTORY' makes them anew.</strong></p>"
)

Made = Literal["statistics", "page"]


@dataclass(frozen=True)
class Recorded:
    """What a run's folder says of a statistic, for readers who do not have it.

    Attributes:
        dist: distribution that registered it.
        version: of the distribution.
        title: heading of its part of the page.
        explanation: below the heading.
        fault: why it has no table, in one sentence; empty for one that has.
    """

    dist: str
    version: str
    title: str = ""
    explanation: str = ""
    fault: str = ""


def own_names() -> list[str]:
    """Return what is written to a run's folder, beside its store and the folders in it."""
    statistics = [item.name for item in catalog().items("statistics")]
    tables = [f"{name}.csv" for name in (*TABLES, *statistics, CURVES, PAIRS)]
    return [*tables, CONFIG, ENVIRONMENT, MEASURES, STATISTICS, PAGE]


class RunDirectory:
    """The folder of a run, of a sweep, or of the statistics of a table made elsewhere.

    Tables that were written by way of this object are known as a reader of their files gets them, without reading.

    Args:
        path: of the folder, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tables: dict[str, pd.DataFrame] = {}
        self._texts: dict[str, bytes] = {}  # of tables that were written, until somebody asks for them
        self._digests: dict[str, str] = {}  # of the files that were written by way of this object

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def store(self) -> Path:
        """The file of the store."""
        return self.path / STORE

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.path / PAGE

    @property
    def figures(self) -> Path:
        """The folder of figures."""
        return self.path / FIGURES

    @property
    def markup(self) -> Path:
        """The folder of the correlations in the layout of the paper's tables."""
        return self.path / MARKUP

    @property
    def outputs(self) -> Path:
        """The folder of what models put out on the points; it may be removed at any time."""
        return self.path / OUTPUTS

    @property
    def holds_run(self) -> bool:
        """Whether there is a store."""
        return self.store.exists()

    @property
    def holds_statistics(self) -> bool:
        """Whether statistics of a table made elsewhere, or of a run under other settings, were written here."""
        if self.holds_run or not (self.path / CONFIG).exists():
            return False
        try:
            config = read_yaml(self.path / CONFIG)
        except (UserError, UnicodeDecodeError):
            return False  # somebody else's file
        return isinstance(config, dict) and {"source", "targets", "seed"} <= set(config)

    def has(self, table: str) -> bool:
        """Return whether there is a table of a name."""
        return self.file(table).exists()

    def file(self, table: str) -> Path:
        """Return the file of a table."""
        return self.path / f"{table}.csv"

    # -- taking it ----------------------------------------------------------------------------------------------

    def refuse_foreign(self, ours: bool, inputs: Sequence[Path] = (), names: Sequence[str] | None = None) -> None:
        """Refuse a folder in which files that no run wrote, or that are read, would be replaced.

        Args:
            ours: whether an earlier run or ``correlate`` wrote it: which of its files are ours is what its manifest
                says, and all of them where an older version kept none.
            inputs: files that are read.
            names: of the files to be written; those of a run by default.

        Raises:
            UserError: naming the first such file.
        """
        names = own_names() if names is None else names
        for name in names:
            refuse_replacing(self.path / name, inputs)
        if theirs := foreign(self.path, names, ours):
            raise UserError(f"--out {self.path}: {theirs}", "choose another folder, or move the file away")

    def take(self, ours: bool, inputs: Sequence[Path] = (), names: Sequence[str] | None = None) -> None:
        """Make the folder, unless it is there, and keep a manifest of what is written to it; see ``refuse_foreign``.

        Raises:
            UserError: for files of somebody else, and a folder that cannot be made.
        """
        names = own_names() if names is None else names
        self.refuse_foreign(ours, inputs, names)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            begin(self.path, names, ours)
        except OSError as error:
            raise UserError(
                f"--out {self.path}: cannot be written: {error.strerror}", "choose a folder you may write to"
            ) from None

    def take_apart(self, names: Sequence[str], option: str = "--out") -> None:
        """Make the folder for files that are no run's.

        Args:
            names: of the files.
            option: what messages call the folder.

        Raises:
            UserError: for the folder of a run, a file, and files in it that are somebody else's.
        """
        if self.holds_run or self.holds_statistics:
            raise UserError(f"{option} {self.path}: is the directory of a run", "give another one")
        if self.path.is_file():
            raise UserError(f"{option} {self.path}: is a file", "give a folder")
        self.take(ours=False, names=names)

    # -- writing ------------------------------------------------------------------------------------------------

    def put_study(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write what a run was asked for, and where it ran."""
        text = dump_yaml(config)
        put(self.path, {CONFIG: text, ENVIRONMENT: json.dumps(environment, indent=2) + "\n"})
        self._digests[CONFIG] = _digest(text.encode())

    def put_tables(self, tables: Mapping[str, pd.DataFrame], gone: Sequence[str] = ()) -> None:
        """Write tables, ``NAME.csv`` each.

        Args:
            tables: by name.
            gone: names of tables of ours that are removed unless they are among them.
        """
        from acutance.io.spreadsheet import csv_text

        for name in set(gone).difference(tables):
            put(self.path, {}, self.file(name).name)
        for name, table in tables.items():  # one by one: the text of a large one is large
            content = csv_text(table).encode()
            put(self.path, {self.file(name).name: content})
            self._digests[self.file(name).name] = _digest(content)
            self._forget(name)
            self._texts[name] = content

    def put_copy(self, table: str, other: RunDirectory) -> None:
        """Write a table as it is in another folder."""
        put(self.path, {self.file(table).name: other.file(table).read_bytes()})
        self._forget(table)
        self._digests.pop(self.file(table).name, None)

    def put_statistics(self, tables: Mapping[str, pd.DataFrame], recorded: Mapping[str, Recorded]) -> None:
        """Write the tables of statistics, and what is recorded of them; tables that were recorded and are none go.

        Args:
            tables: by name.
            recorded: by name.
        """
        for name in {*self.recorded(), *recorded} - set(tables):
            put(self.path, {}, self.file(name).name)
            self._forget(name)
        self.put_tables(tables)
        told = {name: asdict(about) for name, about in recorded.items()}
        files = {STATISTICS: json.dumps(told, indent=2, ensure_ascii=False) + "\n"} if told else {}
        put(self.path, files, STATISTICS)

    def put_page(self, html: str) -> None:
        """Write the page, which is made from the tables as they are now."""
        put(self.path, {PAGE: html})
        self.stamp("page")

    def mark_old(self) -> None:
        """Say at the top of the page that it is older than the tables beside it, once."""
        text = self.page.read_text("utf-8")
        if OLD not in text:
            marked = re.sub(r"<body[^>]*>", lambda match: match[0] + OLD, text, count=1)
            put(self.path, {PAGE: marked if marked != text else OLD + text})
        self._put_stamps({name: state for name, state in self._stamps().items() if name != "page"})

    # -- reading back -------------------------------------------------------------------------------------------

    def table(self, name: str) -> pd.DataFrame:
        """Return a table.

        Raises:
            UserError: when it is not there or not a table.
        """
        if name in self._texts:
            from acutance.io.spreadsheet import read_back

            self._tables[name] = read_back(io.BytesIO(self._texts.pop(name)), TEXTS)
        return self._tables[name] if name in self._tables else read_csv(self.file(name))

    def _forget(self, table: str) -> None:
        """Have a table read from its file, if that is there."""
        self._tables.pop(table, None)
        self._texts.pop(table, None)

    def tables(self, names: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield (name, table) for those of some tables that are there."""
        return ((name, self.table(name)) for name in names if self.has(name))

    def recorded(self) -> dict[str, Recorded]:
        """Return what is recorded of statistics, by name: those of third parties, and those that failed."""
        with suppress(OSError, ValueError, TypeError, AttributeError):  # none, or no record of ours
            found = json.loads((self.path / STATISTICS).read_text("utf-8"))
            return {name: Recorded(**about) for name, about in found.items() if TABLE.fullmatch(name)}
        return {}

    def config(self) -> dict[str, Any]:
        """Return the resolved study, or what ``correlate`` was asked for.

        Raises:
            UserError: for a directory that is not one of a run.
        """
        if not (self.path / CONFIG).exists():
            raise UserError(f"{self.path / CONFIG}: no such file", "give the directory of a run, or a table")
        config: dict[str, Any] = read_yaml(self.path / CONFIG)
        return config

    def environment(self) -> dict[str, Any]:
        """Return versions and machine."""
        environment: dict[str, Any] = json.loads((self.path / ENVIRONMENT).read_text("utf-8"))
        return environment

    # -- what things were made from -----------------------------------------------------------------------------

    def is_current(self, made: Made) -> bool:
        """Return whether something was made from the tables and the config as they are, by this version."""
        return self._stamps().get(made) == self._state()

    def stamp(self, made: Made) -> None:
        """Note that something has been made from the tables and the config as they are; the page is from statistics."""
        kept = {} if made == "statistics" else self._stamps()
        self._put_stamps(kept | {made: self._state()})

    def _state(self) -> str:
        """Name the tables and the config by their contents: those just written are not read again."""
        there = {name: path for name in SOURCES if (path := self.path / name).exists()}
        digests = [f"{name} {self._digests.get(name) or _digest(path.read_bytes())}" for name, path in there.items()]
        return f"{_digest(chr(10).join(digests).encode())} {__version__}"

    def _stamps(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):  # none, or one of an older version
            stamps = json.loads((self.path / STAMPS).read_text("utf-8"))
            return stamps if isinstance(stamps, dict) else {}
        return {}

    def _put_stamps(self, stamps: Mapping[str, Any]) -> None:
        (self.path / STAMPS).write_text(json.dumps(stamps, indent=2) + "\n", "utf-8")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refuse_replacing(path: Path, inputs: Sequence[Path], option: str = "--out") -> None:
    """Refuse to write over what was read.

    Raises:
        UserError: when a path is one of the inputs, also by another name.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise UserError(f"{option} {path}: is a file that is read, and would be lost", "choose another name")


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table of a run from its file.

    Raises:
        UserError: when it is not there or not a table.
    """
    import pandas as pd

    from acutance.io.spreadsheet import read_back

    try:
        with path.open("rb") as file:
            return read_back(file, TEXTS)
    except NotADirectoryError:
        raise UserError(f"{path.parent}: is a file, not the folder of a run", "correlate takes tables") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", "run the study first, or check the folder's name") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a table: {error}", AGAIN) from None


def write_presentations(directory: Path, measures: Iterable[str]) -> None:
    """Write how measures are shown to the folder of a run.

    Args:
        directory: of the run.
        measures: their names, as the tables have them; those that nothing is known of are left out.
    """
    shown = {
        name: presentation.as_json()
        for name, presentation in presentations(measures).items()
        if presentation != UNKNOWN
    }
    put(directory, {MEASURES: json.dumps(shown, indent=2, ensure_ascii=False) + "\n"})


@contextmanager
def reading(*directories: Path) -> Iterator[None]:
    """Show measures as these runs say, the first of them where they differ; what is no run says nothing."""
    shown: dict[str, Presentation] = {}
    for directory in directories:
        # A file that cannot be read is no reason to refuse the tables beside it.
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            written = json.loads((directory / MEASURES).read_text(encoding="utf-8"))
            shown = {name: Presentation.of_json(fields) for name, fields in written.items()} | shown
    with showing(shown):
        yield
