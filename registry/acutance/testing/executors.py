"""The checks of an executor."""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from acutance.plugin_files import carried
from acutance.testing.core import Checklist, Subject, require
from acutance.testing.jobs import write_distribution
from acutance.testing.processes import ask, shared

executors = Checklist()
GRACE = 10.0  # seconds that workers have to end
VOLATILE = ("seconds", "traceback", "cost", "device")


def observed(subject: Subject) -> dict[str, Any]:
    """Return what happened in a run of the toy jobs in a process of its own; run once."""

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            write_distribution(Path(folder))
            payload = {
                "target": subject.reference, "spec": subject.specs[0].full(), "files": carried(subject.item.id),
                "grace": GRACE,
            }  # fmt: skip
            return ask("jobs", json.dumps(payload).encode(), [folder])

    record: dict[str, Any] = subject.once("observed", run)
    return record


def _values(outcomes: list[Any]) -> dict[str, list[str]]:
    """Return the outcomes of each job, in order, without what may differ from run to run."""
    by_job: dict[str, list[str]] = {}
    for text in outcomes:
        outcome = json.loads(text)
        stable = {key: value for key, value in outcome.items() if key not in VOLATILE}
        by_job.setdefault(str(outcome.get("job")), []).append(json.dumps(stable, sort_keys=True))
    return by_job


@executors()
def name_and_doc(subject: Subject) -> None:
    """The executor has a name and a docstring."""
    target = subject.item.target
    require(
        re.fullmatch(r"[a-z][a-z0-9_]*", target.name),
        f"the name '{target.name}' needs small letters, digits, underscores",
    )
    require(inspect.getdoc(target), f"{target.__name__} has no docstring: say where jobs run and what it needs")


@executors()
def runs_jobs(subject: Subject) -> None:
    """Jobs are texts and so are their outcomes; no jobs give no outcomes."""
    record = observed(subject)
    for outcome in [*record["first"], *record["second"]]:
        require(
            isinstance(outcome, str),
            f"run yielded a {outcome.get('not a text') if isinstance(outcome, dict) else outcome}: yield the JSON "
            "texts of acutance.run.worker.execute as they are",
        )
        try:
            json.loads(outcome)
        except ValueError:
            raise AssertionError(
                f"run yielded {outcome[:60]!r}, which is not JSON: yield the texts of the worker"
            ) from None
    require(not record["none"], "run([]) yielded outcomes: no jobs, no outcomes")
    require(
        isinstance(record["workers"], int) and record["workers"] >= 1,
        f"workers is {record['workers']!r}: give how many jobs run at once",
    )


@executors("runs_jobs")
def a_failing_job_stops_no_other(subject: Subject) -> None:
    """The job that fails has an outcome that says so, and all others are computed."""
    record = observed(subject)
    for name in ("first", "second"):
        by_job = _values(record[name])
        lost = [job for job in record["jobs"] if job not in by_job]
        require(
            not lost,
            f"{', '.join(lost)} gave no outcome among jobs of which one fails: every job must be answered; a failure "
            "is an outcome, not an exception",
        )


@executors("a_failing_job_stops_no_other")
def outcomes_are_those_of_serial(subject: Subject) -> None:
    """Every job has the outcomes that ``serial`` gives it, in the same order within the job."""
    record = observed(subject)
    serial = _values(record["serial"])
    for name in ("first", "second"):
        by_job = _values(record[name])
        for job, outcomes in serial.items():
            require(
                by_job.get(job) == outcomes,
                f"{job} gave {_short(by_job.get(job))}, serial gave {_short(outcomes)}: pass the worker's texts on "
                "unchanged, once, and in the order in which they came",
            )
        require(set(by_job) <= set(serial), f"there are outcomes of unknown jobs: {sorted(set(by_job) - set(serial))}")


def _short(outcomes: list[str] | None) -> str:
    if not outcomes:
        return "nothing"
    return f"{len(outcomes)} outcome(s), the last {outcomes[-1][:120]}"


@executors("runs_jobs")
def closing_ends_all_workers(subject: Subject) -> None:
    """As a context manager it leaves no process behind, also when its outcomes were not all read."""
    record = observed(subject)
    require(
        record["manager"] and record["entered"],
        "it does not work as a context manager: derive from Executor; __enter__ must return the executor",
    )
    for key, when in (("left", "after the with block"), ("left_after_interruption", "after a run that was broken off")):
        require(
            not record[key],
            f"{record[key]} worker process(es) were still there {when}: end them in close(), also busy ones",
        )
    require(
        not record["closes_twice"],
        f"close() raised when called again ({record['closes_twice']}): closing twice must do nothing",
    )


SUBJECT = Subject
CHECKS = [*shared, *executors]
