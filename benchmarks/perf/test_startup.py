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
def test_start_up(timed, verb):
    cpu([verb])
    timed(lambda: cpu([verb]), rounds=7, bound=0.3)
