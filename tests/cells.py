"""The code cells of an executed page, run in one interpreter as the site's kernel runs them, but for what it displays.

python tests/cells.py docs/tutorials/PAGE.md    prints what each cell gives, in an empty folder
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CELL = re.compile(r"^```\{code-cell\}[^\n]*\n((?::[^\n]*\n)*)(.*?)^```", re.M | re.S)
MAGIC = re.compile(r"%%(\w+)(?: +(\S+))?\n(.*)", re.S)


def cells(page: Path) -> list[str]:
    """Return the sources of the code cells of a page."""
    return [source for _, source in CELL.findall(page.read_text())]


def run_cell(source: str, scope: dict) -> object:
    """Run one cell in the current folder, and return the value of its last line where that is an expression.

    Raises:
        subprocess.CalledProcessError: for commands that end with an error.
    """
    if magic := MAGIC.match(source):
        name, argument, body = magic.groups()
        if name == "writefile":
            Path(argument).write_text(body)
        elif name == "bash":
            subprocess.run(["bash", "-c", body], check=True)
        else:
            raise ValueError(f"%%{name}: no magic that pages use")
        return None
    *lines, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        lines, last = [*lines, last], None
    exec(compile(ast.Module(lines, []), "<cell>", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope) if last else None


def run(page: Path) -> dict:
    """Run all cells of a page in the current folder, from which they may import, and return their names."""
    scope: dict = {"__name__": "cells"}
    for source in cells(page):
        run_cell(source, scope)
    return scope


if __name__ == "__main__":
    page = Path(sys.argv[1]).resolve()
    scope = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.path.insert(0, "")
        os.environ["MPLBACKEND"] = "agg"
        for source in cells(page):
            print("-" * 80, source, sep="\n", flush=True)
            print("=>", run_cell(source, scope), flush=True)
