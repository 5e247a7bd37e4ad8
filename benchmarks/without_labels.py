"""Of a run of label-free measures: which rank the models best under each shift, and how far off estimated errors are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from judged import judged

from acutance.analysis.labels import target_label
from acutance.analysis.statistics.estimates import split_of
from acutance.analysis.text import ends, number, p_value
from acutance.presentation import presentation

FILE = "ranks_best.csv"
TOLD = ("within", "target", "n", "tau", "low", "high", "p_adjusted", "ceiling", "definition", "holds")


def ranks_best(run: Path, count: int = 3) -> pd.DataFrame:
    """Return for each level and shift the definitions whose order of the models is nearest to that of their errors.

    Only values on the points of that very shift count. ``kept`` is tau-a with the sign that the measure promises: 1
    where the model that it puts first errs least, and so on. The adjusted p is that of the whole run.
    """
    study, rows = judged(run)
    told = [
        {**{name: row[name] for name in TOLD}, "kept": row["tau"] * sign}
        for row in rows.to_dict("records")
        if (sign := {"smaller": 1, "larger": -1}.get(presentation(str(row["measure"])).better, 0))
        and f"{split_of(row, study)}.error" == row["target"]
    ]
    table = pd.DataFrame(told).sort_values("kept", ascending=False, kind="stable")
    return table.groupby(["within", "target"], sort=True).head(count).sort_values(["within", "target"], kind="stable")


def lines(best: pd.DataFrame, estimates: pd.DataFrame) -> list[str]:
    """Return both tables as a page shows them."""
    shown = [
        "Which ranks the models best, by values on the points of the shift alone (τ has the sign that the measure promises; the ceiling is "
        "what a perfect measure would be expected to show):", "",
        "| models | shift | n | measure | τ | 95% | adjusted p | holds | ceiling |",
        "|---|---|--:|---|--:|---|--:|---|--:|",
    ]  # fmt: skip
    for row in best.to_dict("records"):
        low, high = sorted(np.sign(row["kept"] or 1) * np.sign(row["tau"] or 1) * np.array([row["low"], row["high"]]))
        cells = (
            str(row["within"]).removeprefix("architecture="), target_label(row["target"]), row["n"], row["definition"], number(row["kept"]),
            ends(low, high), p_value(row["p_adjusted"]), "yes" if row["holds"] else "no", number(row["ceiling"]),
        )  # fmt: skip
        shown.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    shown += [
        "", "How far off estimated errors are, in percentage points, over the models:", "",
        "| models | shift | measure | mean absolute error | 95% | bias | τ with the error |",
        "|---|---|---|--:|---|--:|--:|",
    ]  # fmt: skip
    lost = estimates["mean_absolute_error"].isna()
    for row in estimates[~lost].to_dict("records"):
        low, high = (f"{100 * row[f'mean_absolute_error_{end}']:.1f}" for end in ("low", "high"))
        cells = (
            str(row["within"]).removeprefix("architecture="), row["split"], row["definition"], f"{100 * row['mean_absolute_error']:.1f}",
            f"[{low}, {high}]", f"{100 * row['bias']:+.1f}", number(row["tau"]),
        )  # fmt: skip
        shown.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    if lost.any():
        names = "; ".join(dict.fromkeys(estimates.loc[lost, "definition"]))
        shown += ["", f"Without a value for at least three models (why stands in `results.csv`): {names}."]
    return shown
