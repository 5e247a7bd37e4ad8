"""Fresh interpreters without the price of one: a process that has imported the libraries, and forks for each command.

``python_that_forks()`` is a program that is called as Python is. It hands its streams, arguments, environment and folder to
that process, a fork of which runs the command; it passes signals on to the fork, and ends as that ends. A fork sees its own
path, and no plugin that the tests have loaded; what it starts by ``sys.executable`` is a fork too. What asks for the cost of
a start, for what is imported when, or for groups of processes, starts a real interpreter (``third_parties.python``,
``shell.shell``, the marker ``real_workers``).
"""

import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module, invalidate_caches
from pathlib import Path

LIBRARIES = (
    "torch", "numpy", "pandas", "scipy.stats", "numba", "pydantic", "pluggy", "click", "rich.progress", "rich.table", "yaml",
    "jinja2", "matplotlib.figure", "matplotlib.backends.backend_pdf", "safetensors.torch", "acutance.run.harness",
    "acutance.run.outputs", "acutance.run.worker", "acutance.surface.open_model", "acutance.report.page.html",
)  # fmt: skip

# Stands in for the interpreter. An option that changes how Python runs is left to a real one.
PROGRAM = """#!{python} -SEs
import os, signal, socket, sys
given = sys.argv[1:]
while given and given[0] in ("-B", "-u"):
    del given[0]
if not given or (given[0].startswith("-") and given[0] not in ("-c", "-m")):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
texts = [os.fsencode(text) for text in (sys.argv[0], os.getcwd(), str(os.getppid()), str(len(given)), *given)]
message = b"\\0".join([*texts, *(name + b"=" + value for name, value in os.environb.items())])
socket.send_fds(line, [len(message).to_bytes(8, "big")], [0, 1, 2])
line.sendall(message)
pid = int.from_bytes(line.recv(8), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int.from_bytes(line.recv(8), "big", signed=True)
if code < 0:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


# -- who asks ---------------------------------------------------------------------------------------------------------


def run_forked(*arguments, env=None, cwd=None, timeout=300):
    """Run ``python ARGUMENTS`` in a fork; return its exit code and what it printed."""
    command = [python_that_forks(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=timeout)


def python_that_forks():
    """Return the path of a program that runs Python commands in forks of this process's server."""
    return _server(os.getpid())[0] if sys.platform == "linux" else sys.executable


@cache
def _server(owner):
    folder = Path(tempfile.mkdtemp(prefix="forks-"))
    program, address = folder / "python", folder / "address"
    # The shortest start there is: no site, no environment.
    program.write_text(PROGRAM.format(python=os.path.realpath(sys.executable), address=str(address)))
    program.chmod(0o755)
    # It ends when its standard input does: with this process, however that ends.
    server = subprocess.Popen(
        [sys.executable, __file__, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout.readline() == "ready\n"
    return str(program), server


# -- who forks --------------------------------------------------------------------------------------------------------


def _serve(folder):
    """Fork for everybody who asks at the address in this folder, until the standard input ends."""
    given = {os.path.dirname(os.path.abspath(__file__)), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    path = [entry for entry in sys.path if entry not in given]
    for name in LIBRARIES:
        import_module(name)
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/address")
        listener.listen(100)
        print("ready", flush=True)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
            line, _ = listener.accept()
            if not os.fork():
                listener.close()
                _attend(line, path)
            line.close()
            assert ready == [listener]
    shutil.rmtree(folder)


def _attend(line, path):
    """Have a fork do what is asked on this line, say how it ended; end it when nobody waits for that any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(line, 8, 3)
    request = b""
    while len(request) < int.from_bytes(length, "big"):
        request += line.recv(1 << 16)
    pid = os.fork()
    if not pid:
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(request.split(b"\0"), path)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    line.sendall(pid.to_bytes(8, "big"))
    end = os.pidfd_open(pid)
    if end not in select.select([line, end], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        line.sendall(code.to_bytes(8, "big", signed=True))
    os._exit(0)


def _run(request, path):
    """Be the interpreter that was asked for."""
    import atexit
    import threading
    import traceback

    program, folder, parent, count, *rest = (os.fsdecode(text) for text in request)
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        os.environ.clear()
        os.environ.update(text.partition("=")[::2] for text in rest[int(count) :])
        os.chdir(folder)
        os.getppid = lambda: int(parent)
        sys.executable = program
        before = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
        sys.path[:] = [folder, *before, *path]
        invalidate_caches()
        _command(rest[: int(count)])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = -signal.SIGINT
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # noqa: SLF001 - what an interpreter does at its end
        atexit._run_exitfuncs()  # noqa: SLF001
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        if code < 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        # What the server imported is not ended by its fork.
        os._exit(code)


def _command(arguments):
    what, *rest = arguments
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(what))
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
