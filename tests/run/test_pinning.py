"""Workers of the processes executor are pinned to one GPU each, in turn; tests/gpu sees what they see."""

import os

import pytest

import acutance
from acutance.run import executors
from acutance.run.store import Store


@pytest.mark.parametrize("visible, expected", [(None, {"0", "1"}), ("3,5", {"3", "5"})])
def test_workers_take_the_gpus_in_turn(toy_config, tmp_path, monkeypatch, visible, expected):
    monkeypatch.setattr(executors, "_gpus", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = {
        **toy_config,
        "measures": [{"name": "place"}],
        "targets": ["attr:learning_rate"],
        "executor": {"name": "processes"},
    }
    assert acutance.run(config, out=tmp_path, device="cpu", report=False).failed == 0
    store = Store(tmp_path / "acutance.db", write=False)
    extras = [found.estimate.extras for found in store.cells().values()]
    store.close()
    assert {e["visible"] for e in extras} == expected
    assert len({e["process"] for e in extras}) == 2
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
