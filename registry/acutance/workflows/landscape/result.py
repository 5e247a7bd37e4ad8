"""What comes of a landscape: a table of points, what it is of, and its files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from acutance.errors import UserError
from acutance.io.spreadsheet import csv_text
from acutance.io.written import put
from acutance.workflows.landscape import page, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

JSON, TABLE, PAGE = "landscape.json", "landscape.csv", "landscape.html"
COLUMNS = ("draw", "a", "b", "on_grid", "mark", "split", "loss", "error", "status")
FORMAT = 1


@dataclass(frozen=True)
class Landscape:
    """The loss along one direction or two, on every split.

    Attributes:
        table: a row for each point and split: ``draw`` (number of the line), ``a`` and ``b`` (coordinates in units of
            the directions; b is NaN on a line), ``on_grid`` (checkpoints may lie beside it), ``mark`` (name of a
            checkpoint that lies there), ``split``, ``loss``, ``error`` (NaN where none is defined) and ``status`` (ok
            or nonfinite).
        about: what it is of, as JSON values: ``kinds``, ``axes`` (name, normalized, norm, relative: length in units of
            the weights'), ``splits``, ``batch_norm``, ``curvature``, ``marks``, ``path``, ``explained``, ``barrier``,
            ``notes`` ...
        directory: where its files are; None for none.
        computed: points that were computed by this call; the others were known.
    """

    table: pd.DataFrame
    about: dict[str, Any]
    directory: Path | None = None
    computed: int = 0

    @property
    def dimensions(self) -> int:
        """1 for lines, 2 for a plane."""
        return len(self.about["axes"])

    @property
    def splits(self) -> list[str]:
        """Names of the splits, the training points first."""
        return list(self.about["splits"])

    @property
    def barrier(self) -> dict[str, Any]:
        """How far loss and error of each split rise above the chord of a segment, and where; empty for others."""
        return dict(self.about["barrier"])

    @property
    def curvature(self) -> dict[str, Any] | None:
        """How much of the Hessian's trace the plane carries; None where that was not asked for."""
        found: dict[str, Any] | None = self.about["curvature"]
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader should know."""
        return list(self.about["notes"])

    def grid(self, split: str = "", of: str = "loss") -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return coordinates and values of the points of the grid.

        Args:
            split: the first by default.
            of: ``loss`` or ``error``.

        Returns:
            For a plane a, (n,), b, (m,), and values, (m, n). For lines a, (n,), the numbers of the draws, (k,), and
            values, (k, n).

        Raises:
            UserError: for an unknown split or value.
        """
        split = split or self.splits[0]
        if split not in self.splits:
            raise UserError(f"there is no split '{split}'", "known: " + ", ".join(self.splits))
        if of not in ("loss", "error"):
            raise UserError(f"of: '{of}' is unknown", "loss or error")
        rows = self.table[(self.table["split"] == split) & self.table["on_grid"]]
        index = "b" if self.dimensions == 2 else "draw"
        table = rows.pivot(index=index, columns="a", values=of)
        return table.columns.to_numpy(float), table.index.to_numpy(float), table.to_numpy(float)

    def figure(self, kind: str = "", of: str = "loss", log: bool = False) -> Figure:
        """Return a picture: ``contour`` or ``filled`` of a plane, ``line`` of lines, a panel for each split."""
        return pictures.figure(self, kind, of, log)

    def page(self) -> str:
        """Return the interactive page, one HTML file that needs no network."""
        return page.page(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the table, what it is of, pictures and the page into a folder, and return their paths.

        Raises:
            UserError: for files of these names that are somebody else's.
        """
        content: dict[str, str | bytes] = {JSON: self.as_json(), TABLE: csv_text(self.table), **pictures.files(self)}
        content[PAGE] = self.page()
        put(Path(folder), content, "landscape-*")
        return [Path(folder) / name for name in content]

    def as_json(self) -> str:
        """Return all of it as JSON, from which ``load`` makes it again bit by bit."""
        rows = {name: [_plain(v) for v in self.table[name]] for name in self.table.columns}
        return json.dumps({"format": FORMAT, "about": self.about, "table": rows}, allow_nan=False) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> Landscape:
        """Return what ``save`` has written into a folder.

        Raises:
            UserError: where there is none.
        """
        path = Path(folder) / JSON
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            table = pd.DataFrame({name: [_number(v) for v in column] for name, column in found["table"].items()})
            return cls(table.astype({"error": float, "b": float}), found["about"], Path(folder))
        except FileNotFoundError:
            raise UserError(f"{folder}: holds no landscape", "acutance landscape MODEL --out writes one") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: is no landscape of this version", "make it again") from None

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.table.head().to_html()}"

    def __repr__(self) -> str:
        return (
            f"Landscape({', '.join(self.about['kinds'])}: {len(self.table)} values, "
            f"splits {', '.join(self.splits)}, batch norm {self.about['batch_norm']})"
        )


def _plain(value: Any) -> Any:
    """Return a value for JSON: NaN is null, an infinity a text."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: Any) -> Any:
    return math.nan if value is None else float(value) if value in ("inf", "-inf") else value


def barrier(a: Sequence[float], values: Sequence[float]) -> dict[str, float] | None:
    r"""Return :math:`\max_{t \in [0, 1]} L_t - (1 - t) L_0 - t L_1`, at least 0, and the t where it is.

    Args:
        a: coordinates t in order, 0 and 1 among them; those outside are passed over.
        values: there.

    Returns:
        ``height`` and ``at``; None where an end or a point between has no finite value.
    """
    inside = [(t, v) for t, v in zip(a, values, strict=True) if 0 <= t <= 1]
    if not all(math.isfinite(v) for _, v in inside):
        return None
    first, last = (next(v for t, v in inside if t == end) for end in (0.0, 1.0))
    rises = [(v - (1 - t) * first - t * last, t) for t, v in inside]
    height, at = max(rises, key=lambda pair: pair[0])
    return {"height": max(0.0, height), "at": at}
