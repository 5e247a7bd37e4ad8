"""Run a study and print the wall seconds of its stage ``measures``: ``python stage_seconds.py FOLDER < config``.

By itself, because the plugins of these studies must not be installed where every registered measure is timed. The
stage ``targets`` comes before: workers are up by then, and have opened the data.
"""

import json
import sys
import time

from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.system.progress import Silent


class Clock(Silent):
    """Keeps when the last stage began, and when something was last stored."""

    def stage(self, name, total, cells):
        self.name, self.began, self.cells = name, time.perf_counter(), 0

    def advance(self, amount, cells):
        self.ended, self.cells = time.perf_counter(), self.cells + cells


def main():
    clock = Clock()
    config = json.load(sys.stdin)
    run = run_study(load_config(config), sys.argv[1], device="cpu", reporter=clock, report=False)
    assert clock.name == "measures" and not run.failed
    print(json.dumps({"seconds": clock.ended - clock.began, "cells": clock.cells}))


if __name__ == "__main__":
    main()
