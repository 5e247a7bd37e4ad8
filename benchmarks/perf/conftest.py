"""Options, and the fixtures that time work beside bare work, record it, and compare it with what is committed."""

import os
import statistics
import sys
import time
from pathlib import Path

# One thread for everything, before any of the libraries is imported.
os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
# The profiler that counts memory must not write about GPUs that are not there.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")
# The helpers beside the benchmarks; importlib mode does not put this folder on the path.
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
from tracking import comparison, results
from tracking.machine import machine
from tracking.networks import NETWORKS

from acutance.system.memory import keep_freed

REPEATS = 2  # how often a case that is slower than the committed one is timed again before it fails


def pytest_addoption(parser):
    group = parser.getgroup("acutance")
    group.addoption("--record", action="store_true", help="write the figures to benchmarks/results/<machine>")
    group.addoption("--compare", action="store_true", help="fail on what is worse than the committed figures")
    group.addoption("--models", default="", help="networks to time, e.g. mlp,vit; all of them by default")
    group.addoption("--results", default=str(results.FOLDER), help="folder of the committed figures")
    group.addoption(
        "--grid", type=int, default=3, help="points on a side of the landscape of the ResNet; 41 takes hours"
    )
    group.addoption("--seconds", type=float, default=8.0, help="seconds to spend on the rounds of one case")


def wanted(config):
    """Return the names given with ``--models``."""
    return [name for name in config.getoption("--models").split(",") if name]


def pytest_configure(config):
    torch.set_num_threads(1)
    keep_freed()  # as the processes of a run do
    torch.backends.cudnn.allow_tf32 = False  # as a surface does, so that both sides compute the same
    if unknown := [name for name in wanted(config) if name not in NETWORKS]:
        raise pytest.UsageError(f"--models: unknown network '{unknown[0]}'; known: {', '.join(NETWORKS)}")
    config.stash[RUN] = Figures(config)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(machine())
    machine_info["node"] = machine_info["id"]  # a host's name is nobody's business


def pytest_generate_tests(metafunc):
    if "network" in metafunc.fixturenames:
        chosen = [NETWORKS[name] for name in wanted(metafunc.config) or NETWORKS]
        metafunc.parametrize("network", chosen, ids=lambda network: network.name, scope="session")
    if "device" in metafunc.fixturenames:
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        metafunc.parametrize("device", devices, scope="session")


class Figures:
    """The figures of this run and the committed ones of this machine."""

    def __init__(self, config):
        self.folder = Path(config.getoption("--results"))
        self.about = machine()
        self.record, self.comparing = config.getoption("--record"), config.getoption("--compare")
        committed = results.read(self.folder, self.about["id"])
        self.known = committed is not None
        self.versions = committed["machine"] if committed else {}
        self.old = committed["cases"] if committed else {}
        self.new = {}
        whole = [Path(argument).resolve() for argument in config.args] == [Path(__file__).parent]
        self.complete = whole and not any(config.getoption(name) for name in ("--models", "keyword", "markexpr"))

    def add(self, case, row):
        """Take a row; fail its test when it is worse than the committed one."""
        self.new[case] = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        if self.comparing and (found := comparison.compare({case: row}, self.old, complete=False).failures):
            pytest.fail(f"{case}: " + "; ".join(found[case]), pytrace=False)

    def slower(self, case, row):
        """Return whether a row is slower than the committed one."""
        return self.comparing and case in self.old and bool(comparison.slower(row, self.old[case]))

    def closing(self):
        """Return what to say, and do, at the end of the run."""
        if self.record and self.new:
            yield results.write(self.folder, self.about, self.new, self.complete)
        if self.comparing and not self.known:
            yield f"no figures of this machine ({self.about['id']}) are committed: record them with make bench"
        elif self.comparing:
            found = comparison.compare(self.new, self.old, self.complete)
            changed = [n for n in results.VERSIONS if self.versions.get(n) != self.about[n]]
            yield from (
                f"{n} is {self.about[n]}, was {self.versions.get(n)}: a difference may come from it" for n in changed
            )
            yield from (f"note: {note}" for note in found.notes)
            yield from (f"WORSE: {case}: {'; '.join(faults)}" for case, faults in found.failures.items())
            yield f"{len(found.failures)} of {len(self.new)} cases are worse than committed for {self.about['id']}"


