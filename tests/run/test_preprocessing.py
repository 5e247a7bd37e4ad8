"""Pools that preprocess: what their models see of the points enters the keys, and nothing else changes."""

import sqlite3

import pytest
from acme_toy.plugin import ToyPool

from acutance.plugins import Item, extended
from acutance.run.harness import run_study
from acutance.spec import Spec
from acutance.study.config import load_config
from acutance.system.progress import Silent
from acutance.workflows.merge import merge


class Scale:
    """Inputs times a factor; equal to another of the same factor."""

    def __init__(self, factor):
        self.factor, self.calls = factor, 0

    def __call__(self, inputs):
        self.calls += 1
        return inputs * self.factor

    def __eq__(self, other):
        return isinstance(other, Scale) and other.factor == self.factor

    def __hash__(self):
        return hash(self.factor)


class ScaledSpec(Spec):
    size: int = 4
    """Number of models."""
    fault: str = ""
    """As of the toy pool."""


def scaled(name_, function_of):
    class Scaled(ToyPool):
        name = name_
        Spec = ScaledSpec

        def preprocess(self, entry, spec):
            return function_of(entry)

    return Item("pools", name_, "acme-toy", "1.2", Scaled)


def run(config, out, function_of=None, pools=("scaled",), report=False, **options):
    """Run the toy study on pools that preprocess in this way, or on the toy pool."""
    names = pools if function_of else ("toy",)
    items = [scaled(name, function_of) for name in pools] if function_of else []
    sections = {"pools": [{"name": name, "size": 4} for name in names], "groups": []}
    with extended(items):
        return run_study(load_config(config | sections), out, report=report, **options)


def keys(folder, table="cell", where="1"):
    with sqlite3.connect(folder / "acutance.db") as db:
        return {key for (key,) in db.execute(f"SELECT key FROM {table} WHERE {where}")}


def test_the_keys_are_those_of_the_points_after_preprocessing(toy_config, tmp_path):
    plain = run(toy_config, tmp_path / "plain")
    doubled = run(toy_config, tmp_path / "doubled", lambda entry: Scale(2.0))
    assert not doubled.failed and plain.results["value"].tolist() != doubled.results["value"].tolist()
    # Measures of the weights see no points.
    weights = "measure = 'acme-toy/weight_norm'"
    for table, where in (("cell", f"NOT {weights}"), ("part", f"cell NOT IN (SELECT key FROM cell WHERE {weights})")):
        assert keys(tmp_path / "plain", table, where) and not (
            keys(tmp_path / "plain", table, where) & keys(tmp_path / "doubled", table, where)
        )
    assert keys(tmp_path / "plain", "cell", weights) == keys(tmp_path / "doubled", "cell", weights)


@pytest.mark.parametrize("function_of", [lambda entry: None, lambda entry: Scale(1.0)], ids=["none", "identity"])
def test_what_leaves_the_points_alone_leaves_the_keys_alone(toy_config, tmp_path, function_of):
    run(toy_config, tmp_path / "plain")
    run(toy_config, tmp_path / "same", function_of)
    for table in ("cell", "part"):
        assert keys(tmp_path / "plain", table) == keys(tmp_path / "same", table)


def test_another_preprocessing_is_computed_anew_and_the_same_one_is_not(toy_config, tmp_path):
    first = run(toy_config, tmp_path / "run", lambda entry: Scale(2.0))
    assert first.computed == 4 * 8 and run(toy_config, tmp_path / "run", lambda entry: Scale(2.0)).computed == 0
    # The norms of the weights alone are what they were.
    third = run(toy_config, tmp_path / "run", lambda entry: Scale(3.0))
    assert third.computed == 4 * 7
    assert run(toy_config, tmp_path / "run", lambda entry: Scale(2.0)).computed == 0


def test_models_are_told_apart_and_pools_share(toy_config, tmp_path):
    """Every second model sees other points, in two pools alike: the second pool is there already."""

    def function_of(entry):
        return Scale(2.0) if entry.attributes["wide"] else Scale(3.0)

    run(toy_config, tmp_path / "one", function_of)
    both = run(toy_config, tmp_path / "both", function_of, pools=("scaled", "other"))
    assert len(both.models) == 8 and both.computed == 4 * 8
    assert keys(tmp_path / "one") == keys(tmp_path / "both")


