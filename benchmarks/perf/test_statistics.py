"""The statistics on tables."""

import numpy as np
import pandas as pd

from acutance import kendall_tau
from acutance.analysis.tables import correlations


def test_bootstrap_of_200_models(benchmark):
    g = np.random.default_rng(0)
    t, s = g.normal(size=(2, 200))
    kendall_tau(t, s, permutations=1)
    benchmark.extra_info["bound_s"] = 2.0
    benchmark.pedantic(lambda: kendall_tau(t, s, resamples=10_000, permutations=1), rounds=5)


def test_table_of_the_mnist_study(benchmark):
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
    benchmark.pedantic(lambda: correlations(models, results, **options), rounds=1, warmup_rounds=0)
