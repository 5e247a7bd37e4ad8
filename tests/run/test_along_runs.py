"""Measures along training runs in a study: which checkpoints they are given, and what their keys are of."""

import itertools
import re

import pytest
import torch
from acme_toy.plugin import ToyPool

import acutance
from acutance.measure import Estimate, PoolMeasure, Traits
from acutance.plugins import Item, extended
from acutance.run.harness import run_study
from acutance.spec import Spec
from acutance.study.config import load_config
from acutance.testing import examine
from acutance.workflows.merge import merge

PLACES = {"toy0": ("a", 10), "toy1": ("a", 20), "toy2": ("a", 30), "toy3": ("b", 10), "toy4": ("b", 20)}


class Checkpoints(ToyPool):
    """The toys as checkpoints of two runs."""

    name = "checkpoints_of_toys"

    class Spec(acutance.Spec):
        which: tuple[int, ...] = (0, 1, 2)
        """Numbers of the models."""
        places: dict[str, tuple[str, int | None]] = {}
        """Run and step of some models, instead of their own."""
        log: str | None = None
        """A log of all of them."""
        copies: bool = False
        """Whether the third has the weights of the first."""

    def entries(self, spec):
        found = [super(Checkpoints, self).entries(ToyPool.Spec(size=i + 1))[-1] for i in spec.which]
        places = PLACES | spec.places
        return [
            entry.model_copy(update={"run": places[entry.id][0], "step": places[entry.id][1], "log": spec.log})
            for entry in found
        ]

    def load(self, entry, spec):
        if spec.copies and entry.id == "toy2":
            entry = entry.model_copy(update={"id": "toy0"})
        return super().load(entry, ToyPool.Spec())


class Where(PoolMeasure[Spec]):
    """What is seen of where a model lies on its run."""

    name = "where"
    traits = Traits(level="pool", needs={"peers", "weights", "trajectory"}, reference="none")
    blind = False

    def evaluate_pool(self, peers, spec, rng):
        return [Estimate(float(peer.step or -1) - (not peer.run)) for peer in peers]


class Blind(Where):
    """The same without asking for it."""

    name = "where_blind"
    traits = Traits(level="pool", needs={"peers", "weights"}, reference="none")


ITEMS = [
    Item("pools", "checkpoints_of_toys", "acme-along", "1.0", Checkpoints),
    Item("measures", "where", "acme-along", "1.0", Where),
    Item("measures", "where_blind", "acme-along", "1.0", Blind),
]


@pytest.fixture(autouse=True)
def installed():
    with extended(ITEMS) as found:
        yield found


@pytest.fixture
def study(three_models):
    return three_models | {
        "pools": [{"name": "checkpoints_of_toys"}], "measures": [{"name": "trajectory_length"}], "figures": {},
        "within": [], "admit": {}, "targets": ["attr:learning_rate"],
    }  # fmt: skip


def run(config, out):
    return run_study(load_config(config), out, report=False)


def pools(**fields):
    return {"pools": [{"name": "checkpoints_of_toys", **fields}]}


def values(done, name="trajectory_length"):
    found = done.results[done.results["measure"] == name].set_index("model")
    return found["value"].where(found["status"] == "ok").to_dict()


def weights(*which):
    pool = ToyPool()
    models = [pool.load(pool.entries(ToyPool.Spec(size=i + 1))[-1], ToyPool.Spec()) for i in which]
    return [torch.cat([p.detach().double().flatten() for p in model.parameters()]) for model in models]


def length(*which):
    way = weights(*which)
    return sum(float((b - a).norm()) for a, b in itertools.pairwise(way))


def test_a_study_gives_the_checkpoints_of_each_run(study, tmp_path):
    done = run(study, tmp_path)
    found = values(done)
    assert found["toy1"] == pytest.approx(length(0, 1), rel=1e-12)
    assert found["toy2"] == pytest.approx(length(0, 1, 2), rel=1e-12)
    message = done.results.set_index("model").loc["toy0", "message"]
    assert "no earlier checkpoint of training run 'a'" in message and done.failed == 0
    assert run(study, tmp_path).computed == 0 and run(study | pools(which=[2, 0, 1]), tmp_path).computed == 0


def test_another_step_or_run_makes_new_values_and_another_name_none(study, tmp_path):
    run(study, tmp_path)
    # A run by another name, and steps in the same places, are what the models had.
    assert (
        run(study | pools(places={t: ("renamed", PLACES[t][1]) for t in ("toy0", "toy1", "toy2")}), tmp_path).computed
        == 0
    )
    turned = run(study | pools(places={"toy1": ("a", 40)}), tmp_path)
    assert turned.computed == 3
    assert values(turned)["toy2"] == pytest.approx(length(0, 2)) and values(turned)["toy1"] == pytest.approx(
        length(0, 2, 1)
    )
    moved = run(study | pools(places={"toy1": ("b", 20)}), tmp_path)
    assert moved.computed == 3 and values(moved)["toy2"] == pytest.approx(length(0, 2))
    unknown = run(study | pools(places={"toy1": ("a", None)}), tmp_path)
    assert unknown.computed == 3 and set(unknown.results["status"]) == {"unsupported"}
    assert run(study, tmp_path).computed == 0


