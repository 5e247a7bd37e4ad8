"""The planner and the store at 10^5 cells and rows."""

import hashlib
import json
import sqlite3
import time
from pathlib import Path

import pytest

from acutance.measure import Estimate
from acutance.plugins import catalog
from acutance.pool import ModelEntry
from acutance.run.members import Member, PlannedCell
from acutance.run.rows import Attempt, CellRow, PartRow
from acutance.run.standing import Identity
from acutance.run.store import Store
from acutance.study.config import load_config
from acutance.study.plan import expand_measures

FAMILIES, FAMILY, BATCHES = 1563, 8, 8  # families, cells in one, batches of a cell
ROWS = FAMILIES * FAMILY * BATCHES  # parts: just over 10^5
SWEEP = {"name": "worst_case", "norm": ["l2", "linf"], "logit_norm": [False, True], "scaling": ["none", "elementwise"]}
ATTEMPT = Attempt(1, "m" * 64, "acutance/worst_case", "train", 0, FAMILY, "cpu", 0.5, 128.0, 128.0, 0.0)


def sweep(definitions):
    radii = [0.001 * (i + 1) for i in range(definitions // 8)]
    planned, mistakes, _ = expand_measures([{**SWEEP, "rho": radii}], catalog())
    assert len(planned) == definitions and not mistakes
    return planned


def name(*what):
    return hashlib.sha256(repr(what).encode()).hexdigest()


def test_10_000_definitions_expanded(timed):
    timed(lambda: sweep(10_000), rounds=3)


def test_100_000_cells_keyed(compare):
    study = load_config(
        {"format": 1, "pools": [{"name": "mnist_resnet"}], "dataset": {"name": "mnist5k"}, "within": [], "measures": [SWEEP | {"rho": 1}]}
    )  # fmt: skip
    planned, models = sweep(1000), [name("model", i) for i in range(100)]
    pool, entry = study.pools[0], ModelEntry(id="model", architecture="any")
    loaded = [Member("model", pool, entry) for _ in models]
    for member, model in zip(loaded, models, strict=True):
        member.identify(Identity(model, 0))
    digests = tuple(name("points", i) for i in range(BATCHES))

    def work():
        cells = [PlannedCell(one, "train", "batch", digests) for one in planned]
        for member in loaded:
            for cell in cells:
                cell.key(study, member)

    contents = [
        {"measure": "acutance/worst_case", "version": 1, "spec": one.spec.canonical(), "data": name("points"),
         "surface": {"m": 128}, "seed": 0, "replicate": 0}
        for one in planned
    ]  # fmt: skip

    def bare():
        """One JSON text and one digest a key."""
        for model in models:
            for content in contents:
                text = json.dumps({**content, "model": model}, sort_keys=True, separators=(",", ":"))
                hashlib.sha256(text.encode()).hexdigest()

    compare(work, bare, rounds=3, bound=1.0)


class Rows:
    """What a run of 10^5 parts stores: one transaction for each batch of a family of cells."""

    def __init__(self):
        spec = sweep(8)[0].spec.full()
        extras = {"value_half": 0.1, "radius_reached": 1.0, "clean_loss": 0.0123456789, "perturbed_loss": 0.23456789}
        estimate = Estimate(0.1234567890123, 0.00123, extras=extras)
        self.transactions = []
        for family in range(FAMILIES):
            cells = [name("cell", family, i) for i in range(FAMILY)]
            for batch in range(BATCHES):
                parts = [PartRow(name(cell, batch), cell, batch, estimate) for cell in cells]
                done = [CellRow(c, "m" * 64, "acutance/worst_case", 1, spec, "train", 0) for c in cells]
                self.transactions.append((parts, [(row, estimate) for row in done if batch + 1 == BATCHES]))
        self.keys = [part.key for parts, _ in self.transactions for part in parts]

    def insert(self, path):
        store = Store(path)
        for parts, finished in self.transactions:
            store.put_parts(parts, ATTEMPT, finished)
        store.close()


@pytest.fixture(scope="module")
def rows():
    return Rows()


@pytest.fixture(scope="module")
def filled(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "acutance.db"
    rows.insert(path)
    return path


def test_100_000_rows_inserted(compare, rows, filled, tmp_path_factory):
    connection = sqlite3.connect(filled)
    tables = ("part", "attempt", "cell")
    contents = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    marks = {table: ", ".join("?" * len(found[0])) for table, found in contents.items()}
    connection.close()

    def path():
        return tmp_path_factory.mktemp("store") / "acutance.db"

    def bare():
        """The same rows in as many transactions, as SQLite takes them."""
        place = path()
        Store(place).close()
        connection = sqlite3.connect(place, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        each = {table: len(found) / len(rows.transactions) for table, found in contents.items()}
        for i in range(len(rows.transactions)):
            connection.execute("BEGIN IMMEDIATE")
            for table, found in contents.items():
                some = found[int(i * each[table]) : int((i + 1) * each[table])]
                connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks[table]})", some)
            connection.execute("COMMIT")
        connection.close()
        place.unlink()

    def work():
        place = path()
        rows.insert(place)
        place.unlink()

    compare(work, bare, rounds=2, bound=None, bytes_per_row=Path(filled).stat().st_size / ROWS)


def test_a_store_of_100_000_rows_reopened(timed, filled):
    def work():
        start = time.process_time()
        store = Store(filled, write=False)
        assert len(store.cells()) == ROWS // BATCHES
        seconds = time.process_time() - start
        store.close()
        return seconds

    timed(work, rounds=3, bound=2.0)


def test_what_is_missing_of_100_000_rows(timed, rows, filled):
    def work():
        store = Store(filled, write=False)
        start = time.process_time()
        parts = store.parts()
        assert all(key in parts for key in rows.keys) and name("unknown") not in parts
        seconds = time.process_time() - start
        store.close()
        return seconds

    timed(work, rounds=3, bound=4.0)
