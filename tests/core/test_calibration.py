"""Radii: held against surfaces whose rise is known in closed form."""

import json
import math

import pytest
import torch
import yaml
from acme_toy.plugin import ToyPool
from click.testing import CliRunner
from models import MLP, Weights, mlp_data

import acutance
from acutance.calibration import (
    DIGITS,
    PER_DECADE,
    Levels,
    Window,
    calibrate,
    calibrate_on,
    definitions_of,
    levels_of,
    radius,
    window,
)
from acutance.cli import cli
from acutance.config import load_config
from acutance.measure import Estimate, Measure, Traits
from acutance.plugins import Item, catalog, extended
from acutance.spec import Spec

EPS = torch.finfo(torch.float64).eps


def below(rho):
    """Largest point of the grid that is not above rho."""
    return radius(math.floor(PER_DECADE * math.log10(rho)))


def above(rho):
    """Smallest point of the grid that is not below rho."""
    return radius(math.ceil(PER_DECADE * math.log10(rho)))


def quadratic(curvatures, at=2.0, bottom=1.0):
    """L(w) = bottom + (w - at) H (w - at) / 2 at its minimum; the outputs are the weights."""
    h = torch.tensor(curvatures, dtype=torch.float64)
    w = torch.full_like(h, at)

    def loss(outputs, targets):
        return bottom + (h * (outputs[0] - at).square()).sum() / 2

    return acutance.LossSurface(Weights(w), (torch.zeros(1, 1), torch.zeros(1)), loss=loss)


def find(name, surfaces, start=0.1, **fields):
    item = catalog().find("measures", name)
    return calibrate_on(surfaces, item, item.target.Spec(rho=start, scaling="none", **fields), start, 0)


@pytest.mark.parametrize("start", [1e-3, 0.3, 50.0])
def test_worst_case_of_a_quadratic(start):
    # S(rho) = rho^2 lambda_max / 2; answering zero costs at^2 tr(H) / 2 more than the minimum.
    found, levels = find("worst_case", [quadratic([1.0, 3.0, 8.0])], start, norm="l2", steps=40)
    assert levels.clean == 1.0 and levels.chance == pytest.approx(1 + 4 * 12 / 2) and levels.resolution == EPS
    assert found == Window(above(math.sqrt(2 * DIGITS * EPS / 8)), below(math.sqrt(2 * 24 / 8)))


def test_average_case_of_a_quadratic():
    # S(rho) = rho^2 tr(H) / 2, with relative standard error sqrt(2 sum h^2) / tr(H) / sqrt(draws): always resolved.
    found, _ = find("average_case", [quadratic([4.0, 4.0, 4.0], at=2.2)], draws=2000)
    assert found == Window(above(math.sqrt(2 * DIGITS * EPS / 12)), below(2.2))


def test_a_linear_loss():
    g = torch.tensor([0.5, -1.5], dtype=torch.float64)

    def loss(outputs, targets):
        return outputs[0] @ g

    w = torch.tensor([-4000.0, 2000.0], dtype=torch.float64)
    surface = acutance.LossSurface(Weights(w), (torch.zeros(1, 1), torch.zeros(1)), loss=loss)
    found, levels = find("worst_case", [surface], norm="linf", steps=5)
    # L = -5000, zero outputs give 0; S(rho) = rho ||g||_1; every output is rounded: eps (|L| + |g w|).
    assert (levels.clean, levels.chance) == (-5000.0, 0.0) and levels.resolution == pytest.approx(EPS * 10_000)
    assert found == Window(above(DIGITS * EPS * 10_000 / 2), below(5000 / 2))


class FakeSpec(Spec):
    rho: float = 1.0
    """Radius."""
    slope: float = 1.0
    """Rise per radius."""
    stderr: float = 0.0
    """Standard error at every radius."""


class Fake(Measure[FakeSpec]):
    """S(rho) = slope rho, with any standard error."""

    name = "fake"

    def evaluate(self, surface, spec, rng):
        return Estimate(spec.slope * spec.rho, spec.stderr or None)


FAKE = Item("measures", "fake", "acme", "1", Fake)


def test_any_measure_with_a_radius_and_its_standard_error():
    found, _ = calibrate_on([quadratic([1.0] * 4)], FAKE, FakeSpec(slope=2.0, stderr=0.01), 1.0, 0)
    assert found == Window(above(2 * 0.01 / 2), below(8 / 2 * (1 - 1e-12)))
    noisy, _ = calibrate_on([quadratic([1.0] * 4)], FAKE, FakeSpec(stderr=50.0), 1.0, 0)
    assert noisy.low is None and noisy.note.startswith("the rise is not resolved")
    flat, _ = calibrate_on([quadratic([1.0] * 4)], FAKE, FakeSpec(slope=0.0), 1.0, 0)
    assert flat.note == "chance level is not reached below 1e+08"


