"""Stores of earlier versions: read as they are, brought up to this version by a run, or refused in one sentence.

``tests/golden/stores/v1.sql`` is the store of the study below as acutance 0.1 wrote it. It stays as it is: whatever changes, its
values are found again under the keys that they have.
"""

import sqlite3
from pathlib import Path

import pytest

import acutance
from acutance.io import migrations
from acutance.run.store import Store
from acutance.study import formats
from acutance.study.config import load_config

FIRST = Path(__file__).parents[1] / "golden" / "stores" / "v1.sql"
STUDY = {
    "format": 1,
    "title": "old",
    "pools": [{"name": "toy", "size": 3}],
    "dataset": {"name": "toy"},
    "surface": {"points": 16, "m": 8},
    "targets": ["test_error"],
    "within": ["architecture"],
    "measures": [{"name": "weight_norm"}, {"name": "average_case", "rho": 0.1, "draws": 2}],
}
NEXT = ("ALTER TABLE attempt ADD COLUMN joules REAL", "INSERT INTO meta VALUES ('colour', 'blue')")


@pytest.fixture
def old(tmp_path):
    """The store of acutance 0.1, as a file."""
    path = tmp_path / "acutance.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST.read_text())
    connection.close()
    return path


def columns(path):
    with sqlite3.connect(path) as connection:
        found = [row[1] for row in connection.execute("PRAGMA table_info(attempt)")]
    connection.close()
    return found


def test_the_first_store_is_read_with_all_that_it_holds(old):
    store = Store(old, write=False)
    assert len(store.models()) == 3 and store.last_run()[2] == "done"
    cells = store.cells()
    # Two measures and the error on the test points, for each of three models.
    assert len(cells) == 9 and all(state.estimate.status.value == "ok" for state in cells.values())
    store.close()
    assert list(old.parent.iterdir()) == [old]


def test_the_tables_of_a_new_store_are_those_of_the_newest_golden_one(old, tmp_path):
    new = tmp_path / "new" / "acutance.db"
    new.parent.mkdir()
    Store(new).close()
    made = []
    for path in (old, new):
        with sqlite3.connect(path) as connection:
            made.append(
                sorted(row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL"))
            )
        connection.close()
    assert made[0] == made[1], "raise SCHEMA_VERSION, write a migration, and commit a store of the version before"
    assert migrations.SCHEMA_VERSION == len(list(FIRST.parent.glob("v*.sql")))


def test_the_same_study_finds_its_old_values(old):
    run = acutance.run(STUDY, out=old.parent, report=False)
    assert (run.computed, run.failed) == (0, 0) and len(run.results) == 9


def test_a_migration_is_made_once_by_who_writes(old, monkeypatch):
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", {1: NEXT})
    before = old.read_bytes()
    reader = Store(old, write=False)
    assert len(reader.cells()) == 9 and reader.tables()["attempt"][0]["joules"] is None
    reader.close()
    assert old.read_bytes() == before  # who reads leaves it as it is
    writer = Store(old)
    assert any("brought from schema 1 to 2" in note for note in writer.notes) and len(writer.cells()) == 9
    writer.close()
    assert "joules" in columns(old)
    again = Store(old)
    assert not any("schema" in note for note in again.notes)
    again.close()


def test_a_migration_that_fails_changes_nothing(old, monkeypatch):
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", {1: (*NEXT, "ALTER TABLE absent ADD COLUMN x REAL")})
    with pytest.raises(acutance.UserError, match="no such table"):
        Store(old)
    assert "joules" not in columns(old)
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", 1)
    assert len(Store(old, write=False).cells()) == 9


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("3", "newer acutance .schema 3, this one reads 2"),
        ("0", "too old .schema 0, this one reads 2"),
        ("?", "damaged"),
    ],
)
@pytest.mark.parametrize("write", [True, False])
def test_what_cannot_be_brought_up_is_refused(old, monkeypatch, version, message, write):
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", {1: NEXT})
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (version,))
    connection.close()
    with pytest.raises(acutance.UserError, match=message):
        Store(old, write)


def test_a_study_of_an_earlier_format_is_brought_up(monkeypatch):
    monkeypatch.setattr(formats, "MIGRATIONS", {0: lambda data: {**data, "within": data["same"]}})
    older = {name: value for name, value in STUDY.items() if name != "within"} | {"format": 0, "same": []}
    with pytest.raises(acutance.UserError, match="same: unknown field"):
        load_config(older)  # what its migration should have removed
    monkeypatch.setattr(
        formats, "MIGRATIONS", {0: lambda d: {n: v for n, v in d.items() if n != "same"} | {"within": d["same"]}}
    )
    assert load_config(older).resolved == load_config(STUDY | {"within": []}).resolved
