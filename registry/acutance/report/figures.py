"""All figures of a run as files, and as pictures for the page."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from acutance.io.written import put
from acutance.report.data import ReportData
from acutance.report.drawing import draw_apart
from acutance.report.lettering import show_names

LONGEST = 120  # characters of a file's name without its ending; some file systems take 255 bytes, paths less


class FigureKey(NamedTuple):
    """Names one figure: the recipe, the level of ``within``, the definition."""

    recipe: str
    level: str
    what: str = ""

    @property
    def stem(self) -> str:
        """What its file is called, unless another figure's is too: letters, digits, ``_``, ``.`` and ``-``."""
        parts = (self.recipe, self.level.replace("architecture=", ""), self.what)
        return "-".join(_slug(part) for part in parts if part)


def file_stems(keys: Sequence[FigureKey]) -> dict[FigureKey, str]:
    """Return the name of each figure's files without their ending: safe on every file system, and different.

    Names that would be too long, or the same where case does not count, carry a digest of what they stand for: a figure
    is called the same whatever others there are of other names.
    """
    taken = Counter(key.stem.lower() for key in set(keys))

    def name(key: FigureKey) -> str:
        alone = taken[key.stem.lower()] == 1 and len(key.stem) <= LONGEST
        return key.stem if alone else f"{key.stem[:LONGEST]}-{_digest(key)}"

    return {key: name(key) for key in keys}


def _digest(key: FigureKey) -> str:
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]


def figure_keys(data: ReportData) -> list[FigureKey]:
    """Return the figures a run has, for each level: a heat map, a grid for each definition, and its curves."""
    keys = []
    for level in data.levels:
        if data.named.loc[data.named["within"] == level, "tau"].notna().any():
            keys.append(FigureKey("tau", level))
        keys += [FigureKey("target", level, definition) for definition in data.definitions]
        keys += [FigureKey("curve", level, name) for name in data.definitions if len(data.curve_rows(level, name))]
    return keys


def draw(data: ReportData, key: FigureKey) -> Figure:
    """Return one figure."""
    from acutance.report.recipes import recipe

    return recipe(key.recipe).draw(data, key)


def save_figures(
    data: ReportData, folder: Path, workers: int = 1, only: Sequence[FigureKey] | None = None
) -> dict[FigureKey, bytes]:
    """Write every figure as PNG and PDF and return the PNGs.

    Args:
        data: the tables.
        folder: made when it is not there; figures of an earlier run of another study in it are removed.
        workers: processes that draw.
        only: figures of one recipe: others that are there stay.
    """
    keys = figure_keys(data) if only is None else list(only)
    old_ones = "*" if only is None else f"{keys[0].recipe}-*"
    if workers > 1 and len(keys) > 4:
        drawn = draw_apart(replace(data, everything=None), keys, workers)
    else:
        drawn = {key: render(data, key) for key in keys}
    _write(drawn, folder, old_ones)
    return {key: png for key, (png, _) in drawn.items()}


def _write(pictures: Mapping[FigureKey, tuple[bytes, bytes]], folder: Path, old_ones: str) -> list[Path]:
    """Write figures as PNG and PDF and return the PNGs; ours of that pattern from before go."""
    stems = file_stems(list(pictures))
    endings = (".png", ".pdf")
    files = {
        f"{stems[key]}{ending}": content
        for key, pair in pictures.items()
        for ending, content in zip(endings, pair, strict=True)
    }
    put(folder, files, old_ones)
    return [folder / f"{stem}.png" for stem in stems.values()]


SETTINGS: Any = {"font.size": 9, "pdf.fonttype": 42, "axes.linewidth": 0.6, "svg.fonttype": "none"}


def render(data: ReportData, key: FigureKey) -> tuple[bytes, bytes]:
    """Return a figure as (PNG, PDF)."""
    with matplotlib.rc_context(SETTINGS):
        return _saved(draw(data, key))


def picture(data: ReportData, key: FigureKey) -> bytes:
    """Return a figure as PNG: a PDF takes four times as long, most of it for its fonts."""
    with matplotlib.rc_context(SETTINGS):
        figure = draw(data, key)
        show_names(figure)
        return _png(figure)


def _saved(figure: Figure) -> tuple[bytes, bytes]:
    show_names(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out now, for both
    pdf = io.BytesIO()
    # Without a date the same tables give the same file.
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return _png(figure), pdf.getvalue()


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()


def save_drawn(figures: Mapping[FigureKey, Figure], folder: Path) -> list[Path]:
    """Write figures of one recipe as PNG and PDF and return the PNGs; others of the recipe, from before, go."""
    recipe = next((key.recipe for key in figures), "")
    return _write({key: _saved(figure) for key, figure in figures.items()}, folder, f"{recipe}-*")


def _slug(text: str) -> str:
    plain = text.replace("ℓ∞", "linf").replace("ℓ2", "l2").replace("ρ", "rho")
    return re.sub(r"[^A-Za-z0-9_.]+", "_", plain).strip("_.") or "x"
