"""Pages of docs/reference: one for each measure, one for each other kind of thing, made of the installed classes."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import doors
import entry
import printed
from families import FAMILIES, OTHER, family
from works import citation, key

from acutance.cli.describing import describe
from acutance.cli.list_ import summary
from acutance.measure import Status
from acutance.plugins import Item, catalog
from acutance.references import entries, known

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parents[1]
REFERENCE = HERE / "reference"
KINDS = {
    "pools": ("Pools", "A pool is where models come from: checkpoints that you have, or networks that are trained on "
              "first use. A study names them under `pools`."),
    "datasets": ("Datasets", "A dataset gives the points on which a loss surface is built, and those on which targets "
                 "are measured. A study names one under `dataset`."),
    "executors": ("Executors", "An executor decides where a study computes. Values are the same on all of them. A study "
                  "names one under `executor`, and `acutance run --executor` does."),
    "scalings": ("Scalings", "A scaling is the vector c in whose units weights move: `scaling` of the measures of "
                 "sharpness and curvature."),
    "statistics": ("Statistics", "A statistic is a table that a study computes from its results, and a place on the "
                   "report. How they are meant is told in [Statistics](../statistics.md)."),
    "figures": ("Figures", "A figure is drawn from the tables of a run by `acutance report DIR --figure NAME`. Those that "
                "a study's tables allow are drawn by themselves."),
    "sinks": ("Sinks", "A sink takes each value as soon as it is stored: a file, or a tracker of experiments. A study "
              "names them under `sinks`."),
}  # fmt: skip


def write(path: Path, text: str) -> None:
    """Write a page; one that is as it was keeps its time, so that it is not read again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def own(kind: str) -> list[Item]:
    """Return what comes with acutance, whatever else is installed."""
    return [item for item in catalog().items(kind) if item.dist == "acutance"]


def toctree(names: list[str]) -> str:
    """Return a table of contents that only the sidebar shows."""
    return "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def measures(items: list[Item]) -> dict[str, str]:
    """Return the index of all measures, by family, and a page for each."""
    pages, tables = {}, {title: [] for title in (*FAMILIES, OTHER)}
    for item in items:
        about = describe(item)
        traits = about["traits"]
        pages[f"measures/{item.name}"] = entry.measure(item, about, HERE)
        tables[family(item.target.__module__)].append(
            f"| [`{item.name}`](measures/{item.name}.md) | {entry.cell(summary(item))} "
            f"| {entry.ON[traits['level']]} | {entry.passes(about)} |"
        )
    count = sum(map(len, tables.values()))
    text = [
        "# Measures\n",
        f"{count} measures, each with a page: the equation, its settings, what it needs, what it costs, what to cite. "
        "`acutance show NAME` prints the same. *On* says what a measure is computed on; *passes* are those at the "
        "default settings: forwards / backwards / Hessian-vector products. "
        "[Statuses](statuses.md) says what a value can be when it is no number.\n",
    ]
    for title, rows in tables.items():
        if rows:
            head = "| measure | what it is | on | passes |\n|---|---|---|---|"
            text.append(f"## {title}\n\n{head}\n" + "\n".join(rows) + "\n")
    text.append(toctree([f"{item.name} <measures/{item.name}>" for item in sorted(items, key=lambda i: i.name)]))
    return {"measures": "\n".join(text), **pages}


def kind(name: str) -> str:
    """Return the page of all things of one kind."""
    title, what = KINDS[name]
    sections = [entry.section(item, describe(item)) for item in own(name)]
    return f"# {title}\n\n{what} `acutance list {name}` prints what is installed.\n\n" + "\n".join(sections)


def presets() -> str:
    """Return the page of the studies that are named, not written."""
    text = ["# Presets\n\nA preset is a study that comes with acutance: `acutance run NAME` runs it.\n"]
    for file in sorted(resources.files("acutance.presets").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            lines = file.read_text().splitlines()
            told = [line.lstrip("# ") for line in lines[: next(i for i, li in enumerate(lines) if li[:1] != "#")]]
            study = "\n".join(lines[len(told) :])
            name = file.name.removesuffix(".yaml")
            shown = re.sub(r" {2}((?:acutance|ACUTANCE_DATA)\b.*)", r" `\1`", " ".join(told))
            text.append(f"## `{name}`\n\n{shown}\n\n:::{{dropdown}} The study\n```yaml\n{study}\n```\n:::\n")
    return "\n".join(text)


def statuses() -> str:
    """Return the page of how an evaluation can end."""
    rows = "\n".join(f"| `{status}` | {status.advice or 'nothing: the value is a finite number'} |" for status in Status)
    return (
        "# Statuses\n\nEvery value has a status. A value is a finite number, or its status says why it is none. A status "
        "other than `ok` comes with a sentence: in `results.csv` the column `message`, in the report the table of "
        f"failed cells.\n\n| status | what to do |\n|---|---|\n{rows}\n\n"
        "`not_converged` keeps its number: it is what the search had reached when its steps were used up. "
        "`acutance run STUDY --rerun failed` computes again what failed.\n"
    )


def works(items: list[Item]) -> str:
    """Return the page of the works that measures go back to."""
    used: dict[str, list[str]] = {}
    whole = dict(known())
    for item in items:
        for bib in entries(item.target.traits.bibtex):
            whole.setdefault(key(bib), bib)
            used.setdefault(key(bib), []).append(f"[`{item.name}`](measures/{item.name}.md)")
    lines = [f"* {citation(whole[name])} {', '.join(used[name])}" for name in sorted(used)]
    return (
        "# Works\n\nWhat the measures go back to. `acutance show NAME --bibtex` prints the entries of one measure.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def make(app: Sphinx) -> None:
    """Write all pages, and remove those of what is no longer installed."""
    items = own("measures")
    pages: dict[str, Any] = measures(items)
    pages |= {name: kind(name) for name in KINDS}
    pages |= {"presets": presets(), "statuses": statuses(), "works": works(items), "published": printed.page()}
    api = doors.pages((HERE / "plugins.md").read_text())
    pages |= {**api, "api/index": doors.index(list(api))}
    for name, text in pages.items():
        write(REFERENCE / f"{name}.md", text)
    for old in REFERENCE.rglob("*.md"):
        if old.relative_to(REFERENCE).with_suffix("").as_posix() not in pages:
            old.unlink()


def plain_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep absolute values in docstrings of API pages."""
    lines[:] = [entry.bars(line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them, and read docstrings on API pages as they do."""
    app.connect("builder-inited", make)
    app.connect("autodoc-process-docstring", plain_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
