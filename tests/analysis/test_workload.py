"""What is said of the time that statistics take."""

import pandas as pd
import pytest

from acutance.analysis import workload
from acutance.analysis.workload import expected_seconds


def table(models, definitions):
    names = [str(i) for i in range(models)]
    results = pd.DataFrame([{"model": m, "measure": f"d{d}"} for d in range(definitions) for m in names])
    return pd.DataFrame({"model": names, "admitted": [i > 0 for i in range(models)]}), results


def test_time_grows_with_admitted_models_definitions_targets_and_groups(monkeypatch):
    monkeypatch.setattr(workload, "THREADS", 2)
    plain = expected_seconds(*table(11, 3), 2, [])
    assert plain == pytest.approx(35e-9 * 10 * 3 * 2 * (9999 + 3 * 1999) / 2)
    assert expected_seconds(*table(21, 6), 2, []) == pytest.approx(4 * plain)
    assert expected_seconds(*table(11, 3), 2, ["g"]) > 1.5 * plain
    assert expected_seconds(pd.DataFrame(), pd.DataFrame(), 1, []) == 0
