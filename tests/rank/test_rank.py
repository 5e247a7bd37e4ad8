"""``acutance.rank`` on pools whose order is known: ranks, costs, blindness to targets, bad input, files and command."""

import json
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ranking_pools import D, K, linear, noisy, points
from torch import nn

import acutance
from acutance.cli import cli
from acutance.errors import UserError
from acutance.measure import Measure, PoolMeasure, Traits
from acutance.plugins import Item, extended
from acutance.spec import Spec


class NoSettings(Spec):
    """Nothing to choose."""


class Margins(Measure[NoSettings]):
    """Mean of the logits' spread: large for the truth among weights of one length."""

    name = "spread"
    traits = Traits(level="dataset", needs={"unlabeled"}, better="larger", label="spread", reference="a test")
    calls = 0

    def evaluate(self, surface, spec, rng):
        Margins.calls += 1
        return float(surface.clean_logits().double().std(1).mean())


class Guess(Measure[NoSettings]):
    """Error that the labelled points have, moved by the features' size."""

    name = "guess"
    traits = Traits(level="dataset", needs={"unlabeled", "validation", "activations"}, better="smaller", estimates="error",
                    reference="a test")  # fmt: skip

    def evaluate(self, surface, spec, rng):
        other = surface.companion()
        wrong = (other.clean_logits().argmax(1) != other.targets).double().mean()
        return float(wrong + 0 * surface.last_layer().features.double().mean())


class Apart(PoolMeasure[NoSettings]):
    """Mean disagreement with the others."""

    name = "apart"
    traits = Traits(level="pool", needs={"peers", "unlabeled"}, better="smaller", reference="a test")

    def evaluate_pool(self, peers, spec, rng):
        predicted = [p.logits.argmax(1) for p in peers]
        assert all(p.targets is None for p in peers)
        return [np.mean([float((a != b).double().mean()) for b in predicted if b is not a]) for a in predicted]


class Sighted(Measure[NoSettings]):
    """Error with labels."""

    name = "sighted"
    traits = Traits(level="dataset", needs={"data"}, better="smaller", reference="a test")

    def evaluate(self, surface, spec, rng):
        return 0.0


class Silent(Measure[NoSettings]):
    """Says no direction."""

    name = "silent"
    traits = Traits(level="dataset", needs={"unlabeled"}, reference="a test")

    def evaluate(self, surface, spec, rng):
        return 0.0


OWN = (Margins, Guess, Apart, Sighted, Silent)


@pytest.fixture(autouse=True)
def measures():
    with extended([Item("measures", m.name, "acme-rank", "1.0", m) for m in OWN]):
        yield


NAMES = ["guess", "apart", "spread"]
LEVELS = (0.0, 0.5, 1.0, 2.0, 4.0)


def test_models_of_increasing_noise_are_ranked_right():
    r = acutance.rank(
        noisy(LEVELS), points(600, 1)[0], {"validation": points(900, 2), "far": points(600, 3, 1.0)}, NAMES
    )
    first = r.table[r.table["measure"] == "guess"]
    assert first["model"].tolist() == ["m0", "m1", "m2", "m3", "m4"]
    assert (first["rank_low"] <= first["rank"]).all() and (first["rank"] <= first["rank_high"]).all()
    assert first["rank_high"].iloc[0] == 1 and (first["stderr"].iloc[1:] > 0).all()
    cost = r.costs.set_index(["measure", "set"])
    assert cost.loc[("guess", "far"), "regret"] == 0 and cost.loc[("guess", "far"), "tau"] > 0.5
    # A measure that has seen the labels of the validation points is not judged on these.
    assert ("guess", "validation") not in cost.index and ("apart", "validation") in cost.index
    assert r.recommended.measure in ("guess", "apart") and r.recommended.regret == 0 and r.recommended.p < 0.05
    assert r.verdict.startswith(f"By {r.recommended.measure}, which cost least (mean regret 0 on far")
    assert r.verdict.endswith("m0 comes first.") and "guess: m0 comes first." in r.sentences
    errors = r.errors.set_index(["set", "model"])["error"]
    off = (errors["validation"] - errors["far"]).abs().mean()  # it says the validation error of any points
    assert cost.loc[("guess", "far"), "off"] == pytest.approx(off) and np.isnan(cost.loc[("apart", "far"), "off"])
    assert errors["far", "m0"] == 0 and errors["far", "m4"] > 0.2


