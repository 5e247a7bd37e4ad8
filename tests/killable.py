"""A process that runs studies in copies of itself, which are killed at a chosen transaction; used by run/test_faults.py.

It does nothing itself, so that it has no threads whose locks a copy would inherit.
"""

import json
import os
import signal
import sys

from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.config import load_config


def run_until(config, out, commit, before):
    """Run; at the n-th transaction the process is killed, before or after it is written."""
    count, write = 0, Store.transaction

    class Counting:
        def __init__(self, store):
            self.inner = write(store)

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *error):
            nonlocal count
            count += 1
            if count == commit and before:
                os.kill(os.getpid(), signal.SIGKILL)
            self.inner.__exit__(*error)
            if count == commit:
                os.kill(os.getpid(), signal.SIGKILL)

    Store.transaction = lambda store: Counting(store)
    run_study(load_config(config), out, report=False)


def main():
    import torch

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            code = 1
            try:
                run_until(**job)
                code = 0
            finally:
                os._exit(code)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
