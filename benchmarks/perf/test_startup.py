"""Start-up: CPU seconds of `acutance --help` and `acutance list`."""

import resource
import subprocess
import sys

import pytest


def cpu(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "acutance", *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("verb", ["--help", "list"])
def test_start_up(benchmark, verb, ratios):
    times = []
    benchmark.pedantic(lambda: times.append(cpu([verb])), rounds=7, warmup_rounds=1)
    benchmark.extra_info.update(cpu_seconds=sorted(times)[len(times) // 2], bound_s=0.3)
    ratios[f"start-up {verb}"] = {"cpu_s": round(sorted(times)[len(times) // 2], 3), "bound": 0.3}