def test_identical_models_are_inconclusive_and_labels_alone_say_what_to_trust():
    one = noisy([1.0])["m0"]
    r = acutance.rank(
        {"a": one, "b": linear(one.weight), "c": linear(one.weight)}, points(200, 1)[0], measures=NAMES[1:]
    )
    assert (r.table["rank_low"] == 1).all() and (r.table["rank_high"] == 3).all()
    assert r.verdict.startswith("Inconclusive: no measure tells") and "which measure to trust" in r.verdict
    assert r.sentences[1] == "spread: inconclusive, the first can be any of the 3 models."
    assert r.recommended is None and r.costs.empty and r.choices.empty


def test_targets_of_the_points_change_nothing_and_are_said_not_to_be_looked_at():
    x, y = points(200, 1)
    labels = points(200, 2)
    plain = acutance.rank(noisy(LEVELS[::2]), x, labels, NAMES)
    poisoned = acutance.rank(noisy(LEVELS[::2]), (x, 3 - y), labels, NAMES)
    assert plain.as_json() | {"notes": []} == poisoned.as_json() | {"notes": []}
    assert not plain.notes and "were not looked at" in poisoned.notes[0]
    assert acutance.rank(noisy(LEVELS[::2]), (x, None), labels, NAMES).as_json() == plain.as_json()


def test_a_validation_sample_adds_to_the_uncertainty():
    x = points(400, 1)[0]
    small, large = (
        acutance.rank(noisy(LEVELS), x, points(n, 5), ["guess"]).table.set_index("model")["stderr"] for n in (100, 6400)
    )
    assert (small["m4"] > 4 * large["m4"]) and large["m4"] == pytest.approx((0.25 / 6400) ** 0.5, rel=0.6)


def test_shifts_that_are_left_out_and_all_measures_of_the_catalog():
    sets = {"validation": points(100, 2), **{f"s{i}": points(100, 10 + i, i / 2) for i in range(2)}}
    r = acutance.rank(noisy(LEVELS[::2]), points(100, 1)[0], sets)
    assert {"mean_confidence", "prediction_entropy", *NAMES} <= set(r.labels) and "silent" not in r.labels
    assert r.choices["set"].tolist() == ["s0", "s1"] and len(r.agreement) == len(r.labels) * (len(r.labels) - 1) / 2
    assert set(r.order) == set(r.clusters) == set(r.labels)
    assert acutance.rank(noisy(LEVELS[:2]), points(40, 1)[0]).notes[0].startswith("left out, since they need labelled")


def test_models_are_unharmed_and_one_forward_is_made_of_each_set(monkeypatch):
    seen = []
    models = noisy(LEVELS)
    for model in models.values():
        model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    before = {k: v.weight.clone() for k, v in models.items()}
    acutance.rank(models, points(200, 1)[0], points(300, 2), NAMES)
    assert seen.count(200) == seen.count(300) == 5 and max(s for s in seen if s not in (200, 300)) <= 8
    assert all(torch.equal(v.weight, before[k]) for k, v in models.items())


def test_a_folder_keeps_outputs_tables_and_a_page_that_escapes_names(tmp_path):
    models = {"<b>x</b>": noisy([0.0])["m0"], "$y$": noisy([2.0])["m0"], "z": noisy([3.0])["m0"]}
    out, x = tmp_path / "out", points(100, 1)[0]
    first = acutance.rank(models, x, points(100, 2), NAMES, out=out)
    page = (out / "rank.html").read_text()
    assert "<b>x" not in page and "&lt;b&gt;x&lt;/b&gt;" in page and page.count("data:image/png") == 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3", "")
    assert len(list((out / "outputs").iterdir())) == 6
    assert {"ranking.csv", "agreement.csv", "costs.csv", "rank.html"} <= {p.name for p in out.iterdir()}
    seen = []
    for model in models.values():
        model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    again = acutance.rank(models, x, points(100, 2), NAMES, out=out)
    assert again.as_json() == first.as_json() and max(seen) <= 8  # what is kept is not computed again
    (out / "ranking.csv").write_text("mine")
    with pytest.raises(UserError, match=r"ranking.csv was changed"):
        acutance.rank(models, x, points(100, 2), NAMES, out=out)
    assert "<b>x" not in first._repr_html_() and "&lt;b&gt;" in first._repr_html_()


