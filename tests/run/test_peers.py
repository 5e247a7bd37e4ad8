"""Measures that compare the models of a study: what they see, what their values are of, and what goes wrong alone."""

import itertools
import json
import re
import sqlite3

import comparing
import pandas as pd
import pytest
import torch
from acme_toy.plugin import ToyData, ToyPool
from models import MLP, mlp_data
from third_parties import distribution, python

import acutance
from acutance import Estimate, LossSurface, Status, UserError
from acutance.cli.check_ import estimate
from acutance.peers import Peer, over_partners
from acutance.plugins import Item, extended
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.system.progress import Silent
from acutance.testing import examine
from acutance.testing.pool_measures import ELSEWHERE
from acutance.workflows.merge import merge

MEASURES = (comparing.Disagreement, comparing.Apart, comparing.Halfway, comparing.Alike, comparing.Odd)
ITEMS = [Item("measures", m.name, "acme-comparing", "1.0", m) for m in MEASURES]


class Some(ToyPool):
    """Some of the toys, in another order."""

    name = "some"

    class Spec(acutance.Spec):
        which: tuple[int, ...] = (0, 1, 2)
        """Numbers of the models."""
        shift: float = 0.0
        """Subtracted from the inputs of model 0."""

    def entries(self, spec):
        return [super(Some, self).entries(ToyPool.Spec(size=i + 1))[-1] for i in spec.which]

    def load(self, entry, spec):
        return super().load(entry, ToyPool.Spec())

    def preprocess(self, entry, spec):
        return (lambda x: x - spec.shift) if spec.shift and entry.id == "toy0" else None


ITEMS.append(Item("pools", "some", "acme-comparing", "1.0", Some))


@pytest.fixture(autouse=True)
def installed():
    with extended(ITEMS) as found:
        yield found


@pytest.fixture
def study(three_models):
    return three_models | {
        "pools": [{"name": "some"}],
        "measures": [{"name": "disagreement_of_toys"}, {"name": "weights_apart"}],
        "figures": {},
    }


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def rows(done, name):
    return done.results[done.results["measure"] == name]


def values(done, name):
    found = rows(done, name)
    assert set(found["status"]) == {"ok"}, found["message"].tolist()
    return found["value"].tolist()


def toys(*which):
    pool = ToyPool()
    return [pool.load(pool.entries(ToyPool.Spec(size=i + 1))[-1], ToyPool.Spec()) for i in which]


def points():
    from acutance.data.points import select

    split = ToyData(ToyData.Spec()).open("train")
    chosen = select(split.targets, 32, "balanced")
    return split.inputs[chosen], split.targets[chosen]


def mean_over_others(distance, models):
    return [sum(distance(a, b) for b in models if b is not a) / (len(models) - 1) for a in models]


