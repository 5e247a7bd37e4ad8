"""How high does a worst-case search get for its passes? Trained networks, both norms, several radii.

Each search is held against the best point that any search found there, a search of 200 steps from 5 starts among them:
``python benchmarks/search_quality.py --out benchmarks/results/search_quality``. Networks are those of the presets
``mnist``, ``cifar10_small`` and ``sentiment`` as far as they are trained already, and perceptrons and small
convolutional networks that are trained here, in seconds. A surface whose rows are there is not measured again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

from acutance import LossSurface
from acutance.data.batch import take_rows
from acutance.data.pointsets import PointSets
from acutance.plugins import catalog
from acutance.study.config import load_config
from acutance.surface.evaluation import evaluate_family

PRESETS = ("mnist", "cifar10_small", "sentiment")
POINTS = 64
PER_POOL = 2
BEST, LADDER = "200 steps, 5 starts", "ladder, 19 steps a radius"
# Name of the search -> its settings; a ladder is climbed through the smaller radii of the surface.
SEARCHES = {
    "published code, 20 steps": {"mode": "released", "steps": 20},
    "from zero, 20 steps": {"start": "zero", "steps": 20},
    "random start, 20 steps": {"start": "random", "steps": 20},
    "screened, 5 steps": {"steps": 5},
    "screened, 10 steps": {"steps": 10},
    "screened, 20 steps": {"steps": 20},
    "screened, 40 steps": {"steps": 40},
    LADDER: {"steps": 19, "ladder": True},
    BEST: {"steps": 200, "restarts": 5},
}
RADII = {"linf": (0.002, 0.004, 0.008), "l2": (0.5, 1.0, 2.0)}


def surfaces() -> Iterator[str]:
    """Yield the name of every surface that can be measured here."""
    for kind in ("mlp", "cnn"):
        yield from (f"{kind}/{i}" for i in range(PER_POOL))
    for preset in PRESETS:
        for i, pool in enumerate(load_config(preset).pools):
            instance = pool.item.target()
            entries = list(instance.entries(pool.spec))
            missing = {entry.id for entry in instance.missing(entries, pool.spec)}
            there = [entry.id for entry in entries if entry.id not in missing]
            yield from (f"{preset}/{i}/{name}" for name in there[:PER_POOL])


def opened(name: str) -> tuple[LossSurface, str]:
    """Return a surface of 64 training points, and the kind of its network."""
    if name.startswith(("mlp", "cnn")):
        return _trained_here(*name.split("/"))
    preset, index, entry_id = name.split("/")
    study = load_config(preset)
    pool = study.pools[int(index)]
    instance = pool.item.target()
    entry = next(e for e in instance.entries(pool.spec) if e.id == entry_id)
    sets = PointSets(study.dataset.item.target(study.dataset.spec), study.surface, study.seed)
    inputs, targets = sets.batches[0]
    model, kind = instance.load(entry, pool.spec), entry.architecture.partition("(")[0]
    return LossSurface(model, (take_rows(inputs, slice(0, POINTS)), targets[:POINTS])), f"{preset}: {kind}"


def _trained_here(kind: str, seed: str) -> tuple[LossSurface, str]:
    study = load_config("mnist")
    x, y = PointSets(study.dataset.item.target(study.dataset.spec), study.surface, 0).points
    torch.manual_seed(int(seed))
    shape = x.shape[1:]
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        if kind == "mlp"
        else nn.Sequential(
            nn.Conv2d(shape[0], 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
        )
    )  # fmt: skip
    model(x[:1])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        _loss(model, x, y).backward()
        optimizer.step()
    return LossSurface(model, (x[:POINTS], y[:POINTS])), {"mlp": "mnist: perceptron", "cnn": "mnist: convolutions"}[
        kind
    ]


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def measured(name: str) -> list[dict[str, object]]:
    """Return one row for each search, norm and radius on a surface."""
    torch.set_num_threads(1)
    surface, kind = opened(name)
    measure, rows = catalog().measure("worst_case"), []
    # Of every pair of networks one; not with two classes, whose normalized loss is locally constant.
    logit_norm = name[-1] in "13579" and not name.startswith("sentiment")
    for norm, radii in RADII.items():
        for search, settings in SEARCHES.items():
            more = {"ladder": radii} if settings.get("ladder") else {}
            specs = [measure.Spec(norm=norm, rho=rho, logit_norm=logit_norm, **{**settings, **more}) for rho in radii]
            surface.release()
            before = surface.cost
            found = evaluate_family("worst_case", measure, surface, specs, seed=0, batch=0)
            cost = (surface.cost - before) * (1 / len(specs) / surface.n)
            rows += [
                {"surface": name, "network": kind, "logit_norm": logit_norm, "norm": norm, "rho": spec.rho, "search": search,
                 "rise": estimate.value, "forwards": cost.forwards, "backwards": cost.backwards}
                for spec, estimate in zip(specs, found, strict=True)
            ]  # fmt: skip
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the share of the best known rise that each search reached, one row a case."""
    case = ["surface", "norm", "rho"]
    best = rows.groupby(case)["rise"].transform("max")
    return rows.assign(share=rows["rise"] / best, passes=rows["forwards"] + rows["backwards"])


