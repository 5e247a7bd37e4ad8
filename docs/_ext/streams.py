"""What a cell gives, as the site shows it.

A command's output comes in pieces, behind each of which MyST-NB ends the line: they become one. A file that a cell has
written is not part of the site: its name stands where a notebook has a link.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from myst_nb.core import render

if TYPE_CHECKING:
    from sphinx.application import Sphinx


LINK = re.compile(r'<a href="(?![a-z]+:|#)[^"]*">(.*?)</a>', re.DOTALL)


def without_files(outputs: list[Any]) -> list[Any]:
    """Return the outputs with names in place of links to files beside the notebook."""
    for output in outputs:
        data = output.get("data", {})
        if "text/html" in data:
            data["text/html"] = LINK.sub(r"<code>\1</code>", data["text/html"])
    return outputs


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
    """Join pieces, and leave out links, in the place of MyST-NB's own function."""
    whole = render.coalesce_streams
    render.coalesce_streams = lambda outputs: without_files(whole(joined(outputs)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
