"""Pictures of a landscape: contours, filled planes and lines, each with what it shows and what it leaves out."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from acutance.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from acutance.workflows.landscape.result import Landscape

KINDS = {1: ("line",), 2: ("filled", "contour")}
LEVELS = 21  # of contours
HEADROOM = 1e3  # of a colour scale: where the loss spans more, it is cut there on a linear scale
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
MOST_PANELS = 6
FLAT = 2.5  # width of a plane by its height, from which on distances are not drawn alike along both


def figure(seen: Landscape, kind: str = "", of: str = "loss", log: bool = False) -> Figure:
    """Return a picture with a panel for each split, or one panel of lines for all of them.

    Args:
        seen: the landscape.
        kind: ``filled`` or ``contour`` of a plane, ``line`` of lines; the first by default.
        of: ``loss`` or ``error``.
        log: whether values are on a logarithmic scale; those that are not positive are left out there.

    Raises:
        UserError: for another kind, or an error that is not defined.
    """
    from acutance.workflows.landscape.shown import Picture

    kind = kind or KINDS[seen.dimensions][0]
    if kind not in KINDS[seen.dimensions]:
        raise UserError(f"kind: there is no '{kind}' of this", did_you_mean(kind, KINDS[seen.dimensions]))
    if of == "error" and not seen.about["errors"]:
        raise UserError("of: no error is defined on these splits", "loss")
    splits = seen.splits[:MOST_PANELS]
    panels = len(splits) if seen.dimensions == 2 else 1
    words = caption(seen)
    picture = Picture(figsize=(1.6 + 3.9 * panels, 4.3) if seen.dimensions == 2 else (6.4, 4.4), layout="constrained")
    axes = list(picture.subplots(1, panels, squeeze=False)[0])
    if seen.dimensions == 2:
        _planes(picture, axes, seen, splits, kind, of, log)
    else:
        _lines(axes[0], seen, splits, of, log)
    width = 34 + 44 * panels if seen.dimensions == 2 else 96
    lines = [_plain(line) for part in words for line in textwrap.wrap(part, width)]
    picture.supxlabel("\n".join(lines), fontsize=7, x=0.02, ha="left")
    return picture


def caption(seen: Landscape) -> list[str]:
    """Return what is said under a picture: normalization and scale of each direction, statistics, curvature."""
    about = seen.about
    scales = [
        f"{letter}: {axis['name']}, {axis['normalized']}, length {axis['norm']:.3g} ({axis['relative']:.3g} of ‖w‖)"
        for letter, axis in zip("ab", about["axes"], strict=False)
    ]
    words = list(scales)
    if about["explained"]:
        shares = " and ".join(f"{100 * share:.3g}%" for share in about["explained"])
        words.append(f"the two components explain {shares} of the trajectory's variance")
    if about["batch_norm"] != "none":
        how = {"eval": "the model's running statistics", "recalibrated": "statistics of each point"}
        where = " between the ends" if about["batch_norm"] == "eval" and about["kinds"] == ["segment"] else ""
        words.append(f"batch normalization: {how[about['batch_norm']]}{where}")
    words.append(about["carries"])
    for split, found in seen.barrier.items():
        if found["loss"] is not None:
            words.append(f"{split}: barrier {found['loss']['height']:.4g} at {found['loss']['at']:.3g}")
    return words


def files(seen: Landscape) -> dict[str, bytes]:
    """Return all pictures as PNG and PDF, by name of the file."""
    found: dict[str, bytes] = {}
    for stem, kind, of, log in _wanted(seen):
        drawn = figure(seen, kind, of, log)
        for ending in ("png", "pdf"):
            memory = io.BytesIO()
            plain: dict[str, Any] = {"metadata": {"CreationDate": None}} if ending == "pdf" else {"dpi": 160}
            drawn.savefig(memory, format=ending, facecolor="white", **plain)
            found[f"{stem}.{ending}"] = memory.getvalue()
    return found


def _wanted(seen: Landscape) -> Iterator[tuple[str, str, str, bool]]:
    for kind in KINDS[seen.dimensions]:
        for of in ("loss", "error") if seen.about["errors"] else ("loss",):
            for log in (False, True) if of == "loss" else (False,):
                yield f"landscape-{kind}-{of}{'-log' if log else ''}", kind, of, log


def _planes(
    picture: Figure, panels: Sequence[Axes], seen: Landscape, splits: Sequence[str], kind: str, of: str, log: bool
) -> None:
    """Draw a panel for each split, all on one scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    grids = {split: seen.grid(split, of) for split in splits}
    shown = {split: _masked(values, log) for split, (_, _, values) in grids.items()}
    everything = np.concatenate([values.compressed() for values in shown.values()])
    low, high = limits(everything, log)
    levels = np.geomspace(low, high, LEVELS) if log else np.linspace(low, high, LEVELS)
    scale = LogNorm(low, high) if log else Normalize(low, high)
    for panel, split in zip(panels, splits, strict=True):
        a, b, _ = grids[split]
        values = shown[split]
        if values.mask.any():
            panel.set_facecolor("0.85")
        if values.count() and kind == "filled":
            panel.pcolormesh(a, b, values, norm=scale, cmap="viridis", shading="nearest", rasterized=True)
            panel.contour(a, b, values, levels=levels[::2], colors="white", linewidths=0.4, alpha=0.6)
        elif values.count():
            panel.contour(a, b, values, levels=levels, norm=scale, cmap="viridis", linewidths=1.0)
        panel.set(xlabel="a", ylabel="b" if split == splits[0] else "", title=_title(seen, split, of))
        panel.set(xlim=(a[0], a[-1]), ylim=(b[0], b[-1]))
        panel.locator_params(axis="x", nbins=4)  # more would touch each other in a panel beside others
        _marks(panel, seen)
        flat = max(np.ptp(a), np.ptp(b)) > FLAT * min(np.ptp(a), np.ptp(b))
        if seen.about["kinds"][0] in ("plane", "pca") and not flat:
            panel.set_aspect("equal")
    if everything.size:
        cut = bool(everything.max() > high)
        label = f"{of}{' (log)' if log else ''}"
        picture.colorbar(
            ScalarMappable(scale, "viridis"), ax=list(panels), label=label, extend="max" if cut else "neither"
        )


