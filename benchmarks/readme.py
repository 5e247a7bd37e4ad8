"""Tables of the README that are made from committed figures: ``python benchmarks/readme.py`` writes them anew.

Each stands between ``<!-- made by benchmarks/readme.py: NAME -->`` and ``<!-- end -->``; a test holds them to the figures.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
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
    with (RESULTS / "search_quality" / "held_out.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
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


def _table(rows: Mapping[str, Callable[[str], str]]) -> list[str]:
    head = ["| | " + " | ".join(NETWORKS.values()) + " |", "|---" * (len(NETWORKS) + 1) + "|"]
    return head + [
        f"| {name} | " + " | ".join(cell(network) for network in NETWORKS) + " |" for name, cell in rows.items()
    ]


SECTIONS: Mapping[str, Callable[[], Sequence[str]]] = {
    "speed": lambda: speed(cases()),
    "released": lambda: released(cases()),
    "values": values,
}


def made(text: str) -> str:
    """Return a page with every table made anew.

    Raises:
        ValueError: for a page without a place for each table.
    """
    for name, lines in SECTIONS.items():
        place = re.compile(rf"(<!-- made by benchmarks/readme\.py: {name} -->\n).*?(<!-- end -->)", re.S)
        if not place.search(text):
            raise ValueError(f"there is no place for the table '{name}'")
        inside = "\n".join(["", *lines(), "", ""])
        text = place.sub(lambda found, inside=inside: found[1] + inside + found[2], text)
    return text


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(made(page.read_text()))
