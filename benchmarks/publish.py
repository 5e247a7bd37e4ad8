"""Commit a finished run as a study under ``benchmarks/results/studies``: its values, tables, figures, and one page.

``python benchmarks/publish.py RUN NAME --command "acutance run NAME" [--published LEVEL=SETTING] [--target OURS=THEIRS]
[--strongest] [--label-free]``.
The page is made from the committed files alone (``--pages`` makes all pages anew, and the tables that are picked out for
them), and a test holds it to them. Values lie
in ``results.csv``, one row a cell; ``environment.json`` names the commit of the code that computed them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from strongest import FILE as STRONGEST
from strongest import lines as shown
from strongest import strongest
from without_labels import FILE as RANKS_BEST
from without_labels import lines as without_labels
from without_labels import ranks_best

from acutance.analysis.compare import compare
from acutance.analysis.judging import HOLDS, counted, holding
from acutance.analysis.labels import target_label
from acutance.analysis.matrix import THRESHOLD
from acutance.cli.compare_ import choose, defaults, open_side
from acutance.errors import UserError
from acutance.io.spreadsheet import csv_text
from acutance.run.directory import RunDirectory, read_csv
from acutance.run.outputs import write_figures

STUDIES = Path(__file__).parent / "results" / "studies"
FILES = ("models.csv", "results.csv", "correlations.csv", "hypotheses.csv", "ceilings.csv", "radii.csv", "associations.csv", "pairwise.csv", "estimates.csv", "config.yaml", "environment.json")  # fmt: skip
PICKED = ("beside_", STRONGEST, RANKS_BEST)  # how tables begin that a page takes out of the values
FIGURES = (
    "tau-*.png",
    "pairwise-*.png",
    "target-*adaptive_*_case_linf*.png",
)  # of all figures of a run, those that a page can show


def publish(run: Path, name: str, about: dict[str, Any]) -> Path:
    """Copy what a run found into its folder, compare it with the paper where it says so, and write its page.

    Raises:
        UserError: for a run without values, with failed cells, or of code that is in no commit.
    """
    environment = json.loads((run / "environment.json").read_text())
    if not environment.get("commit") or str(environment["commit"]).endswith("+"):
        raise UserError(f"{run}: was computed by code that is in no commit", "commit, and run it again")
    states = read_csv(run / "results.csv")["status"].value_counts().to_dict()
    if states.get("failed"):
        raise UserError(f"{run}: {states['failed']} cells failed", "acutance run ... --rerun failed")
    folder = STUDIES / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    for file in FILES:
        if (run / file).is_file() and len((run / file).read_text().splitlines()) > 1:  # not a table without a row
            shutil.copy(run / file, folder / file)
    shutil.copytree(run / "tables", folder / "tables")
    if about["strongest"]:
        write_figures(RunDirectory(run), ["pairwise"])
    for pattern in FIGURES:
        for figure in sorted((run / "figures").glob(pattern)):
            shutil.copy(figure, folder / "figures" / figure.name)
    (folder / "study.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    _write_picked(folder)
    (folder / "README.md").write_text(page(folder))
    return folder


def picked(folder: Path) -> dict[str, str]:
    """Return the tables that the page of a study takes out of its values, by file."""
    about = json.loads((folder / "study.json").read_text())
    found = {
        f"beside_{setting}.csv": beside(folder, level, setting, about["targets"])
        for level, setting in about["published"].items()
    }
    found |= {STRONGEST: strongest(folder)} if about.get("strongest") else {}
    found |= {RANKS_BEST: ranks_best(folder)} if about.get("label_free") else {}
    return {name: csv_text(table) for name, table in found.items()}


def _write_picked(folder: Path) -> None:
    for name, text in picked(folder).items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def beside(folder: Path, level: str, setting: str, targets: dict[str, str]) -> pd.DataFrame:
    """Return one level of a study beside one of the paper's tables, as ``acutance compare --within`` does."""
    ours = choose(choose(open_side(str(folder), None), "group", "all", "group"), "within", level, "--published")
    table = compare(ours, open_side("published", setting), defaults=defaults, targets=targets, names=("a", "b"))
    return table[table["found"] == "both"]