def apart(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return float(sum((p - q).double().square().sum() for p, q in pairs) ** 0.5)


def disagree(a, b):
    x, _ = points()
    return float((a(x).argmax(1) != b(x).argmax(1)).double().mean())


def passes(out):
    with sqlite3.connect(out / "acutance.db") as db:
        found = db.execute("SELECT measure, sum(forwards) FROM attempt WHERE measure LIKE 'acme-c%' GROUP BY measure")
        return {name.partition("/")[2]: total for name, total in found}


def test_values_are_means_over_the_other_models(study, tmp_path):
    done = run(study | {"measures": [{"name": m.name} for m in MEASURES[:4]]}, tmp_path)
    models = toys(0, 1, 2)
    assert values(done, "disagreement_of_toys") == pytest.approx(mean_over_others(disagree, models), abs=1e-12)
    assert values(done, "weights_apart") == pytest.approx(mean_over_others(apart, models), rel=1e-6)
    x, y = points()

    def halfway(a, b):
        mixed = {k: (v + b.state_dict()[k]) / 2 for k, v in a.state_dict().items()}
        return float(torch.nn.functional.cross_entropy(torch.func.functional_call(a, mixed, (x,)), y))

    def features(a, b):
        return float((a[:2](x) - b[:2](x)).double().norm(dim=1).mean())

    assert values(done, "loss_halfway") == pytest.approx(mean_over_others(halfway, models), rel=1e-5)
    assert values(done, "features_apart") == pytest.approx(mean_over_others(features, models), rel=1e-5)
    # One forward a model for the outputs, one for the features, none for weights, nine for the pairs (the loss at w*
    # is that of the logits); each is booked once.
    assert passes(tmp_path) == {
        "disagreement_of_toys": 96,
        "weights_apart": 0,
        "loss_halfway": 32 * 9,
        "features_apart": 96,
    }
    assert len(list((tmp_path / "outputs").iterdir())) == 3
    with sqlite3.connect(tmp_path / "acutance.db") as db:
        extras = db.execute("SELECT extras FROM cell WHERE measure LIKE '%weights_apart'").fetchall()
    assert [set(json.loads(e)["partners"]) for (e,) in extras] == [
        {"toy0", "toy1", "toy2"} - {f"toy{i}"} for i in sorted(range(3), key=lambda i: done.models["key"][i])
    ]


def test_outputs_that_are_kept_need_no_model(study, tmp_path):
    run(study, tmp_path)
    before = passes(tmp_path)
    newer = type("Newer", (comparing.Disagreement,), {"version": 2})
    with extended([Item("measures", "disagreement_of_toys", "acme-comparing", "2.0", newer)]):
        again = run(study, tmp_path)
    assert again.computed == 3 and passes(tmp_path) == before
    next((tmp_path / "outputs").iterdir()).unlink()
    newest = type("Newest", (comparing.Disagreement,), {"version": 3})
    with extended([Item("measures", "disagreement_of_toys", "acme-comparing", "3.0", newest)]):
        assert values(run(study, tmp_path), "disagreement_of_toys") == values(again, "disagreement_of_toys")
    assert passes(tmp_path)["disagreement_of_toys"] == before["disagreement_of_toys"] + 32
    assert len(list((tmp_path / "outputs").iterdir())) == 3


class Narrow(torch.nn.Module):
    """A network whose passes do not fit into memory beyond a few examples."""

    def __init__(self, net, most):
        super().__init__()
        self.net, self.most = net, most

    def forward(self, x):
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory: tried to allocate 2 GiB")
        return self.net(x)


@pytest.mark.parametrize("most", [9, 0])
def test_passes_are_halved_where_memory_runs_out(study, tmp_path, monkeypatch, most):
    asked = study | {
        "measures": [{"name": m.name} for m in MEASURES[:4]],
        "targets": ["attr:learning_rate"],
        "admit": {},
    }
    whole = run(asked, tmp_path / "whole")
    load = Some.load
    seen = []

    def narrow(self, entry, spec):
        seen.append(entry.id)
        return Narrow(load(self, entry, spec), most)

    monkeypatch.setattr(Some, "load", narrow)
    done = run(asked, tmp_path / "narrow")
    names = ["disagreement_of_toys", "loss_halfway", "features_apart"]
    if most:
        for name in [*names, "weights_apart"]:
            assert values(done, name) == pytest.approx(values(whole, name), rel=1e-5), name
    else:  # nothing fits: as many tries as there are halves, and the reason
        found = done.results.set_index("measure")
        assert set(found.loc["weights_apart", "status"]) == {"ok"}
        assert set(found.loc[names, "status"]) == {"failed"}
        assert found.loc[names, "message"].str.contains("out of memory").all()


# -- keys ---------------------------------------------------------------------------------------------------


def test_a_model_more_is_a_new_comparison_and_the_order_none(study, tmp_path):
    first = run(study, tmp_path)
    assert first.computed == 3 * 3 and run(study, tmp_path).computed == 0
    study["pools"] = [{"name": "some", "which": [2, 0, 1]}]
    turned = run(study, tmp_path)
    assert turned.computed == 0 and values(turned, "weights_apart") == [
        values(first, "weights_apart")[i] for i in (2, 0, 1)
    ]
    study["pools"] = [{"name": "some", "which": [0, 1, 2, 3]}]
    more = run(study, tmp_path)
    assert more.computed == 4 + 4 + 1  # all values that compare, and the target of the one that is new
    assert values(more, "weights_apart") == pytest.approx(mean_over_others(apart, toys(0, 1, 2, 3)), rel=1e-6)
    assert run(study, tmp_path, limit=3).computed == 0


def test_levels_are_apart_and_a_model_alone_has_no_value(study, tmp_path):
    study["within"] = ["wide"]
    done = run(study, tmp_path)
    found = rows(done, "weights_apart")
    assert found["status"].tolist() == ["ok", "unsupported", "ok"] and done.failed == 0
    assert found["value"].tolist()[::2] == pytest.approx([apart(*toys(0, 2))] * 2, rel=1e-6)
    assert "no other model of the study is compared that agrees with it in wide" in found["message"].tolist()[1]
    # A model more in the other level leaves this one as it is.
    study["pools"] = [{"name": "some", "which": [0, 1, 2, 3]}]
    more = run(study, tmp_path)
    assert more.computed == 1 + 2 * 2 and values(more, "weights_apart")[1::2] == pytest.approx(
        [apart(*toys(1, 3))] * 2, rel=1e-6
    )


def test_only_models_that_are_admitted_are_compared(study, tmp_path):
    errors = run(study, tmp_path / "all").models["target.test_error"]
    bound = sorted(errors)[1]
    study["admit"] = {"test_error": {"max": bound}}
    done = run(study, tmp_path / "some")
    here = [i for i in range(3) if errors[i] <= bound]
    assert len(here) == 2 and values(done, "weights_apart") == pytest.approx([apart(*toys(*here))] * 2, rel=1e-6)


def test_what_one_model_sees_of_the_points_is_part_of_all_keys(study, tmp_path):
    study["within"] = []
    first = run(study, tmp_path)
    study["pools"] = [{"name": "some", "shift": 0.5}]
    shifted = run(study, tmp_path)
    assert shifted.computed == 3 + 1 and values(shifted, "weights_apart") == values(first, "weights_apart")
    a, b, c = toys(0, 1, 2)
    x, _ = points()
    classes = [a(x - 0.5).argmax(1), b(x).argmax(1), c(x).argmax(1)]
    wanted = [sum(float((p != q).double().mean()) for q in classes if q is not p) / 2 for p in classes]
    assert values(shifted, "disagreement_of_toys") == pytest.approx(wanted, abs=1e-12)


def test_points_of_several_splits_and_weights_once(study, tmp_path):
    study["measures"] = [
        {"name": "disagreement_of_toys", "points": ["train", "test"]}, {"name": "weights_apart", "points": ["train", "test"]},
    ]  # fmt: skip
    done = run(study, tmp_path)
    assert rows(done, "disagreement_of_toys")["split"].tolist() == ["train", "test"] * 3
    assert len(rows(done, "weights_apart")) == 3 and len(list((tmp_path / "outputs").iterdir())) == 6


# -- what goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("raises", "failed", "ZeroDivisionError: nothing to divide by"),
        ("few", "failed", "measure 'acme-comparing/odd' returned 2 values for 3 models"),
        ("text", "failed", "extras['where'] cannot be stored"),
        ("none", "failed", "measure 'acme-comparing/odd' returned no values"),
        ("undefined", "unsupported", "these models are not comparable"),
    ],
)
def test_what_goes_wrong_is_the_measures_own(study, tmp_path, how, status, message):
    study["measures"] = [{"name": "odd", "how": [how, "targets"]}, {"name": "disagreement_of_toys"}]
    if status == "unsupported":
        study["measures"][0]["how"].insert(0, "harm")  # what one changes, the next does not see
    done = run(study, tmp_path)
    found = rows(done, "odd").set_index("spec.how")
    assert (
        set(found.loc[how, "status"]) == {status} and found.loc[how, "message"].str.contains(message, regex=False).all()
    )
    assert set(found.loc["targets", "value"]) == {float(points()[1].sum())}
    wanted = mean_over_others(disagree, toys(0, 1, 2))
    assert values(done, "disagreement_of_toys") == pytest.approx(wanted, abs=1e-12)
    if how == "few":  # what failed is tried again when that is asked for, and nothing else
        assert run(study, tmp_path, rerun="failed").computed == 3
        assert run(study, tmp_path, rerun="all").computed == 3 * 4


