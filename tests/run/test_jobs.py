"""Jobs and outcomes as texts: what one end writes is what the other reads."""

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from typing import get_args

import pytest

from acutance.errors import UserError
from acutance.measure import Cost, Estimate, Status
from acutance.pool import ModelEntry
from acutance.run import jobs, worker
from acutance.run.executors import Watched
from acutance.run.jobs import (
    Begun,
    Build,
    Built,
    Called,
    Cell,
    Choice,
    Compare,
    Compared,
    Comparison,
    Evaluate,
    Failed,
    Late,
    Lost,
    Model,
    Note,
    Opened,
    Part,
    Parts,
    Passes,
    Unreadable,
    read_job,
    read_outcome,
    write,
)
from acutance.study.config import load_config
from acutance.study.surface_config import Sampled, SurfaceConfig

POOL = Choice("acme/toy", {"size": 4})
ENTRY = ModelEntry(id="toy1", attributes={"rate": 0.1, "mixup": True, "name": "a"}, architecture="mlp", step=3)
CELL = Cell(3, "acutance/worst_case", {"rho": 0.1, "parameters": "all"}, 1, "train", "batch", (0, 2))
EVALUATE = Evaluate(
    id="7", pool=POOL, entry=ENTRY, dataset=Choice("acme/toy", {}), seed=5, device="cuda:1", asked=("initial_weights",),
    surface=SurfaceConfig(points=16, m=8, batches=Sampled(sampled=3), dtype="float64"), announce=True, workers=2,
    cost=2.5, cells=(CELL,), look=("train", "test"), next=Model(POOL, ENTRY),
)  # fmt: skip
VALUES = (
    Part.of(3, Estimate(0.1, 0.01, extras={"radius": 0.5, "curve": {"x": [0.0, 1.0], "y": [1.0, 2.0]}})),
    Part.of(4, Estimate.without_value(Status.FAILED, "no luck")),
    Part.of(5, Estimate(math.inf)),
)
COMPARE = Compare(
    id="8", models=(Compared(pool=POOL, entry=ENTRY, name="toy/toy1", key="k" * 64),), dataset=EVALUATE.dataset, seed=5,
    device="cpu", surface=EVALUATE.surface, announce=True, workers=2, cost=1.5, cells=(CELL,), outputs="/there",
)  # fmt: skip
JOBS = [
    Build(id="1", pool=POOL, entry=ENTRY, cost=2.0), EVALUATE, replace(EVALUATE, next=None, cells=(), look=()), COMPARE,
]  # fmt: skip
OUTCOMES = [
    Built(job="1", entry="toy1", facts={"train_loss": 0.1}, seconds=1.5),
    Opened(job="1", entry="toy1", key="k" * 64, initial="", parameters=7, notes=("a note",), seconds=0.5),
    Opened(job="1", entry="toy1", key="k" * 64, parameters=7),
    Begun(job="1", cells=(3, 4)),
    Parts(job="1", measure="acutance/worst_case", split="train", batch=2, device="cpu", seconds=0.1,
          cost=Passes.of(Cost(3.0, 2.0, 1.0)), parts=VALUES),
    Comparison(job="8", measure="acme/apart", split="train", device="cpu", seconds=0.1, cost=Passes(3.0, 0.0, 0.0),
               parts=VALUES),
    Note(job="1", message="a note"),
    Called(job="9", payload={"point": 3, "loss": 0.5}),
    Failed(job="1", message="no memory", traceback="...", misfit=True),
    Failed(job="1", message="left out", excluded=True),
    Lost(job="1", message="was killed"),
    Late(job="1", message="took too long", cells=(3,)),
]  # fmt: skip


@pytest.mark.parametrize("message", [*JOBS, *OUTCOMES], ids=lambda m: m.kind)
def test_what_is_written_is_what_is_read(message):
    text = write(message)
    found = (read_job if message in JOBS else read_outcome)(text)
    assert type(found) is type(message) and write(found) == text
    if not isinstance(message, Parts | Comparison):  # one of its numbers is none, which equals nothing
        assert found == message


def test_all_kinds_are_tried():
    for union, tried in ((jobs.Job, JOBS), (jobs.Outcome, OUTCOMES)):
        assert {type(message) for message in tried} == set(get_args(union))


def test_parts_keep_numbers_that_json_does_not_have_and_what_is_beside_them():
    found = read_outcome(write(OUTCOMES[4]))
    first, failed, infinite = (part.estimate for part in found.parts)
    assert first == VALUES[0].estimate and first.extras["curve"]["y"] == [1.0, 2.0] and first.stderr == 0.01
    assert math.isnan(failed.value) and failed.status is Status.FAILED and failed.message == "no luck"
    assert infinite.value == math.inf and infinite.status is Status.NONFINITE
    assert found.cost == Passes(3, 2, 1)


