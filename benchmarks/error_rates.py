"""How often do the weak hypothesis and partial correlations say what is not so? Simulated pools of models.

``python benchmarks/error_rates.py --out benchmarks/results/error_rates`` writes ``weak.csv``, ``partial.csv``, the page
and ``environment.json``; a case whose row is there is not simulated again. Every rate has the standard error of its
simulation beside it, sqrt(r (1 - r) / pools).
"""

from __future__ import annotations

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

import argparse
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from scipy.stats import t as students

from acutance.analysis.hypotheses import weak
from acutance.analysis.partial import numeric_columns, partial
from acutance.plugins import catalog
from acutance.system.environment import environment

Array = NDArray[np.float64]
Pool = tuple[Array, Array]  # target and measure, (n,) each
POOLS = 2000
DRAWS = 199  # simulated pools, and permutations: 5% is one of the p-values that so many can give
ALPHA = 0.05
LOADING = 0.9  # of a confounder on target and measure
SHARED = 0.5  # correlation of what the confounder leaves, where there is an association
NOISE = 0.3  # of a control that is measured, in units of its spread
LEVELS = 4
TOLERATED = {"strict": 0.1, "wide": 0.2}


# -- the weak hypothesis ----------------------------------------------------------------------------------------


def independent(n: int, form: str, g: np.random.Generator) -> Pool:
    """Measure and error have nothing in common: half of the flattest are above the median."""
    t, s = g.normal(size=(2, n))
    return t, s


def boundary(n: int, form: str, g: np.random.Generator) -> Pool:
    """Each of the flattest third is above the median with exactly the chance that is tolerated."""
    flat = n // 3
    bad = g.random(flat) < TOLERATED[form]
    rest = np.arange(n - flat) < n // 2 - bad.sum()
    above = np.r_[bad, g.permutation(rest)]
    return above + g.random(n), np.arange(n, dtype=np.float64)


def corner(n: int, form: str, g: np.random.Generator) -> Pool:
    """Flat models have small errors, sharp ones any: t = s u, both uniform. No flat model below s = 0.19 is bad."""
    s, u = g.random(size=(2, n))
    return s * u, s


def monotone(n: int, form: str, g: np.random.Generator) -> Pool:
    """Normal scores with Kendall's tau of 0.8."""
    rho = math.sin(math.pi / 2 * 0.8)
    t, e = g.normal(size=(2, n))
    return t, rho * t + math.sqrt(1 - rho**2) * e


# Name -> pools, and whether the claim is true of them; at the boundary neither verdict is right.
TRUTHS: dict[str, tuple[Callable[[int, str, np.random.Generator], Pool], str]] = {
    "independent": (independent, "false"),
    "boundary": (boundary, "on the edge"),
    "corner": (corner, "true"),
    "monotone": (monotone, "true"),
}


def weak_cases() -> Iterator[dict[str, Any]]:
    """Yield the cases of ``weak.csv``."""
    for form in TOLERATED:
        for truth in TRUTHS:
            yield from ({"form": form, "truth": truth, "n": n} for n in (50, 100, 200))


def weak_rates(case: dict[str, Any], pools: int) -> dict[str, Any]:
    """Return the shares of verdicts; ``false_holds`` and ``false_fails`` where a verdict can be false."""
    make, claim = TRUTHS[case["truth"]]
    g = _generator(case)
    found = [
        weak(*make(case["n"], case["form"], g), form=case["form"], slopes=False).verdict  # type: ignore[arg-type]
        for _ in range(pools)
    ]
    holds, fails = (found.count(v) / pools for v in ("supported", "refuted"))
    return {
        "claim": claim, "pools": pools, "holds": holds, "holds_se": _error(holds, pools), "fails": fails,
        "fails_se": _error(fails, pools),
        "false_holds": holds if claim != "true" else math.nan, "false_fails": fails if claim != "false" else math.nan,
    }  # fmt: skip


# -- partial correlations -----------------------------------------------------------------------------------------


def linear(z: Array) -> Array:
    """The confounder's effect is a line."""
    return z


def bent(z: Array) -> Array:
    """It has a minimum, as an error has over a learning rate: z + z^2, at unit variance."""
    return (z + z**2 - 1) / math.sqrt(3)


EFFECTS = {"linear": linear, "bent": bent}


def partial_cases() -> Iterator[dict[str, Any]]:
    """Yield the cases of ``partial.csv``: only confounders act where ``shared`` is 0."""
    kinds = [(controls, effect) for controls in ("one", "two") for effect in EFFECTS] + [
        ("label", "levels"),
        ("noisy", "linear"),
    ]
    for shared in (0.0, SHARED):
        for controls, effect in kinds:
            yield from ({"controls": controls, "effect": effect, "shared": shared, "n": n} for n in (25, 50, 100))


