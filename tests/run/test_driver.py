"""Driver, worker and store part by part, with executors and models that do nothing: what a whole run does not show."""

import gc
import json
import os
import shutil
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from acutance.hookspecs import Retry
from acutance.measure import Estimate, Status
from acutance.plugins import catalog
from acutance.run import families, hooks
from acutance.run.executors import LimitedSpec, Processes, ProcessesSpec, Watched
from acutance.run.harness import Driver, run_study
from acutance.run.jobs import Build, Cell, Choice, Evaluate, Failed, write
from acutance.run.ledger import Ledger
from acutance.run.members import measure_cells, target_cells
from acutance.run.recorded import RecordedPoints
from acutance.run.rows import Attempt, CellRow, PartRow
from acutance.run.standing import Identity, Standing
from acutance.run.store import STALE, Store, is_writing
from acutance.run.tasks import Task, outcomes
from acutance.study.config import Chosen, load_config
from acutance.study.plan import _layers
from acutance.study.surface_config import SurfaceConfig
from acutance.system.progress import Silent

CONFIG = {
    "format": 1,
    "pools": [{"name": "toy", "size": 4}],
    "dataset": {"name": "toy"},
    "surface": {"points": 16, "m": 8},
    "targets": ["test_error"],
    "within": [],
    "measures": [{"name": "average_case", "rho": [0.1, 0.2], "draws": 2}, {"name": "weight_norm"}],
}


class Told:
    """An executor that notes its jobs and answers with what it was given for each."""

    announced = False

    def __init__(self, answers=(), workers=1):
        self.answers, self.workers, self.jobs = answers, workers, []

    def run(self, jobs):
        for text in jobs:
            job = json.loads(text)
            self.jobs.append(job)
            yield from (json.dumps({"job": job["id"], **answer}) for answer in self.answers)


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    run_study(load_config(CONFIG), folder / "run", report=False, limit=3)
    return folder / "run"


@pytest.fixture
def driver(finished, tmp_path):
    """The driver of a run of which three models of four are done, and its cells."""
    shutil.copytree(finished, tmp_path / "run")
    study = load_config(CONFIG)
    store = Store(tmp_path / "run" / "acutance.db")
    driver = Driver(study, Ledger(study, store), "cpu", None, Lines())
    driver.store = store  # for the tests: the driver itself knows its ledger alone
    points = RecordedPoints(store.points())
    driver.targets, driver.cells = target_cells(study, catalog(), points), measure_cells(study, points)
    for member in driver.members[:3]:
        driver.ledger.recall(member)
    yield driver
    store.close()


# -- the driver ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "hint"),
    [("was killed (SIGKILL)", "out of memory?"), ("crashed (SIGSEGV) in compiled code", "executor serial shows where")],
)
def test_a_job_is_given_to_three_workers_and_then_up(driver, how, hint):
    executor = Told([{"kind": "lost", "message": f"a worker {how}"}])
    tasks = [Task.of(m, Build(id=m.label, pool=Choice.of(m.pool), entry=m.entry)) for m in driver.members[:2]]
    found = list(outcomes(executor, tasks, driver.reporter.say))
    assert [job["id"] for job in executor.jobs] == ["toy0", "toy1"] * 3
    assert [(task.member.label, o.kind) for task, o in found] == [("toy0", "failed"), ("toy1", "failed")]
    assert all(f"a worker {how} ({hint}" in o.message for _, o in found)
    assert driver.reporter.lines == [f"a worker {how}; its job starts again"] * 4


def task_of(driver, missing):
    """Return the job of the first model, with the batches that are missing of each cell."""
    member, study = driver.members[0], driver.study
    job = Evaluate(
        id="0", pool=Choice.of(member.pool), entry=member.entry, dataset=Choice.of(study.dataset), seed=0, device="cpu",
        surface=study.surface, cells=tuple(driver.cells[i].job(i, batches) for i, batches in missing.items()),
    )  # fmt: skip
    return Task.of(member, job)


def test_a_job_that_is_given_again_has_only_what_is_missing_of_it(driver):
    task = task_of(driver, {0: [0, 1], 2: [0]})
    assert not task.done(0, 0) and task.done(2, 0)
    assert [(c["index"], c["batches"]) for c in json.loads(task.text)["cells"]] == [(0, [1])]
    assert task.drop([2]) == [] and task.drop() == [0] and json.loads(task.text)["cells"] == []
    assert [cell.batches for cell in task.job.cells] == [(0, 1), (0,)]


