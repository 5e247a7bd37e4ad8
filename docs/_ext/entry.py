"""One thing of the catalogue as Markdown: what `acutance show` prints, with formulas, links and works to cite."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from works import citation

from acutance.cli.describing import cost_line, yaml_text
from acutance.plugins import Item, catalog

ON = {"batch": "m-batches", "dataset": "all points", "weights": "the weights", "pool": "all models"}
LEVEL = {
    "batch": "each batch of m points; the value is the mean over the batches",
    "dataset": "all points at once",
    "weights": "the weights alone; no points are opened",
    "pool": "all models of a study that are compared with each other, at once",
}
NEEDS = {
    "weights": "the weights",
    "initial_weights": "the weights before training; where the pool has none, the status is `unsupported`",
    "data": "forward passes over the points",
    "gradient": "the gradient of the loss",
    "example_gradients": "the gradient of each example",
    "hvp": "second derivatives",
    "activations": "features of a layer",
    "unlabeled": "points without their labels, which are taken away",
    "validation": "a second set of points, with labels: `surface.validation` of a study",
    "trajectory": "what training wrote down, or earlier checkpoints of the run; where there is none, the status is "
    "`unsupported`",
    "update": "the last step of the optimizer; where the pool does not know it, minus the gradient",
    "input_gradient": "derivatives by the inputs",
    "peers": "the other models",
}
INVARIANCE = {
    "rescaling": "rescaling of weights that leaves the function as it is",
    "output_scale": "a factor on the last layer",
    "head_mixing": "invertible maps between query and key, and between value and output, of an attention head",
    "permutation": "another order of the neurons",
    "translation": "a constant added to all logits, or to the key bias",
}
GUIDES = ("curvature", "classic", "predictions", "dln", "grid", "rank", "vision", "text")


def markdown(text: str) -> str:
    """Return a text of a docstring, one paragraph, as Markdown."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", " ".join(text.split()))
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def cell(text: str) -> str:
    """Return the same for a cell of a table."""
    return markdown(text).replace("|", r"\|")


def bars(doc: str) -> str:
    """Return a docstring whose |w| are absolute values, where reStructuredText would look for a substitution."""
    return re.sub(r"(?<![\w`\\|])\|(?=[\w*]+\|)", r"\|", doc)


def docstring(doc: str) -> str:
    """Return a docstring, which is reStructuredText, as a part of a page."""
    return f"````{{eval-rst}}\n{bars(doc.strip())}\n````\n"


def settings(about: dict[str, Any]) -> str:
    """Return the table of settings."""
    what = [field for field in about["fields"] if not field["estimation"]]
    how = [field for field in about["fields"] if field["estimation"]]
    told = "These say how the value is estimated, not what it is:\n\n"
    return "\n".join([*([rows(what)] if what else []), *([told + rows(how)] if how else [])])


def rows(fields: list[dict[str, Any]]) -> str:
    """Return settings as a table."""
    rows = ["| setting | type | default | what it is |", "|---|---|---|---|"]
    for field in fields:
        default = "required" if field["required"] else f"`{yaml_text(field['default'])}`"
        kind = field["type"].replace("|", r"\|")
        rows.append(f"| `{field['name']}` | {kind} | {default.replace('|', chr(92) + '|')} | {cell(field['doc'])} |")
    return "\n".join(rows) + "\n"


