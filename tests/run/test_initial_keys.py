"""Initial weights are part of the keys of measures that need them, and of no others."""

import copy
import sqlite3

import pytest
import torch
from acme_toy.plugin import ToyPool
from torch import nn

import acutance
from acutance.data.fingerprint import digest_initial
from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.config import load_config
from acutance.workflows.merge import merge


@pytest.fixture
def config(toy_config):
    return toy_config | {"measures": [{"name": "toy_distance"}, {"name": "weight_norm"}]}


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def keys(folder, name):
    with sqlite3.connect(folder / "acutance.db") as db:
        return {key for (key,) in db.execute("SELECT key FROM cell WHERE measure = ?", (f"acme-toy/{name}",))}


@pytest.fixture
def starts(monkeypatch):
    """Initial weights that a test may shift; the models stay what they are."""
    initial, shift = ToyPool.initial, {"by": 0.0, "calls": 0}

    def shifted(self, entry, spec):
        model = initial(self, entry, spec)
        if model is not None and not shift.get("loading"):
            shift["calls"] += 1
            with torch.no_grad():
                model[0].bias += shift["by"]
        return model

    load = ToyPool.load

    def loading(self, entry, spec):
        shift["loading"] = True
        try:
            return load(self, entry, spec)
        finally:
            shift["loading"] = False

    monkeypatch.setattr(ToyPool, "initial", shifted)
    monkeypatch.setattr(ToyPool, "load", loading)
    return shift


def test_other_initial_weights_are_computed_anew_by_what_needs_them(config, tmp_path, starts):
    first = run(config, tmp_path / "run")
    assert first.failed == 0 and run(config, tmp_path / "run").computed == 0
    before = {name: keys(tmp_path / "run", name) for name in ("toy_distance", "weight_norm")}
    starts["by"] = 1.0
    again = run(config, tmp_path / "run")
    assert again.computed == 6 and len(keys(tmp_path / "run", "toy_distance") - before["toy_distance"]) == 6
    assert keys(tmp_path / "run", "weight_norm") == before["weight_norm"]
    values = [r.results.query("measure == 'toy_distance'")["value"].to_numpy() for r in (first, again)]
    assert (values[0] != values[1]).all()
    starts["by"] = 0.0
    assert run(config, tmp_path / "run").computed == 0


def test_nobody_asks_for_what_no_measure_of_the_study_needs(toy_config, tmp_path, starts):
    run(toy_config, tmp_path / "run")
    assert starts["calls"] == 0


def test_a_known_file_is_known_with_its_initial_weights(config, tmp_path, starts, monkeypatch):
    entries = ToyPool.entries

    def with_files(self, spec):
        found = []
        for entry in entries(self, spec):
            path = tmp_path / entry.id
            if not path.exists():
                path.touch()
            found.append(entry.model_copy(update={"path": str(path)}))
        return found

    monkeypatch.setattr(ToyPool, "entries", with_files)
    norms = config | {"measures": config["measures"][1:]}
    run(norms, tmp_path / "run")
    assert starts["calls"] == 0
    # The files are known, their initial weights are not: asked for to know the keys, then to measure.
    assert run(config, tmp_path / "run").computed == 6
    calls = starts["calls"]
    assert calls == 2 * 6 and run(config, tmp_path / "run").computed == 0 and starts["calls"] == calls
    assert run(norms, tmp_path / "run").computed == 0 and run(config, tmp_path / "run").computed == 0
    assert starts["calls"] == calls


