"""The check of a GPU: its steps are real, and end within their time."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks/gpu_check.py")
gpu_check = importlib.util.module_from_spec(spec)
sys.modules["gpu_check"] = gpu_check
spec.loader.exec_module(gpu_check)


class Clock:
    """Seconds that pass when a step runs."""

    def __init__(self, takes):
        self.takes, self.time, self.limits = takes, 0.0, []

    def __call__(self):
        return self.time

    def run(self, arguments, limit):
        name = arguments[0]
        self.limits.append((name, limit))
        seconds, status = self.takes[name]
        self.time += min(seconds, limit)
        return (None if seconds > limit else status), "first\nlast\n"


def test_steps_end_within_their_time_and_none_begins_that_cannot(capsys):
    clock = Clock({"a": (10, 0), "b": (500, 0), "c": (30, 1), "d": (1, 0)})
    steps = [gpu_check.Step(name, (name,), limit) for name, limit in (("a", 50), ("b", 60), ("c", 100), ("d", 10))]
    found = gpu_check.check(steps, 110, clock.run, clock)
    assert [(o.name, o.status, o.seconds) for o in found] == [
        ("a", "passed", 10), ("b", "out of time", 60), ("c", "failed", 30), ("d", "not begun", 0),
    ]  # fmt: skip
    assert clock.limits == [("a", 50), ("b", 60), ("c", 40)] and found[-1].said == "10 s were left"
    assert "out of time" in capsys.readouterr().out


def test_the_steps_name_files_that_are_there_and_fit_into_eight_minutes():
    for step in gpu_check.STEPS:
        assert (ROOT / step.arguments[0]).exists(), step
        assert step.least <= step.limit <= 480
    assert gpu_check.STEPS[0].name == "tests" and "gpu" in gpu_check.STEPS[0].arguments


def test_a_step_that_hangs_is_ended_with_its_children(tmp_path):
    (tmp_path / "test_hangs.py").write_text("import time\ndef test(): time.sleep(60)\n")
    arguments = (str(tmp_path / "test_hangs.py"), "-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "none.ini"))
    (tmp_path / "none.ini").write_text("[pytest]\n")
    status, _ = gpu_check.ran(arguments, 8.0)
    assert status is None


def test_without_a_gpu_nothing_is_checked_and_an_unknown_step_is_named(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert gpu_check.main() == 2 and "no CUDA device" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--only", "replays"])
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert "no step is called 'replays'" in capsys.readouterr().err