def use(about: dict[str, Any]) -> str:
    """Return how the thing is used, in Python, in a study or on the command line."""
    lines = about["example"]
    blocks = []
    if lines and lines[0].startswith("acutance.measure("):
        blocks, lines = [f"```python\n{lines[0]}\n```"], lines[1:]
    if lines:
        blocks.append(f"```{'console' if lines[0].startswith('acutance') else 'yaml'}\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(blocks) + "\n"


def passes(about: dict[str, Any]) -> str:
    """Return forwards / backwards / products, briefly."""
    counts = about["cost"]
    if not counts:
        return "-"
    if not any(counts[name] for name in ("forwards", "backwards", "hvps")):
        return "none"
    return " / ".join(f"{counts[name]:g}" for name in ("forwards", "backwards", "hvps"))


def traits(item: Item, about: dict[str, Any]) -> str:
    """Return what the harness and the reader have to know of a measure, as a list."""
    t = item.target.traits
    promised = {"larger": "a larger value promises a lower error", "smaller": "a smaller value promises a lower error"}
    larger = f"{t.larger_means}" + (f"; {promised[t.better]}" if t.better else "")
    lines = [
        f"**Computed on** {LEVEL[t.level]}.",
        f"**Reads** {'; '.join(NEEDS[need] for need in NEEDS if need in t.needs)}.",
        f"**Larger means** {larger}.",
        "**Seed**: another seed gives another value." if t.stochastic else "**Seed**: the value does not depend on it.",
        f"**Unchanged by** {'; '.join(INVARIANCE[name] for name in INVARIANCE if name in t.invariant_to)}."
        if t.invariant_to
        else "**Unchanged by**: no invariance is declared.",
    ]
    if about["cost"]:
        lines.append(cost_line(about).replace("Cost at the defaults: ", "**Cost at the defaults**: "))
    if t.estimates:
        lines.append(f"**Estimates** the {t.estimates} on the points, and is compared with it.")
    if t.curves:
        axes = "; ".join(f"`{name}` ({x} → {y})" for name, (x, y) in t.curves.items())
        lines.append(f"**Curves** beside the value: {axes}.")
    lines.append(f"**Version** {item.target.version} of the definition, from {item.dist} {item.version}.")
    return "\n".join(f"* {line}" for line in lines) + "\n"


@cache
def _told(folder: Path) -> list[tuple[str, str, str]]:
    """Return (page, heading, text) of all sections of the guides."""
    found = []
    for page in GUIDES:
        title = page
        for part in re.split(r"^(?=#{1,4} )", (folder / f"{page}.md").read_text(), flags=re.M):
            if head := re.match(r"#{1,4} (.*)", part):
                title = head[1]
            found.append((page, title, part))
    return found


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def guides(name: str, folder: Path) -> str:
    """Return where else a measure is told of: the sections whose heading or table names it."""
    links = [
        f"[{title.replace('`', '')}](../../{page}.md#{slug(title)})"
        for page, title, text in _told(folder)
        if re.search(rf"^(\||#+) [^|]*`{name}[`(]", text, re.M)
    ]
    return f"In the guide: {', '.join(links[:2])}.\n" if links else ""


def measure(item: Item, about: dict[str, Any], folder: Path) -> str:
    """Return the page of a measure."""
    t = item.target.traits
    cited = [f"Definition: {t.reference}.\n"] if t.reference else []
    if about["bibtex"]:
        cited.append("\n".join(f"* {citation(bib)}" for bib in about["bibtex"]) + "\n")
        bibtex = "\n\n".join(about["bibtex"])
        cited.append(f":::{{dropdown}} BibTeX\n```bibtex\n{bibtex}\n```\n:::\n")
    parts = [f"# `{item.name}`\n", docstring(about["doc"]), guides(item.name, folder), "## Use\n", use(about)]
    if about["fields"]:
        parts += ["## Settings\n", settings(about)]
    parts += ["## What it needs and costs\n", traits(item, about)]
    parts.append("Where there is no number, [the status](../statuses.md) and its sentence say why.\n")
    if cited:
        parts += ["## References\n", *cited]
    return "\n".join(part for part in parts if part)


def section(item: Item, about: dict[str, Any]) -> str:
    """Return the part of a page on one thing that is no measure."""
    facts = [f"* {name}: {value}" for name, value in about["traits"].items() if value != "-"]
    name = catalog().names(item)[0]
    parts = [f"## `{name}`\n", docstring(about["doc"]), "\n".join(facts) + "\n" if facts else "", settings(about)]
    if about["example"]:
        parts.append(use(about))
    return "\n".join(part for part in parts if part)
