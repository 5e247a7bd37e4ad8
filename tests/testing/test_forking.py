"""Forks of a fresh interpreter answer as interpreters started for the question do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acutance.testing import forking, processes
from acutance.testing.processes import ask

pytestmark = pytest.mark.skipif(not processes.FORKS, reason="fresh interpreters are started here, not forked")
AVERAGE = {
    "modules": ["acutance_average_case.measure"], "target": "acutance_average_case.measure:AverageCase", "kind": "measures",
    "specs": [{"rho": 0.1}], "files": [],
}  # fmt: skip
# A pool whose entries are what its process is: nothing that a conforming pool does.
PEEKING = """
import os, sys
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec

class Peeking(ModelPool):
    Spec = Spec
    def entries(self, spec):
        print("a plugin that prints")
        seen = {"hash": str(hash("a")), "folder": os.getcwd(), "variable": os.environ.get("PEEKING", ""),
                "torch": "torch" in sys.modules, "path": __file__, "pid": os.getpid()}
        if os.environ.get("PEEKING") == "dies":
            os.kill(os.getpid(), 9)
        return [ModelEntry(id="m", architecture="none", attributes=seen)]
"""


@pytest.fixture
def peeking(tmp_path, monkeypatch):
    (tmp_path / "peeking.py").write_text(PEEKING)
    monkeypatch.chdir(tmp_path)
    payload = {"modules": ["peeking"], "target": "peeking:Peeking", "kind": "pools", "specs": [{}], "files": []}

    def seen(forks=True):
        monkeypatch.setattr(processes, "FORKS", forks)
        (entry,) = ask("declarations", json.dumps(payload).encode(), [str(tmp_path)])["entries"]
        return entry["attributes"]

    return seen


def test_the_answer_is_that_of_an_interpreter_started_for_it(monkeypatch):
    forked = ask("declarations", json.dumps(AVERAGE).encode())
    monkeypatch.setattr(processes, "FORKS", False)
    assert ask("declarations", json.dumps(AVERAGE).encode()) == forked and forked["heavy"] == {
        "acutance_average_case.measure": []
    }


def test_a_fork_has_the_surroundings_of_the_one_that_asks_and_nothing_of_its_memory(peeking, monkeypatch, tmp_path):
    monkeypatch.setenv("PEEKING", "yes")
    forked, started = peeking(), peeking(forks=False)
    assert forked.pop("pid") != started.pop("pid")
    assert forked == started and forked["variable"] == "yes" and forked["folder"] == str(tmp_path)
    assert not forked["torch"] and forked["hash"] != str(hash("a"))


def test_what_dies_or_hangs_is_told_and_the_next_is_answered(peeking, monkeypatch):
    monkeypatch.setenv("PEEKING", "dies")
    with pytest.raises(AssertionError, match="died with exit code -9"):
        peeking()
    monkeypatch.setenv("PEEKING", "")
    assert peeking()["variable"] == ""
    monkeypatch.setattr(processes, "TIMEOUT", 1)
    Path("peeking.py").write_text("import time; time.sleep(60)")
    with pytest.raises(AssertionError, match="did not answer in 1 s"):
        peeking()


def test_a_server_that_was_ended_is_started_again(peeking):
    assert peeking()
    server = forking._server_of(forking.PRELOADED["declarations"], "12345", os.getpid())
    os.kill(server.pid, signal.SIGKILL)
    server._process.wait()
    assert peeking()


def test_the_server_ends_with_the_process_that_started_it():
    code = (
        "import os; from acutance.testing import forking; "
        "print(forking._server_of(('json',), '1', os.getpid()).pid, flush=True); os._exit(0)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
