"""Worst-case searches on networks that did not serve to tune them: what a screened start gives beside the published search.

``python benchmarks/search_held_out.py`` trains twenty networks (``search_networks.py``) and writes
``results/search_quality/held_out.csv`` and its page. A network whose rows are there is not measured again.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

import pandas as pd
import torch
from search_networks import HELD_OUT, KINDS, trained

from acutance import LossSurface
from acutance.plugins import catalog
from acutance.surface.evaluation import evaluate_family

FOLDER = Path(__file__).parent / "results" / "search_quality"
SEEDS = range(HELD_OUT, HELD_OUT + 4)
LOSSES = {"plain": (False, "paper"), "paper": (True, "paper"), "released": (True, "released")}
# Where the published search brings a network of the kind, trained to tune the search, to chance level; where it never does
# (normalized loss, residual and transformer networks, linf): a fifth of every weight.
LARGEST = {
    ("l2", "plain"): {"mlp": 3.12, "cnn": 3.29, "bn": 1.28, "resnet": 0.453, "vit": 2.10},
    ("l2", "paper"): {"mlp": 15.7, "cnn": 12.8, "bn": 3.25, "resnet": 3.50, "vit": 5.73},
    ("l2", "released"): {"mlp": 15.0, "cnn": 10.0, "bn": 2.76, "resnet": 1.65, "vit": 4.40},
    ("linf", "plain"): {"mlp": 0.069, "cnn": 0.080, "bn": 0.064, "resnet": 0.0156, "vit": 0.0298},
    ("linf", "paper"): {"mlp": 0.449, "cnn": 0.427, "bn": 0.235, "resnet": 0.2, "vit": 0.2},
    ("linf", "released"): {"mlp": 0.356, "cnn": 0.310, "bn": 0.193, "resnet": 0.0568, "vit": 0.0909},
}
PUBLISHED, EQUAL, SCREENED, RANDOM = "published, 20 steps", "published, 22 steps", "screened", "random"
# 22 steps of the published search make 45 passes, a screened search makes 46, one from a random start 41.
SEARCHES = {
    PUBLISHED: {"mode": "released"},
    EQUAL: {"mode": "released", "steps": 22},
    SCREENED: {"start": "screened"},
    RANDOM: {"start": "random"},
}


def measured(name: str) -> list[dict[str, object]]:
    """Return a row for each search, norm and loss on a network, at half of the radius to chance or, by turns, at it."""
    torch.set_num_threads(1)
    model, data, kind = trained(name)
    surface, measure, rows = LossSurface(model, data), catalog().measure("worst_case"), []
    for i, ((norm, loss), radii) in enumerate(LARGEST.items()):
        share = (0.5, 1.0)[(i + int(name.split("/")[1])) % 2]
        rho, (logit_norm, norm_scale) = share * radii[name.split("/")[0]], LOSSES[loss]
        for search, settings in SEARCHES.items():
            spec = measure.Spec(norm=norm, rho=rho, logit_norm=logit_norm, norm_scale=norm_scale, **settings)
            surface.release()
            before = surface.cost
            (found,) = evaluate_family("worst_case", measure, surface, [spec], seed=0, batch=0)
            cost = (surface.cost - before) * (1 / surface.n)
            rows.append(
                {"network": name, "kind": kind, "norm": norm, "loss": loss, "rho": rho, "of_chance": share, "search": search,
                 "rise": found.value, "starts": found.extras["starts"], "forwards": cost.forwards, "backwards": cost.backwards}
            )  # fmt: skip
    return rows


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rises by case, one column a search."""
    case = ["kind", "network", "norm", "loss", "rho", "of_chance"]
    return rows.pivot(index=case, columns="search", values="rise").reset_index()


def over(rises: pd.DataFrame, above: str, below: str) -> list[str]:
    """Return the rows of a table: cases, smallest, lower quarter, median and largest ratio of two searches, and how many fall behind."""
    lines = [
        f"| networks | norm | cases | smallest {above} / {below} | median | largest | below 1 | below 0.98 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = [*rises.groupby(["kind", "norm"]), *((("all", norm), found) for norm, found in rises.groupby("norm"))]
    for (kind, norm), found in groups:
        r = found[above] / found[below]
        lines.append(
            f"| {kind} | {norm} | {len(r)} | {r.min():.3f} | {r.median():.3f} | {r.max():.3f} | {int((r < 0.9995).sum())} | "
            f"{int((r < 0.98).sum())} |"
        )
    return lines


def values_over_theirs(rows: pd.DataFrame) -> str:
    """Return the table of a screened search's values over the published search's, at its own 20 steps, as Markdown."""
    return "\n".join(over(wide(rows), SCREENED, PUBLISHED))


def random_over_screened(rows: pd.DataFrame) -> str:
    """Return the table of what the paper's random start costs or gains against the screened one, as Markdown."""
    return "\n".join(over(wide(rows), RANDOM, SCREENED))


def page(rows: pd.DataFrame) -> str:
    """Return the page of the held-out networks."""
    rises = wide(rows)
    passes = rows.groupby("search")[["forwards", "backwards"]].sum().sum(axis=1) / len(rises)
    spent = ", ".join(f"{search} {passes[search]:.1f}" for search in SEARCHES)
    worst = rises.assign(ratio=rises[SCREENED] / rises[PUBLISHED]).nsmallest(5, "ratio")
    lines = [
        "# Searches on networks that did not tune them", "",
        f"{len(rises)} cases: {rises['network'].nunique()} networks trained to fit {rises['kind'].nunique()} architectures, 64 training",
        "points, adaptive, three losses (plain, logit-normalized on the paper's and the released scale), half of the radius at which",
        "the loss reaches chance level or all of it. Passes of a value alone:",
        f"{spent}. All rows: [held_out.csv](held_out.csv); `python benchmarks/search_held_out.py`.", "",
        "## Values over theirs: screened over the published search of 20 steps", "", values_over_theirs(rows), "",
        "## At equal passes: screened over the published search of 22 steps", "", *over(rises, SCREENED, EQUAL), "",
        "## The paper's random start over the screened one", "", random_over_screened(rows), "",
        "## The five smallest ratios to the published search of 20 steps", "",
        "| network | norm | loss | rho | of the radius to chance | ratio |", "|---|---|---|---|---|---|",
        *(f"| {r.network} | {r.norm} | {r.loss} | {r.rho:.3g} | {r.of_chance:g} | {r.ratio:.3f} |" for r in worst.itertuples()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and write rows and page."""
    table = FOLDER / "held_out.csv"
    rows = pd.read_csv(table) if table.is_file() else pd.DataFrame({"network": []})
    for name in (f"{kind}/{seed}" for seed in SEEDS for kind in KINDS):
        if name not in set(rows["network"]):
            rows = pd.concat([rows, pd.DataFrame(measured(name))], ignore_index=True)
            rows.to_csv(table, index=False)
            print(name, flush=True)
    (FOLDER / "held_out.md").write_text(page(rows))


if __name__ == "__main__":
    main()
