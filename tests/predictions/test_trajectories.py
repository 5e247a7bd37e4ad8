"""Ways of training through the weights: against sums of distances by numpy, and ways whose length is known."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from ways import Point, along, checkpoint, random_way, values_of

import acutance
from acutance import Status
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.spec import validate


def by_hand(way, step, entries=slice(None)):
    """Return the length up to a step, and the distance of the first and the last point."""
    w = [way[t][entries] for t in sorted(way) if t <= step]
    length = sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(w))
    return length, np.linalg.norm(w[-1] - w[0])


def test_length_and_tortuosity_are_of_the_checkpoints_up_to_the_model_in_the_order_of_their_steps():
    # Steps as they come, not in order, and not evenly apart.
    ways = {"a": random_way([30, 10, 20, 500], seed=1), "b": random_way([7, 3], seed=2)}
    lengths, detours = along("trajectory_length", ways), along("trajectory_tortuosity", ways)
    for run, way in ways.items():
        for step in way:
            length, straight = by_hand(way, step)
            count = sum(t <= step for t in way)
            if count == 1:
                for found in (lengths, detours):
                    assert found[run][step].status is Status.UNSUPPORTED
                    assert f"no earlier checkpoint of training run '{run}'" in found[run][step].message
                continue
            assert lengths[run][step].value == pytest.approx(length, rel=1e-14)
            assert detours[run][step].value == pytest.approx(length / straight, rel=1e-14)
            for found in (lengths, detours):
                assert found[run][step].extras == {"points": count, "first_step": min(way)}


def test_a_straight_way_has_tortuosity_one_and_half_a_circle_nearly_half_of_pi():
    line = {t: [0.1 * t, -0.3 * t, 0.7 * t] for t in range(1, 9)}
    found = along("trajectory_tortuosity", {"a": line})["a"]
    assert all(1 <= found[t].value < 1 + 1e-12 for t in range(2, 9))
    # Rounding brings none of many below 1.
    g = np.random.default_rng(0)
    lines = {
        str(i): {t: x * v for t, x in enumerate(np.sort(g.random(4)))} for i, v in enumerate(g.normal(size=(40, 3)))
    }
    found = along("trajectory_tortuosity", lines)
    assert all(1 <= found[run][3].value < 1 + 1e-12 for run in lines)
    angles = np.linspace(0, np.pi, 401)
    circle = {t: [np.cos(x), np.sin(x), 5.0] for t, x in enumerate(angles)}
    assert along("trajectory_tortuosity", {"a": circle})["a"][400].value == pytest.approx(np.pi / 2, rel=1e-5)
    assert along("trajectory_length", {"a": circle})["a"][400].value == pytest.approx(
        800 * np.sin(np.pi / 800), rel=1e-12
    )


def test_a_way_that_ends_where_it_began_has_a_length_and_no_tortuosity():
    way = {0: [1.0, 2.0], 1: [3.0, 2.0], 2: [1.0, 2.0], 3: [1.0, 4.0]}
    lengths, detours = along("trajectory_length", {"a": way})["a"], along("trajectory_tortuosity", {"a": way})["a"]
    assert [lengths[t].value for t in (1, 2, 3)] == [2, 4, 6]
    assert detours[2].status is Status.UNSUPPORTED and "are where training started" in detours[2].message
    assert detours[1].value == 1 and detours[3].value == 3
    # Training that moved nothing.
    still = along("trajectory_length", {"a": {0: [1.0, 2.0], 1: [1.0, 2.0]}})["a"]
    assert still[1].value == 0 and still[1].status is Status.OK


def test_the_order_of_the_models_and_other_runs_change_nothing():
    ways = {"a": random_way([1, 2, 3, 4, 5], seed=3), "b": random_way([1, 2, 3], seed=4)}
    peers = [checkpoint(f"{run}{t}", w, run, t) for run, way in ways.items() for t, w in way.items()]
    for name in ("trajectory_length", "trajectory_tortuosity"):
        whole = [e.value for e in values_of(name, peers)]
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(peers))
            turned = [e.value for e in values_of(name, [peers[i] for i in order])]
            assert np.array_equal(turned, np.array(whole)[order], equal_nan=True)
        assert [e.value for e in values_of(name, peers[:5])][1:] == whole[1:5]


def test_some_parameters_alone():
    way = random_way([1, 2, 3])
    for pattern, entries in (("a", slice(0, 1)), ("b", slice(1, None)), ("!a", slice(1, None))):
        length, straight = by_hand(way, 3, entries)
        assert along("trajectory_length", {"r": way}, parameters=pattern)["r"][3].value == pytest.approx(length)
        found = along("trajectory_tortuosity", {"r": way}, parameters=pattern)["r"][3]
        assert found.value == pytest.approx(length / straight)


def test_initial_weights_come_before_all_checkpoints_where_they_are_asked_for():
    way, start = random_way([5, 9]), np.linspace(-1, 1, 7)
    peers = [checkpoint(f"m{t}", w, "r", t, start) for t, w in way.items()]
    whole = {0: start} | way
    for name, pick in (("trajectory_length", lambda n, d: n), ("trajectory_tortuosity", lambda n, d: n / d)):
        plain, found = values_of(name, peers), values_of(name, peers, start="initial")
        assert plain[0].status is Status.UNSUPPORTED and plain[1].value == pytest.approx(pick(*by_hand(way, 9)))
        assert [e.value for e in found] == pytest.approx([pick(*by_hand(whole, t)) for t in way], rel=1e-14)
        assert [e.extras["points"] for e in found] == [2, 3] and found[0].extras["first_step"] is None
        measure = catalog().get("measures", name)
        assert "initial_weights" in measure().needs(validate(measure.Spec, {"start": "initial"}))
        assert "initial_weights" not in measure().needs(measure.Spec())
    alone = values_of("trajectory_length", peers[:1], start="initial")[0]
    assert alone.value == pytest.approx(np.linalg.norm(way[5] - start))
    unknown = values_of("trajectory_length", [checkpoint("m", way[5], "r", 5)], start="initial")[0]
    assert unknown.status is Status.UNSUPPORTED and "initial weights of this model are not known" in unknown.message
    peers[1] = checkpoint("m9", way[9], "r", 9, start + 1)
    first, second = values_of("trajectory_length", peers, start="initial")
    assert first.value == alone.value and second.status is Status.UNSUPPORTED
    assert second.message == "'m9' has other initial weights than 'm5', of the same training run 'r'"


def messages(peers):
    return [e.message if e.status is Status.UNSUPPORTED else e.value for e in values_of("trajectory_length", peers)]


def test_what_is_not_known_of_a_run_has_no_value_and_leaves_other_runs_alone():
    good = [checkpoint("g1", [0.0, 0.0], "g", 1), checkpoint("g2", [3.0, 4.0], "g", 2)]
    none = [checkpoint("n", [1.0, 1.0], "", 1), checkpoint("m", [1.0, 2.0], "", 2)]
    found = messages([*none, *good])
    assert found[:2] == ["it is not known which training run this model is a checkpoint of: its pool gives no run"] * 2
    assert found[3] == 5
    part = [checkpoint("p1", [0.0, 0.0], "p", 1), checkpoint("p2", [0.0, 1.0], "p"), checkpoint("p3", [0, 2.0], "p", 3)]
    found = messages([*part, *good])
    assert found[1].startswith("it is not known at which step") and found[4] == 5
    assert (
        found[0]
        == found[2]
        == ("the step of 'p2', of the same training run, is not known, so neither is what came before")
    )
    # Two of one step, twice: what comes before the first of these has a value.
    twice = [checkpoint(f"t{i}", [0.0, float(i)], "t", step) for i, step in enumerate([0, 2, 5, 5, 7, 7])]
    found = messages(twice)
    assert "no earlier checkpoint" in found[0] and found[1] == 1
    assert set(found[2:]) == {"several checkpoints of training run 't' have step 5, so their order is not known"}


def test_models_of_other_parameters_are_no_checkpoints_of_the_run():
    peers = [checkpoint(f"m{t}", np.zeros(p), "r", t) for t, p in enumerate([3, 3, 4, 3])]
    found = messages(peers)
    assert found[1] == 0
    assert found[2:] == ["'m2' has other parameters than 'm0', of the same training run 'r'"] * 2


def test_weights_that_are_no_numbers_give_no_finite_value():
    found = values_of(
        "trajectory_tortuosity", [checkpoint(f"m{t}", [0.0, w], "r", t) for t, w in enumerate([0, 1e200])]
    )
    assert found[1].status is Status.NONFINITE and found[1].message


def test_distances_are_summed_in_float64_block_by_block(monkeypatch):
    from acutance_predictions.training import distances

    g = torch.Generator().manual_seed(0)
    a, b = (1 + 1e-3 * torch.randn(5000, generator=g) for _ in range(2))
    exact = np.linalg.norm(a.double().numpy() - b.double().numpy())
    for block in (1 << 20, 5000, 999):
        monkeypatch.setattr(distances, "BLOCK", block)
        assert distances.distance(a, b) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(("name", "kept"), [("trajectory_length", 1), ("trajectory_tortuosity", 2)])
@pytest.mark.parametrize("start", ["first", "initial"])
def test_models_are_opened_one_after_another_and_few_weights_are_kept(name, kept, start):
    alive, most, opened = weakref.WeakSet(), [], []

    def watched(step):
        def surface():
            gc.collect()
            most.append(len(alive))
            opened.append(step)
            found = acutance.LossSurface(Point(np.full(4, float(step**2))), None, initial=Point(np.zeros(4)))
            alive.add(found.core.functional.w.untyped_storage())
            alive.add(found.core.functional.w0.untyped_storage())
            return found

        return surface

    peers = [Peer(f"m{t}", None, None, watched(t), None, "r", t) for t in (4, 1, 3, 2, 5)]
    measure = catalog().get("measures", name)
    spec = validate(measure.Spec, {"start": start}, name)
    assert all(e.status is not Status.FAILED for e in values_of(name, peers, start=start))
    assert opened == [1, 2, 3, 4, 5]
    assert measure().vectors(spec) == (kept if start == "first" else 3)
    # What is alive when the next model is opened; its own initial weights come on top of that.
    assert max(most) == (kept if start == "first" else 2)
    assert measure().passes(spec).units == 0