def page(rows: pd.DataFrame) -> str:
    """Return the tables as Markdown."""
    networks, cases = rows["surface"].nunique(), len(rows.groupby(["surface", "norm", "rho"]))
    lines = [
        "# How high a search gets", "",
        f"{cases} cases: {networks} trained networks on {POINTS} training points each, both norms, adaptive, three radii; of every",
        "pair of networks one with logit normalization. A share is a rise divided by the best rise that any search of the table",
        "found; passes are forwards and backwards for one value. `python benchmarks/search_quality.py`; all rows: `rows.csv`.",
        "Rows of the screened search in l2 were measured before it began to start anew where it is stuck.", "",
    ]  # fmt: skip
    for norm, group in rows.groupby("norm"):
        lines += [
            f"## {norm}",
            "",
            "| search | cases | passes | median share | lower quarter | least | reaches 0.99 |",
            "|---|---|---|---|---|---|---|",
        ]
        for search in SEARCHES:
            found = group[group["search"] == search]
            s = found["share"]
            lines.append(
                f"| {search} | {len(found)} | {found['passes'].mean():.1f} | {s.median():.3f} | {s.quantile(0.25):.3f} | {s.min():.3f} | "
                f"{(s >= 0.99).mean():.0%} |"
            )
        lines.append("")
    lines += ["## Ours over the published code's, and over random starts", ""]
    lines += [
        "| network | norm | screened / published: least, median | ladder / random start: least, median |",
        "|---|---|---|---|",
    ]
    wide = rows.pivot(index=["network", "norm", "surface", "rho"], columns="search", values="rise")
    ours = wide["screened, 20 steps"] / wide["published code, 20 steps"]
    warm = wide[LADDER] / wide["random start, 20 steps"]
    for (network, norm), index in wide.groupby(level=["network", "norm"]).groups.items():
        a, b = ours.loc[index], warm.loc[index].dropna()
        ladder = f"{b.min():.3f}, {b.median():.3f}" if len(b) else "not measured"
        lines.append(f"| {network} | {norm} | {a.min():.3f}, {a.median():.3f} | {ladder} |")
    warm = warm.dropna()
    counts = ", ".join(f"{level:g} of it in {int((warm >= level).sum())}" for level in (1, 0.999, 0.99))
    lines += [
        "",
        f"At no more passes than the random start the ladder reaches {counts} of {len(warm)} cases; its median rise is",
        f"{warm.median():.4f} of it, its mean {warm.mean():.4f}, its least {warm.min():.4f}.",
        "",
    ]
    return "\n".join([*lines, "![share of the best rise against passes](share.png)", ""])


def figure(rows: pd.DataFrame, path: Path) -> None:
    """Draw the median share, with its quartiles, against the passes of one value."""
    panels, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    families = {"screened": "tab:blue", "published": "tab:red", "from zero": "tab:orange", "random": "tab:green",
                "ladder": "tab:purple", "200": "black"}  # fmt: skip
    for axis, (norm, group) in zip(axes, rows.groupby("norm"), strict=True):
        for family, colour in families.items():
            found = group[group["search"].str.startswith(family)].groupby("search")
            points = found.agg(x=("passes", "mean"), y=("share", "median"), low=("share", lambda s: s.quantile(0.25)),
                               high=("share", lambda s: s.quantile(0.75))).sort_values("x")  # fmt: skip
            axis.plot(points["x"], points["y"], "o-", color=colour, label=family if family != "200" else BEST)
            axis.vlines(points["x"], points["low"], points["high"], color=colour, alpha=0.5)
        axis.set(xscale="log", xlabel="forwards + backwards for one value", title=norm)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of the best rise known (median, quartiles)")
    axes[1].legend(loc="lower right", fontsize=8)
    panels.savefig(path, dpi=130)


def main() -> None:
    """Measure what is missing, and write rows, page and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_quality"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    table = out / "rows.csv"
    rows = pd.read_csv(table) if table.is_file() else pd.DataFrame({"surface": []})
    missing = [name for name in surfaces() if name not in set(rows["surface"])]
    with ProcessPoolExecutor(arguments.workers) as pool:
        for found in pool.map(measured, missing):
            rows = pd.concat([rows, pd.DataFrame(found)], ignore_index=True)
            rows.to_csv(table, index=False)
            print(found[0]["surface"], flush=True)
    shares = summary(rows)
    (out / "README.md").write_text(page(shares))
    figure(shares, out / "share.png")


if __name__ == "__main__":
    main()
