"""Tables of tau for the page: the heat map, and the whole beside its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from acutance.analysis.judging import holds, open_sign
from acutance.analysis.labels import target_label
from acutance.analysis.text import number
from acutance.report.data import ReportData, radius_key

STEPS = 10  # of colour between zero and one
FADED, FAINT = 0.5, 0.25  # of the colour, where tau does not hold, and where not even its sign is known


@dataclass(frozen=True)
class Cell:
    """One tau.

    Attributes:
        tau: as text, with its sign.
        interval: as text; empty without one.
        shade: class of its colour, see ``shown_tau``.
        strong: whether it holds after adjustment.
    """

    tau: str
    interval: str
    shade: str
    strong: bool


EMPTY = Cell("\u2013", "", "", False)


def shades() -> str:
    """Return the style rules of the colours of cells: red above zero, blue below, as the figures have them."""
    rules = []
    for step in range(-STEPS, STEPS + 1):
        colour = to_hex(colormaps["RdBu_r"](0.5 + step / (2 * STEPS)))
        ink = "#fff" if abs(step) > 0.6 * STEPS else "#1c2127"
        rules.append(f".{_shade(step / STEPS)}{{background:{colour};color:{ink}}}")
    return "\n".join(rules)


def shown_tau(row: Mapping[str, Any]) -> float:
    """Return what a cell is coloured by: tau where it holds, a pale rest of it elsewhere, least where it may be 0."""
    return float(row["tau"]) * (1 if holds(row) else FAINT if open_sign(row) else FADED)


def heat_table(data: ReportData, level: str, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a heat map of one level: a definition and radius each, with a cell for each target."""
    cells = _cells(data, level)
    rows = []
    for d, definition in enumerate(data.definitions):
        for r, rho in enumerate(data.radii(definition)):
            radius = "" if rho is None else f"{rho:g}"
            entries = [cells.get((definition, radius_key(rho), target, "all"), EMPTY) for target in targets]
            rows.append({"definition": definition, "index": d, "first": r == 0, "rho": radius, "cells": entries})
    return rows


def ceiling_cells(data: ReportData, level: str) -> list[str]:
    """Return what a perfect measure is expected to show, for each target; nothing when it is known for none."""
    t = data.named[(data.named["within"] == level) & (data.named["group"] == "all")]
    texts = []
    for target in data.outcomes:
        ceilings = t.loc[t["target"] == target, "ceiling"].dropna() if "ceiling" in t else []
        texts.append(
            "\u2013".join(dict.fromkeys((number(min(ceilings)), number(max(ceilings))))) if len(ceilings) else ""
        )
    return texts if any(texts) else []


def group_table(data: ReportData, level: str) -> dict[str, Any]:
    """Return the groups of a level, and rows with a cell for the whole and for each group; no rows without groups."""
    t = data.named[data.named["within"] == level]
    groups = [g for g in dict.fromkeys(t["group"]) if g != "all"]
    cells = _cells(data, level) if groups else {}
    rows = []
    for definition in data.definitions:
        for rho in data.radii(definition):
            for target in data.outcomes:
                keys = [(definition, radius_key(rho), target, group) for group in ("all", *groups)]
                if any(key in cells for key in keys):
                    name, radius = target_label(target).replace("_", " "), "" if rho is None else f"{rho:g}"
                    entries = [cells.get(key, EMPTY) for key in keys]
                    rows.append({"definition": definition, "rho": radius, "target": name, "cells": entries})
    return {"names": [g.replace(";", ", ") for g in groups], "rows": rows}


def _cells(data: ReportData, level: str) -> dict[tuple[str, str, str, str], Cell]:
    rows = data.named[data.named["within"] == level].to_dict("records")
    return {
        (row["definition"], radius_key(row.get("spec.rho")), row["target"], row["group"]): _cell(row)
        for row in rows
        if np.isfinite(row["tau"])
    }


def _cell(row: dict[str, Any]) -> Cell:
    interval = f"[{number(row['low'])}, {number(row['high'])}]" if np.isfinite(row["low"]) else ""
    return Cell(number(row["tau"]), interval, _shade(shown_tau(row)), holds(row))


def _shade(tau: float) -> str:
    step = round(tau * STEPS)
    return f"{'m' if step < 0 else 'h'}{abs(step)}"