def page(folder: Path) -> str:
    """Return the page of a committed study, from the files in its folder."""
    about = json.loads((folder / "study.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    models, correlations = read_csv(folder / "models.csv"), read_csv(folder / "correlations.csv")
    results = read_csv(folder / "results.csv")
    cores, torch = environment["cores"], environment["libraries"]["torch"]
    lines = [
        f"# {folder.name}", "",
        f"`{about['command']}`, {cores} cores ({environment['processor']}), torch {torch}, acutance {environment['acutance']}, commit "
        f"`{environment['commit'][:12]}`. {about['note']}".rstrip(),
        "", *_pool(models), "",
        f"Files: `results.csv` ({len(results)} cells: {_states(results)}), `models.csv`, `correlations.csv` (every tau with interval, p, "
        "adjusted p and ceiling), `hypotheses.csv`, `radii.csv`, `ceilings.csv`, `config.yaml` (resolved), `environment.json`, `tables/` "
        "(the layout of the paper's Tables 3 and 4), `figures/`. `acutance correlate "
        f"benchmarks/results/studies/{folder.name} --out DIR` makes all tables anew from these values{_and_picked(folder)}.",
        "", *_errors(models), "", *_holds(correlations),
    ]  # fmt: skip
    for level, setting in about["published"].items():
        lines += ["", *_beside(folder, level, setting, about)]
    if (folder / STRONGEST).is_file():
        lines += ["", *shown(read_csv(folder / STRONGEST)), "", *_alike(read_csv(folder / "pairwise.csv"))]
    if (folder / RANKS_BEST).is_file():
        lines += ["", *without_labels(read_csv(folder / RANKS_BEST), read_csv(folder / "estimates.csv"))]
    for table in sorted((folder / "tables").glob("*.md")):
        lines += ["", table.read_text().rstrip()]
    for figure in sorted((folder / "figures").glob("*.png")):
        lines += ["", f"![{figure.stem}](figures/{figure.name})"]
    return "\n".join(lines) + "\n"


def _and_picked(folder: Path) -> str:
    names = [f"`{path.name}`" for path in sorted(folder.glob("*.csv")) if path.name.startswith(PICKED)]
    return (
        f", and `python benchmarks/publish.py --pages` {' and '.join(names)} and this page from them" if names else ""
    )


def _pool(models: pd.DataFrame) -> list[str]:
    column = next(name for name in ("target.test_error", *models) if name in models and name.startswith("target."))
    what = target_label(column.removeprefix("target.")).replace("_", " ")
    rows = [f"| architecture | models | admitted | {what} of these |", "|---|---|---|---|"]
    for architecture, part in models.groupby("architecture", sort=False):
        errors = part[part["admitted"]][column]
        rows.append(f"| {architecture} | {len(part)} | {len(errors)} | {errors.min():.3f} to {errors.max():.3f} |")
    return rows


def _states(results: pd.DataFrame) -> str:
    return ", ".join(f"{count} {state}" for state, count in results["status"].value_counts().items())


def _errors(models: pd.DataFrame) -> list[str]:
    admitted = models[models["admitted"]]
    rows = ["| target, admitted models | lowest | median | highest |", "|---|---|---|---|"]
    for column in (name for name in models if name.startswith("target.")):
        values = admitted[column].dropna()
        if len(values):
            told = f"{values.min():.3f} | {values.median():.3f} | {values.max():.3f}"
            rows.append(f"| {target_label(column.removeprefix('target.'))} | {told} |")
    return rows


def _holds(correlations: pd.DataFrame) -> list[str]:
    """Return how many correlations that count hold, and the smallest adjusted p."""
    whole = counted(correlations)
    held = whole[holding(whole)]
    by_target = [f"{count} with {target_label(target)}" for target, count in held["target"].value_counts().items()]
    said = f": {', '.join(by_target)}" if by_target else ""
    return [
        f"Of {len(whole)} correlations {len(held)} hold ({HOLDS}){said}; the smallest adjusted p is {whole['p_adjusted'].min():.3g}."
    ]


def _alike(pairwise: pd.DataFrame) -> list[str]:
    """Return which definitions say the same of the models, a line for each cluster of several."""
    own = pairwise.drop_duplicates(["within", "definition"])
    lines = [f"What says the same (average linkage, mean τ of at least {THRESHOLD:g}; `pairwise.csv` has every pair):"]
    for level, part in own.groupby("within", sort=False):
        alike = [list(rows["definition"]) for _, rows in part.groupby("cluster", sort=True)]
        lines += ["", f"{level}, {len(part)} definitions in {len(alike)} clusters; of several definitions are:", ""]
        lines += [f"* {'; '.join(names)}" for names in alike if len(names) > 1]
    return lines


def _beside(folder: Path, level: str, setting: str, about: dict[str, Any]) -> list[str]:
    table = read_csv(folder / f"beside_{setting}.csv")
    judged = table[table["inside"].notna()]
    targets = " ".join(f"--target {ours}={theirs}" for ours, theirs in about["targets"].items())
    command = f"acutance compare RUN published --setting {setting} --within {shlex.quote(level)} {targets}".rstrip()
    inside = judged["inside"].astype(str).eq("True").sum()
    return [
        f"Beside the paper's {setting} (`{command}`): its value lies in our interval for {inside} of {len(judged)} correlations "
        f"(`beside_{setting}.csv`); with few models the intervals are wide."
    ]  # fmt: skip


def main() -> None:
    """Commit a run, or make all pages anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--command", help="what computes it")
    parser.add_argument("--note", default="", help="a sentence for the page")
    parser.add_argument("--published", action="append", default=[], metavar="LEVEL=SETTING")
    parser.add_argument("--target", action="append", default=[], metavar="OURS=THEIRS")
    parser.add_argument(
        "--strongest",
        action="store_true",
        help="list the largest correlations, and what the learning rate leaves of them",
    )
    parser.add_argument("--label-free", action="store_true", help="say which measure ranks best under each shift")
    parser.add_argument("--pages", action="store_true", help="make the pages of all committed studies anew")
    chosen = parser.parse_args()
    if chosen.pages:
        for folder in sorted(STUDIES.iterdir()):
            _write_picked(folder)
            (folder / "README.md").write_text(page(folder))
        return
    if not (chosen.run and chosen.name and chosen.command):
        parser.error("give RUN, NAME and --command")
    split = {key: dict(text.rsplit("=", 1) for text in getattr(chosen, key)) for key in ("published", "target")}
    about = {
        "command": chosen.command,
        "note": chosen.note,
        "published": split["published"],
        "targets": split["target"],
        "strongest": chosen.strongest,
        "label_free": chosen.label_free,
    }
    print(publish(chosen.run, chosen.name, about))


if __name__ == "__main__":
    main()
