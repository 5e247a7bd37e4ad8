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
from acutance.cli import cli
from acutance.measure import Estimate, Measure, Traits
from acutance.plugins import Item, catalog, extended
from acutance.spec import Spec
from acutance.study.config import load_config
from acutance.workflows.calibrated import write_study
from acutance.workflows.calibration import calibrate, calibrate_on, definitions_of, levels_of
from acutance.workflows.radii import (
    DIGITS,
    PER_DECADE,
    SHARES,
    CachedRise,
    Levels,
    Reached,
    Window,
    at_share,
    median_radius,
    most_looks,
    radius,
    window,
)

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
    found, _ = find("average_case", [quadratic([4.0, 4.0, 4.0], at=2.2)], draws=500)
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

    found = window(CachedRise(rise), Levels(0.0, 10.0, 3e-10), 1e-4)
    assert found == Window(above(3e-8), below(10 * (1 - 1e-12)))
    # From 1e-4: 6 decades up and 10 down at most, and 4 halvings of a decade for each end.
    assert len(calls) == len(set(calls)) <= 24


def test_the_proposal_is_that_of_the_median_model(toy_config):
    study = load_config(toy_config)
    (definition, *_), _ = definitions_of(study)
    for i, (low, high) in enumerate([(1e-3, 1.0), (1e-2, 10.0), (1e-1, 100.0)]):
        radii = (Reached(0.1, 3 * low), Reached(0.3, math.inf if i else 0.5, "is not reached" if i else ""))
        definition.windows[str(i)] = Window(low, high, radii=radii)
    assert definition.proposals == {0.1: 0.03, 0.3: None} and definition.proposal == [0.03]
    assert definition.notes == [
        "30% of the way to chance level is not reached (2 of 3 models)",
        "30% of the way to chance level: no radius, as the median model has none above what the loss resolves",
    ]
    assert definition.ends("low") == [1e-3, 1e-2, 1e-1] and definition.outside == []
    definition.windows["3"] = Window(None, None, "why not")
    assert definition.window.note == "why not" and len(definition.proposal) == 1


def test_no_radius_is_proposed_below_the_median_floor(toy_config):
    (definition, *_), _ = definitions_of(load_config(toy_config))
    definition.windows["a"] = Window(0.01, 1.0, radii=(Reached(0.1, 0.009),))
    assert definition.proposals == {0.1: None}


def test_the_median_radius_counts_what_is_missing_at_its_side():
    assert median_radius([1e-2, 1.0]) == pytest.approx(0.1) and median_radius([0.0, 3.0, math.inf]) == 3.0
    assert median_radius([3.0, math.inf]) == math.inf and median_radius([0.0, 3.0]) == 0.0


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
    from acutance.workflows import calibration

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
    assert "Proposed radii, by share" in text and f"at most {most_looks(4)} for" in " ".join(text.split())
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
    from acutance.data.points import m_batches, select

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


# -- shares of the rise to chance level -----------------------------------------------------------------------


FINE = Levels(0.0, 10.0, 1e-16)


def shares_of(rise, levels=FINE, start=1e-3, shares=SHARES):
    looked = CachedRise(rise)
    window(looked, levels, start)
    return [at_share(looked, levels, share) for share in shares], looked


def test_the_rise_of_a_quadratic_at_the_radii_is_the_share():
    surface = quadratic([1.0, 3.0, 8.0])
    looked = []
    item = catalog().find("measures", "worst_case")
    spec = item.target.Spec(rho=0.1, scaling="none", norm="l2", steps=40)
    found, _ = calibrate_on([surface], item, spec, 0.1, 0, SHARES, looked)
    assert found == Window(above(math.sqrt(2 * DIGITS * EPS / 8)), below(math.sqrt(2 * 24 / 8)))
    assert [r.share for r in found.radii] == list(SHARES) and not any(r.note for r in found.radii)
    for reached in found.radii:
        assert 4 * reached.radius**2 == pytest.approx(reached.share * 24, rel=0.055)
    assert len(looked) == len(set(looked)) <= 24 + 3 * len(SHARES) < most_looks(len(SHARES))


@pytest.mark.parametrize("rise", [
    lambda rho: rho**0.5, lambda rho: rho**4, lambda rho: 1e-9 * math.expm1(rho), lambda rho: 9 * math.tanh(rho) + rho
])  # fmt: skip
def test_shares_of_curves_that_are_no_power(rise):
    found, looked = shares_of(lambda rho: (rise(min(rho, 500.0)), 0.0), start=1.0)
    for reached in found:
        assert rise(reached.radius) == pytest.approx(10 * reached.share, rel=0.05) and not reached.note
    assert len(looked.evaluated) <= most_looks(len(SHARES))


@pytest.mark.parametrize("power", [0.5, 1, 2, 4])
def test_one_secant_finds_each_share_of_a_power(power):
    ends = CachedRise(lambda rho: (rho**power, 0.0))
    window(ends, FINE, 1e-3)
    found, looked = shares_of(lambda rho: (rho**power, 0.0))
    assert len(looked.evaluated) <= len(ends.evaluated) + len(SHARES) <= 34
    assert [r.radius**power for r in found] == pytest.approx([10 * share for share in SHARES], rel=0.05)


