"""The pool dln: what it lists, trains, keeps and leaves out."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from forked import python_that_forks

import acutance
from acutance import LossSurface, UserError
from acutance.errors import Excluded
from acutance.spec import validate
from acutance_dln.pools import DLN, DLNSpec, initial_weights
from acutance_dln.regression import SparseRegression, training_points

TASK = {"d": 30, "n": 20, "sparsity": 0.8}
FEW = {**TASK, "size": 4, "learning_rate_min": 0.1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(**fields):
    pool, spec = DLN(), DLNSpec(**{**FEW, **fields})
    entries = pool.entries(spec)
    pool.build(entries[0], spec)
    return pool, spec, entries


def test_a_small_pool_begins_a_large_one():
    pool = DLN()
    small, large = (pool.entries(DLNSpec(size=n)) for n in (10, 200))
    assert list(large[:10]) == list(small) and len({entry.path for entry in large}) == 200
    spec = DLNSpec()
    for name, low, high in (
        ("learning_rate", spec.learning_rate_min, spec.learning_rate_max),
        ("init_scale", spec.init_scale_min, spec.init_scale_max),
        ("imbalance", 1 / spec.imbalance_max, spec.imbalance_max),
    ):
        values = np.log([entry.attributes[name] for entry in large])
        assert np.log(low) - 1e-3 <= values.min() and values.max() <= np.log(high) + 1e-3
        # Log-uniform: mean in the middle, and the right spread.
        assert values.mean() == pytest.approx(np.log(low * high) / 2, abs=0.1 * np.log(high / low))
        assert values.std() == pytest.approx(np.log(high / low) / 12**0.5, rel=0.15)


def test_files_are_those_of_the_settings_that_matter():
    pool = DLN()

    def paths(**fields):
        return [entry.path for entry in pool.entries(DLNSpec(**{**FEW, **fields}))]

    assert paths() == paths(test_points=5) == paths(batch_size=3) == paths(size=9)[:4]
    changed = [
        {"seed": 1}, {"data_seed": 1}, {"optimizer": "sgd"}, {"loss": "squared_sum"}, {"tolerance": 1e-6},
        {"max_steps": 9}, {"noise": 0.1}, {"design": "unit_columns"}, {"imbalance_max": 2}, {"init_scale_max": 0.5},
    ]  # fmt: skip
    for fields in changed:
        assert not set(paths(**fields)) & set(paths()), fields
    assert not set(paths(optimizer="sgd", batch_size=3)) & set(paths(optimizer="sgd"))
    names = {entry.train_set for fields in changed[:2] for entry in pool.entries(DLNSpec(**{**FEW, **fields}))}
    assert len(names) == 2 and all(name.startswith("sparse_regression:") for name in names)


def test_initial_weights_have_the_scale_and_imbalance_of_the_recipe():
    pool, spec = DLN(), DLNSpec(d=20_000, n=2, size=3)
    for i in range(3):
        recipe = pool.recipe(spec, i)
        u, v = initial_weights(recipe)
        assert np.sqrt((u**2).mean() * (v**2).mean()) == pytest.approx(recipe["init_scale"] ** 2, rel=0.03)
        assert np.sqrt((u**2).mean() / (v**2).mean()) == pytest.approx(recipe["imbalance"], rel=0.03)
        assert abs(np.corrcoef(u, v)[0, 1]) < 0.03 and abs(u.mean()) < 0.03 * u.std()
    assert pool.recipe(DLNSpec(imbalance_max=1), 0)["imbalance"] == 1


@pytest.mark.parametrize("loss", ["half_squared_sum", "squared_sum"])
@pytest.mark.parametrize("optimizer", ["gd", "sgd"])
def test_one_call_makes_all_networks_and_their_loss_is_that_of_a_surface(optimizer, loss):
    pool, spec, entries = made(optimizer=optimizer, loss=loss, learning_rate_max=0.15)
    assert pool.missing(entries, spec) == []
    data = SparseRegression(validate(SparseRegression.Spec, TASK)).open("train")
    for entry in entries:
        model, facts = pool.load(entry, spec), pool.build(entry, spec)
        assert not model.training and model.u.dtype == torch.float64
        surface = LossSurface(
            model, (data.inputs, data.targets), loss=loss, dtype=torch.float64, initial=pool.initial(entry, spec)
        )
        assert float(surface.loss()) == pytest.approx(facts["loss"], rel=1e-9) and facts["loss"] <= 1e-5
        u, v = initial_weights(pool.recipe(spec, entries.index(entry)))
        assert np.array_equal(surface.w0.numpy(), np.concatenate([u, v]))
        assert facts["steps"] > 20


def test_descent_keeps_the_difference_of_squares_for_small_steps():
    """u^2 - v^2 is conserved by the gradient flow: an imbalance stays."""
    pool, spec, entries = made(
        learning_rate_min=2e-3, learning_rate_max=2e-3, size=1, init_scale_min=0.2, max_steps=1_000_000
    )
    model, initial = pool.load(entries[0], spec), pool.initial(entries[0], spec)
    before, after = (m.u.square() - m.v.square() for m in (initial, model))
    assert (after - before).abs().max() < 0.01 * before.abs().max()
    assert (model.beta - initial.beta).abs().max() > 10 * (after - before).abs().max()


def test_a_larger_pool_trains_only_what_is_missing(monkeypatch):
    from acutance_dln import kernel

    counts, real = [], kernel.train
    monkeypatch.setattr(
        kernel, "train", lambda x, y, u, *rest, **more: counts.append(len(u)) or real(x, y, u, *rest, **more)
    )
    pool, spec, entries = made(size=3)
    first = [open(entry.path, "rb").read() for entry in entries]
    pool.build(entries[1], spec)
    larger = DLNSpec(**{**FEW, "size": 5})
    more = pool.entries(larger)
    assert pool.missing(more, larger) == list(more[3:]) and counts == [3]
    pool.build(more[4], larger)
    assert counts == [3, 2] and pool.missing(more, larger) == []
    assert [open(entry.path, "rb").read() for entry in more[:3]] == first
    # Made alone it is the same to the last bit.
    together = open(more[4].path, "rb").read()
    os.remove(more[4].path)
    pool.build(more[4], larger)
    assert counts == [3, 2, 1] and open(more[4].path, "rb").read() == together


def test_a_network_that_stops_early_is_left_out_with_its_loss():
    pool, spec, entries = made(max_steps=20)
    with pytest.raises(Excluded, match=r"^training loss 0\.\d+ after 20 steps, above the tolerance 1e-05$"):
        pool.load(entries[0], spec)
    assert pool.missing(entries, spec) == []


def test_a_network_that_diverged_is_left_out():
    pool, spec, entries = made(learning_rate_min=20, learning_rate_max=30)
    with pytest.raises(Excluded, match=r"^training diverged after \d+ steps with learning rate 2\d"):
        pool.load(entries[0], spec)


def test_a_damaged_file_is_one_clear_sentence():
    from safetensors.numpy import save_file

    pool, spec, entries = made()
    path = entries[2].path
    data = open(path, "rb").read()
    open(path, "wb").write(data[:200])
    with pytest.raises(UserError, match=rf"cannot be read as a checkpoint.*delete {path} to train the network again"):
        pool.load(entries[2], spec)
    save_file({"u": np.ones(30)}, path)
    with pytest.raises(UserError, match=r"has no loss, steps, u0, v, v0 \(delete"):
        pool.load(entries[2], spec)
    os.remove(path)
    pool.build(entries[2], spec)
    assert open(path, "rb").read() == data


def test_a_folder_that_cannot_be_written_is_told(cache):
    cache.write_text("a file")
    pool, spec = DLN(), DLNSpec(**FEW)
    with pytest.raises(UserError, match=r"cannot be written: .*set ACUTANCE_CACHE to another folder"):
        pool.build(pool.entries(spec)[0], spec)


TRAIN = """
import json, sys
from acutance_dln import kernel
from acutance_dln.pools import DLN, DLNSpec
counts, real = [], kernel.train
kernel.train = lambda x, y, u, *rest, **more: counts.append(len(u)) or real(x, y, u, *rest, **more)
spec = DLNSpec(**json.loads(sys.argv[1])); pool = DLN()
pool.build(pool.entries(spec)[int(sys.argv[2])], spec)
print(sum(counts))
"""


def test_of_two_processes_one_trains(cache):
    fields = json.dumps({**FEW, "size": 40})
    both = [
        subprocess.Popen([python_that_forks(), "-c", TRAIN, fields, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    trained = [int(process.communicate(timeout=300)[0]) for process in both]
    assert sorted(trained) == [0, 40] and not list(cache.rglob("*.partial"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate_min": 1.0}, "learning_rate_min 1 is above learning_rate_max 0.3: exchange them"),
        ({"init_scale_max": 1e-4}, "init_scale_min 0.001 is above init_scale_max 0.0001"),
        ({"imbalance_max": 0.5}, "pools.0.imbalance_max"),
        ({"optimizer": "adam"}, "pools.0.optimizer"),
        ({"tolerance": 0}, "pools.0.tolerance"),
        ({"design": "orthonormal"}, r"orthonormal needs n >= d: 60 points cannot satisfy X\^T X = I in 200"),
        ({"lr": 0.1}, "unknown field"),
    ],
)
def test_wrong_settings_are_told(fields, message):
    with pytest.raises(UserError, match=message):
        validate(DLNSpec, fields, "pools.0")


def study(max_steps, dataset=TASK):
    return {
        "format": 1, "title": "diagonal", "within": [],
        "pools": [{"name": "dln", **FEW, "max_steps": max_steps}],
        "dataset": {"name": "sparse_regression", **dataset, "test_points": 50},
        "surface": {"points": 20, "m": 20, "loss": "half_squared_sum", "dtype": "float64", "select": "first"},
        "targets": ["test_loss"],
        "admit": {"train_loss": {"max": 1e-5}},
        "measures": [{"name": "hessian_trace", "scaling": "none", "probes": 3}],
    }  # fmt: skip


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_study_leaves_out_what_did_not_converge_and_computes_nothing_twice(tmp_path, executor):
    pool, spec, entries = made()
    steps = sorted(pool.build(entry, spec)["steps"] for entry in entries)
    limit = (steps[1] + steps[2]) // 2
    run = acutance.run(study(limit), out=tmp_path / "run", executor=executor, device="cpu", report=False)
    models = run.models.set_index("model")
    assert models["admitted"].sum() == 2 and run.failed == 0
    out = models[~models["admitted"]]
    assert out["reason"].str.fullmatch(rf"training loss \S+ after {limit} steps, above the tolerance 1e-05").all()
    assert run.computed == 2 * 3 and (run.results["status"] == "ok").all()
    times = {path: os.stat(path).st_mtime_ns for path in (entry.path for entry in pool.entries(spec))}
    again = acutance.run(study(limit), out=tmp_path / "run", executor=executor, device="cpu", report=False)
    assert again.computed == 0 and again.failed == 0 and again.models.equals(run.models)
    assert {path: os.stat(path).st_mtime_ns for path in times} == times


def test_networks_of_another_task_are_not_admitted(tmp_path):
    with pytest.raises(UserError, match=r"no model is admitted: dln_000: train_loss \d.* > 1e-05"):
        acutance.run(study(30_000, dataset={**TASK, "data_seed": 1}), out=tmp_path / "run", device="cpu", report=False)


def test_the_trace_of_a_trained_network_is_its_closed_form(tmp_path):
    pool, spec, entries = made(design="unit_columns")
    x, y = training_points(spec)
    model = pool.load(entries[0], spec)
    surface = LossSurface(
        model, (torch.from_numpy(x), torch.from_numpy(y)), loss="half_squared_sum", dtype=torch.float64
    )
    found = acutance.measure("hessian_trace", surface, scaling="none", probes=60)
    expected = sum(float(w.detach().square().sum()) for w in (model.u, model.v))
    assert found.value == pytest.approx(expected, abs=5 * max(found.stderr, 1e-9))


def test_calibration_passes_over_networks_that_are_left_out():
    from acutance.study.config import load_config
    from acutance.workflows.calibration import calibrate

    pool, spec, entries = made()
    steps = [pool.build(entry, spec)["steps"] for entry in entries]
    config = study(max(steps) - 1) | {"measures": [{"name": "average_case", "rho": 0.1, "draws": 4}]}
    found = calibrate(load_config(config), models=4, device="cpu")
    assert found.models == [entry.id for entry, taken in zip(entries, steps) if taken < max(steps)]
    with pytest.raises(UserError, match="leave out every model"):
        calibrate(load_config(config | {"pools": [{"name": "dln", **FEW, "max_steps": 3}]}), models=2, device="cpu")