@pytest.mark.parametrize("begun", [True, False])
def test_what_is_late_is_what_had_begun_and_a_worker_that_said_nothing_has_failed(driver, begun):
    answers = [*([{"kind": "begin", "cells": [2]}] * begun), {"kind": "late", "message": "took too long"}]
    seen = outcomes(Told(answers), [task_of(driver, {0: [0], 2: [0]})], driver.reporter.say)
    _, outcome = next(seen)
    assert (outcome.kind, getattr(outcome, "cells", ())) == (("late", (2,)) if begun else ("failed", ()))


def test_the_longest_jobs_go_first_and_each_names_the_model_that_follows_it(driver, monkeypatch):
    executor = Told(workers=2)
    driver.device = "cuda"  # where a model is loaded ahead
    monkeypatch.setattr(driver.study.pools[0].item.target, "loads_ahead", True)
    work = [(member, [(0, list(range(n)))]) for member, n in zip(driver.members, (1, 2, 2, 1), strict=True)]
    driver._work(executor, work, driver.cells, "measures", lambda cell: 1.0)
    assert [job["cost"] for job in executor.jobs] == [2, 2, 1, 1]
    names = [job["entry"]["id"] for job in executor.jobs]
    assert [job["next"]["entry"]["id"] for job in executor.jobs[:2]] == names[2:]
    assert not any("next" in job for job in executor.jobs[2:]) and {job["workers"] for job in executor.jobs} == {1}
    driver.device, executor.jobs = "cpu", []
    driver._work(executor, work, driver.cells, "measures", lambda cell: 1.0)
    assert {job["workers"] for job in executor.jobs} == {2} and not any("next" in job for job in executor.jobs)


def test_the_longest_trainings_go_first(driver):
    pool, missing = driver.study.pools[0], driver.members[:3]
    costs = dict(zip([m.entry.id for m in missing], (1.0, 3.0, 2.0), strict=True))

    class Trained:
        Spec = pool.item.target.Spec

        def missing(self, entries, spec):
            return [member.entry for member in missing]

        def build_cost(self, entry, spec):
            return costs[entry.id]

    chosen = Chosen(SimpleNamespace(id="acme/toy", name="toy", target=Trained), pool.spec)
    driver.study = SimpleNamespace(pools=(chosen,))
    driver.members = [replace(member, pool=chosen) for member in driver.members]
    executor = Told([{"kind": "built", "entry": "x", "facts": {}, "seconds": 0.1}])
    driver._build(executor)
    assert [job["entry"]["id"] for job in executor.jobs] == ["toy1", "toy2", "toy0"]


