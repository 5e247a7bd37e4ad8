"""One self-contained page: nothing is loaded from anywhere, everything from outside is escaped."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined

from acutance.analysis.judging import holds
from acutance.analysis.kendall import null_sd
from acutance.analysis.labels import target_label
from acutance.analysis.machinery.columns import MIN_MODELS
from acutance.analysis.text import number, p_value
from acutance.errors import as_errors, caught, in_words
from acutance.report.cells import ceiling_cells, group_table, heat_table, shades
from acutance.report.data import ReportData, text
from acutance.report.keys import FigureKey
from acutance.report.page.embed import script_json, study_data
from acutance.report.page.figures import file_stems
from acutance.report.page.figures import pictures as drawn
from acutance.report.page.methods import latex, methods
from acutance.report.page.sections import level_sections, sentences, study_sections
from acutance.report.page.summary import answer
from acutance.report.recipes.base import Recipe
from acutance.report.recipes.registered import recipe
from acutance.report.scales import target_scale

SCRIPTS = ("plot.js", "scatter.js", "radii.js", "tables.js")
PICTURES = 900_000  # characters of pictures on a page, so that it stays under 3 MB with everything else
NORMAL = 1.96  # standard deviations that hold 95% of a normal distribution
PROBLEMS = 1000  # rows that the page lists


def render_page(data: ReportData, pictures: dict[FigureKey, bytes] | None = None) -> str:
    """Return the page as HTML.

    Args:
        data: the tables.
        pictures: PNGs from ``save_figures``; drawn when not given. Those that would be too large are named instead.
    """
    if pictures is None:
        pictures = drawn(data)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = resources.files("acutance.report.page")
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    files = {name: (folder / "web" / name).read_text("utf-8") for name in ("page.css", *SCRIPTS)}
    faults = list(data.faults.values())
    figures = _figures(pictures, faults)
    plain = methods(data.whole, faults)
    return template.render(
        title=data.title,
        left_out=data.left_out,
        # These three alone are not escaped by the template: the package's own files, and JSON that is escaped already.
        style=files["page.css"] + shades(),
        script="(() => {\n" + "\n".join(files[name] for name in SCRIPTS) + "})();",
        study=script_json(study_data(data)),
        levels=[_level(data, level, figures, faults) for level in data.levels],
        study_statistics=study_sections(data, faults),
        faults=faults,
        sections=_sections([figure for figure in figures if (figure.key.level or "all") not in data.levels]),
        made_here="surface" in data.config,
        variant=data.config.get("variant", "a"),
        within_chance=_within_chance(data),
        models=_models(data),
        problems=data.problems.to_dict("records"),
        shown=PROBLEMS,
        methods={"plain": plain, "latex": latex(plain)},
        cost=_cost(data.cost),
        environment=_flat(data.environment),
        config=yaml.safe_dump(data.config, sort_keys=False, allow_unicode=True),
        surface=data.config.get("surface") or {},
    )


@dataclass(frozen=True)
class _Shown:
    """A figure on the page.

    Attributes:
        key: of the figure.
        recipe: that drew it.
        file: name of its file, without the ending.
        told: what is to be seen, in words.
        picture: empty where there is no room for it.
    """

    key: FigureKey
    recipe: Recipe
    file: str
    told: str
    picture: str = ""

    @property
    def name(self) -> str:
        """What it is of."""
        return self.key.what or self.recipe.heading or self.recipe.name

    @property
    def caption(self) -> str:
        """What is to be seen, in words, and the level that it is of."""
        level = self.key.level
        return ", ".join(filter(None, (self.told, "all models" if level == "all" else level)))


def _caption(recipe: Recipe, key: FigureKey, faults: list[str]) -> str:
    """Return what a recipe says of a figure; the default where it fails, which a sentence says once."""
    told: object = None
    with caught() as errors, as_errors("the recipe"):
        told = recipe.caption(key)
        if not isinstance(told, str):
            raise TypeError(f"caption must return a text, not {type(told).__name__}")
    for error in errors:
        fault = f"What figure '{recipe.name}' says of its pictures is left out: {in_words(error)}."
        if fault not in faults:
            faults.append(fault)
    return told if isinstance(told, str) else Recipe.caption(recipe, key)


def _figures(pictures: dict[FigureKey, bytes], faults: list[str]) -> list[_Shown]:
    """Return the figures with the pictures that the page carries.

    Those of sections are there as long as there is room, then all for readers without scripts or none of these, who
    otherwise find them as files.

    Args:
        pictures: PNGs.
        faults: gets a sentence for each recipe that fails to say what a figure shows.
    """
    stems = file_stems(list(pictures))
    recipes = {name: recipe(name) for name in dict.fromkeys(key.recipe for key in pictures)}
    figures = [
        _Shown(key, made, stems[key], _caption(made, key, faults)) for key in pictures for made in [recipes[key.recipe]]
    ]
    room, embedded = PICTURES, dict[FigureKey, str]()
    for key in (figure.key for figure in figures if figure.recipe.page == "section"):
        if (size := 4 * len(pictures[key]) // 3) <= room:
            embedded[key], room = _picture(pictures[key]), room - size
    others = {figure.key: _picture(pictures[figure.key]) for figure in figures if figure.recipe.page == "fallback"}
    embedded |= others if sum(map(len, others.values())) <= room else {}
    return [replace(figure, picture=embedded.get(figure.key, "")) for figure in figures]


def _sections(figures: list[_Shown]) -> list[dict[str, Any]]:
    """Return the sections of the recipes that have one."""
    by_recipe: dict[str, list[_Shown]] = {}
    for figure in figures:
        if figure.recipe.page == "section":
            by_recipe.setdefault(figure.key.recipe, []).append(figure)
    return [{"heading": part[0].recipe.heading or part[0].recipe.name, "figures": part} for part in by_recipe.values()]


def _level(data: ReportData, level: str, figures: list[_Shown], faults: list[str]) -> dict[str, Any]:
    """Everything that is told of one level of ``within``."""
    of_level = [figure for figure in figures if (figure.key.level or "all") == level]
    fallback = [figure for figure in of_level if figure.recipe.page == "fallback"]
    return {
        "name": "all models" if level == "all" else level,
        "answer": answer(data, level),
        "heat": heat_table(data, level, data.outcomes),
        "targets": _columns(data, data.outcomes),
        "relations": heat_table(data, level, data.relations) if data.relations else [],
        "related": _columns(data, data.relations),
        "ceiling": ceiling_cells(data, level),
        "rows": _rows(data, level, "all"),
        "fallback": fallback,
        "radii": any(data.radii(name) != [None] for name in data.definitions),
        "curved": any(len(data.radii(name)) > 1 for name in data.definitions),
        "groups": group_table(data, level),
        "sentences": sentences(data, level, faults),
        "after": level_sections(data, level, faults),
        "sections": _sections(of_level),
    }


def _columns(data: ReportData, targets: list[str]) -> list[dict[str, Any]]:
    """Return the heads of a heat map's columns: name, and the target's place among all."""
    names = [target_label(name).removeprefix("attr:").replace("_", " ") for name in targets]
    return [{"name": name, "index": data.targets.index(t)} for name, t in zip(names, targets, strict=True)]


def _within_chance(data: ReportData) -> list[tuple[int, str]]:
    """Return the tau below which 95% of chance lies, for the numbers of models that the levels have."""
    t = data.named[data.named["group"] == "all"]
    sizes = sorted({int(n) for n in t.groupby("within")["n"].max()}) if len(t) else []
    return [(n, f"{min(1.0, NORMAL * null_sd(n)):.2f}") for n in sizes if n >= MIN_MODELS]


def _picture(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rows(data: ReportData, level: str, group: str) -> list[dict[str, Any]]:
    t = data.named
    rows = t[(t["within"] == level) & (t["group"] == group)].to_dict("records")
    return [
        {
            "definition": row["definition"],
            "rho": f"{row['spec.rho']:g}" if np.isfinite(row.get("spec.rho", np.nan)) else "",
            "target": target_label(row["target"]).replace("_", " "),
            "n": row["n"],
            "tau": number(row["tau"]),
            "tau_value": _value(row["tau"]),
            "interval": f"[{number(row['low'])}, {number(row['high'])}]" if np.isfinite(row["low"]) else "\u2013",
            "low_value": _value(row["low"]),
            "p": p_value(row["p"]),
            "p_value": _value(row["p"]),
            "p_adjusted": p_value(row["p_adjusted"]),
            "p_adjusted_value": _value(row["p_adjusted"]),
            "ceiling": number(ceiling) if np.isfinite(ceiling := row.get("ceiling", np.nan)) else "",
            "strong": holds(row),
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
    numbers = {c: pd.to_numeric(data.models[c], errors="coerce").dropna() for c in [*targets, *extra]}
    percent = {c: target_scale(c.removeprefix("target."), values) == "percent" for c, values in numbers.items()}
    rows = [
        {
            "model": row["model"],
            "pool": row["pool"],
            "admitted": text(row["admitted"]) == "1",
            "reason": row["reason"] if isinstance(row["reason"], str) else "",
            "attributes": [_cell(row[c]) for c in attributes],
            "targets": [_shown(row[c], percent[c]) for c in [*targets, *extra]],
        }
        for row in data.models.to_dict("records")
    ]
    names = [target_label(c.removeprefix("target.")) for c in [*targets, *extra]]
    every = data.whole.models
    return {
        "attributes": [c.removeprefix("attr.") for c in attributes], "targets": names, "rows": rows,
        "compared": int((every["admitted"].map(text) == "1").sum()), "total": len(every),
    }  # fmt: skip


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any, percent: bool) -> str:
    if not isinstance(value, int | float) or pd.isna(value):
        return "\u2013"
    return f"{100 * value:.2f}%" if percent else f"{value:.4g}"


def _cost(cost: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "models": "models", "cells": "cells", "forwards": "forward passes (examples)",
        "backwards": "backward passes (examples)", "hvps": "Hessian-vector products (examples)",
    }  # fmt: skip
    rows = [(label, f"{cost[key]:,.0f}") for key, label in names.items() if key in cost]
    if "seconds" not in cost:
        return rows  # a table made elsewhere: nobody knows what it took
    hours, rest = divmod(float(cost["seconds"]), 3600)
    return [("computing time", f"{int(hours)} h {rest / 60:.1f} min"), *rows]


def _flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows.append((key, ", ".join(f"{k} {v}" for k, v in value.items())))
        else:
            rows.append((key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return [(key, value or "\u2013") for key, value in rows]