def bad(message, *args, **options):
    with pytest.raises(UserError, match=message):
        acutance.rank(*args, **options)


def test_bad_input():
    models, (x, y), other = noisy((0.0, 1.0)), points(60, 1), points(60, 2)
    bad("one model, and nothing to rank", {"a": models["m0"]}, x)
    bad("needs labels or weights", models, x, other, ["sighted"])
    bad("does not say whether larger or smaller", models, x, other, ["silent"])
    bad("needs labelled points beside", models, x, None, ["guess"])
    bad("unknown measure", models, x, other, ["spred"])
    bad("none of the measures has this setting", models, x, other, ["spread"], settings={"rho": 1})
    bad("are the very points of 'points'", models, x, (x, y), ["spread"])
    bad("are the very points of 'validation'", models, x, {"validation": other, "b": other}, ["spread"])
    bad("points: 12 points are too few", models, x[:12], other, ["spread"])
    bad("validation: 12 points are too few", models, x, (other[0][:12], other[1][:12]), ["spread"])
    bad("has 3 classes, model m0 has 4", {**models, "b": nn.Linear(D, 3)}, x, None, ["spread"])
    bad("the model does not take", {**models, "b": nn.Linear(D + 1, K)}, x, None, ["spread"])
    bad("no labels", models, x, (other[0], None), ["spread"])
    bad("targets are no classes", models, x, (other[0], other[1].float()), ["spread"])
    bad("non-finite value", models, x.log(), None, ["spread"])
    bad("'points' is what the ranked points are called", models, x, {"points": other}, ["spread"])
    bad("is a str", {"a": "x", "b": "y"}, x, None, ["spread"])
    bad("no models are there", "nowhere/*.pt", x, None, ["spread"])