def test_shares_that_are_not_there_are_said():
    saturates, _ = shares_of(lambda rho: (4 * -math.expm1(-rho), 0.0))
    assert [r.radius == math.inf for r in saturates] == [False, False, False, True]
    assert saturates[3].note == "is not reached at any radius looked at"
    jumps, looked = shares_of(lambda rho: (0.5 * rho if rho < 2 else 20.0, 0.0))
    assert [r.note for r in jumps] == ["", "", "is jumped over", "is jumped over"]
    assert len(looked.evaluated) <= most_looks(4)
    noisy, _ = shares_of(lambda rho: (rho, 0.3))
    assert [r.note for r in noisy] == ["is less than the loss resolves", "", "", ""] and noisy[0].radius == 0
    coarse, _ = shares_of(lambda rho: (rho, 0.0), Levels(0.0, 10.0, 0.015))
    assert [r.radius > 0 for r in coarse] == [False, False, True, True]
    flat = at_share(CachedRise(lambda rho: (5.0, 0.0)), FINE, 0.1)
    assert flat.note.startswith("is not reached")  # nothing was looked at yet
    constant, looked = shares_of(lambda rho: (5.0, 0.0))
    assert [r.radius for r in constant] == [0, 0, 0, math.inf]
    assert constant[0].note == "is passed already at the smallest radius looked at"
    assert len(looked.evaluated) <= most_looks(4)


def test_a_rise_that_falls_again_is_said():
    # Up to 3 at rho = 3, then down to 1 between 4 and 40, then up.
    found, _ = shares_of(lambda rho: (rho if rho < 4 else 1.0 if rho < 40 else rho, 0.0))
    assert found[0].note == found[1].note == ""
    assert found[2].radius == pytest.approx(3, rel=0.05)
    assert found[2].note == "is lost again at a larger radius: the rise does not grow throughout"


def test_a_value_that_is_not_finite_is_past_every_share():
    found, _ = shares_of(lambda rho: (math.nan if rho > 3.5 else rho, 0.0))
    assert [r.radius for r in found[:3]] == pytest.approx([0.2, 1.0, 3.0], rel=0.05)
    assert found[3].note == "is jumped over"


def test_written_studies_are_the_users_own_with_radii_in_place(toy_config, tmp_path):
    toy_config["measures"] = [
        {"name": "weight_norm"},
        {"name": "worst_case", "steps": 3, "rho": [1e-9, 0.1]},
        {"name": "average_case", "rho": 0.1, "draws": 64, "logit_norm": [False, True]},
        {"name": "worst_case", "rho": 0.2, "steps": 3},
    ]
    path, out = tmp_path / "study.yaml", tmp_path / "new.yaml"
    path.write_text("# mine\n" + yaml.safe_dump(toy_config, sort_keys=False))
    arguments = ["calibrate", str(path), "--models", "2", "--device", "cpu", "--shares", "10, 50%"]
    arguments += ["--set", "seed=3", "--json", "--write"]

    def run(to):
        return CliRunner().invoke(cli, [*arguments, str(to)], standalone_mode=False)

    done = run(out)
    assert done.exception is None and done.return_value == 0, done.output
    written = yaml.safe_load(out.read_text())
    assert list(written) == [*toy_config, "seed"] and written["seed"] == 3
    assert {k: v for k, v in written.items() if k not in ("measures", "seed")} == {
        k: v for k, v in toy_config.items() if k != "measures"
    }
    plain, worst, *average = written["measures"]
    assert plain == {"name": "weight_norm"} and list(worst) == ["name", "steps", "rho"]
    assert [len(m["rho"]) for m in (worst, *average)] == [2, 2, 2]
    assert [m.get("logit_norm", False) for m in average] == [False, True]
    definitions = json.loads(done.stdout)["definitions"]
    assert [m["rho"] for m in (worst, *average)] == [d["rho"] for d in definitions]
    assert [[s["share"] for s in d["shares"]] for d in definitions] == [[0.1, 0.5]] * 3
    assert [p.spec.rho for p in load_config(out).measures if p.item.name == "worst_case"] == worst["rho"]
    # Its own file is replaced, one that was changed since and the user's study are not.
    before = out.read_text()
    assert run(out).exception is None and out.read_text() == before
    out.write_text(before + "# a remark\n")
    for taken, why in ((out, "was changed since acutance wrote it"), (path, "acutance did not write it")):
        kept = taken.read_text()
        assert why in str(run(taken).exception) and taken.read_text() == kept


def test_a_study_that_would_not_load_is_not_written(toy_config, tmp_path):
    with pytest.raises(acutance.UserError, match="measures"):
        write_study(tmp_path / "new.yaml", toy_config | {"measures": []})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shares", ["0,10", "101", "nan", "-1"])
def test_shares_out_of_range_are_refused(shares, toy_config, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(toy_config))
    done = CliRunner().invoke(cli, ["calibrate", str(path), "--shares", shares], standalone_mode=False)
    assert "shares of the rise" in str(done.exception)
    done = CliRunner().invoke(cli, ["calibrate", str(path), "--shares", "a few"], standalone_mode=False)
    assert "no list of percentages" in str(done.exception)
    same = ["--write", str(tmp_path / "new.yaml"), "--out", str(tmp_path / "new.yaml")]
    done = CliRunner().invoke(cli, ["calibrate", str(path), *same], standalone_mode=False)
    assert "are the same file" in str(done.exception)
