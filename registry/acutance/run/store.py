"""The store: one SQLite file a run, one writer, a row for every value, failure and attempt.

A transaction holds one batch of one measure family, so a kill loses at most the batch in flight.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from acutance.errors import UserError
from acutance.io import migrations
from acutance.measure import Estimate, Status
from acutance.run.rescue import Place, leave_open
from acutance.run.rows import Attempt, CellRow, CellState, PartRow

TABLES = ("run", "model", "cell", "part", "attempt")
_FACTS = "facts "  # begins the names of rows of the table meta, one for each model that has any
STALE = 120.0  # seconds without a heartbeat after which a driver on another host is taken for dead

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE run (
    id INTEGER PRIMARY KEY, started REAL NOT NULL, finished REAL, state TEXT NOT NULL,
    config TEXT NOT NULL, environment TEXT NOT NULL
);
CREATE TABLE model (
    pool TEXT NOT NULL, entry TEXT NOT NULL, key TEXT NOT NULL, source TEXT NOT NULL,
    description TEXT NOT NULL, parameters INTEGER NOT NULL, PRIMARY KEY (pool, entry)
);
CREATE TABLE cell (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, measure TEXT NOT NULL, version INTEGER NOT NULL,
    spec TEXT NOT NULL, split TEXT NOT NULL, replicate INTEGER NOT NULL, state TEXT NOT NULL,
    value REAL, stderr REAL, status TEXT NOT NULL, message TEXT NOT NULL, extras TEXT NOT NULL
);
CREATE TABLE part (
    key TEXT PRIMARY KEY, cell TEXT NOT NULL, batch INTEGER NOT NULL,
    value REAL, stderr REAL, status TEXT NOT NULL, message TEXT NOT NULL, extras TEXT NOT NULL
);
CREATE INDEX part_cell ON part (cell);
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, model TEXT NOT NULL, measure TEXT NOT NULL,
    split TEXT NOT NULL, batch INTEGER NOT NULL, cells INTEGER NOT NULL, device TEXT NOT NULL,
    seconds REAL NOT NULL, forwards REAL NOT NULL, backwards REAL NOT NULL, hvps REAL NOT NULL,
    error TEXT NOT NULL, finished REAL NOT NULL
);
CREATE TABLE driver (id INTEGER PRIMARY KEY CHECK (id = 1), host TEXT, pid INTEGER, heartbeat REAL);
"""


