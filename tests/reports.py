"""Tables of a made-up run, with hostile names, for the tests of figures and pages."""

import numpy as np
import pandas as pd

from acutance.analysis.tables import correlations
from acutance.plugins import catalog
from acutance.report.data import ReportData

HOSTILE = "<script>alert('x')</script>&\"'"


def make(n=10, seed=0, targets=("test_error", "attr:learning_rate"), change=None, levels=("resnet", "vit")):
    g = np.random.default_rng(seed)
    models = pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(n - 1)] + [HOSTILE],
            "pool": "p",
            "architecture": [levels[0]] * (n - n // 2) + [levels[-1]] * (n // 2),
            "train_set": "d",
            "admitted": [True] * (n - 1) + [False],
            "reason": [""] * (n - 1) + [f"train_error 0.2 > 0.01 {HOSTILE}"],
            "parameters": 10,
            "key": "k",
            "attr.learning_rate": 10 ** g.uniform(-2, 0, n),
            "attr.augment": g.random(n) < 0.5,
            "target.test_error": g.uniform(0.01, 0.1, n),
        }
    )
    rows = [
        {"model": m, "pool": "p", "measure": "worst_case", "split": "train", "spec.rho": rho, "spec.norm": "linf",
         "spec.scaling": scaling, "spec.logit_norm": False, "replicate": 0, "value": g.lognormal(),
         "stderr": np.nan, "status": "ok", "message": ""}
        for scaling in ("none", "elementwise")
        for rho in (0.01, 0.02)
        for m in models["model"]
    ]  # fmt: skip
    results = pd.DataFrame(rows)
    if change:
        changed = change(models, results)
        results = results if changed is None else changed
    table = correlations(
        models, results, targets=list(targets), groups=["augment"], within=["architecture"], nonfinite="rank_max",
        resamples=99, permutations=99,
    )  # fmt: skip
    problems = pd.DataFrame(
        [{"pool": "p", "model": "m1", "measure": "x", "spec": HOSTILE, "state": "failed", "message": HOSTILE}]
    )
    return ReportData(
        title=f"A study {HOSTILE}", environment={"gpus": []},
        config={"within": ["architecture"], "surface": {"points": 8, "m": 4}, "note": HOSTILE},
        models=models, results=results, correlations=table, problems=problems,
        cost={"seconds": 10, "forwards": 1e6}, targets=list(targets), groups=["augment"],
        figures={"colour": "learning_rate", "marker": ["augment"], "size": None},
        statistics=[item.target() for item in catalog().items("statistics")],
    )  # fmt: skip
