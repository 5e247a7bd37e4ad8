"""Tables of README and docs that are made from committed figures: ``python benchmarks/readme.py`` writes them anew.

Each stands between ``<!-- made by benchmarks/readme.py: NAME -->`` and ``<!-- end -->``; a test holds them to the figures.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from acutance.plugins import catalog

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
from families import FAMILIES, OTHER, family  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MACHINE = "amd-epyc-2-cores"
NETWORKS = {
    "resnet18_w16": "ResNet-18, width 16", "vit": "ViT, depth 6, dim 128", "bert": "BERT, 4.3M", "cnn": "CNN, 6k parameters",
    "mlp": "MLP, 10k parameters",
}  # fmt: skip

Cases = Mapping[str, Mapping[str, Any]]


def cases() -> Cases:
    """Return the committed figures of the machine that the README quotes."""
    found: Cases = json.loads((RESULTS / MACHINE / "ratios.json").read_text())["cases"]
    return found


def speed(found: Cases) -> list[str]:
    """Return measures beside their bare passes."""

    def ratio(network: str, case: str) -> str:
        return f"{found[f'test_measures.py::test_measure[{network}-cpu-{case}]']['ratio']:.2f}"

    rows = {
        "`worst_case` ℓ∞ / ℓ2": lambda n: f"{ratio(n, 'worst_case-linf')} / {ratio(n, 'worst_case-l2')}",
        "`average_case`": lambda n: ratio(n, "average_case"),
        "`hessian_trace`, Hutchinson": lambda n: ratio(n, "hessian_trace"),
    }
    return _table(rows)


def released(found: Cases) -> list[str]:
    """Return how many times as fast as the published search ours is."""

    def times(network: str, norm: str, start: str) -> str:
        value = 1 / found[f"test_released.py::test_published_code[{network}-cpu-{norm}-{start}]"]["ratio"]
        return f"{value:.1f}" if value >= 2 else f"{value:.2f}"

    def row(norm: str) -> Callable[[str], str]:
        return lambda n: f"{times(n, norm, 'zero')} / {times(n, norm, 'screened')}"

    return _table({"ℓ∞": row("linf"), "ℓ2": row("l2")})


def values() -> list[str]:
    """Return rises of the default search over the published one's and of a random start over it, on held-out networks."""
    rows = _rows("search_quality/held_out.csv")
    found: dict[str, dict[tuple[str, ...], dict[str, float]]] = {"l2": {}, "linf": {}}
    for row in rows:
        found[row["norm"]].setdefault((row["network"], row["loss"]), {})[row["search"]] = float(row["rise"])
    table = ["| | cases | smallest | median | largest | below 0.98 |", "|---|---|---|---|---|---|"]
    for above, below in (("screened", "published, 22 steps"), ("random", "screened")):
        for norm, name in (("l2", "ℓ2"), ("linf", "ℓ∞")):
            ratios = [case[above] / case[below] for case in found[norm].values()]
            table.append(
                f"| {above} / {below.partition(',')[0]}, {name} | {len(ratios)} | {min(ratios):.3f} | {median(ratios):.3f} | {max(ratios):.3f} | "
                f"{sum(ratio < 0.98 for ratio in ratios)} |"
            )
    return table


TRUTHS = {
    "independent": "measure and error have nothing in common",
    "boundary": "exactly as many of the flattest are above the median as is tolerated",
    "corner": "flat models have small errors, sharp ones any",
    "monotone": "normal scores with tau = 0.8",
}


def weak_errors() -> list[str]:
    """Return how often either form of the weak hypothesis is supported and refuted, of each truth and number of models."""
    rows = {(row["form"], row["truth"], row["n"]): row for row in _rows("error_rates/weak.csv")}
    table = [
        "| models | truth | the claim is | strict: supported | refuted | wide: supported | refuted |",
        "|---|---|---|---|---|---|---|",
    ]
    for truth, words in TRUTHS.items():
        for n in ("50", "100", "200"):
            found = [rows[form, truth, n] for form in ("strict", "wide")]
            cells = [_share(row, name) for row in found for name in ("holds", "fails")]
            table.append(f"| {n} | {words} | {found[0]['claim']} | {' | '.join(cells)} |")
    return table