def test_levels_of_chance():
    x, y = mlp_data(40)
    surface = acutance.LossSurface(MLP(), (x, y))
    assert levels_of(surface).chance == pytest.approx(math.log(4), rel=1e-12)
    one = torch.zeros(4, dtype=torch.float64)
    one[torch.bincount(y).argmax()] = 1
    one = one / one.std(correction=0)
    share = torch.bincount(y, minlength=4).double() / 40
    assert levels_of(surface.transformed(True)).chance == pytest.approx(
        float(one.logsumexp(0) - share @ one), rel=1e-12
    )
    labels = torch.randn(40, 4, dtype=torch.float64)
    squared = acutance.LossSurface(MLP(), (x, labels), loss="mse")
    variance = (labels - labels.mean(0)).square().sum(1).mean()
    assert levels_of(squared).chance == pytest.approx(float(variance), rel=1e-12)
    bad, _ = find("worst_case", [acutance.LossSurface(MLP(), (x, surface.logits().argmin(1)))])
    assert bad == Window(None, None, "the clean loss is at chance level already")


def test_a_value_that_is_not_finite_counts_as_destroyed():
    levels = Levels(0.0, 10.0, 1e-16)
    assert window(lambda rho: (math.nan if rho > 3 else rho, 0.0), levels, 1e-5).high == below(3)
    assert window(lambda rho: (math.inf, 0.0), levels, 1.0).note.startswith("chance level is reached below")


def test_the_search_is_logarithmic():
    calls = []

    def rise(rho):
        calls.append(rho)
        return rho, 0.0

    found = window(rise, Levels(0.0, 10.0, 3e-10), 1e-4)
    assert found == Window(above(3e-8), below(10 * (1 - 1e-12)))
    # From 1e-4: 6 decades up and 10 down at most, and 4 halvings of a decade for each end.
    assert len(calls) == len(set(calls)) <= 24


def test_the_proposal_is_that_of_the_median_model(toy_config):
    study = load_config(toy_config)
    (definition, *_), _ = definitions_of(study)
    for i, (low, high) in enumerate([(1e-3, 1.0), (1e-2, 10.0), (1e-1, 100.0)]):
        definition.windows[str(i)] = Window(low, high)
    assert definition.proposal == [0.01, 0.1, 1.0, 10.0]
    assert definition.ends("low") == [1e-3, 1e-2, 1e-1] and definition.outside == []
    definition.windows["3"] = Window(None, None, "why not")
    assert definition.window.note == "why not" and len(definition.proposal) == 4


def test_definitions_are_measures_without_their_radius(toy_config):
    toy_config["measures"].append({"name": "average_case", "rho": [0.1, 0.3], "draws": 8, "replicates": 2})
    with_radius, others = definitions_of(load_config(toy_config))
    assert [(d.item.name, d.radii, d.replicates) for d in with_radius] == [
        ("worst_case", [0.01, 0.02], 1), ("average_case", [0.1], 1), ("average_case", [0.1], 1),
        ("average_case", [0.1, 0.3], 2),
    ]  # fmt: skip
    assert others == [{"name": "weight_norm"}]
    assert with_radius[3].section([1.0]) == {"name": "average_case", "draws": 8, "rho": [1.0], "replicates": 2}


def test_passes_are_counted_and_models_left_alone(toy_config, monkeypatch):
    loaded = []
    load = ToyPool.load
    monkeypatch.setattr(ToyPool, "load", lambda self, entry, spec: loaded.append(entry.id) or load(self, entry, spec))
    toy_config["measures"] = [{"name": "average_case", "rho": 0.1, "draws": 4}]
    evaluated = []
    from acutance import calibration

    family = calibration.evaluate_family
    monkeypatch.setattr(calibration, "evaluate_family", lambda *a, **k: evaluated.append(a) or family(*a, **k))
    found = calibrate(load_config(toy_config), models=3, points=20, device="cpu")
    assert loaded == found.models == ["toy0", "toy2", "toy5"] and found.examples == 16
    # Each of the two m-batches: the clean pass once, and 4 draws for every radius that was looked at.
    assert found.cost.forwards == 8 * (3 * 2 + 4 * len(evaluated)) and found.cost.backwards == 0


