"""The command line, as a shell starts it and in this process."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

from acutance.cli import main


def shell(*arguments, code=0, **options):
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "acutance", *map(str, arguments)], capture_output=True, text=True, timeout=200, **options
    )
    return _ended(done.returncode, done.stdout, done.stderr, code)


def cli(*arguments, code=0):
    """Run the command line here: what a shell adds is a new interpreter, and seconds to start it."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    return _ended(end.value.code, out.getvalue(), err.getvalue(), code)


def _ended(code, out, err, wanted):
    assert code == wanted, (code, out, err)
    assert "Traceback" not in err
    return SimpleNamespace(stdout=out, stderr=err)