def partial_errors() -> list[str]:
    """Return how often p is at most 5% where only confounders act, by three ways to find it, and the power of ours."""
    rows = {
        (row["controls"], row["effect"], float(row["shared"]), row["n"]): row
        for row in _rows("error_rates/partial.csv")
    }
    named = {
        ("one", "linear"): "one confounder, linear", ("one", "bent"): "one, bent", ("two", "linear"): "two, linear",
        ("two", "bent"): "two, bent", ("label", "levels"): "a label of four levels", ("noisy", "linear"): "one, linear, seen with noise",
    }  # fmt: skip
    table = [
        "| models | what acts | `partial` | Student's t | permuted residuals | power of `partial` |",
        "|---|---|---|---|---|---|",
    ]
    for (controls, effect), words in named.items():
        for n in ("25", "50", "100"):
            null, power = (rows[controls, effect, shared, n] for shared in (0.0, 0.5))
            cells = [_share(null, name) for name in ("simulated", "student", "permuted")]
            table.append(f"| {n} | {words} | {' | '.join(cells)} | {_share(power, 'simulated')} |")
    return table


def _share(row: Mapping[str, str], name: str) -> str:
    """Return a rate in percent with the standard error of its simulation; none and all have no such error."""
    if float(row[name]) in (0, 1):
        return f"{100 * float(row[name]):.0f}%"
    return f"{100 * float(row[name]):.1f} ± {100 * float(row[f'{name}_se']):.1f}%"


def _rows(file: str) -> list[dict[str, str]]:
    with (RESULTS / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def _table(rows: Mapping[str, Callable[[str], str]]) -> list[str]:
    head = ["| | " + " | ".join(NETWORKS.values()) + " |", "|---" * (len(NETWORKS) + 1) + "|"]
    return head + [
        f"| {name} | " + " | ".join(cell(network) for network in NETWORKS) + " |" for name, cell in rows.items()
    ]


KINDS = {
    "pools": "Pools of models", "datasets": "Datasets", "scalings": "Scalings of the ball", "statistics": "Statistics",
    "figures": "Figures", "executors": "Executors", "sinks": "Trackers",
}  # fmt: skip
SHOWN = 5


def contents() -> list[str]:
    """Return how many there are of everything that is registered by this project's own packages, and some names."""
    items = {kind: [item for item in catalog().items(kind) if item.dist == "acutance"] for kind in ("measures", *KINDS)}
    families: dict[str, list[str]] = {}
    for item in sorted(items["measures"], key=lambda item: _place(item.target.__module__)):
        families.setdefault(family(item.target.__module__), []).append(item.name)
    table = [f"| {len(items['measures'])} measures | | |", "|---|---|---|"]
    table += [_row(title.partition(":")[0], names) for title, names in families.items()]
    return table + [_row(f"**{title}**", [item.name for item in items[kind]]) for kind, title in KINDS.items()]


def _place(module: str) -> tuple[int, int]:
    """Return where a measure stands: by its family, and there by where its module is named."""
    title = family(module)
    starts = FAMILIES.get(title, ())
    return [*FAMILIES, OTHER].index(title), next((i for i, s in enumerate(starts) if module.startswith(s)), 0)


def _row(title: str, names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return f"| {title} | {len(names)} | {shown}{' …' if len(names) > SHOWN else ''} |"


PAGES: Mapping[str, Mapping[str, Callable[[], Sequence[str]]]] = {
    "README.md": {"contents": contents, "speed": lambda: speed(cases())},
    "docs/speed.md": {"speed": lambda: speed(cases()), "released": lambda: released(cases()), "values": values},
    "docs/statistics.md": {"weak_errors": weak_errors, "partial_errors": partial_errors},
}


def made(text: str, page: str = "README.md") -> str:
    """Return a page's text with every table of it made anew.

    Raises:
        ValueError: for a text without a place for each table.
    """
    for name, lines in PAGES[page].items():
        place = re.compile(rf"(<!-- made by benchmarks/readme\.py: {name} -->\n).*?(<!-- end -->)", re.S)
        if not place.search(text):
            raise ValueError(f"there is no place for the table '{name}'")
        inside = "\n".join(["", *lines(), "", ""])
        text = place.sub(lambda found, inside=inside: found[1] + inside + found[2], text)
    return text


if __name__ == "__main__":
    for name in PAGES:
        page = ROOT / name
        page.write_text(made(page.read_text(), name))
