"""What a store knows of a study's cells, and which models are compared: without a driver, models or data."""

import pytest

import acutance
from acutance.plugins import catalog
from acutance.run.admission import admit
from acutance.run.harness import run_study
from acutance.run.ledger import Ledger
from acutance.run.members import measure_cells, members, target_cells
from acutance.run.recorded import RecordedPoints
from acutance.run.rows import Attempt
from acutance.run.standing import Identity, Standing
from acutance.run.store import Store
from acutance.study.config import load_config


@pytest.fixture
def stored(toy_config, tmp_path):
    """A study, its models with their keys, the store of a run of the first four of them, and the cells."""
    study = load_config(toy_config)
    run_study(study, tmp_path / "run", limit=4, report=False)
    store = Store(tmp_path / "run" / "acutance.db")
    points, everyone = RecordedPoints(store.points()), members(study)
    for member in everyone[:4]:
        Ledger(study, store).recall(member)
    yield study, everyone, store, target_cells(study, catalog(), points), measure_cells(study, points)
    store.close()


def test_what_is_missing_of_a_store(stored):
    study, everyone, store, targets, cells = stored
    values = Ledger(study, store)
    assert len(values) == 4 * len([*targets, *cells]) and not values.fresh
    assert values.missing(everyone[0], cells) == []
    assert values.missing(everyone[5], cells) == [(i, list(range(len(c.digests)))) for i, c in enumerate(cells)]
    assert values.of(everyone[0], cells[0]).value > 0 and values.of(everyone[5], cells[0]) is None
    again = Ledger(study, store, "all")
    assert [i for i, _ in again.missing(everyone[0], cells)] == list(range(len(cells)))


def test_parts_become_cells(stored):
    study, everyone, store, _, cells = stored
    values, member, cell = Ledger(study, store), everyone[5], cells[0]
    attempt = Attempt(1, "k" * 64, "x", "train", 0, 1, "cpu", 0.1, 1.0, 0.0, 0.0)
    with pytest.raises(KeyError):
        values.recall(member)
    assert not values.recognise(member, False)
    values.identify(member, Identity("k" * 64, 7))
    for batch in range(4):
        assert values.missing(member, [cell]) == [(0, list(range(batch, 4)))]
        values.store_parts(member, batch, [(cell, acutance.Estimate(float(batch)))], [], attempt)
    assert values.missing(member, [cell]) == [] and values.of(member, cell).value == 1.5
    assert values.fresh == {cell.key(study, member)} <= store.cells().keys()
    values.fail(member, cells[1:2], "no luck")
    failed = values.of(member, cells[1])
    assert failed.status == "failed" and failed.message == "no luck"
    assert store.cells()[cells[1].key(study, member)].failed
    again = members(study)[5]
    Ledger(study, store).recall(again)
    assert again.identity == Identity("k" * 64, 7)


def test_what_is_known_of_a_model_changes_through_its_methods_alone(stored):
    study, everyone, *_ = stored
    member, other = everyone[5], members(study)[5]
    for name in ("label", "pool", "entry", "identity", "standing", "reason", "joined", "points"):
        with pytest.raises(AttributeError):
            setattr(member, name, getattr(member, name))
    other.add_attributes({"learning_rate": 7.0, "colour": "red"})
    assert {"learning_rate": 7.0, "colour": "red"}.items() <= other.attributes.items()
    assert "colour" not in other.entry.attributes and "colour" not in member.attributes
    other.leave_out(Standing.REFUSED, "too large")
    assert other.usable and not other.compared and other.reason == "too large"
    other.leave_out(Standing.REFUSED, "")
    assert other.compared and other.key is None


def test_admission(stored, toy_config):
    _, everyone, store, targets, _ = stored
    study = load_config(toy_config | {"admit": {"attr:learning_rate": {"max": 0.35}, "train_error": {"max": 0.9}}})
    everyone[0].leave_out(Standing.BROKEN, "gone")
    admitted = admit(everyone, Ledger(study, store), [*targets, *_train(study, store)])
    assert [m.label for m in admitted] == ["toy1", "toy2"]
    assert [m.standing.value for m in everyone[:4]] == ["broken", "compared", "compared", "refused"]
    assert everyone[0].reason == "gone" and not everyone[0].usable and everyone[3].usable
    assert everyone[3].reason == "attr:learning_rate 0.4 > 0.35"
    assert everyone[4].reason == "attr:learning_rate 0.5 > 0.35; train_error is not known"
    nobody = load_config(toy_config | {"admit": {"attr:learning_rate": {"max": 0.0}}})
    with pytest.raises(acutance.UserError, match=r"no model is admitted: toy0: gone; toy1: .*loosen 'admit'"):
        admit(everyone, Ledger(nobody, store), targets)


def _train(study, store):
    return [c for c in target_cells(study, catalog(), RecordedPoints(store.points())) if c.split == "train"]
