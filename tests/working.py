"""What children of the tests run; used by core/test_processes.py."""

import os
import signal
import sys


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
    """Never return to the interpreter: one product of long numbers, which holds its lock."""
    send(str(os.getpid()).encode())
    10 ** (10**9)


def with_toilers():
    from acutance.child import Child

    def told(child, frame):
        print(frame.decode(), flush=True)

    crew = [Child("working:toil", "a worker", told) for _ in range(2)]
    for child in crew:
        child.process.wait()


if __name__ == "__main__":
    with_toilers()
