"""How the measures of a run are shown, kept beside its tables for readers that have not installed all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from acutance.presentation import UNKNOWN, Presentation, presentations, showing
from acutance.report.written import put
from acutance.run.directory import MEASURES


def write_presentations(directory: Path, measures: Iterable[str]) -> None:
    """Write how measures are shown to the folder of a run.

    Args:
        directory: of the run.
        measures: their names, as the tables have them; those that nothing is known of are left out.
    """
    told = {name: how.as_json() for name, how in presentations(measures).items() if how != UNKNOWN}
    put(directory, {MEASURES: json.dumps(told, indent=2, ensure_ascii=False) + "\n"})


@contextmanager
def reading(*directories: Path) -> Iterator[None]:
    """Show measures as these runs say, the first of them where they differ; what is no run says nothing."""
    told: dict[str, Presentation] = {}
    for directory in directories:
        # A file that cannot be read is no reason to refuse the tables beside it.
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            written = json.loads((directory / MEASURES).read_text(encoding="utf-8"))
            told = {name: Presentation.of_json(how) for name, how in written.items()} | told
    with showing(told):
        yield
