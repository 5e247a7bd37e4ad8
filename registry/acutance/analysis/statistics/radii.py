"""What a radius is worth on models that did not choose it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from acutance.analysis.labels import Namer, spec_fields, target_label
from acutance.analysis.machinery.columns import Array
from acutance.analysis.multiplicity import held_out_radius
from acutance.analysis.statistics.base import Section, Statistic
from acutance.analysis.statistics.study import Level
from acutance.analysis.text import ends, number

COLUMNS = ["definition", "target", "n", "chosen", "share", "tau", "low", "high", "best", "optimism", "note"]


class Radii(Statistic):
    """A definition with several radii, and a target: a radius chosen on one half of the models, judged on the other."""

    name = "radii"
    after = "correlations"

    def of_level(self, level: Level) -> pd.DataFrame:
        """Return one row for each definition with several radii, and target."""
        return held_out_radii(level.definitions, level.targets, level.study.name, seed=level.study.seed)

    def section(self, table: pd.DataFrame) -> Section | None:
        """Return what choosing on one half is worth on the other, where there is a number."""
        rows = [row for row in table.to_dict("records") if np.isfinite(row["tau"])]
        if not rows:
            return None
        return Section(
            "A radius chosen on one half of the models, judged on the other",
            "Choosing the best radius and judging it on the same models promises too much. Medians over random halves; "
            "the range says how much depends on the split. “Same models” is what choosing and judging on all would "
            "have reported.",
            ["definition", "target", "chosen ρ", "τ, other half", "range", "τ, same models", "optimism"],
            [
                [
                    str(row["definition"]), target_label(str(row["target"])).replace("_", " "),
                    f"{row['chosen']:g} ({row['share']:.0%})", number(row["tau"]), ends(row["low"], row["high"]),
                    number(row["best"]), number(row["optimism"]),
                ]
                for row in rows
            ],
            words=["definition", "target"],
            label="Held-out radii",
            folded=True,
        )  # fmt: skip

    def methods(self, table: pd.DataFrame) -> list[str]:
        """Say how radii are judged, where a definition has several."""
        sentence = (
            "Held-out correlations choose the radius on a random half of the models and are taken on the other half."
        )
        return [sentence] if len(table) else []


def held_out_radii(
    definitions: Iterable[tuple[Mapping[str, Any], Array]], targets: Mapping[str, Array], name: Namer, *, seed: int = 0
) -> pd.DataFrame:
    """Return one row for each definition with several radii, and target: a radius chosen on half, judged on the other.

    Args:
        definitions: rows with ``measure`` and ``spec.*``, and their values over the models, (M,).
        targets: name -> values, (M,).
        name: names definitions without their radius.
        seed: names the halves.

    Returns:
        ``chosen``: the radius chosen most often, in a ``share`` of the halves; ``tau``, ``low``, ``high`` on the halves
        that did not choose; ``best``: what choosing and judging on the same models reports, too high by ``optimism``.
    """
    by_name: dict[str, dict[float, Array]] = {}
    for row, column in definitions:
        rho = spec_fields(row).get("rho")
        if rho is not None:
            by_name.setdefault(name(row), {})[float(rho)] = column
    rows = []
    for definition, by_radius in by_name.items():
        if len(by_radius) > 1:
            radii = sorted(by_radius)
            stack = np.stack([by_radius[rho] for rho in radii])
            rows += [
                {"definition": definition, "target": target, **_held_out(t, stack, radii, seed)}
                for target, t in targets.items()
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _held_out(t: Array, stack: Array, radii: Sequence[float], seed: int) -> dict[str, Any]:
    # Infinite values have a rank; a model that lacks a radius is left out and counted.
    judged = held_out_radius(t, stack, radii, seed=seed)
    chosen = max(judged.chosen, key=lambda rho: judged.chosen[rho], default=math.nan)
    return {
        "n": judged.n, "chosen": chosen, "share": judged.chosen.get(chosen, math.nan), "tau": judged.tau,
        "low": judged.low, "high": judged.high, "best": judged.best, "optimism": judged.optimism, "note": judged.note,
    }  # fmt: skip
