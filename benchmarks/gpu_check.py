"""Everything that only a GPU can show, in one run of less than eight minutes: tests first, then what is timed.

    make gpu-check                  # or python benchmarks/gpu_check.py [--seconds 480] [--only tests,replay]

Each step is a process with a time limit of its own, and none begins that the time left cannot hold. Figures are written to
``benchmarks/results/<machine>/`` as they come, ``gpu_check.json`` there says what was run and how it ended. The exit
status is 1 where a test failed or a bound was missed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BENCH = ("-q", "-o", "addopts=--import-mode=importlib", "--benchmark-only", "--record", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Step:
    """A process of the check.

    Attributes:
        name: what it is called.
        arguments: of pytest.
        limit: seconds after which it is ended.
        least: seconds without which it is not begun.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float
    least: float = 20.0


def bench(name: str, file: str, select: str, models: str, limit: float, seconds: float = 1.0) -> Step:
    """Return a step that times some cases of a file of benchmarks."""
    chosen = ("-k", select) + (("--models", models) if models else ())
    return Step(name, (f"benchmarks/perf/{file}", *BENCH, *chosen, "--seconds", str(seconds)), limit)


STEPS = (
    Step("tests", ("tests/gpu", "-q", "-m", "gpu", "-n", "8", "--maxprocesses", "14", "-p", "no:cacheprovider"), 150),
    bench("passes", "test_measures.py", "cuda and (average_case or worst_case or hessian_t or gradient_norm)",
          "mlp,cnn,vit", 90),
    bench("language", "test_language_models.py", "cuda", "", 60),
    bench("replay", "test_cuda_graphs.py", "test_replayed and cuda", "mlp,cnn", 60),
    bench("grid", "test_grid.py", "test_average_case and cuda", "mlp,cnn", 60),
    bench("whole grid", "test_cuda_graphs.py", "test_the_whole_grid and cuda", "", 240),
)  # fmt: skip


@dataclass
class Outcome:
    """How a step ended: ``passed``, ``failed``, ``out of time`` or ``not begun``."""

    name: str
    status: str
    seconds: float
    said: str = ""


Run = Callable[[Sequence[str], float], tuple[int | None, str]]


def ran(arguments: Sequence[str], limit: float) -> tuple[int | None, str]:
    """Run pytest; return its exit status, None where time ran out, and its last lines."""
    paths = [str(ROOT / "registry"), str(ROOT / "plugins"), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with the workers that it has started
        out, _ = process.communicate()
        return None, out
    return process.returncode, out


def check(
    steps: Sequence[Step], seconds: float, run: Run = ran, now: Callable[[], float] = time.monotonic
) -> list[Outcome]:
    """Run steps one after the other, as far as the time holds them.

    Args:
        steps: in their order.
        seconds: for all of them.
        run: gives exit status and output of a step.
        now: a clock, in seconds.
    """
    end, outcomes = now() + seconds, []
    for step in steps:
        start = now()
        left = end - start
        if left < step.least:
            outcomes.append(Outcome(step.name, "not begun", 0.0, f"{max(left, 0):.0f} s were left"))
            continue
        status, out = run(step.arguments, min(step.limit, left))
        words = {0: "passed", None: "out of time"}.get(status, "failed")
        outcomes.append(Outcome(step.name, words, now() - start, "\n".join(out.strip().splitlines()[-15:])))
        print(f"{step.name:<12} {words:<12} {outcomes[-1].seconds:6.0f} s\n{outcomes[-1].said}\n", flush=True)
    return outcomes


def main() -> int:
    """Run the check, and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480.0, help="for all steps together")
    parser.add_argument("--only", default="", help=f"names of steps: {', '.join(step.name for step in STEPS)}")
    options = parser.parse_args()
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := set(names) - {step.name for step in STEPS}:
        parser.error(f"--only: no step is called '{min(unknown)}'")
    import torch

    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was checked", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT / "benchmarks/perf"))
    from tracking import results
    from tracking.machine import machine

    outcomes = check([step for step in STEPS if not names or step.name in names], options.seconds)
    folder = results.FOLDER / machine()["id"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    for outcome in outcomes:
        print(f"{outcome.name:<12} {outcome.status:<12} {outcome.seconds:6.0f} s")
    return int(any(outcome.status != "passed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
