"""One self-contained page: nothing is loaded from anywhere, everything from outside is escaped."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined

from acutance.analysis.labels import target_label
from acutance.report.data import ReportData, number, p_value, text
from acutance.report.figures import FigureKey, render
from acutance.report.summary import answer


def render_page(data: ReportData, pictures: dict[FigureKey, bytes] | None = None) -> str:
    """Return the page as HTML.

    Args:
        data: the tables.
        pictures: PNGs from ``save_figures``; drawn when not given.
    """
    from acutance.report.figures import figure_keys

    if pictures is None:
        pictures = {key: render(data, key)[0] for key in figure_keys(data)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files("acutance.report") / "page.html").read_text("utf-8"))
    levels = [_level(data, level, pictures) for level in data.levels]
    return template.render(
        title=data.title,
        levels=levels,
        targets=data.targets,
        models=_models(data),
        problems=data.problems.to_dict("records"),
        cost=_cost(data.cost),
        environment=_flat(data.environment),
        config=yaml.safe_dump(data.config, sort_keys=False, allow_unicode=True),
        surface=data.config.get("surface", {}),
    )


def write_report(data: ReportData, path: Path, pictures: dict[FigureKey, bytes] | None = None) -> Path:
    """Write the page in one piece and return its path."""
    partial = path.with_suffix(".html.partial")
    partial.write_text(render_page(data, pictures), encoding="utf-8")
    partial.replace(path)
    return path


def _level(data: ReportData, level: str, pictures: dict[FigureKey, bytes]) -> dict[str, Any]:
    """Everything that is told of one level of ``within``."""
    definitions = [
        {
            "name": definition,
            "grid": _picture(pictures, FigureKey("target", level, definition)),
            "curve": _picture(pictures, FigureKey("curve", level, definition)),
        }
        for definition in data.definitions
    ]
    return {
        "name": level,
        "answer": answer(data, level),
        "heatmap": _picture(pictures, FigureKey("tau", level)),
        "definitions": definitions,
        "rows": _rows(data, level, "all"),
        "groups": [
            {"name": group, "rows": _rows(data, level, group)}
            for group in dict.fromkeys(data.named[data.named["within"] == level]["group"])
            if group != "all"
        ],
    }


def _picture(pictures: dict[FigureKey, bytes], key: FigureKey) -> str:
    return "data:image/png;base64," + base64.b64encode(pictures[key]).decode() if key in pictures else ""


def _rows(data: ReportData, level: str, group: str) -> list[dict[str, Any]]:
    t = data.named
    rows = t[(t["within"] == level) & (t["group"] == group)].to_dict("records")
    return [
        {
            "definition": row["definition"],
            "rho": f"{row['spec.rho']:g}" if np.isfinite(row.get("spec.rho", np.nan)) else "",
            "target": target_label(row["target"]),
            "n": row["n"],
            "tau": number(row["tau"]),
            "tau_value": _value(row["tau"]),
            "interval": f"[{number(row['low'])}, {number(row['high'])}]" if np.isfinite(row["low"]) else "\u2013",
            "low_value": _value(row["low"]),
            "p": p_value(row["p"]),
            "p_value": _value(row["p"]),
            "p_adjusted": p_value(row["p_adjusted"]),
            "p_adjusted_value": _value(row["p_adjusted"]),
            "strong": bool(row["p_adjusted"] < 0.05),
            "note": row["note"] if isinstance(row["note"], str) else "",
        }
        for row in rows
    ]


def _value(x: float) -> str:
    """A number to sort by; missing ones sort last."""
    return f"{x:.6g}" if np.isfinite(x) else "9"


def _models(data: ReportData) -> dict[str, Any]:
    attributes = [c for c in data.models.columns if c.startswith("attr.")]
    targets = [f"target.{t}" for t in data.targets if f"target.{t}" in data.models]
    extra = [c for c in data.models.columns if c.startswith("target.") and c not in targets]
    rows = [
        {
            "model": row["model"],
            "pool": row["pool"],
            "admitted": text(row["admitted"]) == "1",
            "reason": row["reason"] if isinstance(row["reason"], str) else "",
            "attributes": [_cell(row[c]) for c in attributes],
            "targets": [_percent(row[c], c) for c in [*targets, *extra]],
        }
        for row in data.models.to_dict("records")
    ]
    names = [target_label(c.removeprefix("target.")) for c in [*targets, *extra]]
    return {"attributes": [c.removeprefix("attr.") for c in attributes], "targets": names, "rows": rows}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percent(value: Any, name: str) -> str:
    if not isinstance(value, int | float) or pd.isna(value):
        return "\u2013"
    return f"{value:.4g}" if name.endswith("loss") else f"{100 * value:.2f}%"


def _cost(cost: dict[str, Any]) -> list[tuple[str, str]]:
    hours, rest = divmod(float(cost.get("seconds", 0)), 3600)
    names = {
        "models": "models", "cells": "cells", "forwards": "forward passes (examples)",
        "backwards": "backward passes (examples)", "hvps": "Hessian-vector products (examples)",
    }  # fmt: skip
    rows = [(label, f"{cost.get(key, 0):,.0f}") for key, label in names.items()]
    return [("computing time", f"{int(hours)} h {rest / 60:.1f} min"), *rows]


def _flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows.append((key, ", ".join(f"{k} {v}" for k, v in value.items())))
        else:
            rows.append((key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return [(key, value or "\u2013") for key, value in rows]