def test_equal_functions_are_applied_once_for_the_keys(toy_config, tmp_path):
    made = []

    def function_of(entry):
        made.append(Scale(2.0))
        return made[-1]

    run(toy_config, tmp_path / "run", function_of)
    made.clear()
    assert run(toy_config, tmp_path / "run", function_of).computed == 0
    # 4 m-batches and 3 whole splits, for one of the four models; the others are only loaded for their keys.
    calls = [one.calls for one in made]
    assert calls[0] == 4 + 3 and not any(calls[1:])


def test_recalibrated_statistics_follow_the_preprocessing(toy_config, tmp_path):
    toy_config["surface"]["batch_norm"] = "recalibrate"
    toy_config["measures"] = [{"name": "weight_norm"}]
    run(toy_config, tmp_path / "plain")
    run(toy_config, tmp_path / "doubled", lambda entry: Scale(2.0))
    weights = "measure = 'acme-toy/weight_norm'"
    assert not keys(tmp_path / "plain", "cell", weights) & keys(tmp_path / "doubled", "cell", weights)


def test_a_preprocessing_that_fails_breaks_its_model_alone(toy_config, tmp_path):
    def function_of(entry):
        if entry.id == "toy1":
            raise OSError("no statistics")
        return broken if entry.id == "toy3" else Scale(2.0)

    def broken(inputs):
        raise KeyError("mean")

    class Said(Silent):
        def say(self, text):
            said.append(text)

    said = []
    found = run(toy_config, tmp_path / "run", function_of, reporter=Said())
    assert [text for text in said if "preprocessing failed" in text] == [
        "toy1: its preprocessing failed: OSError: no statistics", "toy3: its preprocessing failed: KeyError: 'mean'"
    ]  # fmt: skip
    reasons = dict(zip(found.models["model"], found.models["reason"].fillna(""), strict=True))
    assert reasons["toy0"] == "" and reasons["toy1"] == "its preprocessing failed: OSError: no statistics"
    assert reasons["toy3"] == "its preprocessing failed: KeyError: 'mean'" and found.failed == 2
    assert set(found.results["model"]) == {"toy0", "toy2"}


def test_runs_of_pools_that_preprocess_merge(toy_config, tmp_path):
    def function_of(entry):
        return Scale(2.0) if entry.attributes["wide"] else Scale(3.0)

    whole = run(toy_config, tmp_path / "whole", function_of)
    run(toy_config, tmp_path / "half", function_of, limit=2)
    merged = merge([tmp_path / "half", tmp_path / "whole"], tmp_path / "merged", report=False)
    assert not merged.conflicts and not merged.notes
    assert sorted(merged.run.results["value"]) == sorted(whole.results["value"])
    assert keys(tmp_path / "merged") == keys(tmp_path / "whole")
    again = run(toy_config, tmp_path / "other", lambda entry: Scale(2.0))
    assert not again.failed
    told = merge([tmp_path / "half", tmp_path / "other"], tmp_path / "told", report=False)
    assert [c for c in told.conflicts if "has other preprocessed points" in c] == [
        f"model acme-toy/scaled/toy1: {tmp_path / 'other'} has other preprocessed points"
    ]


def test_a_limited_run_forgets_nothing_that_others_see(toy_config, tmp_path):
    def function_of(entry):
        return Scale(2.0) if entry.attributes["wide"] else Scale(3.0)

    whole = run(toy_config, tmp_path / "a", function_of)
    run(toy_config, tmp_path / "a", function_of, limit=1)
    merged = merge([tmp_path / "a", tmp_path / "a"], tmp_path / "b", report=False)
    assert not merged.notes and sorted(merged.run.results["value"]) == sorted(whole.results["value"])


def test_the_verb_measure_preprocesses_as_a_study_does(tmp_path):
    import json

    from click.testing import CliRunner

    import acutance
    from acutance.cli import cli

    pool = ToyPool()
    net, data = pool.load(pool.entries(pool.Spec())[2], pool.Spec()), acutance.catalog().get("datasets", "toy")()
    split = data.open("test")
    with extended([scaled("scaled", lambda entry: Scale(2.0))]):
        arguments = ["measure", "acme-toy/scaled/toy2", "--data", "toy:test", "--measure", "loss", "--json"]
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    expected = acutance.measure("loss", net, (2 * split.inputs, split.targets)).value
    assert done.exception is None and json.loads(done.output)["loss"]["value"] == expected