def test_a_model_without_a_value_costs_its_own_rows():
    models = noisy((0.0, 1.0, 2.0))
    with torch.no_grad():
        models["m1"].weight.mul_(1e38)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = acutance.rank(models, points(60, 1)[0], None, ["mean_confidence"])
    rows = r.table.set_index("model")
    assert np.isnan(rows.loc["m1", "value"]) and rows.loc["m1", "rank_high"] == 3
    assert any("m1" in note and "not finite" in note for note in r.notes)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(f"import torch\ndef net():\n    return torch.nn.Linear({D}, {K})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "runs").mkdir()
    for name, model in noisy((0.0, 1.0, 3.0)).items():
        torch.save(model.state_dict(), tmp_path / "runs" / f"{name}.pt")
    x, y = points(100, 1)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    np.savez(tmp_path / "blind.npz", x=x.numpy())
    torch.save(x, tmp_path / "blind.pt")
    v, w = points(120, 2)
    np.savez(tmp_path / "val.npz", x_test=v.numpy(), y_test=w.numpy())
    return tmp_path


def call(*args, code=0):
    done = CliRunner().invoke(cli, ["rank", *args], standalone_mode=False)
    if code:
        assert isinstance(done.exception, UserError), done.output
        return str(done.exception)
    assert done.exception is None, done.exception
    return done.stdout


def test_the_command_gives_what_python_gives(files):
    options = ["--model", "nets:net", "--labels", "val.npz:test", *(f"--measure={name}" for name in NAMES)]
    told = json.loads(call("runs", "--points", "data.npz", *options, "--json"))
    same = acutance.rank("runs", "data.npz", "val.npz:test", NAMES, pool={"architecture": "nets:net"})
    assert told == json.loads(json.dumps(same.as_json()))
    held = acutance.rank(noisy((0.0, 1.0, 3.0)), points(100, 1)[0], points(120, 2), NAMES)
    assert held.as_json() == same.as_json() and set(same.table["model"]) == {"m0", "m1", "m2"}
    for source in ("blind.npz", "blind.pt"):  # no targets in them
        assert (
            acutance.rank("runs/*.pt", source, "val.npz:test", NAMES, pool={"architecture": "nets:net"}).as_json()
            == told
        )
    text = call("runs", "--points", "blind.npz", *options, "--out", "ranked", "--quiet")
    assert "m0 comes first" in text and "Ranks that each model can have" in text and "cost on validation" in text
    assert (files / "ranked" / "rank.html").exists()


def test_what_is_rounding_is_shown_as_zero(capsys, tmp_path):
    from acutance.cli.rank_ import print_ranking
    from acutance.cli.screen import console
    from acutance.run.directory import RunDirectory

    r = acutance.rank(noisy(LEVELS[:3]), points(100, 1)[0], measures=["spread"])
    r.table.loc[0, "value"] = -1.39e-17
    print_ranking(r, console())
    folder = RunDirectory(tmp_path)
    folder.take(ours=False, names=())
    r.write(folder)
    for text in (capsys.readouterr().out, (tmp_path / "rank.html").read_text(), r._repr_html_()):
        assert "e-17" not in text and "-0" not in text.partition("base64")[0] and r.table["value"].iloc[0] == -1.39e-17


def test_a_list_of_checkpoints_and_what_the_command_refuses(files):
    (files / "list.csv").write_text("path,architecture,id\nruns/m0.pt,nets:net,<i>\nruns/m2.pt,nets:net,two\n")
    assert "<i>" in call("list.csv", "--points", "blind.npz", "--measure", "spread")
    one = ("--measure", "spread", "--points", "blind.npz")
    assert "nothing says what these are checkpoints of" in call("runs", *one, code=2)
    assert "given twice" in call("list.csv", *one, "--labels", "a=val.npz", "--labels", "a=val.npz", code=2)
    assert "its arrays are" in call("list.csv", *one, "--labels", "val.npz:tset", code=2)
    assert "no such file" in call("list.csv", "--points", "nothing.npz", "--measure", "spread", code=2)
    assert "is none, a study says" in call("mnist", *one, "--model", "nets:net", code=2)
    np.savez(files / "runs" / "x.npz", x=1)
    assert "files of several kinds" in call("runs", *one, "--model", "nets:net", code=2)
    (files / "study").mkdir()
    (files / "study" / "acutance.db").write_text("")
    assert "is the directory of a run" in call("list.csv", *one, "--out", "study", code=2)


def test_texts_need_no_column_of_labels(tmp_path):
    from acutance.workflows.given_data import opened_data

    (tmp_path / "t.csv").write_text("text\na b c\nb c d\n")
    dataset, inputs, targets = opened_data(str(tmp_path / "t.csv"), {}, {}, "--points", labelled=False)
    assert inputs["input_ids"].shape[0] == 2 and targets.shape == (2, 0) and dataset.labels == ()
    with pytest.raises(UserError, match="label"):
        opened_data(str(tmp_path / "t.csv"), {}, {}, "--labels")


def test_the_pools_of_a_study_are_ranked(files):
    (files / "s.yaml").write_text(
        "format: 1\nwithin: []\ndataset: {name: arrays, files: {train: data.npz}}\n"
        "pools: [{name: checkpoints, files: 'runs/*.pt', architecture: 'nets:net'}]\n"
        "targets: [train_error]\nmeasures: [{name: mean_confidence}]\nsurface: {points: 20, m: 20}\n"
    )
    r = acutance.rank("s.yaml", "blind.npz", measures=["spread"])
    assert set(r.table["model"]) == {"m0", "m1", "m2"}


def test_copies_of_points_make_nothing_surer():
    torch.manual_seed(0)
    models = {f"m{i}": nn.Linear(4, 3) for i in range(3)}
    x = torch.randn(40, 4)
    once, often = (acutance.rank(models, d, measures=["mean_confidence"]).table for d in (x, x.repeat(5, 1)))
    for column in ("value", "stderr", "rank_low", "rank_high"):
        np.testing.assert_allclose(often[column], once[column], rtol=1e-9)
    with pytest.raises(UserError, match=r"4 points are too few .*, of 100, the only different ones"):
        acutance.rank(models, x[:4].repeat(25, 1), measures=["mean_confidence"])
