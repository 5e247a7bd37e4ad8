"""Parts are read from the store when they are asked for, and keys are those of the whole mapping."""

import json

import pytest

from acutance import Spec
from acutance.measure import Estimate
from acutance.run.rows import Attempt, CellRow, PartRow
from acutance.run.store import Store
from acutance.spec import KeyFrame, cell_key, digest


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "acutance.db")
    parts = [PartRow(f"part{b}", "cell", b, Estimate(b / 2, 0.25, extras={"draws": b})) for b in range(3)]
    attempt = Attempt(1, "m", "x", "train", 0, 1, "cpu", 0.1, 1.0, 0.0, 0.0)
    specs = [{"rho": 0.1}, {"rho": 0.1}, {"rho": 0.2}]
    cells = [(CellRow(f"c{i}", "m", "x", 1, spec, "train", 0), Estimate(1.0)) for i, spec in enumerate(specs)]
    store.put_parts(parts, attempt, cells)
    yield store
    store.close()


def test_parts_come_from_the_store_one_by_one(store):
    parts = store.parts()
    assert "part1" in parts and "part9" not in parts
    assert parts["part1"] == Estimate(0.5, 0.25, extras={"draws": 1})
    assert parts.get("part9") is None
    with pytest.raises(KeyError, match="part9"):
        parts["part9"]


def test_a_part_is_known_before_it_is_stored_and_found_again_after_it_was_dropped(store):
    parts, new = store.parts(), Estimate(7.0)
    parts["part9"] = new
    assert parts["part9"] is new
    first = parts["part0"]
    parts.drop(["part9", "part0", "never seen"])
    assert "part9" not in parts and parts["part0"] == first


def test_cells_of_one_spec_do_not_share_it(store):
    specs = {key: found.spec for key, found in store.cells().items()}
    assert specs == {"c0": {"rho": 0.1}, "c1": {"rho": 0.1}, "c2": {"rho": 0.2}}
    specs["c0"]["rho"] = 5
    assert specs["c1"]["rho"] == 0.1


class Tricky(Spec):
    name: str = ""
    """Text that looks like the place where the frame is cut."""
    values: tuple[float, ...] = ()
    """Numbers."""


@pytest.mark.parametrize("initial", ["", "i" * 64])
@pytest.mark.parametrize("batch", [None, 0, 12])
@pytest.mark.parametrize(
    "spec", [Tricky(), Tricky(name='","replicate":3,"x":"é'), Tricky(values=(1e-9, -0.0))], ids=str
)
@pytest.mark.parametrize("measure", ["acutance/worst_case", 'odd,"replicate":1'])
def test_a_key_is_the_digest_of_the_whole_mapping(measure, spec, batch, initial):
    fields = {"measure": measure, "version": 2, "surface": {"m": 8, "loss": 'a"b'}, "seed": 3, "replicate": 1}
    content = {**fields, "spec": spec.canonical(), "model": "m" * 64, "data": ""}
    content |= {} if batch is None else {"batch": batch}
    expected = digest(content | ({"initial": initial} if initial else {}))
    assert cell_key(**fields, spec=spec, model="m" * 64, data="", batch=batch, initial=initial) == expected
    assert KeyFrame(json.loads(json.dumps(fields)), spec).key("m" * 64, "", batch, initial) == expected
