"""What children of the tests run; used by run/test_processes.py."""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path


def echo(receive, send):
    while True:
        frame = receive()
        print("printed, not sent", input_or_nothing())
        send(frame[::-1])


def input_or_nothing():
    return sys.stdin.read()


def crash(receive, send):
    os.kill(os.getpid(), getattr(signal, receive().decode()))


def fail(receive, send):
    raise LookupError(receive().decode())


def toil(receive, send):
    """Stay inside of compiled code, which holds the interpreter's lock, for a minute."""
    send(str(os.getpid()).encode())
    ctypes.PyDLL(None).sleep(60)


def with_toilers():
    from acutance.system.child import Child

    def told(child, frame):
        print(frame.decode(), flush=True)

    crew = [Child("working:toil", "a worker", told) for _ in range(2)]
    for child in crew:
        child.process.wait()


def told_to_end(name, at, config, out):
    """Run a study that gets this signal at such a stage, in a process where nobody handles it otherwise."""
    from acutance.run.harness import run_study
    from acutance.study.config import load_config
    from acutance.system.progress import Silent

    class Ending(Silent):
        def stage(self, name, total, items):
            self.say(name)

        def say(self, text):
            if text.startswith(at):
                signal.raise_signal(number)

    number = getattr(signal, name)
    signal.signal(number, signal.SIG_DFL)
    try:
        run_study(load_config(json.loads(config)), Path(out), reporter=Ending())
    finally:
        assert signal.getsignal(number) is signal.SIG_DFL


if __name__ == "__main__":
    {"toilers": with_toilers, "ends": told_to_end}[sys.argv[1]](*sys.argv[2:])
