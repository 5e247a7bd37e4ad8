"""All figures of a run as files, and as pictures for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from acutance.report.data import ReportData


class FigureKey(NamedTuple):
    """Names one figure: the recipe, the level of ``within``, the definition."""

    recipe: str
    level: str
    what: str = ""

    @property
    def stem(self) -> str:
        """File name without its ending."""
        parts = (self.recipe, self.level.replace("architecture=", ""), self.what)
        return "-".join(_slug(part) for part in parts if part)


def figure_keys(data: ReportData) -> list[FigureKey]:
    """Return the figures a run has: a heat map and a grid for each definition, for each level."""
    keys = []
    for level in data.levels:
        if data.named.loc[data.named["within"] == level, "tau"].notna().any():
            keys.append(FigureKey("tau", level))
        keys += [FigureKey("target", level, definition) for definition in data.definitions]
    return keys


def draw(data: ReportData, key: FigureKey) -> Figure:
    """Return one figure."""
    from acutance.report.heatmap import tau_heatmap
    from acutance.report.scatter import scatter_grid

    recipes: dict[str, Callable[[], Figure]] = {
        "tau": lambda: tau_heatmap(data, key.level),
        "target": lambda: scatter_grid(data, key.level, key.what),
    }
    return recipes[key.recipe]()


def save_figures(data: ReportData, folder: Path, workers: int = 1) -> dict[FigureKey, bytes]:
    """Write every figure as PNG and PDF and return the PNGs.

    Args:
        data: the tables.
        folder: made when it is not there; figures of an earlier run of another study in it are removed.
        workers: processes that draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = figure_keys(data)
    if workers > 1 and len(keys) > 4:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_receive, initargs=(data,)) as pool:
            pictures = list(pool.map(_render_received, keys, chunksize=2))
    else:
        pictures = [render(data, key) for key in keys]
    names = {f"{key.stem}{ending}" for key in keys for ending in (".png", ".pdf")}
    for old in [*folder.glob("*.png"), *folder.glob("*.pdf")]:
        if old.name not in names:
            old.unlink()
    for key, (png, pdf) in zip(keys, pictures, strict=True):
        (folder / f"{key.stem}.png").write_bytes(png)
        (folder / f"{key.stem}.pdf").write_bytes(pdf)
    return {key: png for key, (png, _) in zip(keys, pictures, strict=True)}


def render(data: ReportData, key: FigureKey) -> tuple[bytes, bytes]:
    """Return a figure as (PNG, PDF)."""
    settings: Any = {"font.size": 9, "pdf.fonttype": 42, "axes.linewidth": 0.6, "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        figure = draw(data, key)
        png, pdf = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=100)
        # Without a date the same tables give the same file.
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return png.getvalue(), pdf.getvalue()


_received: ReportData | None = None


def _receive(data: ReportData) -> None:
    global _received
    _received = data


def _render_received(key: FigureKey) -> tuple[bytes, bytes]:
    assert _received is not None
    return render(_received, key)


def _slug(text: str) -> str:
    plain = text.replace("ℓ∞", "linf").replace("ℓ2", "l2").replace("ρ", "rho")
    return re.sub(r"[^A-Za-z0-9_.]+", "_", plain).strip("_.") or "x"
