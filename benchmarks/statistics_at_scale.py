"""How long do the statistics of a large table take? ``acutance correlate`` with everything, in a process of its own.

``python benchmarks/statistics_at_scale.py`` makes two tables (many models; many measures), measures wall time, processor
time and peak memory of the whole command, page and figures included, and writes ``results/scale``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from acutance.io.spreadsheet import csv_text
from acutance.plugins import catalog
from acutance.system.environment import environment

FOLDER = Path(__file__).parent / "results" / "scale"
SIZES = ((20_000, 10), (200, 5000))  # models, measures
SECONDS, GIB = 120, 2.0  # that a table of these sizes may take, and hold
LARGEST = 0.6  # correlation of a measure with the error


def table(models: int, measures: int) -> pd.DataFrame:
    """Return errors and measures that go with them to some degree, all different."""
    g = np.random.default_rng([models, measures])
    error = g.normal(size=models)
    share = g.uniform(-LARGEST, LARGEST, size=measures)
    columns = share * error[:, None] + np.sqrt(1 - share**2) * g.normal(size=(models, measures))
    made = pd.DataFrame(columns.round(6), columns=[f"measure_{k}" for k in range(measures)])
    made.insert(0, "test_error", (0.2 + 0.02 * error).round(6))
    made.insert(0, "model", [f"model{i}" for i in range(models)])
    return made


def measured(models: int, measures: int) -> dict[str, float]:
    """Return what the command takes for a table of a size."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "table.csv"
        source.write_text(csv_text(table(models, measures)), encoding="utf-8", newline="")
        program = "import sys; from acutance.cli import main; sys.exit(main())"
        command = [
            "correlate",
            str(source),
            "--targets",
            "test_error",
            "--model",
            "model",
            "--out",
            str(Path(scratch) / "out"),
        ]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program, *command], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "models": models, "measures": measures, "wall_s": round(time.perf_counter() - start, 1),
            "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            "peak_gib": round(after.ru_maxrss / 2**20, 2),
        }  # fmt: skip


def page(rows: pd.DataFrame, about: dict[str, object]) -> str:
    """Return the page, from the committed rows."""
    lines = [
        "# Statistics of large tables", "",
        "`acutance correlate TABLE --targets test_error --out DIR`: intervals and p-values of every correlation, all other tables, figures",
        f"and the page. `python benchmarks/statistics_at_scale.py`, {about['cores']} cores ({about['processor']}), commit "
        f"`{str(about['commit'])[:12]}`.",
        f"Bounds: {SECONDS} s on 2 cores, {GIB:g} GiB in the largest process.", "",
        "| models | measures | wall time (s) | processor time (s) | largest process (GiB) |", "|---|---|---|---|---|",
        *(f"| {r.models} | {r.measures} | {r.wall_s:.0f} | {r.cpu_s:.0f} | {r.peak_gib:.2f} |" for r in rows.itertuples()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure both tables, or those of one size, and write rows and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", metavar="MODELSxMEASURES", help="print one size alone")
    chosen = parser.parse_args()
    if chosen.size:
        models, measures = map(int, chosen.size.split("x"))
        print(measured(models, measures))
        return
    rows = []
    for models, measures in SIZES:
        rows.append(measured(models, measures))
        print(rows[-1], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    about = environment(catalog())
    (FOLDER / "environment.json").write_text(json.dumps(about, indent=1) + "\n")
    found = pd.DataFrame(rows)
    (FOLDER / "scale.csv").write_text(csv_text(found), encoding="utf-8", newline="")
    (FOLDER / "README.md").write_text(page(found, about))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    main()
