"""The definitions of a run whose correlations are largest, and what is left of these beyond the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from judged import judged

from acutance.analysis.labels import target_label
from acutance.analysis.partial import partial
from acutance.analysis.text import ends, number, p_value

CONTROL = "learning_rate"
FILE = "strongest.csv"


def strongest(run: Path, count: int = 5) -> pd.DataFrame:
    """Return the largest |tau| of so many definitions, each with the target and the level where it is largest.

    ``holds`` says whether it survives adjustment for all correlations of its level, ``beyond`` is Kendall's partial tau
    with the learning rate held fixed, ``beyond_p`` its p: how far it is more than what the learning rate says.
    """
    study, rows = judged(run)
    levels = {level.name: level for level in study.levels}
    rows = rows[rows["within"].isin(levels)]
    rows = rows.sort_values("tau", key=np.abs, ascending=False, kind="stable").drop_duplicates("definition").head(count)
    return pd.DataFrame([{**_told(row), **_beyond(levels[row["within"]], row)} for row in rows.to_dict("records")])


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: row[name] for name in ("definition", "target", "within", "n", "tau", "low", "high", "p_adjusted", "holds")
    }


def _beyond(level: Any, row: dict[str, Any]) -> dict[str, Any]:
    values, target = level.values[row["definition"]].to_numpy(), level.targets[row["target"]]
    rate = level.models[f"attr.{CONTROL}"].to_numpy(np.float64)
    both = np.isfinite(values) & np.isfinite(target)
    left = partial(target[both], values[both], {CONTROL: rate[both]})
    return {"beyond": left.value, "beyond_p": left.p}


def lines(table: pd.DataFrame) -> list[str]:
    """Return the table as a page shows it."""
    rows = [
        "Largest |τ|, one a definition:", "",
        "| definition | target | models | n | τ | 95% | adjusted p | survives adjustment | τ beyond the learning rate | p |",
        "|---|---|---|--:|--:|---|--:|---|--:|--:|",
    ]  # fmt: skip
    for row in table.to_dict("records"):
        cells = (
            row["definition"], target_label(row["target"]), str(row["within"]).removeprefix("architecture="), row["n"],
            number(row["tau"]), ends(row["low"], row["high"]), p_value(row["p_adjusted"]), "yes" if row["holds"] else "no",
            number(row["beyond"]), p_value(row["beyond_p"]),
        )  # fmt: skip
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return rows
