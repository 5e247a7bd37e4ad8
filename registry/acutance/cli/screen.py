"""What is printed: names as texts, tables within the width of the terminal, a reader that goes away."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from acutance.analysis.text import visible

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 150  # characters in a line where output goes to no terminal and COLUMNS is unset
NARROWEST = 12  # characters in a line of a folded name


class _Pipe(io.FileIO):
    """A stream whose reader may have gone, or whose device may be full: what is written then is dropped."""

    gone = False

    def write(self, data: Any) -> int:
        if not self.gone:
            try:
                return super().write(data) or 0
            except BrokenPipeError:
                self.gone = True
            except OSError as error:
                self.gone = True
                FAILURES.append(error)
        return len(memoryview(data))


FAILURES: list[OSError] = []  # of writing to the process's own streams; the first is raised when the verb has ended


def escape_output() -> None:
    """Make the process's own output end quietly with its reader, and write what it cannot encode as escapes.

    A verb goes on to its own exit status: ``acutance run ... | head`` computes to the end.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        is_own = stream is not None and stream is getattr(sys, f"__{name}__")
        if not is_own or not isinstance(getattr(stream, "buffer", None), io.BufferedIOBase | io.RawIOBase):
            continue  # a stream that a test or a notebook has put there
        stream.flush()
        raw = _Pipe(stream.fileno(), "w", closefd=False)
        escaping = io.TextIOWrapper(
            raw if stream.write_through else io.BufferedWriter(raw),
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering or name == "stderr",
            write_through=stream.write_through,  # python -u
        )
        setattr(sys, name, escaping)


def echo(text: str, err: bool = False) -> None:
    """Print a message; a name in it can neither move the cursor nor turn the line."""
    click.echo(visible(text, keep="\n"), err=err)


def echo_data(text: str) -> None:
    """Print a table for programs as it is; on a terminal what would be obeyed is shown."""
    click.echo(visible(text, keep="\n") if sys.stdout.isatty() else text, nl=False)


def console(file: TextIO | None = None, width: int | None = None) -> Console:
    """Return where to print: the terminal, or lines wide enough for a table where there is none and ``COLUMNS`` unset.

    Texts are no markup, hold no emoji codes, and their control characters are shown as escapes.
    """
    from rich.console import Console

    class Screen(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            shown = visible(text, keep="\n")
            return super().render_str(shown.encode(self.encoding, "backslashreplace").decode(self.encoding), **options)

        def on_broken_pipe(self) -> None:
            self.quiet = True

    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "file": file}
    screen = Screen(width=width, **plain)
    if width is not None or screen.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return screen
    return Screen(width=WIDTH, **plain)


def print_grid(
    screen: Console, title: str, names: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[str]],
    last: Sequence[str] = (), left: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print a table that fits the width: numbers are never cut; names fold, and columns go on in a further table.

    Args:
        screen: where to.
        title: headline.
        names: headings of the leading columns, which are repeated.
        heads: headings of the others.
        rows: cells, leading ones first.
        last: a row behind a line.
        left: headings of columns of texts: they stand left, and fold as names do.
    """
    from rich.table import Table

    everything = [*rows, last] if last else list(rows)
    widths = [max((_width(row[i]) for row in everything), default=0) for i in range(len(names) + len(heads))]
    # A heading folds to the width of its numbers, but not letter by letter.
    need = [
        max(width, min(_width(head), NARROWEST if head in left else 8))
        for width, head in zip(widths[len(names) :], heads, strict=True)
    ]
    need = [min(n, 2 * NARROWEST) if head in left else n for n, head in zip(need, heads, strict=True)]
    lead = sum(min(max(_width(head), width), 2 * NARROWEST) for head, width in zip(names, widths, strict=False))
    room = screen.width - lead - 3 * len(names) - 2
    for number, part in enumerate(_parts(need, room)):
        grid = Table(title=title if number == 0 else None, title_justify="left", title_style="bold", pad_edge=False)
        for head in names:
            grid.add_column(head, overflow="fold")
        for i in part:
            if heads[i] in left:
                grid.add_column(heads[i], overflow="fold")
            else:
                grid.add_column(_folded(heads[i], need[i]), justify="right", no_wrap=True)
        for row in everything:
            if last and row is everything[-1]:
                grid.add_section()
            grid.add_row(*row[: len(names)], *(row[len(names) + i] for i in part))
        screen.print(grid)


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Return which columns stand in each table; one at least in each."""
    parts: list[list[int]] = [[]]
    for i, width in enumerate(widths):
        if parts[-1] and sum(widths[j] + 3 for j in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(i)
    return parts


def _folded(head: str, width: int) -> str:
    """Return a heading in lines that are no wider than its column."""
    return "\n".join(head[i : i + width] for i in range(0, len(head), width)) if len(head) > width else head


def _width(text: str) -> int:
    from rich.cells import cell_len

    return max((cell_len(line) for line in visible(text, keep="\n").split("\n")), default=0)


def in_bytes(n: float) -> str:
    """Return a number of bytes in words.

    >>> in_bytes(120), in_bytes(45_000), in_bytes(7.2e9)
    ('120 bytes', '45 kB', '7.2 GB')
    """
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.1f} GB"
