"""The state of a run directory's store, read without writing to it and without trusting it; for ``doctor``."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from acutance.errors import UserError
from acutance.io.migrations import MIGRATIONS, SCHEMA_VERSION
from acutance.run.directory import STORE, RunDirectory
from acutance.run.store import is_writing, read_only


def examine(directory: Path) -> dict[str, Any]:
    """Return what is in a run directory's store, and what is wrong with it.

    Args:
        directory: the run directory, or its store.

    Returns:
        ``schema``, ``cells`` (number by state and status), ``models``, ``run`` (state of the last one), ``writer``,
        ``integrity`` (``ok``, or what SQLite says), ``problems`` (sentences).

    Raises:
        UserError: when there is no store.
    """
    path = RunDirectory(directory).store if directory.is_dir() else directory
    if not path.is_file():
        raise UserError(f"{directory}: holds no run", f"a run directory has a file {STORE}")
    report: dict[str, Any] = {"path": str(path), "bytes": path.stat().st_size, "problems": []}
    try:
        connection = _open(path)
        try:
            _read(connection, report)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        report["problems"].append(
            f"{path}: is damaged or not a store of acutance ({error}): move it away and run again, or restore a backup"
        )
    return report


def _open(path: Path) -> sqlite3.Connection:
    """Open a store for reading, also in a folder that cannot be written."""
    connection = read_only(path)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # Write-ahead logging needs a file beside the store, which a read-only folder does not allow.
        connection.close()
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
    return connection


def _read(connection: sqlite3.Connection, report: dict[str, Any]) -> None:
    """Add to a report, which has the store's path and its problems, what the tables say."""
    path, problems = report["path"], report["problems"]
    lines = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    report["integrity"] = "; ".join(lines)
    if lines != ["ok"]:
        problems.append(f"{path}: SQLite finds it damaged ({lines[0]}): restore a backup, or run again elsewhere")
    row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    report["schema"] = int(row[0]) if row else None
    if report["schema"] != SCHEMA_VERSION:
        newer = (report["schema"] or 0) > SCHEMA_VERSION
        advice = "use the acutance that wrote it" if newer else "run again with another --out"
        if not newer and all(step in MIGRATIONS for step in range(report["schema"] or 0, SCHEMA_VERSION)):
            advice = "the next run brings it up to that"
        problems.append(f"{path}: has schema {report['schema']}, this acutance reads {SCHEMA_VERSION}: {advice}")
        return
    counted = connection.execute(
        "SELECT state, status, count(*) FROM cell GROUP BY state, status ORDER BY state, status"
    )
    report["cells"] = {f"{state}/{status}" if state != status else state: n for state, status, n in counted}
    report["models"] = connection.execute("SELECT count(*) FROM model").fetchone()[0]
    report["journal"] = connection.execute("PRAGMA journal_mode").fetchone()[0]
    last = connection.execute("SELECT id, state, started, finished FROM run ORDER BY id DESC").fetchone()
    report["run"] = dict(zip(("number", "state", "started", "finished"), last, strict=True)) if last else None
    driver = connection.execute("SELECT host, pid, heartbeat FROM driver").fetchone()
    writing = driver is not None and is_writing(*driver)
    report["writer"] = f"process {driver[1]} on {driver[0]}" if writing else None
    if last and last[1] == "running" and not writing:
        problems.append(f"{path}: the last run was cut off: the same command goes on from what is stored")