def test_noise_is_named_by_the_seed_and_the_repetition(study, tmp_path):
    study["measures"] = [{"name": "odd", "how": "noise", "replicates": 2}]
    found = rows(run(study, tmp_path / "a"), "odd")
    again = rows(run(study, tmp_path / "b"), "odd")
    other = rows(run(study | {"seed": 1}, tmp_path / "a"), "odd")
    assert found["value"].tolist() == again["value"].tolist()
    assert len(set(found["value"])) == 2 and not set(found["value"]) & set(other["value"])


def test_a_model_that_cannot_be_opened_fails_what_needs_it(study, tmp_path, monkeypatch):
    study["targets"] = ["attr:learning_rate"]  # so that models are opened by the comparison alone
    load, opened = Some.load, []

    def flaky(self, entry, spec):
        opened.append(entry.id)
        if entry.id == "toy1" and opened.count("toy1") > 1:
            raise OSError("the disk is gone")
        return load(self, entry, spec)

    monkeypatch.setattr(Some, "load", flaky)
    done = run(study, tmp_path)
    assert set(done.results["status"]) == {"failed"}
    assert set(done.results["message"]) == {"model toy1 cannot be opened: OSError: the disk is gone"}
    opened.clear()
    monkeypatch.setattr(Some, "load", load)
    assert run(study, tmp_path, rerun="failed").computed == 6


