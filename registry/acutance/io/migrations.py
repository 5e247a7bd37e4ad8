"""The versions of a store's tables, and what makes each the next one.

Version 1 is that of acutance 0.1. A change of ``run.store``'s tables raises ``SCHEMA_VERSION`` and adds its statements
to ``MIGRATIONS``; a tiny store of the version before is committed in ``tests/golden/stores``.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from acutance.errors import UserError

SCHEMA_VERSION = 1
# Of a version: the statements that make the tables of the next one.
MIGRATIONS: dict[int, tuple[str, ...]] = {}


def schema_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a store's tables, which this version of acutance reads, or can make its own of.

    Raises:
        UserError: for one that is newer, or too old.
        sqlite3.DatabaseError: where the version is none.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if row is None or not str(row[0]).isdigit():
        raise sqlite3.DatabaseError("it does not say its version")
    version = int(row[0])
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: was written by a newer acutance (schema {version}, this one reads {SCHEMA_VERSION})",
            "use the version that wrote it (pip install -U acutance), or another --out",
        )
    if any(step not in MIGRATIONS for step in range(version, SCHEMA_VERSION)):
        raise UserError(
            f"{path}: was written by an acutance that is too old (schema {version}, this one reads {SCHEMA_VERSION})",
            "use the version that wrote it, or another --out",
        )
    return version


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables of an older version those of this one: all steps or none.

    Raises:
        UserError: when a step cannot be made.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, SCHEMA_VERSION):
            for statement in MIGRATIONS[step]:
                connection.execute(statement)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(SCHEMA_VERSION),))
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        connection.execute("ROLLBACK")
        raise UserError(
            f"the store of schema {version} cannot be brought up to {SCHEMA_VERSION}: {error}",
            "it is as it was: make room on the disk, or use the version that wrote it",
        ) from None
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def migrated_copy(connection: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Return a store in memory with the tables of this version: a reader leaves the file as it is."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    connection.backup(copy)
    connection.close()
    migrate(copy, version)
    return copy
