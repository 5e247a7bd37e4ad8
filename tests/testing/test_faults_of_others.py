"""A pool, dataset or executor with one fault fails exactly the check that looks for it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import faulty_others as faulty
from shortlist import one_for_each_check

from acutance.plugins import Item
from acutance.testing import datasets, examine, executors, pools

KINDS = {"pools": faulty.POOL_FAULTS, "datasets": faulty.DATASET_FAULTS, "executors": faulty.EXECUTOR_FAULTS}
FAULTS = [(kind, *fault) for kind, faults in KINDS.items() for fault in faults]
LIGHT = {"import_is_light", "schema_is_stable"}  # the faulty modules themselves import torch


def examined(kind, target):
    # Settings that the author chose: what is missing may be made.
    examination = examine(Item(kind, target.name, "acme-faulty", "1.0", target), spec={})
    return {name: examination.outcome(name) for name in examination.checks if name not in LIGHT}


@pytest.mark.parametrize(
    ("kind", "target"),
    [("pools", faulty.SoundPool), ("datasets", faulty.SoundData), ("executors", faulty.SoundExecutor)],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_what_the_faults_are_made_from_is_sound(kind, target):
    assert not {name: o.message for name, o in examined(kind, target).items() if o.state == "failed"}


@pytest.mark.parametrize(
    ("kind", "target", "check", "message"),
    one_for_each_check(FAULTS, lambda fault: (fault[0], fault[2])),
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_fault_fails_exactly_the_check_that_looks_for_it(kind, target, check, message, monkeypatch):
    monkeypatch.setattr(executors, "GRACE", 1.0)
    outcomes = examined(kind, target)
    failed = {name: o.message for name, o in outcomes.items() if o.state == "failed"}
    assert list(failed) == [check], failed
    assert message in failed[check] and len(failed[check]) < 500
    for outcome in outcomes.values():
        if check in outcome.check.after:
            assert outcome.state == "skipped" and f"it rests on {check}" in outcome.message


@pytest.mark.parametrize("module", [pools, datasets, executors])
def test_every_check_is_tried_by_a_fault(module):
    shared = {"import_is_light", "spec_is_closed_and_documented", "spec_round_trips", "schema_is_stable"}
    names = {check.name for check in module.CHECKS} - shared - {"name_and_doc"}
    assert names <= {check for _, _, check, _ in FAULTS}


def test_a_pool_without_given_settings_is_not_made():
    pool = Item("pools", "x", "acme-faulty", "1.0", faulty.MissingForEver)
    outcome = examine(pool).outcome("models_load")
    assert outcome.state == "skipped" and "pass the smallest settings as spec" in outcome.message


def test_a_name_and_a_docstring_are_asked_for():
    class Nameless(faulty.SoundPool):
        name = "Not A Name"

    for kind, base in (
        ("pools", faulty.SoundPool),
        ("datasets", faulty.SoundData),
        ("executors", faulty.SoundExecutor),
    ):
        check = "name_doc_and_splits" if kind == "datasets" else "name_and_doc"
        wrong = type("Wrong", (base,), {"name": "Not A Name"})
        outcome = examine(Item(kind, "x", "acme-faulty", "1.0", wrong)).outcome(check)
        assert outcome.state == "failed" and "'Not A Name' needs small letters" in outcome.message
        silent = type("Silent", (base,), {"__doc__": ""})
        outcome = examine(Item(kind, "x", "acme-faulty", "1.0", silent)).outcome(check)
        assert outcome.state == "failed" and "has no docstring" in outcome.message