def test_a_killed_run_goes_on_where_it_was(study, tmp_path):
    whole = run(study, tmp_path / "whole")
    stored = []

    class Killing(Silent):
        def advance(self, cost, cells):
            stored.append(cells)
            if len(stored) == 4:  # three models have their target, and one cell has been compared
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "cut", reporter=Killing())
    rest = run(study, tmp_path / "cut")
    assert rest.computed == 3 and rest.results["value"].tolist() == whole.results["value"].tolist()


# -- elsewhere ----------------------------------------------------------------------------------------------


def test_processes_give_the_values_of_serial(study, tmp_path):
    study["pools"] = [{"name": "toy", "size": 3}]
    study["measures"] = [{"name": m.name} for m in MEASURES[:4]]
    serial = run(study, tmp_path / "serial")
    folder = tmp_path / "site"
    distribution(folder, "acme-comparing", {"comparing": "comparing"})
    code = (
        "import json, sys; from acutance.run.harness import run_study; from acutance.study.config import load_config\n"
        "run_study(load_config(json.loads(sys.argv[1])), sys.argv[2], report=False)"
    )
    config = json.dumps(study | {"executor": {"name": "processes", "workers": 2}})
    tests = str(comparing.__file__).rpartition("/")[0]
    python("-c", code, config, tmp_path / "apart", path=[folder, tests], forked=True)
    separate = pd.read_csv(tmp_path / "apart" / "results.csv")
    assert separate["value"].tolist() == serial.results["value"].tolist() and len(separate) == 3 * 5


def test_runs_merge_by_the_keys_that_are_stored(study, tmp_path):
    run(study, tmp_path / "a", limit=2)
    whole = run(study, tmp_path / "b")
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    assert merged.run.results["value"].tolist() == whole.results["value"].tolist() and not merged.notes
    # Two halves have no value of the whole.
    other = study | {"pools": [{"name": "some", "which": [3]}]}
    run(other, tmp_path / "d")
    halves = merge([tmp_path / "b", tmp_path / "d"], tmp_path / "e", report=False)
    assert halves.notes == [f"8 cells have no value yet: run the study in {tmp_path / 'e'} to compute them"]


def test_check_counts_their_passes_once(study):
    study["measures"] = [{"name": "disagreement_of_toys"}, {"name": "features_apart"}, {"name": "weights_apart"}]
    about = estimate(load_config(study))
    assert {name: row["forwards"] for name, row in about["measures"].items()} == {
        "disagreement_of_toys": 1, "features_apart": 0, "weights_apart": 0,
    }  # fmt: skip
    assert about["outputs"] == 3 * 32 * 4


def test_check_counts_the_passes_of_pairs(study):
    """As many as a run makes of each level, 9 of 3 models and 4 of 2."""
    study["measures"] = [{"name": "loss_halfway"}, {"name": "features_apart"}]
    forwards = {size: estimate(load_config(study | pools))["measures"]["loss_halfway"]["forwards"]
                for size, pools in ((3, {}), (2, {"pools": [{"name": "some", "which": [0, 1]}]}))}  # fmt: skip
    assert forwards == {3: 3, 2: 2}
    study["pools"], study["within"] = [{"name": "some", "which": [0, 1, 2, 3, 4]}], ["wide"]
    entries = Some().entries(Some.Spec(which=(0, 1, 2, 3, 4)))
    wide = [entry.attributes["wide"] for entry in entries]
    sizes = [wide.count(value) for value in set(wide)]
    assert sorted(sizes) == [2, 3]
    assert estimate(load_config(study))["measures"]["loss_halfway"]["forwards"] == pytest.approx((4 + 9) / 5)


def test_one_model_alone_is_refused_in_one_sentence():
    model, data = MLP(), mlp_data()
    for given in ((model, data), (LossSurface(model, data),)):
        with pytest.raises(
            UserError, match="measure 'disagreement_of_toys' compares the models of a study with each other"
        ):
            acutance.measure("disagreement_of_toys", *given)


# -- pairs --------------------------------------------------------------------------------------------------


def peers_of(count):
    return [Peer(f"m{i}", None, None, lambda: None, lambda: None) for i in range(count)]


