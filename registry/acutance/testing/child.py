"""The other process: what a fresh interpreter sees of a plugin. Run as ``python -m acutance.testing.child TASK``.

The answer is the last line of the output, after a mark, so that a plugin that prints does not spoil it.
"""

from __future__ import annotations

import json
import pickle
import sys
import traceback
from collections.abc import Callable
from functools import partial, reduce
from importlib import import_module
from typing import Any

from acutance.plugin_files import received
from acutance.plugins import HEAVY

MARK = "acutance.testing.answer:"


def resolve(reference: str) -> Any:
    """Return the object of ``module:qualified.name``."""
    module, _, path = reference.partition(":")
    return reduce(getattr, path.split("."), import_module(module))


def heavy_modules() -> list[str]:
    """Return the heavy packages that have been imported in this process."""
    return [name for name in HEAVY if name in sys.modules]


def declarations(payload: dict[str, Any]) -> dict[str, Any]:
    """Return what can be said without computing: imports, schema, canonical settings, a pool's entries."""
    heavy: dict[str, list[str]] = {}
    loads: list[tuple[str, Callable[[], object]]] = [(file[0], partial(received, [file])) for file in payload["files"]]
    loads += [(module, partial(import_module, module)) for module in payload["modules"]]
    for name, load in loads:
        before = heavy_modules()
        load()
        heavy[name] = [package for package in heavy_modules() if package not in before]
    target = resolve(payload["target"])
    answer: dict[str, Any] = {"heavy": heavy, "schema": target.Spec.model_json_schema()}
    specs = [target.Spec.model_validate(values) for values in payload["specs"]]
    answer["canonical"] = [spec.canonical() for spec in specs]
    if payload["kind"] == "pools":
        before = heavy_modules()
        pool = target()
        entries = list(pool.entries(specs[0]))
        answer["entries"] = [entry.model_dump(mode="json") for entry in entries]
        answer["missing"] = [entry.id for entry in pool.missing(entries, specs[0])]
        answer["heavy_entries"] = [name for name in heavy_modules() if name not in before]
    return answer


def estimates(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the value and status of a measure on each of several problems, in this process; no problem, no status."""
    import torch

    from acutance.testing.measure_subject import evaluate_fresh

    torch.set_num_threads(payload["threads"])
    received(payload["files"])
    target = resolve(payload["target"])
    instance, answers = target(), []
    for pickled, values in payload["cases"]:
        try:
            problem = pickle.loads(pickled)
        except Exception as error:
            # A model of a test file, say: nothing that a measure could mend.
            answers.append([f"{type(error).__name__}: {error}", ""])
            continue
        spec = target.Spec.model_validate(values)
        estimate = evaluate_fresh(payload["id"], instance, problem, spec)
        answers.append([repr(estimate.value), estimate.status.value])
    return {"estimates": answers}


def answered(task: str, data: bytes) -> str:
    """Return the answer to a task as the line that is printed; whatever is raised is part of it."""
    try:
        if task == "declarations":
            answer = declarations(json.loads(data))
        elif task == "estimates":
            # Pickled by the process that started this one, a moment ago.
            answer = estimates(pickle.loads(data))
        else:
            from acutance.testing.jobs import observed_run

            answer = observed_run(json.loads(data))
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return f"\n{MARK}{json.dumps(answer)}"


def main(task: str) -> None:
    """Read the payload from the standard input, write the answer to the standard output."""
    print(answered(task, sys.stdin.buffer.read()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