def test_checkpoints_of_the_same_weights_at_other_steps_have_values_of_their_own(study, tmp_path):
    done = run(study | pools(copies=True) | {"measures": [{"name": "trajectory_length"}, {"name": "where"}]}, tmp_path)
    assert values(done)["toy2"] == pytest.approx(2 * length(0, 1))
    assert "toy0" not in {model for model, value in values(done).items() if value == value}
    assert values(done, "where") == {"toy0": 10, "toy1": 20, "toy2": 30}


def test_another_checkpoint_is_part_of_all_keys_of_its_level(study, tmp_path):
    run(study | pools(which=[0, 2]), tmp_path)
    done = run(study, tmp_path)
    assert done.computed == 3 and values(done)["toy2"] == pytest.approx(length(0, 1, 2))


def test_runs_of_two_pools_with_one_name_are_two(study, tmp_path):
    two = {"pools": [{"name": "checkpoints_of_toys"}, {"name": "checkpoints_of_toys", "which": [3, 4],
                                                       "places": {"toy3": ["a", 15], "toy4": ["a", 25]}}]}  # fmt: skip
    done = run(study | two | {"measures": [{"name": "trajectory_length"}, {"name": "where"}]}, tmp_path)
    found = values(done)
    assert found["toy2"] == pytest.approx(length(0, 1, 2)) and found["toy4"] == pytest.approx(length(3, 4))
    # One pool with the same models in one run is another comparison, though models and steps are the same.
    one = pools(which=[0, 1, 2, 3, 4], places={"toy3": ["a", 15], "toy4": ["a", 25]})
    joined = run(study | one, tmp_path)
    assert joined.computed == 5 and values(joined)["toy4"] == pytest.approx(length(0, 3, 1, 4))


def test_run_and_step_are_shown_to_what_asks_for_them_alone(study, tmp_path):
    study["measures"] = [{"name": "where"}, {"name": "where_blind"}]
    done = run(study, tmp_path)
    assert values(done, "where") == {"toy0": 10, "toy1": 20, "toy2": 30}
    assert set(values(done, "where_blind").values()) == {-2}
    again = run(study | pools(places={"toy1": ("a", 40)}), tmp_path)
    assert again.computed == 3 and values(again, "where")["toy1"] == 40


def test_runs_merge_with_their_checkpoints(study, tmp_path):
    whole = run(study, tmp_path / "a")
    run(study | pools(which=[0, 1]), tmp_path / "b")
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", report=False)
    assert values(merged.run) == pytest.approx(values(whole), nan_ok=True)


def test_a_log_that_grows_makes_new_values(study, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,train_loss\n1,0.5\n")
    first = run(study | pools(log=str(log)), tmp_path / "run")
    assert first.computed == 3 and run(study | pools(log=str(log)), tmp_path / "run").computed == 0
    log.write_text("step,train_loss\n1,0.5\n2,0.25\n")
    assert run(study | pools(log=str(log)), tmp_path / "run").computed == 3


class Peeking(Where):
    """Reads steps without saying so."""

    traits = Traits(level="pool", needs={"peers", "weights"}, reference="none")


class Position(Where):
    """Depends on the place among the models."""

    def evaluate_pool(self, peers, spec, rng):
        return [float(i) for i, _ in enumerate(peers)]


class Names(Where):
    """Depends on what a run is called."""

    def evaluate_pool(self, peers, spec, rng):
        return [float(ord(peer.run)) for peer in peers]


@pytest.mark.parametrize(
    ("target", "check", "message"),
    [
        (Peeking, "needs_are_declared", "reads run of a model, but needs does not name trajectory|reads step"),
        (Position, "order_of_models_does_not_matter", "have other values in another order"),
        (Names, "order_of_models_does_not_matter", "a model has one value, whatever it is called"),
    ],
)
def test_the_kit_tries_measures_along_runs(target, check, message):
    outcome = examine(Item("measures", "where", "acme-along", "1.0", target)).outcome(check)
    assert outcome.state == "failed" and re.search(message, outcome.message), outcome.message


def test_the_kit_passes_what_sees_places():
    ran = list(examine(Item("measures", "where", "acme-along", "1.0", Where)).run())
    # This file imports torch, which a plugin may not do.
    assert {o.check.name for o in ran if o.state == "failed"} <= {"import_is_light"}
    assert sum(o.state == "passed" for o in ran) >= 15
