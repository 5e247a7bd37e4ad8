"""Fresh interpreters without the price of one: a process that has imported the libraries, and forks for each command.

A fork sees its own path, environment and folder, and no plugin that the tests have loaded. What asks for the cost of a start,
or for what is imported when, starts a real interpreter (``third_parties.python``, ``shell.shell``).
"""

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import SimpleNamespace

LIBRARIES = (
    "torch", "numpy", "pandas", "scipy.stats", "numba", "pydantic", "pluggy", "click", "rich.progress", "rich.table", "yaml",
    "jinja2", "matplotlib.figure", "matplotlib.backends.backend_pdf", "safetensors.torch", "acutance.run.harness",
    "acutance.run.outputs", "acutance.run.worker", "acutance.surface.open_model", "acutance.report.page.html",
)  # fmt: skip


@cache
def _server(owner):
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.stdin.close)
    assert process.stdout.readline() == "ready\n"
    return process


def run_forked(*arguments, env=None, cwd=None, timeout=300):
    """Run ``python ARGUMENTS`` (``-m acutance ...`` or ``-c CODE ...``) in a fork; return its exit code and what it printed."""
    server = _server(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        asked = {
            "arguments": [str(argument) for argument in arguments], "env": dict(env or os.environ),
            "cwd": str(cwd or Path.cwd()), "folder": folder, "timeout": timeout,
        }  # fmt: skip
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (Path(folder, name).read_text() for name in ("out", "err"))
    return SimpleNamespace(returncode=code, stdout=out, stderr=err)


def _command(arguments):
    what, *rest = arguments
    if what == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})


def _forked(asked, path):
    import signal
    import traceback

    for number, name in ((0, os.devnull), (1, f"{asked['folder']}/out"), (2, f"{asked['folder']}/err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    code = 1
    try:
        signal.alarm(asked["timeout"])
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        before = list(filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep)))
        sys.path[:] = [asked["cwd"], *before, *path]
        invalidate_caches()
        _command(asked["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def _serve():
    """Answer from the standard input until it ends."""
    given = {os.path.dirname(os.path.abspath(__file__)), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    path = [folder for folder in sys.path if folder not in given]
    for name in LIBRARIES:
        import_module(name)
    import torch

    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "w")
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            replies.close()
            _forked(json.loads(line), path)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=replies, flush=True)


if __name__ == "__main__":
    _serve()
