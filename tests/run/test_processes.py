"""Processes that work for a run: no script is run twice, none outlives its driver, and how one ended is told."""

import json
import os
import pickle
import queue
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import python_that_forks

from acutance import UserError
from acutance.report.page.drawing import _error_frame, draw_apart
from acutance.report.page.figures import FigureKey
from acutance.run import executors
from acutance.run.executors import Processes, ProcessesSpec
from acutance.run.harness import run_study
from acutance.run.jobs import Lost, read_job, read_outcome, write
from acutance.study.config import load_config
from acutance.system.child import Child
from acutance.system.ending import in_order
from acutance.testing.jobs import toy_jobs

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.real_workers


@pytest.fixture
def hired():
    """Give a function that starts a child and returns it with a function that waits for what it tells."""
    crew = []

    def hire(target, name="a worker"):
        heard = queue.Queue()
        crew.append(Child(target, name, lambda *told: heard.put(told)))
        return crew[-1], lambda: heard.get(timeout=30)[1]

    yield hire
    for child in crew:
        child.kill()


def gone(pids, patience=10.0):
    """Whether none of these processes is there any more, or soon will be."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _runs(pid):
    try:
        # One that has ended may wait for its new parent to take note.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def working(*arguments, interpreter=sys.executable):
    """Start the script beside the tests in a process of its own: signals are no danger to this one."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ["PYTHONPATH"]])}
    return subprocess.Popen(
        [interpreter, TESTS / "working.py", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def wait_for(condition, patience=60.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- a child ------------------------------------------------------------------------------------------------


def test_a_child_answers_frames_and_what_it_prints_is_none(hired, capsys):
    child, heard = hired("working:echo")
    big = os.urandom(3_000_000)
    for frame in (b"abc", b"", big):
        child.send(frame)
        assert heard() == frame[::-1]
    child.kill()
    assert heard() is None
    assert "printed, not sent" in capsys.readouterr().err


def test_how_a_child_ended_is_told(hired):
    cases = {
        ("working:crash", b"SIGKILL"): r"a worker was killed (SIGKILL)",
        ("working:crash", b"SIGSEGV"): r"a worker crashed (SIGSEGV) in compiled code",
        ("working:fail", b"no disk"): r"LookupError: no disk",
        ("working:missing", b""): r"has no attribute 'missing'",
    }
    crew = {case: hired(case[0]) for case in cases}
    for (target, word), (child, heard) in crew.items():
        child.send(word)
        assert heard() is None
        assert cases[target, word] in child.ending()
        failed = target != "working:crash"
        assert child.failed == failed
        assert ("exit code 1; it said last: " in child.ending()) == failed


def test_workers_that_cannot_start_are_told_once(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with Processes(ProcessesSpec(workers=1)) as executor:
        monkeypatch.setattr(executors, "SERVE", "working:fail")
        job, lost = write(toy_jobs()[0]), []
        with pytest.raises(UserError, match=r"no worker can start: a worker process ended with exit code 1; .*Error"):
            while len(lost) < 9:
                lost += executor.run([job])
        told = read_outcome(lost[0])
        assert len(lost) == 2 and isinstance(told, Lost) and told.job == read_job(job).id


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_children_end_with_a_driver_that_is_killed_though_they_toil_in_compiled_code():
    with working("toilers") as driver:
        pids = [int(driver.stdout.readline()) for _ in range(2)]
        time.sleep(0.2)
        assert all(map(_runs, pids))
        driver.kill()
    assert gone(pids)


# -- SIGTERM and SIGHUP -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at"), [("SIGTERM", "measures"), ("SIGHUP", "figures and report")])
def test_a_run_that_is_told_to_end_stores_and_says_so(toy_config, tmp_path, name, at):
    ended = working("ends", name, at, json.dumps(toy_config), tmp_path, interpreter=python_that_forks())
    _, said = ended.communicate(timeout=120)
    assert ended.returncode == 128 + getattr(signal, name)
    assert said == f"ended by {name}: what was computed is stored; the same command goes on from there\n"
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        assert db.execute("SELECT state FROM run").fetchall() == [("interrupted",)]
        assert db.execute("SELECT count(*) FROM driver").fetchone() == (0,)


def test_signals_that_somebody_else_handles_or_ignores_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with in_order():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


# -- real scripts -------------------------------------------------------------------------------------------

PLAIN = """
import sys, torch, yaml, acutance
print("starts as", __name__, flush=True)
torch.set_num_threads(1)
config = yaml.safe_load(open(sys.argv[1]))
config["surface"]["loss"] = "beside:loss"
run = acutance.run(config, out=sys.argv[2], executor=sys.argv[3], report=False)
print("run", run.failed, flush=True)
torch.manual_seed(0)
class Net(torch.nn.Linear):
    pass
x, y = torch.randn(16, 4), torch.arange(16) % 3
run = acutance.study([Net(4, 3) for _ in range(5)], (x, y), {"t": range(5)},
                     [{"name": "average_case", "rho": [.1, .2, .3, .4, .5], "draws": 2}], surface={"m": 8}, out=sys.argv[2] + "2")
print("study", run.failed, run.report.exists(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_a_plain_script_without_a_main_guard_works(toy_config, tmp_path, executor):
    import yaml

    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "plain.py").write_text(PLAIN)
    (tmp_path / "script" / "beside.py").write_text(
        "import torch\ndef loss(logits, targets): return torch.nn.functional.cross_entropy(logits, targets)\n"
    )
    # Files like these stand beside many a script; what imports json must not meet them in a worker either.
    (tmp_path / "select.py").write_text("raise RuntimeError('imported by mistake')\n")
    toy_config |= {"pools": [{"name": "toy", "size": 2}], "groups": [], "measures": [{"name": "weight_norm"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(toy_config))
    command = [sys.executable, tmp_path / "script" / "plain.py", tmp_path / "study.yaml", tmp_path / "out", executor]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.stdout.splitlines() == ["starts as __main__", "run 0", "study 0 True"], done.stderr


class Odd(Exception):
    """Cannot be made again from its words alone, so it cannot travel."""

    def __init__(self, first, second):
        super().__init__("odd")


def test_what_drawing_raises_comes_back_and_a_drawing_process_that_dies_is_told(monkeypatch):
    keys = [FigureKey("tau", str(i)) for i in range(2)]
    found = draw_apart(SimpleNamespace(measures=()), keys, 2)
    assert list(found) == keys and all("has no attribute" in str(error) for error in found.values())
    assert pickle.loads(_error_frame(Odd(1, 2))).args == ("Odd: odd",)
    monkeypatch.setattr("acutance.report.page.drawing.SERVE", "working:fail")
    with pytest.raises(UserError, match=r"figures: a drawing process ended with exit code 1; .*the tables are written"):
        draw_apart(SimpleNamespace(measures=()), keys, 2)


def test_keys_that_are_equal_or_that_no_key_equals_end_drawing_and_what_cannot_be_sent_is_drawn_here():
    nothing = FigureKey("tau", float("nan"))
    keys = [FigureKey("tau", "a"), FigureKey("tau", "a"), nothing]
    found = draw_apart(SimpleNamespace(measures=()), keys, 1)
    assert len(found) == 2 and all("has no attribute" in str(error) for error in found.values())
    said = []
    found = draw_apart(SimpleNamespace(measures=(), odd=lambda: 0), keys, 2, said.append)
    assert len(found) == 2 and len(said) == 1 and said[0].startswith("figures are drawn by one process, since ")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kill_while_figures_are_drawn_leaves_no_process(toy_config, tmp_path):
    toy_config["pools"] = [{"name": "toy", "size": 4}]
    run_study(load_config(toy_config), tmp_path, report=False)
    code = (
        "import sys; from pathlib import Path; from acutance.run.outputs import report_data; "
        "from acutance.run.directory import RunDirectory; "
        "from acutance.report.page.figures import save_figures; "
        "d = Path(sys.argv[1]); save_figures(report_data(RunDirectory(d), {}), d / 'figures', 2)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path]) as driver:
        wait_for(lambda: len(children(driver.pid)) == 2 or driver.poll() is not None)
        pids = children(driver.pid)
        time.sleep(0.5)
        driver.kill()
    assert len(pids) == 2 and gone(pids)
