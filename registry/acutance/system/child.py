"""Processes that work for this one, and never outlive it: frames of bytes in by stdin, frames of bytes out by stdout.

A child is a fresh interpreter with this one's search path, working folder and environment. It does not run the script
that the parent is, so a script needs no ``if __name__ == "__main__":``. When its parent is gone, however that ended,
its stdin ends; a thread that waits for nothing else then ends the child, whatever it is doing. On Linux the kernel sees
to it as well, which also ends one that is inside of compiled code for long.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import IO

from acutance.errors import UserError

Receive = Callable[[], bytes]
Send = Callable[[bytes], None]

LAST_LINES = 3  # of a child's stderr, quoted when it has died
CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")  # signals that a program brings upon itself
_LENGTH = 8  # bytes before each frame
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


class Child:
    """A process that runs ``module:function``, which is called with ``receive`` and ``send``.

    Args:
        target: the function; it gets frames by ``receive()`` and answers by ``send(frame)``.
        name: what it is called in messages.
        on_frame: called from other threads with this child and each frame that it sends, with None when it has ended.
        variables: of its environment, beside this process's own.
    """

    def __init__(
        self, target: str, name: str, on_frame: Callable[[Child, bytes | None], None],
        variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name, self._on_frame = name, on_frame
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        # A death signal follows the thread that started a child, and other threads may end before the process does.
        dies_with = threading.current_thread() is threading.main_thread()
        # The path is set before anything is imported: a file beside the script may be called like a module.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from acutance.system.child import main; "
            f"main({target!r}, {os.getpid()}, {dies_with})"
        )
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [_interpreter(), *flags, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe,
            env={**os.environ, **(variables or {})},
        )  # fmt: skip
        self._readers = [threading.Thread(target=task, daemon=True) for task in (self._read_frames, self._relay_stderr)]
        for thread in (*self._readers, threading.Thread(target=self._await_end, daemon=True)):
            thread.start()

    def send(self, frame: bytes) -> None:
        """Send a frame; one to a child that has died is lost, which ``on_frame`` is told."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            _write(self.process.stdin, frame)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        for thread in self._readers:
            # One that writes to stderr while the interpreter is taken down would end that with an error.
            thread.join(1.0)
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def ending(self) -> str:
        """Return in a sentence how it ended (exit code, crash or kill), with the last lines of its stderr."""
        code = self.process.wait()
        tail = f"; it said last: {' / '.join(self._last_lines)}" if self._last_lines else ""
        if code >= 0:
            return f"{self.name} ended with exit code {code}{tail}"
        try:
            number = signal.Signals(-code).name
        except ValueError:
            number = f"signal {-code}"
        if number in CRASHES:
            return f"{self.name} crashed ({number}) in compiled code{tail}"
        return f"{self.name} was killed ({number})"

    @property
    def failed(self) -> bool:
        """Whether it ended by an error of its own, neither killed nor crashed."""
        return (self.process.poll() or 0) > 0

    def _read_frames(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            while (frame := _read(stream)) is not None:
                self._on_frame(self, frame)

    def _relay_stderr(self) -> None:
        """Write its stderr to this process's own, and keep the last lines."""
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                text = line.decode(errors="replace")
                if text.strip():
                    self._last_lines.append(text.strip())
                with suppress(OSError, ValueError, AttributeError):
                    sys.stderr.write(text)

    def _await_end(self) -> None:
        """Tell ``on_frame`` that it has ended, once all that it sent has been read."""
        self.process.wait()
        for thread in self._readers:
            # Processes that it started in turn may hold its pipes open.
            thread.join(1.0)
        self._on_frame(self, None)


def _interpreter() -> str:
    """Return the interpreter that children run in.

    Raises:
        UserError: inside of another program, which has none.
    """
    if not sys.executable:
        raise UserError("this program has no interpreter that could run workers", "use executor serial")
    return sys.executable


def main(target: str, parent: int, dies_with: bool) -> None:
    """Be a child: run ``target`` on frames from stdin until the parent is gone."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Whatever prints or reads here must not meet the frames.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for name in ("SIGINT", "SIGHUP"):
        # They reach the whole group of processes; the parent decides what ends and what is kept.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if dies_with:
        _die_with(parent)
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive_frames, args=(source, frames), daemon=True).start()
    module, _, function = target.partition(":")

    def send(frame: bytes) -> None:
        try:
            _write(sink, frame)
        except OSError:
            os._exit(0)  # nobody listens any more

    getattr(import_module(module), function)(frames.get, send)


def _die_with(parent: int) -> None:
    """Let the kernel end this process with its parent, where it can."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
        if os.getppid() != parent:  # it ended before
            os._exit(0)


def _receive_frames(source: IO[bytes], frames: queue.SimpleQueue[bytes]) -> None:
    while (frame := _read(source)) is not None:
        frames.put(frame)
    # Nothing here needs an orderly end: files are written beside and moved.
    os._exit(0)


def _write(stream: IO[bytes], frame: bytes) -> None:
    stream.write(len(frame).to_bytes(_LENGTH, "big"))
    stream.write(frame)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """Return the next frame, or None at the end; half a frame is the end too."""
    head = stream.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    length = int.from_bytes(head, "big")
    frame = stream.read(length)
    return frame if len(frame) == length else None