def confounded(case: dict[str, Any], g: np.random.Generator) -> tuple[Array, Array, dict[str, Any]]:
    """Return target, measure and controls: both have the same effect of the confounders, with a loading of 0.9."""
    n, shared = case["n"], case["shared"]
    if case["controls"] == "label":
        label = g.integers(LEVELS, size=n)
        common = np.linspace(-1.0, 1.0, LEVELS)[label] / math.sqrt(5 / 9)
        controls: dict[str, Any] = {"label": np.array([f"level {k}" for k in label], dtype=object)}
    else:
        z = g.normal(size=(2 if case["controls"] == "two" else 1, n))
        common = EFFECTS[case["effect"]](z).sum(0) / math.sqrt(len(z))
        seen = z + NOISE * g.normal(size=z.shape) if case["controls"] == "noisy" else z
        controls = {f"z{k}": column for k, column in enumerate(seen)}
    e = g.normal(size=(2, n))
    own = shared * e[0] + math.sqrt(1 - shared**2) * e[1]
    rest = math.sqrt(1 - LOADING**2)
    return LOADING * common + rest * e[0], LOADING * common + rest * own, controls


def textbook(t: Array, s: Array, controls: dict[str, Any], g: np.random.Generator) -> tuple[float, float]:
    """Return p of the partial Spearman correlation by Student's t, and by permuting what the controls leave of ranks."""
    columns = [rankdata(c) for control in controls.values() for c in numeric_columns(control)]
    design = np.stack([np.ones(len(t)), *columns], axis=1)
    ranks = np.stack([rankdata(t), rankdata(s)], axis=1)
    a, b = (ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]).T
    r = float(a @ b / math.sqrt((a @ a) * (b @ b)))
    freedom = len(t) - 1 - int(np.linalg.matrix_rank(design))
    by_t = 2 * float(students.sf(abs(r) * math.sqrt(freedom / max(1 - r**2, 1e-12)), freedom))
    shuffled = g.permuted(np.broadcast_to(b, (DRAWS, len(b))), axis=1)
    hits = int((np.abs(shuffled @ a) >= abs(a @ b) - 1e-9).sum())
    return by_t, (1 + hits) / (1 + DRAWS)


def partial_rates(case: dict[str, Any], pools: int) -> dict[str, Any]:
    """Return the shares of p <= 5%: of ``partial``, of Student's t, of permuted residuals."""
    g = _generator(case)
    pools = pools // 4 if case["shared"] else pools  # power needs no such precision
    hits = np.zeros(3)
    for seed in range(pools):
        t, s, controls = confounded(case, g)
        p = partial(t, s, controls, draws=DRAWS, seed=seed).p
        hits += np.array([p, *textbook(t, s, controls, g)]) <= ALPHA + 1e-12
    names = ("simulated", "student", "permuted")
    rates = {name: float(rate) for name, rate in zip(names, hits / pools, strict=True)}
    return {"pools": pools, **rates, **{f"{name}_se": _error(rate, pools) for name, rate in rates.items()}}


# -- rows, page ---------------------------------------------------------------------------------------------------


def _generator(case: dict[str, Any]) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(json.dumps(case, sort_keys=True).encode()))


def _error(rate: float, pools: int) -> float:
    return math.sqrt(rate * (1 - rate) / pools)


Simulation = tuple[Callable[[], Iterator[dict[str, Any]]], Callable[[dict[str, Any], int], dict[str, Any]]]
TABLES: dict[str, Simulation] = {"weak": (weak_cases, weak_rates), "partial": (partial_cases, partial_rates)}


def simulated(name: str, path: Path, pools: int) -> None:
    """Simulate the cases that a table lacks, and write it after each."""
    cases, rates = TABLES[name]
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    for case in cases():
        if not any(all(row[key] == value for key, value in case.items()) for row in rows):
            rows.append({**case, **rates(case, pools)})
            pd.DataFrame(rows).round(5).to_csv(path, index=False)
            print(rows[-1], flush=True)


def page(about: dict[str, Any]) -> str:
    """Return the page of the folder; the tables themselves stand in docs/statistics.md."""
    libraries = about["libraries"]
    return "\n".join([
        "# How often a verdict is wrong", "",
        f"`python benchmarks/error_rates.py`, one thread ({about['processor']}), numpy {libraries['numpy']}, scipy {libraries['scipy']}, acutance",
        f"{about['acutance']}, commit `{about['commit'][:12]}`. {POOLS} simulated pools a case, {POOLS // 4} for power; a rate of 5% has a standard error of "
        f"{100 * _error(ALPHA, POOLS):.1f} points.", "",
        "* [weak.csv](weak.csv): verdicts of both forms of the weak hypothesis (`holds`, `fails`: shares of supported and refuted;",
        "  `claim`: whether what is claimed is true; `false_holds`, `false_fails` where such a verdict is false; `_se`: standard errors).",
        "* [partial.csv](partial.csv): shares of p <= 5% of `partial` (`simulated`), of Student's t of the partial Spearman correlation",
        "  (`student`) and of permuted rank residuals (`permuted`); `shared` is the correlation of what the confounders leave: at 0 the",
        "  share is the size, otherwise the power. A `noisy` control is seen with noise of 0.3 of its spread.", "",
        "Both are tables of [docs/statistics.md](../../../docs/statistics.md).", "",
    ])  # fmt: skip


def main() -> None:
    """Simulate what is missing, and write rows, environment and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/error_rates"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    about = environment(catalog())
    for name in TABLES:
        simulated(name, out / f"{name}.csv", POOLS)
    (out / "environment.json").write_text(json.dumps(about, indent=2) + "\n")
    (out / "README.md").write_text(page(about))


if __name__ == "__main__":
    main()
