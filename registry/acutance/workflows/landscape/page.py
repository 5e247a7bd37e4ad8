"""The interactive page of a landscape: one file that loads nothing, in which everything from outside is escaped."""

from __future__ import annotations

import base64
import io
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib import colormaps

from acutance.report.page.embed import script_json
from acutance.workflows.landscape.pictures import COLOURS, KINDS, caption, figure, limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acutance.workflows.landscape.result import Landscape

STOPS = 17  # of the colour scale
DIGITS = 7  # of a value: more than a picture shows
SPAN = 30.0  # highest loss by the lowest, from which on the page begins on a logarithmic scale


def page(seen: Landscape) -> str:
    """Return the page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = resources.files("acutance.workflows.landscape") / "web"
    text = {name: (folder / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")}
    memory = io.BytesIO()
    figure(seen, KINDS[seen.dimensions][0]).savefig(memory, format="png", dpi=100, facecolor="white")
    return environment.from_string(text["page.html"]).render(
        title=title(seen),
        # These three alone are not escaped by the template: the package's own files, and JSON that is escaped already.
        style=text["page.css"],
        script=text["page.js"],
        data=script_json(embedded(seen)),
        picture=base64.b64encode(memory.getvalue()).decode(),
        caption=caption(seen),
        notes=seen.notes,
        axes=seen.about["axes"],
        barriers=_barriers(seen),
    )


def title(seen: Landscape) -> str:
    """Return what is to be seen."""
    where = {"segment": "between two checkpoints", "plane": "in the plane of three checkpoints",
             "pca": "in the plane of a trajectory"}  # fmt: skip
    kinds = seen.about["kinds"]
    along = where.get(kinds[0]) or "along " + " and ".join(dict.fromkeys(axis["name"] for axis in seen.about["axes"]))
    return f"Loss of {seen.about['architecture'].rpartition('-')[0]} {along}"


def embedded(seen: Landscape) -> dict[str, Any]:
    """Return what the script draws."""
    of = ["loss", "error"] if seen.about["errors"] else ["loss"]
    grids = {name: [seen.grid(split, name) for split in seen.splits] for name in of}
    a, b, _ = grids["loss"][0]
    values = {name: [values for _, _, values in found] for name, found in grids.items()}
    marks = seen.about["marks"] or {"w*": [0.0, 0.0]}
    found: dict[str, Any] = {
        "dimensions": seen.dimensions, "of": of, "splits": seen.splits, "a": a.tolist(),
        "b": b.tolist() if seen.dimensions == 2 else [],
        "values": {name: [_plain(each) for each in every] for name, every in values.items()},
        "limits": {
            name: {scale: _limits(every, scale == "log") for scale in ("linear", "log")}
            for name, every in values.items()
        },
        "marks": [{"name": name, "place": list(place)} for name, place in marks.items()],
        "path": seen.about["path"], "colours": list(COLOURS),
        "viridis": [[round(255 * c) for c in colormaps["viridis"](i / (STOPS - 1))[:3]] for i in range(STOPS)],
    }  # fmt: skip
    if seen.dimensions == 1:
        found["mean"] = {name: [_plain(_mean(each)) for each in every] for name, every in values.items()}
    low, high = found["limits"]["loss"]["log"]
    found["start"] = "log" if high > SPAN * low else "linear"
    return found


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    """Return the mean over draws, (n,): none where a draw has no finite value."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values).all(0), values.mean(0), np.nan)


def _limits(every: list[NDArray[Any]], log: bool) -> list[float]:
    numbers = np.concatenate([values.ravel() for values in every])
    numbers = numbers[np.isfinite(numbers) & (~np.bool_(log) | (numbers > 0))]
    return [float(f"{x:.{DIGITS}g}") for x in limits(numbers, log)]


def _plain(values: NDArray[Any]) -> Any:
    """Return numbers as JSON has them: null where there is none, a text for an infinite one."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [
        float(f"{x:.{DIGITS}g}") if np.isfinite(x) else None if np.isnan(x) else ("inf" if x > 0 else "-inf")
        for x in values
    ]


def _barriers(seen: Landscape) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table of barriers."""
    return [
        (split, of, f"{found['height']:.4g}" if found else "not finite", f"{found['at']:.4g}" if found else "")
        for split, each in seen.barrier.items()
        for of, found in each.items()
        if of == "loss" or seen.about["errors"]
    ]
