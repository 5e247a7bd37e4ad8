"""Ratios to the bare passes, interleaved in one run; written to benchmarks/results/ratios.json with --record."""

import json
import platform
import statistics
import time
from pathlib import Path

import pytest
import torch

RESULTS = Path(__file__).parents[1] / "results"


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="write the ratios to benchmarks/results/ratios.json")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ratios(request):
    found = {}
    yield found
    if request.config.getoption("--record") and found:
        from acutance.environment import processor

        about = {
            "processor": processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": 1,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "ratios.json").write_text(json.dumps({"machine": about, "ratios": found}, indent=1) + "\n")


@pytest.fixture
def compare(benchmark, ratios, request):
    """Time ``work`` with pytest-benchmark and, in turn with it, ``bare``; keep the ratio of the medians."""

    def run(work, bare, rounds, bound):
        work(), bare()
        times = {"work": [], "bare": []}

        def both():
            for name, function in (("bare", bare), ("work", work)):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)

        benchmark.pedantic(both, rounds=rounds, iterations=1)
        ratio = statistics.median(times["work"]) / statistics.median(times["bare"])
        row = {
            "work_ms": 1e3 * statistics.median(times["work"]),
            "bare_ms": 1e3 * statistics.median(times["bare"]),
            "ratio": ratio,
            "bound": bound,
        }
        benchmark.extra_info.update(row)
        ratios[request.node.name] = {key: round(value, 3) for key, value in row.items()}
        print(f"\n{request.node.name}: {ratio:.3f} of the bare passes (bound {bound})")

    return run