class Store:
    """Opens or creates the store of a run directory.

    Args:
        path: the SQLite file.
        write: whether this process will write; only one driver may at a time.

    Raises:
        UserError: for a file that is not a store, is damaged, comes from a newer version, or is being
            written by another run.
    """

    def __init__(self, path: Path, write: bool = True) -> None:
        self.path = path
        self.notes: list[str] = []
        self._owner = False
        self._older: int | None = None  # version of the tables, where they are to be brought up to this one's
        self._place: Place | None = None  # of a store that is written to
        self._loss: UserError | None = None
        if not write and not path.exists():
            raise UserError(f"{path.parent}: holds no run", "run the study first, or check the folder's name")
        try:
            self._connection = self._connect(write)
            self._open(write)
        except sqlite3.OperationalError as error:
            raise UserError(f"{path}: cannot be opened: {error}", "check the disk and the permissions") from None
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path}: is damaged or not a store of acutance ({error})",
                "move it away and run again, or restore it from a backup",
            ) from None
        if write:
            self._claim()
            if self._older is not None:
                migrations.migrate(self._connection, self._older)
                self.notes.append(f"{path}: brought from schema {self._older} to {migrations.SCHEMA_VERSION}")
            self._place = Place(path)

    def _connect(self, write: bool) -> sqlite3.Connection:
        if write:
            return sqlite3.connect(self.path, timeout=30, isolation_level=None)
        return read_only(self.path)

    @property
    def written(self) -> bool:
        """Whether somebody writes to the store, or died while writing."""
        return _written(self.path)

    def _open(self, write: bool) -> None:
        """Set the connection up, and make the tables where there are none.

        Raises:
            UserError: for an empty file that is to be read, and a store of another version.
            sqlite3.DatabaseError: for a database of another program.
        """
        self._connection.execute("PRAGMA busy_timeout = 30000")
        has_tables = self._connection.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
        if not has_tables and not write and self.path.stat().st_size == 0:
            raise UserError(f"{self.path.parent}: holds no run yet", "run the study first")
        if not has_tables:
            if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.DatabaseError("its tables are those of another program")
            self._connection.execute(f"PRAGMA journal_mode = {self._journal_mode()}")
            with self.transaction():
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO meta VALUES ('schema', ?)", (str(migrations.SCHEMA_VERSION),))
        version = migrations.schema_of(self._connection, self.path)
        if version < migrations.SCHEMA_VERSION:
            if write:
                self._older = version  # once nobody else writes to it
            else:
                self._connection = migrations.migrated_copy(self._connection, version)
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _journal_mode(self) -> str:
        """Write-ahead logging needs shared memory, which network file systems do not give."""
        kind = _file_system(self.path.parent)
        if kind in ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "9p"):
            self.notes.append(f"{self.path} lies on a network file system ({kind}): writing without WAL")
            return "DELETE"
        return "WAL"

    def _claim(self) -> None:
        """Refuse a second driver; take over from one that is dead."""
        host, pid = socket.gethostname(), os.getpid()
        with self.transaction():
            row = self._connection.execute("SELECT host, pid, heartbeat FROM driver").fetchone()
            if row and (row[0], row[1]) != (host, pid):
                if is_writing(*row):
                    raise UserError(
                        f"{self.path}: another run is writing to it (process {row[1]} on {row[0]})",
                        "wait for it to end, or choose another --out",
                    )
            self._connection.execute("REPLACE INTO driver VALUES (1, ?, ?, ?)", (host, pid, time.time()))
        self._owner = True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing.

        Raises:
            UserError: when it cannot be written: the disk is full, say, or the folder has gone.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
            self.require_place()
        except sqlite3.OperationalError as error:
            self._roll_back()
            self.require_place()
            raise UserError(
                f"{self.path}: cannot be written: {error}",
                "make room or mend the disk, and give the same command: what was stored before is kept",
            ) from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.OperationalError):  # SQLite has rolled back by itself, or will when it is opened
                self._connection.execute("ROLLBACK")

    def require_place(self) -> None:
        """Go on only while the store lies where it was opened; what one that has gone holds is kept.

        Raises:
            UserError: when its folder was deleted or renamed, with where everything is now.
        """
        if self._place is not None and (self._loss is not None or not self._place.there()):
            self._loss = self._loss or self._place.loss(self._connection)
            raise self._loss

    def close(self) -> None:
        """Release the store."""
        if self._owner:
            # On a full disk the row stays, which does no harm: the lock of a process that has ended is ignored.
            with suppress(sqlite3.OperationalError):
                self._connection.execute("DELETE FROM driver WHERE pid = ?", (os.getpid(),))
        if self._loss is None:
            self._connection.close()
        else:
            leave_open(self._connection)

    # -- runs and models ----------------------------------------------------------------------------

    def start_run(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> int:
        """Note that a run begins and return its number."""
        cursor = self._connection.execute(
            "INSERT INTO run (started, state, config, environment) VALUES (?, 'running', ?, ?)",
            (time.time(), json.dumps(config), json.dumps(environment)),
        )
        return int(cursor.lastrowid or 0)

    def end_run(self, run: int, state: str) -> None:
        """Note how a run ended."""
        with self.transaction():
            self._connection.execute("UPDATE run SET finished = ?, state = ? WHERE id = ?", (time.time(), state, run))

    def last_run(self) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return (config, environment, state) of the newest run."""
        row = self._connection.execute("SELECT config, environment, state FROM run ORDER BY id DESC").fetchone()
        if row is None:
            raise UserError(f"{self.path.parent}: holds no run yet", "run the study first")
        return json.loads(row[0]), json.loads(row[1]), row[2]

    def environment(self) -> dict[str, Any] | None:
        """Return what the newest run was computed with, None where there was no run."""
        row = self._connection.execute("SELECT environment FROM run ORDER BY id DESC").fetchone()
        found: dict[str, Any] | None = json.loads(row[0]) if row else None
        return found

    def put_model(
        self, pool: str, entry: str, key: str, source: str, description: Mapping[str, Any], parameters: int,
        facts: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Remember the key of a model, what its file looked like when it was loaded, and what else enters its keys."""
        with self.transaction():
            self._connection.execute(
                "REPLACE INTO model VALUES (?, ?, ?, ?, ?, ?)",
                (pool, entry, key, source, json.dumps(description), parameters),
            )
            self._connection.execute("DELETE FROM meta WHERE name = ?", (f"{_FACTS}{pool}/{entry}",))
            self._put_facts({f"{pool}/{entry}": facts or {}})

    def forget_models(self, pool: str, run: str, after: int) -> int:
        """Remove the models of later steps of a training run; what was measured on them stays. Return how many.

        Args:
            pool: where they are from.
            run: of the training, as their entries say.
            after: the last step that stays.
        """
        rows = self._connection.execute("SELECT entry, description FROM model WHERE pool = ?", (pool,)).fetchall()
        found = [(entry, json.loads(description)) for entry, description in rows]
        later = [entry for entry, about in found if about.get("run") == run and (about.get("step") or 0) > after]
        with self.transaction():
            for entry in later:
                self._connection.execute("DELETE FROM model WHERE pool = ? AND entry = ?", (pool, entry))
                self._connection.execute("DELETE FROM meta WHERE name = ?", (f"{_FACTS}{pool}/{entry}",))
        return len(later)

    def _put_facts(self, facts: Mapping[str, Mapping[str, str]]) -> None:
        rows = [(_FACTS + model, json.dumps(dict(values))) for model, values in facts.items() if values]
        self._connection.executemany("REPLACE INTO meta VALUES (?, ?)", rows)

    def put_facts(self, facts: Mapping[str, Mapping[str, str]]) -> None:
        """Remember what enters the keys of models besides their tensors, {pool/entry: facts}."""
        with self.transaction():
            self._put_facts(facts)

    def facts(self) -> dict[str, dict[str, str]]:
        """Return what enters the keys of models besides their tensors, {pool/entry: facts}; most have nothing."""
        rows = self._connection.execute(
            "SELECT substr(name, ?), value FROM meta WHERE name GLOB ?", (len(_FACTS) + 1, _FACTS + "*")
        )
        return {model: json.loads(value) for model, value in rows}

    def models(self) -> dict[tuple[str, str], tuple[str, str, int]]:
        """Return {(pool, entry): (key, source, parameters)}."""
        rows = self._connection.execute("SELECT pool, entry, key, source, parameters FROM model")
        return {(pool, entry): (key, source, p) for pool, entry, key, source, p in rows}

    def put_points(self, digests: Mapping[str, Sequence[str]]) -> None:
        """Remember the digests of the points of the newest run, by ``split/scope``, also after each preprocessing."""
        self._connection.execute("REPLACE INTO meta VALUES ('points', ?)", (json.dumps(digests),))

    def points(self) -> dict[str, list[str]] | None:
        """Return the digests of the points of the newest run, which may need none; None for one that has not said."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'points'").fetchone()
        digests: dict[str, list[str]] | None = json.loads(row[0]) if row else None
        return digests

    # -- whole tables -------------------------------------------------------------------------------

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of all tables that hold results, as they stood at one moment."""
        self._connection.execute("BEGIN")
        try:
            tables = {}
            for name in TABLES:
                cursor = self._connection.execute(f"SELECT * FROM {name} ORDER BY rowid")
                columns = [column[0] for column in cursor.description]
                tables[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
            return tables
        finally:
            self._connection.execute("COMMIT")

    def put_tables(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write rows of ``tables`` into an empty store, in one transaction."""
        with self.transaction():
            for name, rows in tables.items():
                for row in rows:
                    marks = ", ".join("?" * len(row))
                    self._connection.execute(
                        f"INSERT INTO {name} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
                    )

    # -- values -------------------------------------------------------------------------------------

    def put_parts(
        self, parts: Sequence[PartRow], attempt: Attempt, finished: Iterable[tuple[CellRow, Estimate]] = ()
    ) -> None:
        """Store one batch of one family, and the cells it completes, in one transaction."""
        with self.transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(p.key, p.cell, p.batch, *_columns(p.estimate)) for p in parts],
            )
            columns = asdict(attempt) | {"finished": time.time()}
            self._connection.execute(
                f"INSERT INTO attempt ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                tuple(columns.values()),
            )
            for row, estimate in finished:
                self._put_cell(row, estimate)
            self._connection.execute("UPDATE driver SET heartbeat = ?", (time.time(),))

    def put_cells(self, cells: Iterable[tuple[CellRow, Estimate]]) -> None:
        """Store whole cells."""
        with self.transaction():
            for row, estimate in cells:
                self._put_cell(row, estimate)

    def _put_cell(self, row: CellRow, estimate: Estimate) -> None:
        spec = json.dumps(row.spec, sort_keys=True)
        state = "failed" if estimate.status is Status.FAILED else "done"
        self._connection.execute(
            "INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row.key, row.model, row.measure, row.version, spec, row.split, row.replicate, state, *_columns(estimate)),
        )

    def parts(self) -> Parts:
        """Return {part key: estimate}, read when asked for."""
        return Parts(self._connection)

    def cells(self) -> dict[str, CellState]:
        """Return what is known of every cell, by its key."""
        rows = self._connection.execute("SELECT key, state, spec, value, stderr, status, message, extras FROM cell")
        # A study has many cells and few specs.
        read = lru_cache(maxsize=1000)(json.loads)
        return {
            key: CellState(state == "failed", dict(read(spec)), _estimate(columns))
            for key, state, spec, *columns in rows
        }

    def forget(self, keys: Iterable[str]) -> None:
        """Remove cells and their parts, to compute them again."""
        with self.transaction():
            for key in keys:
                self._connection.execute("DELETE FROM part WHERE cell = ?", (key,))
                self._connection.execute("DELETE FROM cell WHERE key = ?", (key,))

    def cost(self) -> dict[str, float]:
        """Return the work of all attempts: seconds of computation and passes in examples."""
        row = self._connection.execute(
            "SELECT coalesce(sum(seconds), 0), coalesce(sum(forwards), 0), coalesce(sum(backwards), 0), "
            "coalesce(sum(hvps), 0), count(*) FROM attempt"
        ).fetchone()
        return dict(zip(("seconds", "forwards", "backwards", "hvps", "attempts"), row, strict=True))


class Parts:
    """The parts of all cells by key: most belong to finished cells, and are never asked for.

    Args:
        connection: of the store.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._read: dict[str, Estimate] = {}

    def get(self, key: str) -> Estimate | None:
        """Return a part, or None."""
        if key not in self._read:
            row = self._connection.execute(
                "SELECT value, stderr, status, message, extras FROM part WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                return None
            self._read[key] = _estimate(row)
        return self._read[key]

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __getitem__(self, key: str) -> Estimate:
        estimate = self.get(key)
        if estimate is None:
            raise KeyError(key)
        return estimate

    def __setitem__(self, key: str, estimate: Estimate) -> None:
        """Know a part that is about to be stored."""
        self._read[key] = estimate

    def drop(self, keys: Iterable[str]) -> None:
        """Let go of parts whose cell is finished; the store has them."""
        for key in keys:
            self._read.pop(key, None)


def _columns(estimate: Estimate) -> tuple[float | None, float | None, str, str, str]:
    """NaN has no place in SQLite: it is NULL, and the status says why."""
    value = None if math.isnan(estimate.value) else estimate.value
    extras = json.dumps(dict(estimate.extras))
    return value, estimate.stderr, estimate.status.value, estimate.message, extras


def _estimate(columns: Sequence[Any]) -> Estimate:
    value, stderr, status, message, extras = columns
    value = math.nan if value is None else float(value)
    return Estimate(value, stderr, Status(status), message, (), json.loads(extras))


def read_only(path: Path) -> sqlite3.Connection:
    """Open a store for reading, leaving its folder as it is where nobody writes to it."""
    # Even a reader makes files beside a store in WAL mode, unless it opens the store as immutable.
    options = "mode=ro" if _written(path) else "immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, timeout=30, isolation_level=None)


def _written(path: Path) -> bool:
    return any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))


def is_writing(host: str, pid: int, heartbeat: float) -> bool:
    """Whether the driver that claimed a store is alive: by its process here, by its heartbeat on another host."""
    return _alive(pid) if host == socket.gethostname() else time.time() - heartbeat < STALE


def _alive(pid: int) -> bool:
    """Return whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _file_system(folder: Path) -> str:
    """Return the type of the file system a folder lies on, or an empty string where that cannot be told."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    place = str(folder.resolve())
    best, kind = "", ""
    for line in mounts:
        _, point, type_, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, type_
    return kind