def test_initial_weights_that_cannot_be_had_fail_their_measure_alone(config, tmp_path):
    config["pools"] = [{"name": "toy", "size": 4, "fault": "initial"}]
    found = run(config, tmp_path / "run").results.query("measure == 'toy_distance'").set_index("model")
    assert list(found["status"]) == ["ok", "failed", "unsupported", "ok"]
    assert "are gone" in found["message"]["toy1"] and "not known" in found["message"]["toy2"]
    store = Store(tmp_path / "run" / "acutance.db", write=False)
    facts = store.facts()
    store.close()
    assert facts["acme-toy/toy/toy2"] == {"initial": ""} and "acme-toy/toy/toy1" not in facts
    pool, spec = ToyPool(), ToyPool.Spec()
    start = pool.initial(pool.entries(spec)[0], spec)
    flat = torch.cat([p.detach().reshape(-1) for p in start.parameters()])
    assert facts["acme-toy/toy/toy0"] == {"initial": digest_initial(flat)}
    # Once they are there, the cell is computed.
    config["pools"] = [{"name": "toy", "size": 4}]
    assert run(config, tmp_path / "run").computed == 2


def test_runs_merge_with_their_initial_weights(config, tmp_path, starts):
    whole = run(config, tmp_path / "a")
    run(config, tmp_path / "b", limit=3)
    merged = merge([tmp_path / "b", tmp_path / "a"], tmp_path / "c", report=False)
    assert not merged.conflicts and not merged.notes
    assert sorted(merged.run.results["value"]) == sorted(whole.results["value"])
    assert run(config, tmp_path / "c").computed == 0
    starts["by"] = 1.0
    run(config, tmp_path / "d", limit=1)
    told = merge([tmp_path / "a", tmp_path / "d"], tmp_path / "e", report=False)
    assert told.conflicts == [f"model acme-toy/toy/toy0: {tmp_path / 'd'} has other initial weights"]


# -- models in memory -----------------------------------------------------------------------------------------


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.fixture
def study(tmp_path):
    starts = {name: net(i) for i, name in enumerate("abc")}
    trained = {name: copy.deepcopy(model) for name, model in starts.items()}
    with torch.no_grad():
        for i, model in enumerate(trained.values()):
            model[0].bias += i + 1
    data = torch.randn(16, 4), torch.randint(0, 3, (16,))

    def call(**changes):
        given = {
            "models": trained, "data": data, "targets": {"score": [1, 2, 3]}, "measures": ["toy_distance", "weight_norm"],
            "initial": starts, "surface": {"points": 16, "m": 8}, "out": tmp_path / "run", "report": False,
        }  # fmt: skip
        return acutance.study(**(given | changes))

    return call, starts, trained


def test_models_in_memory_may_bring_their_initial_weights(study):
    call, starts, _ = study
    run = call()
    found = run.results.query("measure == 'toy_distance'")["value"]
    assert found.to_numpy() == pytest.approx([5**0.5, 2 * 5**0.5, 3 * 5**0.5]) and run.computed == 6
    assert call(initial=list(starts.values())).computed == 0
    other = {**starts, "b": net(7)}
    assert call(initial=other).computed == 1 and call(initial=None, measures=["weight_norm"]).computed == 0
    alone = call(initial={"a": starts["a"]}, rerun="failed").results.query("measure == 'toy_distance'")
    assert list(alone["status"]) == ["ok", "unsupported", "unsupported"]


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (lambda s, t: t, "initial: 'a' holds the trained weights themselves .*copy.deepcopy"),
        (lambda s, t: {"aa": s["a"]}, "initial: there is no model 'aa'"),
        (lambda s, t: {"a": 3}, "initial: 'a' is int, not a torch.nn.Module"),
        (lambda s, t: [s["a"]], "initial: there are 1 for 3 models"),
        (lambda s, t: s["a"], "initial: got Sequential"),
        (lambda s, t: 3, "initial: got int"),
        (lambda s, t: {"b": nn.Sequential(nn.Linear(4, 5))}, "initial: 'b': the initial weights do not fit the model"),
    ],
)
def test_initial_weights_that_do_not_fit_are_told(study, initial, message):
    call, starts, trained = study
    with pytest.raises(acutance.UserError, match=message):
        call(initial=initial(starts, trained))