RUN = pytest.StashKey[Figures]()


def pytest_terminal_summary(terminalreporter, config):
    lines = list(config.stash[RUN].closing())
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def case(request):
    """Name of the case: file and test, as pytest takes it after ``benchmarks/perf/``."""
    return f"{request.path.name}::{request.node.name}"


@pytest.fixture
def budget(request):
    """Seconds to spend on the rounds of one case."""
    return request.config.getoption("--seconds")


@pytest.fixture
def figure(benchmark, case, request):
    """Keep a row of facts, beside the case's time in pytest-benchmark's own JSON."""

    def keep(**row):
        benchmark.extra_info.update(row)
        if not benchmark.disabled:
            request.config.stash[RUN].add(case, row)

    return keep


@pytest.fixture
def say(request):
    """Write a line at once, past the capture of what the libraries print."""
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def write(line):
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(line)

    return write


@pytest.fixture
def timed(benchmark, case, figure, say, request):
    """Time ``work`` alone, in CPU seconds or in the seconds that it returns; keep the median."""

    def run(work, rounds, bound=None, **facts):
        seconds = []

        def once():
            start = time.process_time()
            own = work()
            seconds.append(own if isinstance(own, float) else time.process_time() - start)

        benchmark.pedantic(once, rounds=rounds, iterations=1)
        row = {"seconds": statistics.median(seconds), "bound": bound, "rounds": len(seconds), **facts}
        for _ in range(REPEATS):
            if benchmark.disabled or not request.config.stash[RUN].slower(case, row):
                break
            for _ in range(rounds):
                once()
            row |= {"seconds": statistics.median(seconds[-rounds:]), "rounds": len(seconds)}
        say(f"{case}: {row['seconds']:.3g} s" + (f" (bound {bound} s)" if bound else ""))
        figure(**row)

    return run


@pytest.fixture
def compare(benchmark, case, figure, say, request):
    """Time ``work`` with pytest-benchmark and, in turn with it, ``bare``; keep the ratio of their fastest rounds.

    A case that is slower than the committed one is timed again, twice at most, and all rounds count: the
    fastest round is what the code can do, everything slower is what else the machine did. The clock is the
    CPU time of the process, which has one thread; give ``time.perf_counter`` where another device works.
    """

    def run(work, bare, rounds, bound, seconds=time.process_time, against="the bare passes", **facts):
        times = {"work": [], "bare": []}

        def clock(name, function):
            start = seconds()
            function()
            times[name].append(seconds() - start)

        def row():
            fastest = {name: min(values) for name, values in times.items()}
            return {
                "ratio": fastest["work"] / fastest["bare"],
                "bound": bound,
                "work_ms": 1e3 * fastest["work"],
                "bare_ms": 1e3 * fastest["bare"],
                "rounds": len(times["work"]),
                **facts,
            }

        if rounds > 1:  # work so long that one round is enough needs no warming up
            bare()
        # The bare passes are made in the setup of every round, which pytest-benchmark does not time.
        benchmark.pedantic(
            lambda: clock("work", work), setup=lambda: clock("bare", bare), rounds=rounds, iterations=1, warmup_rounds=0
        )
        for _ in range(REPEATS):
            if benchmark.disabled or not request.config.stash[RUN].slower(case, row()):
                break
            for _ in range(rounds):
                clock("bare", bare)
                clock("work", work)
        found = row()
        say(f"{case}: {found['ratio']:.3f} of {against}" + (f" (bound {bound:.3g})" if bound else ""))
        figure(**found)

    return run
