"""What a cell prints, in one piece: a command's output comes in pieces, behind each of which MyST-NB ends the line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myst_nb.core import render

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def joined(outputs: list[Any]) -> list[Any]:
    """Return the outputs with all pieces of a stream in its first one, as they were printed."""
    kept: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        if output["output_type"] == "stream" and (first := streams.setdefault(output["name"], output)) is not output:
            first["text"] += output["text"]
        else:
            kept.append(output)
    return kept


def setup(app: Sphinx) -> dict[str, bool]:
    """Join pieces in the place of MyST-NB's own function."""
    whole = render.coalesce_streams
    render.coalesce_streams = lambda outputs: whole(joined(outputs))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
