"""The statistics on tables."""

import numpy as np
import pandas as pd

from acutance import kendall_tau
from acutance.analysis.adjust import family_p
from acutance.analysis.tables import correlations


def test_bootstrap_of_200_models(timed):
    g = np.random.default_rng(0)
    t, s = g.normal(size=(2, 200))
    kendall_tau(t, s, permutations=1)
    timed(lambda: kendall_tau(t, s, resamples=10_000, permutations=1), rounds=5, bound=2.0)


def test_the_paper_s_whole_family_at_200_models(timed):
    """Plain and family-wise p of 48 definitions and 8 targets, 10 000 permutations."""
    g = np.random.default_rng(0)
    t, s = g.normal(size=(8, 200)), g.normal(size=(48, 200))
    family_p(t, s, 10, 0)  # compiles
    timed(lambda: family_p(t, s, 10_000, 0), rounds=3, bound=60.0)


def test_table_of_the_mnist_study(timed):
    g = np.random.default_rng(0)
    n = 28
    models = pd.DataFrame(
        {"model": [str(i) for i in range(n)], "admitted": True, "architecture": ["a", "b"] * (n // 2),
         "attr.augment": g.random(n) < 0.5, "attr.mixup": g.random(n) < 0.5,
         **{f"target.t{k}": g.random(n) for k in range(4)}}
    )  # fmt: skip
    rows = [
        {"model": str(i), "measure": "m", "spec.rho": float(d), "value": g.random(), "status": "ok"}
        for d in range(48)
        for i in range(n)
    ]
    results = pd.DataFrame(rows)
    options = {"targets": [f"t{k}" for k in range(4)], "groups": ["augment", "mixup"], "within": ["architecture"]}
    timed(lambda: correlations(models, results, **options), rounds=1)