def test_the_texts_are_those_that_executors_know():
    """Third parties read these fields of jobs and outcomes, and send ``lost`` themselves."""
    job = json.loads(write(EVALUATE))
    assert (job["id"], job["kind"], job["device"], job["cost"]) == ("7", "evaluate", "cuda:1", 2.5)
    assert job["cells"][0]["batches"] == [0, 2] and job["next"]["entry"]["id"] == "toy1"
    assert "next" not in json.loads(write(JOBS[2]))
    parts = json.loads(write(OUTCOMES[4]))
    assert list(parts)[:2] == ["job", "kind"] and parts["cost"] == [3, 2, 1]
    assert parts["parts"][1][3:5] == ["failed", "no luck"] and json.loads(write(OUTCOMES[1]))["kind"] == "model"
    opened = json.loads(write(Opened(job="1", entry="toy1", key="k", parameters=3)))
    assert opened["initial"] is None and opened["notes"] == []
    lost = read_outcome('{"kind": "lost", "job": "3", "message": "gone", "node": "a field of theirs"}')
    assert lost == Lost(job="3", message="gone")


def test_a_job_is_put_on_another_device_where_one_is_given():
    assert jobs.on_device(EVALUATE, "cpu") == replace(EVALUATE, device="cpu")
    for job, device in ((EVALUATE, None), (JOBS[0], "cpu")):
        assert jobs.on_device(job, device) is job


@pytest.mark.parametrize(
    ("text", "named", "why"),
    [
        ('{"id": "3", "kind": "evaluate"}', "3", "Field required"),
        ('{"id": "3", "kind": "dance"}', "3", "dance"),
        ("[1]", "", "a job of a run cannot be read: [A-Z]"),
        ("no text", "", "Expecting value"),
    ],
)
def test_another_text_is_refused_with_the_job_it_names(text, named, why):
    with pytest.raises(Unreadable, match=why) as caught:
        read_job(text)
    assert caught.value.job == named
    with pytest.raises(UserError, match="an outcome of a run cannot be read"):
        read_outcome(text)
    # A worker that dies of it, or with it, is told all the same.
    for told in (Watched.lost, lambda worker, _: worker.given_up()):
        worker = Watched()
        worker.job = text
        assert read_outcome(told(worker, "gone")).job == named and worker.job is None


def test_messages_are_frozen():
    for message in (*JOBS, *OUTCOMES, CELL, POOL):
        with pytest.raises(AttributeError):
            setattr(message, fields(message)[0].name, None)


def test_a_choice_has_all_settings_and_is_known_by_them():
    study = load_config({"format": 1, "pools": [{"name": "toy", "size": 3}], "dataset": {"name": "toy"}, "within": [],
                         "measures": [{"name": "weight_norm"}]})  # fmt: skip
    (pool,) = study.pools
    choice = Choice.of(pool)
    assert choice.name == pool.item.id and pool.item.target.Spec.model_validate(choice.spec) == pool.spec
    assert len({choice, Choice(choice.name, dict(choice.spec)), Choice(choice.name, {**choice.spec, "size": 4})}) == 2


def test_run_is_the_function_in_whatever_order_things_are_imported():
    code = """
import itertools, sys
steps = ("import acutance.run.jobs", "import acutance.api", "first = acutance.run")
for order in itertools.permutations(steps):
    for name in [name for name in sys.modules if name.split(".")[0] == "acutance"]:
        del sys.modules[name]
    import acutance
    for step in order:
        exec(step)
    import acutance.run, acutance.measure
    from acutance.run.jobs import Job
    from acutance.run import jobs
    import acutance.api as api
    assert acutance.run is api.run is first and acutance.measure is api.measure, order
    assert jobs.Job is Job
    from acutance import run
    assert run is api.run
    acutance.run = print
    assert acutance.run is print
    del acutance.run
    assert acutance.run is api.run
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [GeneratorExit(), SystemExit(0), ValueError("no")])
def test_whatever_a_pool_raises_is_the_outcome_of_its_job(monkeypatch, error):
    def build(job):
        raise error
        yield

    monkeypatch.setattr(worker, "_build", build)
    job = Build(id="7", pool=Choice("p", {}), entry=ModelEntry(id="m", architecture="a", train_set="t"))
    (failed,) = map(read_outcome, worker.execute(write(job)))
    assert (
        isinstance(failed, Failed) and failed.job == "7" and type(error).__name__ in failed.message + failed.traceback
    )