class OnAllPoints(Fake):
    """The same on all points of the surface."""

    name = "on_all_points"
    traits = Traits(level="dataset")


def test_a_model_is_loaded_once_whatever_the_levels(toy_config, monkeypatch):
    loaded = []
    load = ToyPool.load
    monkeypatch.setattr(ToyPool, "load", lambda self, entry, spec: loaded.append(entry.id) or load(self, entry, spec))
    batch, dataset = {"name": "average_case", "rho": 0.1, "draws": 4}, {"name": "on_all_points", "rho": 0.1}
    with extended([Item("measures", "on_all_points", "acme", "1", OnAllPoints)]):
        alone = [
            calibrate(load_config(toy_config | {"measures": [m]}), models=2, device="cpu") for m in (batch, dataset)
        ]
        loaded.clear()
        both = calibrate(load_config(toy_config | {"measures": [batch, dataset]}), models=2, device="cpu")
    assert loaded == both.models == ["toy0", "toy5"]
    assert [d.windows for d in both.definitions] == [d.windows for found in alone for d in found.definitions]
    assert both.cost == alone[0].cost + alone[1].cost


def test_the_command_proposes_a_study_that_runs(toy_config, tmp_path):
    toy_config["measures"] = [
        {"name": "worst_case", "rho": [1e-9, 0.1], "steps": 3, "logit_norm": [False, True]}, {"name": "weight_norm"}
    ]  # fmt: skip
    path, out = tmp_path / "study.yaml", tmp_path / "calibrated.yaml"
    path.write_text(yaml.safe_dump(toy_config))
    options = ["--models", "2", "--device", "cpu"]
    done = CliRunner().invoke(cli, ["calibrate", str(path), "--out", str(out), *options], standalone_mode=False)
    assert done.exception is None and done.return_value == 0, done.output
    text = done.output
    assert "adaptive worst-case ℓ∞, logit-norm" in text and "2 models (toy0, toy5), 8 points" in text
    assert "1e-09" in text
    pasted = yaml.safe_load(text[text.index("measures:") : text.index("study:")])["measures"]
    proposed = pasted[0]["rho"]
    assert len(proposed) == 4 and proposed == sorted(proposed)
    assert proposed[1] / proposed[0] == pytest.approx(proposed[3] / proposed[2], rel=0.02)
    calibrated = yaml.safe_load(out.read_text())
    assert calibrated["measures"] == pasted and pasted[2] == {"name": "weight_norm"}
    run = acutance.run(out, out=tmp_path / "run", report=False)
    values = run.results.query("measure == 'worst_case' and model == 'toy5'")
    assert run.failed == 0 and (values["value"] > 0).all()
    row = json.loads(
        CliRunner().invoke(cli, ["calibrate", str(path), "--json", *options], standalone_mode=False).output
    )
    assert [d["rho"] for d in row["definitions"]] == [p["rho"] for p in pasted[:2]]
    assert row["definitions"][0]["models"]["toy0"]["chance"] == pytest.approx(math.log(3))
    # At the ends of a model's own window the rise is what the window says.
    entry = row["definitions"][0]["models"]["toy0"]
    pool, data = ToyPool(), acutance.catalog().get("datasets", "toy")().open("train")
    from acutance.points import m_batches, select

    rows_ = select(data.targets, 32, "balanced")
    (batch, *_) = m_batches(data.inputs[rows_], data.targets[rows_], 8)
    net = pool.load(pool.entries(pool.Spec())[0], pool.Spec())

    def rise(rho):
        return acutance.measure("worst_case", net, batch, rho=rho, steps=3).value

    high, step = entry["high"], 10 ** (1 / PER_DECADE)
    assert entry["clean"] + rise(high) < entry["chance"] <= entry["clean"] + rise(float(f"{high * step:.6g}"))


def test_a_study_without_a_radius_is_told(toy_config, tmp_path):
    toy_config["measures"] = [{"name": "weight_norm"}]
    with pytest.raises(acutance.UserError, match="none of the study's measures has a radius"):
        calibrate(load_config(toy_config))


def test_a_definition_that_cannot_be_evaluated_keeps_its_radii(toy_config, monkeypatch):
    def refuses(surface, specs, rng):
        raise acutance.UserError(f"no search at {specs[0].rho:g}")

    monkeypatch.setattr("acutance_worst_case.search.largest_rises", refuses)
    toy_config["measures"] = [{"name": "worst_case", "rho": 0.1, "steps": 2}]
    found = calibrate(load_config(toy_config), models=1, device="cpu")
    (definition,) = found.definitions
    assert "no search at" in definition.window.note and not definition.proposal