def test_pairs_that_are_undefined_are_left_out_and_counted():
    nan, inf = float("nan"), float("inf")
    first, second, third, fourth = over_partners(
        [[9, 1, nan, 3], [1, 9, nan, inf], [nan, nan, 9, nan], [3, 5, nan, 9]], peers_of(4)
    )
    assert first.value == 2 and first.extras == {"partners": {"m1": 1.0, "m3": 3.0}, "undefined": 1}
    assert second.status is Status.NONFINITE and second.extras["partners"] == {"m0": 1.0}
    assert third.status is Status.UNSUPPORTED and third.message == "no pair of this model and another one has a value"
    assert fourth.value == 4
    with pytest.raises(UserError, match=r"over_partners takes \(3, 3\) values for 3 models"):
        over_partners(torch.zeros(3, 2), peers_of(3))


def test_the_mean_is_the_same_in_every_order():
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 9
    whole = over_partners(matrix, peers_of(6))
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        turned = over_partners(matrix[list(order)][:, list(order)], [peers_of(6)[i] for i in order])
        assert [e.value for e in turned] == [whole[i].value for i in order]


def test_a_peer_of_an_open_model_has_its_outputs():
    surface = LossSurface(MLP(), mlp_data())
    peer = Peer.of("mine", surface)
    assert torch.equal(peer.logits, surface.clean_logits()) and torch.equal(peer.targets, mlp_data()[1])
    assert torch.equal(peer.features(), surface.last_layer().features) and peer.surface() is surface
    with pytest.raises(acutance.Unsupported, match="opens no points"):
        _ = Peer.of("mine", LossSurface(MLP(), None)).logits


# -- the kit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES[:4], ids=lambda m: m.name)
def test_they_pass_the_kit(measure):
    item = next(item for item in ITEMS if item.target is measure)
    ran = list(examine(item, plugin_modules=["comparing"]).run())
    assert not [(o.check.name, o.message) for o in ran if o.state == "failed"]
    assert sum(o.state == "passed" for o in ran) >= 16
    assert {o.message for o in ran if o.state == "skipped"} == {ELSEWHERE}


class Faulty(comparing.Disagreement):
    """Shares of points, with a fault."""

    def evaluate_pool(self, peers, spec, rng):
        return self.fault(peers, super().evaluate_pool(peers, spec, rng))


def first_is_other(self, peers, values):
    return [2.0, *values[1:]]


def logits_are_changed(self, peers, values):
    peers[0].logits.add_(1)
    return values


def weights_are_changed(self, peers, values):
    with torch.no_grad():
        peers[0].surface().core.functional.w.add_(1)
    return values


def features_are_read(self, peers, values):
    peers[0].features()
    return values


def derivatives_are_taken(self, peers, values):
    peers[0].surface().activations("*")
    return values


def one_is_missing(self, peers, values):
    return values[1:]


def global_noise(self, peers, values):
    return [float(torch.rand(()))] * len(values)


def grows(self, peers, values):
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return [value.value + type(self).calls for value in values]


def infinite_without_reason(self, peers, values):
    if not all(peer.logits.isfinite().all() for peer in peers):
        raise RuntimeError("no numbers")
    return values


def sets_of_names(self, peers, values):
    return [Estimate(value.value, extras={"nan": float("nan")}) for value in values]


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        (first_is_other, "order_of_models_does_not_matter", "have other values in another order"),
        (logits_are_changed, "leaves_everything_as_it_was", "changed the logits of a model"),
        (weights_are_changed, "leaves_everything_as_it_was", "changed the weights of a model"),
        (
            features_are_read,
            "needs_are_declared",
            r"reads features\(\) of a model, but needs does not name activations",
        ),
        (derivatives_are_taken, "needs_are_declared", r"reads surface\(\).activations of a model"),
        (one_is_missing, "evaluates", "returned 3 values for 4 models"),
        (global_noise, "leaves_global_generators_alone", "moved the global generator of torch"),
        (grows, "same_seed_same_value", "gave other values after others had been compared"),
        (infinite_without_reason, "finite_or_honest", "no numbers"),
        (sets_of_names, "estimates_are_json", "cannot be stored"),
    ],
)
def test_the_kit_finds(fault, check, message):
    target = type("Fault", (Faulty,), {"fault": fault, "__module__": __name__})
    outcome = examine(Item("measures", "disagreement_of_toys", "acme-comparing", "1.0", target)).outcome(check)
    assert outcome.state == "failed" and re.search(message, outcome.message), outcome.message
