"""The committed figures of a machine: one JSON file, and the table that people read, made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracking.comparison import PASSES, Row, met

FOLDER = Path(__file__).parents[2] / "results"
VERSIONS = ("python", "torch", "threads")


def read(folder: Path, machine: str) -> dict[str, Any] | None:
    """Return {"machine": ..., "cases": ...} of a machine, or None when none are committed."""
    path = folder / machine / "ratios.json"
    return json.loads(path.read_text()) if path.exists() else None


def write(folder: Path, about: Mapping[str, Any], cases: Mapping[str, Row], complete: bool) -> str:
    """Record a run; a partial one replaces its own cases only.

    Returns:
        What was done, in words.
    """
    kept: dict[str, Row] = {}
    old = None if complete else read(folder, about["id"])
    if old is not None:
        if changed := [name for name in VERSIONS if old["machine"][name] != about[name]]:
            return f"not recorded: {changed[0]} differs from that of the other cases; record all of them (make bench)"
        kept = {case: row for case, row in old["cases"].items() if case not in cases}
    place = folder / about["id"]
    place.mkdir(parents=True, exist_ok=True)
    found = {"machine": dict(about), "cases": dict(sorted({**kept, **cases}.items()))}
    (place / "ratios.json").write_text(json.dumps(found, indent=1) + "\n")
    (place / "README.md").write_text(table(found))
    (folder / "README.md").write_text(index(folder))
    return f"recorded {len(cases)} cases in {place}" + (f", kept {len(kept)}" if kept else "")


def table(found: Mapping[str, Any]) -> str:
    """Return the Markdown page of a machine."""
    about = found["machine"]
    lines = [
        f"# {about['processor']}, {about['cores']} cores" + (f", {about['gpu']}" if about["gpu"] else ""),
        "",
        f"Python {about['python']}, torch {about['torch']}, {about['threads']} thread. Made by `make bench`; how to read "
        "it: [benchmarks/README.md](../../README.md).",
        "",
        "| case | ratio | bound | met | passes | memory |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_line(case, row) for case, row in found["cases"].items()]
    return "\n".join(lines) + "\n"


def _line(case: str, row: Row) -> str:
    ratio = (
        f"{row['ratio']:.2f}" if row.get("ratio") is not None else f"{row['seconds']:.3g} s" if row["seconds"] else ""
    )
    bound = "" if row.get("bound") is None else f"{row['bound']:g}" + ("" if row.get("ratio") is not None else " s")
    passes = " ".join(f"{row[name] / row.get('batch', 1):.4g}{name[0].upper()}" for name in PASSES if row.get(name))
    passes = passes or _peers(row)
    name = case.removeprefix("test_").replace(".py::test_", ": ")
    return f"| {name} | {ratio} | {bound} | {_mark(met(row))} | {passes} | {_memory(row)} |"


def _peers(row: Row) -> str:
    """What each package beside which a measure was run took, or how far it was off."""
    for prefix, what in (("products_", "products"), ("rms_", "rms error")):
        found = [f"{name.removeprefix(prefix)} {value:.3g}" for name, value in row.items() if name.startswith(prefix)]
        if found:
            return f"{what}: {', '.join(found)}"
    return ""


def _mark(kept: bool | None) -> str:
    return "" if kept is None else "yes" if kept else "**no**"


def _memory(row: Row) -> str:
    """Parameter-sized vectors over a bare pass; the bound where there is one; bytes a row for the store."""
    if row.get("bytes_per_row") is not None:
        return f"{row['bytes_per_row']:.0f} B/row"
    if row.get("vectors") is None:
        return ""
    bound = row.get("vectors_bound")
    text = f"{row['vectors']:.1f} vectors"
    return (
        text
        if bound is None
        else f"{text}, bound {bound:g}" + ("" if row["vectors"] <= bound + 0.05 else " **not met**")
    )


def index(folder: Path) -> str:
    """Return the page that lists the machines."""
    lines = ["# Figures by machine", ""]
    for path in sorted(folder.glob("*/ratios.json")):
        found = json.loads(path.read_text())
        about, marks = found["machine"], [met(row) for row in found["cases"].values()]
        known = [mark for mark in marks if mark is not None]
        lines.append(
            f"* [{path.parent.name}]({path.parent.name}/README.md): torch {about['torch']}, {len(marks)} cases, "
            f"{sum(known)} of {len(known)} bounds held"
        )
    lines += ["", "How to run, read and record: [benchmarks/README.md](../README.md)."]
    if (folder / "search_quality" / "README.md").is_file():
        lines += ["", "# How high a search gets", "", "* [search_quality](search_quality/README.md)",
                  "* [on networks that did not tune it](search_quality/held_out.md)"]  # fmt: skip
    if (folder / "error_rates" / "README.md").is_file():
        lines += ["", "# How often a verdict is wrong", "", "* [error_rates](error_rates/README.md)"]
    if (folder / "scale" / "README.md").is_file():
        lines += ["", "# How long large tables take", "", "* [scale](scale/README.md)"]
    if (folder / "large_language_model" / "README.md").is_file():
        lines += ["", "# A billion weights", "", "* [large_language_model](large_language_model/README.md)"]
    if (folder / "gpt2_search" / "README.md").is_file():
        lines += ["", "# A search over GPT-2", "", "* [gpt2_search](gpt2_search/README.md)"]
    if (folder / "roofline" / "README.md").is_file():
        lines += ["", "# What the memory's bandwidth allows", "", "* [roofline](roofline/README.md)"]
    studies = sorted(path.parent.name for path in folder.glob("studies/*/README.md"))
    if studies:
        lines += ["", "# Studies that were run", "", *(f"* [{name}](studies/{name}/README.md)" for name in studies)]
    return "\n".join([*lines, ""])
