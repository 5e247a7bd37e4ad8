"""What is said of the time that statistics take."""

import pandas as pd
import pytest

from acutance.analysis import workload as module
from acutance.analysis.workload import workload


def table(models, definitions):
    names = [str(i) for i in range(models)]
    results = pd.DataFrame([{"model": m, "measure": f"d{d}"} for d in range(definitions) for m in names])
    return pd.DataFrame({"model": names, "admitted": [i > 0 for i in range(models)]}), results


def test_seconds_grow_with_the_table():
    plain = workload(*table(11, 3), 2, []).seconds
    assert plain > 0 and workload(*table(11, 6), 2, []).seconds == pytest.approx(2 * plain)
    assert workload(*table(5000, 3), 2, []).seconds > 10 * plain
    assert workload(*table(5000, 3), 2, ["g"]).seconds > 1.5 * workload(*table(5000, 3), 2, []).seconds
    assert workload(pd.DataFrame(), pd.DataFrame(), 1, []).seconds == 0
    more, most = (workload(*table(5000, 3), 2, [], others=others).seconds for others in (3, 6))
    assert 0 < more - workload(*table(5000, 3), 2, []).seconds == pytest.approx(most - more)


def test_fewer_resamples_are_said_and_asked_ones_are_taken(monkeypatch):
    usual = workload(*table(11, 3), 2, [])
    assert (usual.resamples, usual.reduced, usual.pairs) == (9999, "", 6)
    assert workload(*table(11, 3), 2, [], 123).resamples == 123
    monkeypatch.setattr(module, "AFFORDABLE", 0.0)
    fewer = workload(*table(11, 3), 2, [])
    assert fewer.resamples == 999 and fewer.reduced.startswith("999 resamples and permutations, not 9999")
    assert workload(*table(11, 3), 2, [], 9999).reduced == ""
    assert "definitions x" in usual.text and "9999 resamples" in usual.text