def _masked(values: NDArray[Any], log: bool) -> np.ma.MaskedArray[Any, Any]:
    """Return values without those that are not finite, and on a logarithmic scale without those that have none."""
    return np.ma.masked_where(~np.isfinite(values) | (log & (values <= 0)), values)


def limits(values: NDArray[Any], log: bool) -> tuple[float, float]:
    """Return the ends of a scale: of all values, cut where a linear one would show nothing else than the highest."""
    if not values.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    middle = float(np.median(values))
    if not log and high - low > HEADROOM * max(middle - low, 1e-300) > 0:
        high = low + HEADROOM * (middle - low)
    if high <= low:
        high = low * (1 + 1e-6) + 1e-12 if low >= 0 else low + 1e-12
    return low, high


def _marks(panel: Axes, seen: Landscape) -> None:
    """Draw checkpoints and the path of a trajectory; w* where nothing else is there."""
    path = np.array(seen.about["path"])
    if path.size:
        panel.plot(path[:, 0], path[:, 1], "-o", color="#D55E00", markersize=3, linewidth=1.2)
    marks = seen.about["marks"] or {"": [0.0, 0.0]}
    for name, (a, b) in marks.items():
        panel.plot([a], [b], "*", color="#E69F00", markersize=9, markeredgecolor="black", markeredgewidth=0.5)
        right = a > np.mean(panel.get_xlim())
        panel.annotate(_plain(name), (a, b), xytext=(-4 if right else 4, 4), textcoords="offset points", fontsize=7,
                       color="white", ha="right" if right else "left", path_effects=_outline())  # fmt: skip


def _outline() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=1.5, foreground="black")]


def _title(seen: Landscape, split: str, of: str) -> str:
    return _plain(f"{of} on {split}, n = {seen.about['splits'][split]}")


def _plain(text: str) -> str:
    """Return a text of which matplotlib reads nothing as mathematics."""
    return text.replace("$", r"\$")


def _lines(panel: Axes, seen: Landscape, splits: Sequence[str], of: str, log: bool) -> None:
    """Draw the lines of every split; of several draws their mean, and one standard deviation of the draws."""
    for split, colour in zip(splits, COLOURS, strict=False):
        a, draws, values = seen.grid(split, of)
        shown = _masked(values, log)
        mean = shown.mean(0)
        # A mean over some draws only would be one of other lines.
        mean = np.ma.masked_where(shown.count(0) < len(draws), mean)
        panel.plot(a, mean, color=colour, label=_title(seen, split, of), linewidth=1.6)
        if len(draws) > 1:
            spread = shown.std(0, ddof=1)
            low = np.ma.maximum(mean - spread, shown.min(0)) if log else mean - spread
            panel.fill_between(a, low, mean + spread, color=colour, alpha=0.25, linewidth=0)
            panel.plot(a, shown.T, color=colour, linewidth=0.4, alpha=0.5)
    for name, place in (seen.about["marks"] or {"": [0.0]}).items():
        panel.axvline(place[0], color="0.5", linewidth=0.8, linestyle=":")
        right = place[0] > np.mean(panel.get_xlim())
        beside = (-3 if right else 3, -10)
        panel.annotate(_plain(name), (place[0], 1), xycoords=("data", "axes fraction"), xytext=beside,
                       textcoords="offset points", fontsize=7, ha="right" if right else "left")  # fmt: skip
    if log:
        panel.set_yscale("log")
    several = f" (mean and sd of {seen.about['draws']} directions)" if seen.about["draws"] > 1 else ""
    panel.set(xlabel="a", ylabel=f"{of}{several}")
    panel.legend(fontsize=8, frameon=False)