def test_a_model_is_known_by_its_file_as_it_was(driver, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("weights")
    first, other = (replace(m, entry=m.entry.model_copy(update={"path": str(path)})) for m in driver.members[:2])
    driver.ledger.identify(first, Identity("k" * 64, 7))
    first = replace(first)  # as a later run has it before it is loaded
    driver.members, driver.ledger = [first, other], Ledger(driver.study, driver.store)
    executor = Told()
    driver._recognise(executor)
    assert first.identity == Identity("k" * 64, 7)
    assert [job["entry"]["id"] for job in executor.jobs] == [other.entry.id]
    first = replace(first)
    driver.members = [first, other]
    other.leave_out(Standing.BROKEN, "gone")
    stat = path.stat()
    path.write_text("changed")  # as long as before, a moment later
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    driver._recognise(executor)
    assert first.key is None and executor.jobs[-1]["entry"]["id"] == first.entry.id


def test_a_job_that_fails_leaves_what_was_finished_of_it(driver):
    member = driver.members[0]
    values = [driver.ledger.of(member, cell).value for cell in driver.cells]
    task = task_of(driver, {0: [0], 1: [0, 1]})
    assert task.done(0, 0) and not task.done(1, 0)
    driver._fail(task, driver.cells, Failed(job="0", message="no memory"))
    found = [driver.ledger.of(member, cell) for cell in driver.cells]
    assert [e.status.value for e in found] == ["ok", "failed", "ok"] and found[0].value == values[0]
    stored = driver.store.cells()
    assert [stored[cell.key(driver.study, member)].failed for cell in driver.cells] == [False, True, False]


def test_the_state_of_a_run_says_how_it_ended(finished, tmp_path):
    assert Store(finished / "acutance.db", write=False).last_run()[2] == "done"
    failing = CONFIG | {"pools": [{"name": "toy", "size": 2}], "measures": [{"name": "moody", "mood": "raise"}]}
    run_study(load_config(failing), tmp_path, report=False)
    assert Store(tmp_path / "acutance.db", write=False).last_run()[2] == "failed"


# -- what is known ------------------------------------------------------------------------------------------


def test_a_rerun_computes_each_cell_once_and_uses_no_old_part(driver):
    member, study, store = driver.members[0], driver.study, driver.store
    for rerun in ("all", "failed"):
        Ledger(study, store, rerun).fail(member, driver.cells[:1], "no luck")
        values = Ledger(study, store, rerun)
        index = [i for i, _ in values.missing(member, driver.cells)]
        assert index == ([0, 1, 2] if rerun == "all" else [0])
        # Its parts are there: they are what it failed with.
        assert values.missing(member, driver.cells)[0] == (0, [0, 1])
        for batch in (0, 1):
            values.store_parts(member, batch, [(driver.cells[0], Estimate(5.0))], driver.cells[: batch == 1], ATTEMPT)
        assert values.of(member, driver.cells[0]).value == 5.0
        assert 0 not in [i for i, _ in values.missing(member, driver.cells)]
        values.fail(member, driver.cells[:1], "again")
        assert 0 not in [i for i, _ in values.missing(member, driver.cells)]


def test_a_target_is_a_number_only_when_all_that_it_needs_is(driver):
    member, values, target = driver.members[0], driver.ledger, driver.study.targets[0]
    assert values.target(member, target, driver.targets) == values.of(member, driver.targets[0]).value
    values._record(member, driver.targets[0], Estimate.without_value(Status.NONFINITE, "nan"))
    assert values.target(member, target, driver.targets) is None
    repeated = load_config(
        CONFIG
        | {"measures": [{"name": "average_case", "rho": 0.1, "replicates": 2}], "targets": ["measure:average_case"]}
    )
    values = Ledger(repeated, driver.store)
    cells = measure_cells(repeated, RecordedPoints(driver.store.points()))
    (target,) = repeated.targets
    values._record(member, cells[0], Estimate(1.0))
    assert values.target(member, target, cells) is None
    values._record(member, cells[1], Estimate.without_value(Status.NONFINITE, "nan"))
    assert values.target(member, target, cells) is None
    values._record(member, cells[1], Estimate(2.0))
    assert values.target(member, target, cells) == 1.5


def test_layers_are_written_out_up_and_down():
    assert _layers("b.{2..0}.{0..1}") == [f"b.{i}.{j}" for i in (2, 1, 0) for j in (0, 1)]
    assert _layers("b.{3..3}") == ["b.3"]


# -- the store ----------------------------------------------------------------------------------------------

ATTEMPT = Attempt(1, "m", "x", "train", 0, 1, "cpu", 0.1, 1.0, 0.0, 0.0)


def test_a_store_keeps_its_claim_alive_and_gives_up_only_its_own(tmp_path):
    store = Store(tmp_path / "acutance.db")
    execute = store._connection.execute
    execute("UPDATE driver SET heartbeat = 0")
    store.put_parts([PartRow("p", "c", 0, Estimate(1.0))], ATTEMPT)
    assert time.time() - execute("SELECT heartbeat FROM driver").fetchone()[0] < 60
    now = time.time()
    assert is_writing("another host", 1, now - STALE / 2) and not is_writing("another host", 1, now - 2 * STALE)
    execute("UPDATE driver SET pid = 1")  # another driver has taken it over
    store.close()
    store = Store(tmp_path / "acutance.db", write=False)
    assert store._connection.execute("SELECT pid FROM driver").fetchall() == [(1,)]
    store.close()


def test_a_store_replaces_facts_and_forgets_parts_with_their_cell(tmp_path):
    store = Store(tmp_path / "acutance.db")
    store.put_model("pool", "a", "k", "", {}, 1, {"initial": "x"})
    assert store.facts() == {"pool/a": {"initial": "x"}}
    store.put_model("pool", "a", "k", "", {}, 1)
    assert store.facts() == {}
    row = CellRow("c", "m", "x", 1, {}, "train", 0)
    store.put_parts([PartRow("p", "c", 0, Estimate(1.0))], ATTEMPT, [(row, Estimate(1.0))])
    store.put_cells([(CellRow("d", "m", "x", 1, {}, "train", 0), Estimate.without_value(Status.FAILED, "no"))])
    assert {key: found.failed for key, found in store.cells().items()} == {"c": False, "d": True}
    store.forget(["c"])
    assert "p" not in store.parts() and list(store.cells()) == ["d"]
    first, second = store.start_run({"n": 1}, {}), store.start_run({"n": 2}, {})
    store.end_run(first, "done")
    assert store.last_run() == ({"n": 2}, {}, "running") and second > first
    store.close()


# -- executors and the worker -------------------------------------------------------------------------------


def test_a_worker_is_late_past_the_limit_and_not_before(monkeypatch, driver):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watched, patient = Watched(1.0), Watched()
    watched.job = job = write(task_of(driver, {0: [0]}).job)
    assert not watched.late
    for worker_ in (watched, patient):
        worker_.note_outcome('{"job": "0", "kind": "begin", "cells": [0]}')
    now[0] += 1.0
    assert not watched.late and not patient.late
    now[0] += 0.1
    assert watched.late and not patient.late
    watched.note_outcome('{"job": "0", "kind": "note", "message": "m"}')
    assert not watched.late and watched.job == job
    assert json.loads(watched.given_up())["job"] == "0" and watched.job is None
    for limit, wait in ((0.2, 0.2), (60.0, 1.0), (None, 1.0)):
        assert Processes(ProcessesSpec(time_limit=limit)).wait_seconds(1.0) == wait
    assert LimitedSpec().time_limit is None


def test_a_microbatch_of_nothing_is_not_tried(monkeypatch):
    class Hook:
        asked = 0

        def __init__(self, name, say):
            assert name == "on_cell_error"

        def call(self, **asked):
            Hook.asked += 1
            yield Retry(asked["microbatch"] if Hook.asked > 1 else 0)

    monkeypatch.setattr(hooks, "Hook", Hook)

    def fails(*args, catch=False, **options):
        if not catch:
            raise MemoryError
        return [Estimate.without_value(Status.FAILED, "no memory")]

    monkeypatch.setattr("acutance.surface.evaluation.evaluate_family", fails)
    surface = surface_of(SurfaceConfig(points=8, m=4), "batch")
    unit = families.Unit("train", "batch", 0, "x", 0, [SimpleNamespace(instance=None, spec=None)] * 2)
    for _ in range(2):
        assert [e.message for e in families.family_estimates(unit, surface, 0)] == ["no memory"] * 2
    assert surface.microbatch is None and Hook.asked == 2


def test_what_a_try_that_ran_out_of_memory_held_is_free_in_the_next(monkeypatch):
    class Held:
        pass

    seen = []

    def runs_out(*args, **options):
        free = all(one() is None for one in seen)
        held = Held()
        seen.append(weakref.ref(held))
        assert free
        if len(seen) < 3:
            raise MemoryError
        return [Estimate(1.0)]

    monkeypatch.setattr("acutance.surface.evaluation.evaluate_family", runs_out)
    surface = surface_of(SurfaceConfig(points=8, m=4), "batch")
    unit = families.Unit("train", "batch", 0, "x", 0, [SimpleNamespace(instance=None, spec=None)])
    gc.disable()  # what is in a cycle is held until it is found
    try:
        (found,) = families.family_estimates(unit, surface, 0)
    finally:
        gc.enable()
    assert found.value == 1.0 and len(seen) == 3 and surface.microbatch == 2


def surface_of(config, scope):
    from acutance.surface.open_model import OpenModel, Surfaces

    data = (torch.randn(8, 4), torch.arange(8) % 3)
    split = type("Points", (), {"score": None, "__len__": lambda self: 8})()
    sets = SimpleNamespace(validation="", sets=lambda *_: [data], split=lambda _: split)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return Surfaces(OpenModel(model), sets, config).on("train", scope, 0)


def test_targets_are_measured_on_the_whole_model_exactly_and_in_pieces():
    config = SurfaceConfig(points=8, m=4, parameters="0.*", arithmetic="bf16")
    whole, batch, points = (surface_of(config, scope) for scope in ("split", "batch", "points"))
    assert (whole.w.numel(), batch.w.numel(), points.w.numel()) == (43, 25, 25)
    assert (whole.microbatch, batch.microbatch, points.microbatch) == (1000, None, 1000)
    assert [s.core.arithmetic for s in (whole, batch, points)] == ["exact", "bf16", "bf16"]
    assert surface_of(SurfaceConfig(points=8, m=4, microbatch=3), "split").microbatch == 3


def test_the_work_of_a_job_goes_by_split_then_batch_then_family():
    def cell(index, measure, batches, split="train", replicate=0):
        return families.Ready(Cell(index, measure, {}, replicate, split, "batch", tuple(batches)), None, None)

    cells = [
        cell(0, "a", [1, 0]),
        cell(1, "b", [0]),
        cell(2, "a", [1]),
        cell(3, "a", [1], replicate=1),
        cell(4, "c", [0], "test"),
    ]
    units = [
        (u.split, u.batch, u.measure, u.replicate, [r.cell.index for r in u.family]) for u in families.units(cells)
    ]
    assert units == [
        ("train", 0, "a", 0, [0]), ("train", 0, "b", 0, [1]), ("train", 1, "a", 0, [0, 2]), ("train", 1, "a", 1, [3]),
        ("test", 0, "c", 0, [4]),
    ]  # fmt: skip
