"""All figures of a run as files, and as pictures for the page."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from acutance.errors import UserError, as_errors, warn
from acutance.io.written import put
from acutance.plugins import Item, catalog
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey, slug
from acutance.report.lettering import show_names
from acutance.report.page.drawing import draw_apart
from acutance.report.recipes.base import ANY
from acutance.report.recipes.registered import (
    Drawing,
    Say,
    attempt,
    called,
    failure,
    of_report,
    recipe,
    recipe_of,
    without_failures,
)
from acutance.report.sweeps import panel_title, sweep_figure, sweep_panels

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 120  # characters of a file's name without its ending; some file systems take 255 bytes, paths less


def file_stems(keys: Sequence[FigureKey]) -> dict[FigureKey, str]:
    """Return the name of each figure's files without their ending: safe on every file system, and different.

    Names that would be too long, or the same where case does not count, carry a digest of what they stand for: a figure
    is called the same whatever others there are of other names.
    """
    counts = Counter(key.stem.lower() for key in set(keys))

    def name(key: FigureKey) -> str:
        alone = counts[key.stem.lower()] == 1 and len(key.stem) <= LONGEST
        return key.stem if alone else f"{key.stem[:LONGEST]}-{_digest(key)}"

    return {key: name(key) for key in keys}


def _digest(key: FigureKey) -> str:
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]


def figure_keys(data: ReportData, say: Say = warn) -> list[FigureKey]:
    """Return the figures of the report of a run."""
    return [key for drawing in of_report(data, say) for key in drawing.keys]


def draw(data: ReportData, key: FigureKey) -> Figure:
    """Return one figure."""
    instance = recipe(key.recipe)
    return instance.draw(data, key._replace(recipe=instance.name))


def save_figures(
    data: ReportData, folder: Path, workers: int = 1, only: Drawing | None = None, say: Say = warn
) -> dict[FigureKey, bytes]:
    """Write every figure of the report as PNG and PDF and return the PNGs.

    Args:
        data: what is shown of a run.
        folder: made when it is not there; figures of an earlier run of another study in it are removed.
        workers: processes that draw.
        only: what one recipe draws: figures of others that are there stay.
        say: told in one sentence of each recipe that fails, which costs its own figures alone.

    Raises:
        UserError: when none of ``only`` can be drawn.
    """
    drawings = of_report(data, say) if only is None else [only]
    drawn = without_failures(drawings, _attempts(drawings, workers, say), say, required=only is not None)
    _write(drawn, folder, "*" if only is None else _pattern(only.item))
    return {key: png for key, (png, _) in drawn.items()}


def save_recipe(item: Item, data: ReportData, folder: Path, workers: int, say: Say) -> list[Path]:
    """Write the figures of one recipe as PNG and PDF and return the PNGs; those of others stay.

    Args:
        item: the recipe.
        data: what is shown of a run.
        folder: made when it is not there.
        workers: processes that draw.
        say: told when some of the figures cannot be drawn.

    Raises:
        UserError: when the run has nothing to draw, or none of it can be drawn.
    """
    try:
        drawing = Drawing.of(item, data, say=say)
    except UserError:
        raise
    except Exception as error:
        raise UserError(failure(item, error)) from error
    saved = save_figures(data, folder, workers, drawing, say)
    return [folder / f"{stem}.png" for stem in file_stems(list(saved)).values()]


def pictures(data: ReportData, say: Say = warn) -> dict[FigureKey, bytes]:
    """Return every figure of the report as PNG, without writing any."""
    drawings = of_report(data, say)
    outcomes = {key: attempt(picture, part.data, key) for part in drawings for key in part.keys}
    return without_failures(drawings, outcomes, say)


def _attempts(drawings: Sequence[Drawing], workers: int, say: Say) -> dict[FigureKey, tuple[bytes, bytes] | Exception]:
    """Draw, by several processes where there is much of one run's tables to draw."""
    by_tables: dict[int, list[Drawing]] = {}
    for part in drawings:
        by_tables.setdefault(id(part.data), []).append(part)
    outcomes: dict[FigureKey, tuple[bytes, bytes] | Exception] = {}
    for parts in by_tables.values():
        data, keys = parts[0].data, [key for part in parts for key in part.keys]
        if workers > 1 and len(keys) > 4:
            # Those of the page's sections alone: they may be of any kind, and no figure needs them.
            outcomes |= draw_apart(replace(data, everything=None, statistics=()), keys, workers, say)
        else:
            outcomes |= {key: attempt(render, data, key) for key in keys}
    return outcomes


def _pattern(item: Item) -> str:
    """Return which files are those of a recipe."""
    return f"{slug(catalog().names(item)[0])}-*"


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


def save_sweep(item: Item, table: pd.DataFrame, runs: Mapping[str, ReportData], name: str, folder: Path) -> list[Path]:
    """Write the figures of a sweep as PNG and PDF and return the PNGs; those of an earlier sweep go.

    Args:
        item: a recipe.
        table: of the sweep.
        runs: value of the setting -> the tables of its run.
        name: the swept setting.
        folder: made when it is not there.

    Raises:
        UserError: for a recipe that is not of this sweep, has nothing to draw, or fails.
    """
    with as_errors("the recipe"):
        instance = recipe_of(item)
    if instance.sweeps not in (name, ANY):
        others = [(other.name, recipe_of(other).sweeps) for other in catalog().usable("figures")]
        fitting = [other for wanted in (name, ANY) for other, sweeps in others if sweeps == wanted]
        raise UserError(
            f"--figure {instance.name}: this is a sweep over {name}",
            f"recipes of such a sweep: {', '.join(fitting)}; or give the folder of one of its runs",
        )
    try:
        with as_errors("the recipe"):
            drawn = {called(item, key): figure for key, figure in instance.draw_sweep(table, runs, name).items()}
        saved = {key: _saved(figure) for key, figure in drawn.items()}
    except UserError:
        raise
    except Exception as error:
        raise UserError(failure(item, error)) from error
    return _write(saved, folder, _pattern(item))


def save_drawn(figures: Mapping[FigureKey, Figure], folder: Path) -> list[Path]:
    """Write figures of one recipe as PNG and PDF and return the PNGs; others of the recipe, from before, go."""
    recipe = next((key.recipe for key in figures), "")
    return _write({key: _saved(figure) for key, figure in figures.items()}, folder, f"{recipe}-*")


def save_sweep_figures(table: pd.DataFrame, name: str, folder: Path) -> list[Path]:
    """Draw every target and level of a sweep, whole pools only; return the PNGs. Those of earlier sweeps go.

    Args:
        table: of a sweep.
        name: column of the swept setting.
        folder: made when it is not there.
    """
    keys = sweep_panels(table, name)
    return save_drawn({key: sweep_figure(rows, name, panel_title(key, rows)) for key, rows in keys.items()}, folder)
