"""Asking a fresh interpreter, and the check of imports and declarations that every kind shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from pydantic import ValidationError

from acutance.plugin_files import carried
from acutance.spec import Spec, canonical_json, spec_faults
from acutance.testing.child import MARK
from acutance.testing.core import Checklist, Subject, require
from acutance.testing.forking import LATE, PRELOADED, Ended, forked

shared = Checklist()
TIMEOUT = 300  # seconds; a child that takes longer hangs
FORKS = sys.platform == "linux"  # elsewhere a fork of a process with libraries of the system in it is not safe


def ask(task: str, payload: bytes, extra_path: list[str] | None = None) -> dict[str, Any]:
    """Return what ``acutance.testing.child`` answers in a process of its own.

    Args:
        task: declarations, estimates or jobs.
        payload: for its standard input.
        extra_path: further folders to import from.

    Raises:
        AssertionError: when the process dies, hangs or raises.
    """
    path = [*(extra_path or []), *(entry for entry in sys.path if entry)]
    # Another hash seed than this process has: what depends on the order of a set shows.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "12345"}
    done = forked(task, payload, env, path, TIMEOUT) if FORKS and task in PRELOADED else started(task, payload, env)
    require(
        done.returncode != LATE,
        f"a fresh process did not answer in {TIMEOUT} s: something waits for ever",
    )
    lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.startswith(MARK)]
    if not lines:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise AssertionError(f"a fresh process died with exit code {done.returncode}: {' / '.join(tail) or 'silently'}")
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    require(
        "error" not in answer, f"a fresh process raised {answer.get('error')}: the plugin must import and run there"
    )
    return answer


def started(task: str, payload: bytes, env: dict[str, str]) -> Ended:
    """Return how a task ended in an interpreter started for it; out of time counts as an alarm."""
    command = [sys.executable, "-m", "acutance.testing.child", task]
    try:
        done = subprocess.run(command, input=payload, env=env, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as late:
        return Ended(LATE, late.stdout or b"", late.stderr or b"")
    return Ended(done.returncode, done.stdout, done.stderr)


def declared(subject: Subject) -> dict[str, Any]:
    """Return the declarations of the subject as a fresh process sees them; asked once."""

    def asking() -> dict[str, Any]:
        # What is registered by name is imported when it is looked up, whatever it imports then.
        own_modules = [] if isinstance(subject.item.source, str) else [subject.item.target.__module__]
        modules = list(dict.fromkeys([*subject.plugin_modules, *own_modules]))
        payload = {
            "modules": modules, "target": subject.reference, "kind": subject.item.kind,
            "specs": [spec.full() for spec in subject.specs], "files": carried(subject.item.id),
        }  # fmt: skip
        return ask("declarations", json.dumps(payload).encode())

    declarations: dict[str, Any] = subject.once("declared", asking)
    return declarations


@shared()
def import_is_light(subject: Subject) -> None:
    """Importing the plugin imports nothing heavy."""
    for module, heavy in declared(subject)["heavy"].items():
        require(
            not heavy,
            f"importing {module} imports {', '.join(heavy)}: move these imports into the functions that use them, so "
            "that 'acutance list' stays fast for everybody",
        )


@shared()
def spec_is_closed_and_documented(subject: Subject) -> None:
    """Settings are frozen, refuse unknown fields, and say what each field means."""
    spec_type, spec = subject.item.target.Spec, subject.specs[0]
    require(issubclass(spec_type, Spec), f"{spec_type.__name__} is not an acutance Spec: derive it from acutance.Spec")
    faults = spec_faults(spec_type)
    require(not faults, f"{spec_type.__name__}: {'; '.join(faults)}")
    try:
        spec_type.model_validate({**spec.full(), "a_field_that_does_not_exist": 1})
    except ValidationError:
        pass
    else:
        raise AssertionError(
            f"{spec_type.__name__} accepts fields it does not know, so a misspelt setting is ignored: leave "
            "extra='forbid'"
        )
    for name in spec_type.model_fields:
        try:
            setattr(spec, name, getattr(spec, name))
        except (ValidationError, AttributeError):
            continue
        raise AssertionError(f"{spec_type.__name__}.{name} can be assigned to: leave frozen=True in model_config")


@shared("spec_is_closed_and_documented")
def spec_round_trips(subject: Subject) -> None:
    """Settings come back from JSON as they were, and have one canonical form."""
    spec_type = subject.item.target.Spec
    for spec in subject.specs:
        text = json.dumps(spec.full())
        again = spec_type.model_validate(json.loads(text))
        require(
            again == spec,
            f"{spec!r} comes back from JSON as {again!r}: make its validators accept what full() writes, unchanged",
        )
        try:
            canonical = canonical_json(spec.canonical())
        except ValueError as error:
            raise AssertionError(f"canonical() of {spec!r} is not plain JSON: {error}") from None
        require(
            canonical == canonical_json(again.canonical()),
            f"{spec!r} has two canonical forms: canonical() may depend on nothing but the values of the fields",
        )
        short = spec_type.model_validate(spec.model_dump(mode="json", exclude_defaults=True))
        require(
            short == spec,
            f"what differs from the defaults does not give {spec!r} back but {short!r}: a validator changes other "
            "fields",
        )


@shared("spec_round_trips")
def schema_is_stable(subject: Subject) -> None:
    """Two processes see the same schema and the same canonical settings."""
    answer = declared(subject)
    for part, here in (
        ("schema", subject.item.target.Spec.model_json_schema()),
        ("canonical", [spec.canonical() for spec in subject.specs]),
    ):
        require(
            json.dumps(answer[part], sort_keys=True) == json.dumps(here, sort_keys=True),
            f"the {part} of {subject.item.target.Spec.__name__} differs between two processes: a default or a choice "
            "is computed (time, environment, order of a set); write it out",
        )
