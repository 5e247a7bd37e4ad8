"""Fresh processes without the price of one: a fresh interpreter that has imported torch, and forks for each task.

What a fork sees is what a new process sees: none of the state of the process that asks, and no plugin yet.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from importlib import import_module, invalidate_caches
from typing import IO, Any, NamedTuple

from acutance.testing.child import answered

RUNNING = (
    "acutance.testing.child", "acutance.testing.measure_subject", "acutance.testing.problems", "acutance.testing.jobs",
)  # fmt: skip
# What each task finds imported already. Declarations are about what importing a plugin imports: nothing heavy.
PRELOADED = {
    "declarations": ("acutance.testing.child", "acutance.plugins", "acutance.pool", "acutance.measure"),
    "estimates": RUNNING,
    "jobs": RUNNING,
}
LATE = -14  # exit code of a process that SIGALRM ended
WIDTH = 8  # bytes that say how long a message is


class Ended(NamedTuple):
    """How a process ended, and what it wrote."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Server:
    """An interpreter that forks for each task; it ends with the process that started it.

    Args:
        preload: modules that it imports before the first task.
        env: its environment; the hash seed cannot be changed after the start.
    """

    def __init__(self, preload: tuple[str, ...], env: dict[str, str]) -> None:
        command = [sys.executable, "-m", __name__, *preload]
        # In a session of its own: what a terminal sends to the one that asks ends that one, and with it this one.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
            start_new_session=True,
        )  # fmt: skip
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        """End the server, which waits for nothing but a task."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Id of the server's process."""
        return self._process.pid

    def run(self, task: str, payload: bytes, env: dict[str, str], path: list[str], timeout: int) -> Ended:
        """Return how a fork with this environment and these folders to import from ended.

        Raises:
            ConnectionError: when the server is gone.
        """
        assert self._process.stdin and self._process.stdout
        with self._lock:
            send(self._process.stdin, (task, payload, env, path, os.getcwd(), timeout))
            return Ended(*receive(self._process.stdout))


def send(stream: IO[bytes], message: Any) -> None:
    """Write a message with its length before it."""
    data = pickle.dumps(message)
    stream.write(len(data).to_bytes(WIDTH) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Return the next message.

    Raises:
        ConnectionError: when the other end is closed.
    """
    length = stream.read(WIDTH)
    data = stream.read(int.from_bytes(length)) if len(length) == WIDTH else b""
    if not data:
        raise ConnectionError("the server of fresh processes has ended")
    return pickle.loads(data)


@cache
def _server_of(preload: tuple[str, ...], hash_seed: str, owner: int) -> Server:
    """Return the one server of the process ``owner``: a fork of it gets its own."""
    return Server(
        preload, {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )


def forked(task: str, payload: bytes, env: dict[str, str], path: list[str], timeout: int) -> Ended:
    """Return how a task ended in a fork of this process's server, which is started when first needed.

    Args:
        task: one of ``PRELOADED``.
        payload: for ``acutance.testing.child.answered``.
        env: the environment of the fork.
        path: folders that it imports from.
        timeout: seconds, after which it is killed by SIGALRM.
    """
    which = PRELOADED[task], env["PYTHONHASHSEED"], os.getpid()
    try:
        return _server_of(*which).run(task, payload, env, path, timeout)
    except ConnectionError:
        # Something ended the server (want of memory, say): a new one is asked, and if that dies too it is told.
        _server_of.cache_clear()
        return _server_of(*which).run(task, payload, env, path, timeout)


def serve(preload: list[str]) -> None:
    """Answer from the standard input to the standard output, until the first ends."""
    for module in preload:
        import_module(module)
    asked, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    while True:
        try:
            request = receive(asked)
        except ConnectionError:
            return
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                _answer(request, out, err)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            for stream in (out, err):
                stream.seek(0)
            send(replies, (code, out.read(), err.read()))


def _answer(request: tuple[str, bytes, dict[str, str], list[str], str, int], out: IO[bytes], err: IO[bytes]) -> None:
    """Do the task in this fork, and end it as an interpreter ends."""
    task, payload, env, path, folder, timeout = request
    code = 1
    try:
        signal.alarm(timeout)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        sys.path[:] = path
        invalidate_caches()

        print(answered(task, payload), flush=True)
        code = 0
    finally:
        sys.stderr.flush()
        # Not sys.exit: what the server imported must not be ended by its fork.
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1:])
