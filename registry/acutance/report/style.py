"""Colours, markers and sizes of models, chosen once for all panels of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgba

from acutance.report.data import ReportData, column, spelt

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★", "◀", "▶")
# Okabe and Ito's colours, told apart by colour-blind readers.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


@dataclass(frozen=True)
class Style:
    """How the models of one level are drawn.

    Attributes:
        colours: by model.
        bar: for a numeric colour: what the colour bar shows.
        categories: for a categorical colour: {value: colour}.
        markers: {group: marker}.
        group: group by model.
        sizes: marker areas by model, in points squared.
        label: name of the colouring attribute.
        shown: what legends call each group.
    """

    colours: dict[str, Any]
    bar: ScalarMappable | None
    categories: dict[str, str]
    markers: dict[str, str]
    group: dict[str, str]
    sizes: dict[str, float]
    label: str
    shown: dict[str, str]

    def glyph(self, group: str) -> str:
        """Return the character that looks like a group's marker."""
        return GLYPHS[MARKERS.index(self.markers[group])]


def style(data: ReportData, models: pd.DataFrame) -> Style:
    """Return the style of the models of one level."""
    names = list(map(str, models["model"]))
    colours, bar, categories = _colours(data, models, names)
    labels = marker_labels(data, models)
    groups = sorted(set(labels))
    markers = {group: MARKERS[i % len(MARKERS)] for i, group in enumerate(groups)}
    sizes = _sizes(models, names, data.figures.get("size"))
    label = ", ".join(colour_attributes(data)).replace("_", " ")
    shown = dict(zip(labels, spelt(models, marker_attributes(data), ", "), strict=True))
    return Style(colours, bar, categories, markers, dict(zip(names, labels, strict=True)), sizes, label, shown)


def marker_attributes(data: ReportData) -> list[str]:
    """Return the attributes that choose the marker: those of the study, or else those that form subgroups."""
    wanted = data.figures.get("marker") or data.groups
    return [wanted] if isinstance(wanted, str) else list(wanted)


def colour_attributes(data: ReportData) -> list[str]:
    """Return the attributes that choose the colour: that of the study, or else those that form subgroups."""
    wanted = data.figures.get("colour")
    return [str(wanted)] if wanted else list(data.groups)


def marker_labels(data: ReportData, models: pd.DataFrame) -> pd.Series:
    """Return what chooses the marker of each model, spelt like a group."""
    wanted = marker_attributes(data)
    return spelt(models, wanted)


def is_category(values: pd.Series) -> bool:
    """Return whether an attribute is told apart by name: truth values, and what is no number for any model."""
    boolean = values.map(lambda v: isinstance(v, bool | np.bool_)).any()
    return bool(boolean or pd.to_numeric(values, errors="coerce").isna().all())


def _colours(
    data: ReportData, models: pd.DataFrame, names: list[str]
) -> tuple[dict[str, Any], ScalarMappable | None, dict[str, str]]:
    attribute = data.figures.get("colour")
    if not attribute and data.groups:
        return _by_category(names, data.group_of(models))
    name = column(models, attribute) if attribute else None
    if name is None:
        return dict.fromkeys(names, CATEGORIES[0]), None, {}
    values = models[name]
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    if is_category(values):
        return _by_category(names, values.map(str))
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    # Lengths that span decades are read on a log scale.
    scale = LogNorm(low, high) if low > 0 and high / low > 10 else Normalize(low, high if high > low else low + 1)
    bar = ScalarMappable(scale, "viridis")
    grey = to_rgba("0.6")
    return {n: bar.to_rgba(v) if np.isfinite(v) else grey for n, v in zip(names, numbers, strict=True)}, bar, {}


def _by_category(names: list[str], values: pd.Series) -> tuple[dict[str, Any], None, dict[str, str]]:
    categories = {value: CATEGORIES[i % len(CATEGORIES)] for i, value in enumerate(sorted(set(values)))}
    return {n: categories[v] for n, v in zip(names, values, strict=True)}, None, categories


def _sizes(models: pd.DataFrame, names: list[str], attribute: str | None) -> dict[str, float]:
    name = column(models, attribute) if attribute else None
    if name is None:
        return dict.fromkeys(names, 26.0)
    numbers = pd.to_numeric(models[name], errors="coerce").fillna(0).to_numpy(float)
    span = np.ptp(numbers) or 1.0
    return {n: 16 + 50 * (v - numbers.min()) / span for n, v in zip(names, numbers, strict=True)}
