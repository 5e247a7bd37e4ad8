"""The shape of the checkpoints of a run: against all spanning trees, dense solutions, and points of known shape."""

import itertools
import math

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from ways import along, checkpoint, random_way, values_of

from acutance import Status
from acutance.plugins import catalog
from acutance.spec import validate
from acutance_predictions.training import checkpoints, distances
from acutance_predictions.training.topology_numerics import spanning_tree, weighting

NAMES = {"lifetime_sum": {}, "positive_magnitude": {"scale": 1.0}}


def points(n, p, seed=0):
    return np.random.default_rng(seed).normal(size=(n, p))


def shortest_of_all_trees(table, alpha):
    """Return the least sum over all trees on the points, each from its Pruefer sequence."""
    n = len(table)
    sums = []
    for sequence in itertools.product(range(n), repeat=n - 2):
        degree, total = [1 + sequence.count(i) for i in range(n)], 0.0
        for j in sequence:
            leaf = degree.index(1)
            total += table[leaf, j] ** alpha
            degree[leaf] -= 1
            degree[j] -= 1
        u, v = (i for i in range(n) if degree[i] == 1)
        sums.append(total + table[u, v] ** alpha)
    assert len(sums) == n ** (n - 2)
    return min(sums)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_lifetime_sum_is_that_of_the_shortest_of_all_spanning_trees(alpha):
    for seed in range(4):
        way = dict(enumerate(points(6, 3, seed)))
        found = along("lifetime_sum", {"r": way}, alpha=alpha)["r"]
        for last in (2, 3, 4, 5):
            table = cdist(*2 * [np.stack([way[t] for t in range(last + 1)])])
            assert found[last].value == pytest.approx(shortest_of_all_trees(table, alpha), rel=1e-12)
            assert found[last].extras == {"points": last + 1, "first_step": 0}


def test_the_tree_is_that_of_scipy_and_has_an_edge_for_points_that_coincide():
    for n in (3, 17, 60):
        x = points(n, 4, n)
        expected = np.sort(minimum_spanning_tree(cdist(x, x)).data)
        assert np.sort(spanning_tree(cdist(x, x))) == pytest.approx(expected, rel=1e-14)
        twice = np.vstack([x, x[:2]])
        assert np.sort(spanning_tree(cdist(twice, twice))) == pytest.approx([0, 0, *expected], rel=1e-14)


def test_points_of_a_line_and_of_a_simplex_have_known_lifetimes_and_magnitudes():
    n, d, s = 9, 0.3, 1.7
    # On the way to and fro, so that neighbours in training are none in space.
    order = [4, 0, 8, 1, 7, 3, 5, 2, 6]
    line = {t: [d * i * 0.6, d * i * 0.8, 5.0] for t, i in enumerate(order)}
    simplex = {t: row for t, row in enumerate(d / math.sqrt(2) * np.eye(n))}
    for alpha in (0.5, 1.0, 3.0):
        for way in (line, simplex):
            found = along("lifetime_sum", {"r": way}, alpha=alpha)["r"][n - 1]
            assert found.value == pytest.approx((n - 1) * d**alpha, rel=1e-12)
    # All weights are positive.
    for way, value in ((line, 1 + (n - 1) * math.tanh(s * d / 2)), (simplex, n / (1 + (n - 1) * math.exp(-s * d)))):
        found = along("positive_magnitude", {"r": way}, scale=s)["r"][n - 1]
        assert found.value == pytest.approx(value, rel=1e-12)
        assert found.extras == {"magnitude": pytest.approx(value, rel=1e-12), "points": n, "first_step": 0}


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_the_magnitude_is_that_of_a_dense_solution(scale):
    x = np.vstack([points(11, 6, 1), np.zeros(6)])  # the one in the middle has a negative weight of a small scale
    way = dict(enumerate(x))
    found = along("positive_magnitude", {"r": way}, scale=scale)["r"]
    for last in range(2, len(x)):
        beta = np.linalg.solve(np.exp(-scale * cdist(x[: last + 1], x[: last + 1])), np.ones(last + 1))
        assert found[last].value == pytest.approx(beta[beta > 0].sum(), rel=1e-9)
        assert found[last].extras["magnitude"] == pytest.approx(beta.sum(), rel=1e-9)
    if scale < 1:
        assert found[len(x) - 1].value > found[len(x) - 1].extras["magnitude"] + 0.01


def test_the_magnitude_stays_exact_at_any_scale():
    n = 9
    line = np.arange(n)[:, None] * [0.6, 0.8]
    for scale in (1e-12, 1e-6, 1.0, 1e3, 1e9):
        beta = weighting(cdist(line, line), scale)
        ends = 1 / (1 + math.exp(-scale))
        assert beta == pytest.approx([ends, *[math.tanh(scale / 2)] * (n - 2), ends], rel=1e-9)


def test_points_that_coincide_count_once_and_those_too_close_are_refused():
    x = points(5, 3)
    table = cdist(x, x)
    twice = np.vstack([x, x[[2, 4]]])
    assert weighting(cdist(twice, twice), 0.7) == pytest.approx(weighting(table, 0.7), rel=1e-14)
    way = dict(enumerate(twice))
    found = along("positive_magnitude", {"r": way}, scale=0.7)["r"]
    assert found[6].value == found[5].value == found[4].value and found[6].extras["points"] == 7
    # Training that stands still is one point.
    still = along("positive_magnitude", {"r": {key: [1.0, 2.0] for key in range(4)}}, scale=3.0)["r"]
    assert [still[t].value for t in (2, 3)] == [1, 1]
    assert along("lifetime_sum", {"r": {key: [1.0, 2.0] for key in range(4)}})["r"][3].value == 0
    close = np.vstack([x, x[:1] + 1e-13])
    refused = along("positive_magnitude", {"r": dict(enumerate(close))}, scale=1.0)["r"]
    assert refused[5].status is Status.UNSUPPORTED and "so close to each other" in refused[5].message
    assert refused[4].value == pytest.approx(np.maximum(weighting(table, 1.0), 0).sum())


def test_few_points_have_no_value_and_the_last_ones_can_be_chosen():
    way = random_way([1, 2, 4, 8, 16, 32])
    for name, fields in NAMES.items():
        found = along(name, {"r": way}, **fields)["r"]
        for step, count in ((1, "one point"), (2, "2 points")):
            assert found[step].status is Status.UNSUPPORTED
            assert found[step].message == (
                f"training run 'r' has {count} in this study up to this checkpoint, and the measure needs 3"
            )
        last = along(name, {"r": way}, last=4, **fields)["r"]
        assert "has 3 points" in last[4].message and "needs 4" in last[4].message
        for step, first in ((8, 1), (16, 2), (32, 4)):
            own = {t: w for t, w in way.items() if first <= t <= step}
            alone = along(name, {"r": own}, **fields)["r"][step]
            assert last[step].value == pytest.approx(alone.value, rel=1e-12)
            assert last[step].extras["points"] == 4 and last[step].extras["first_step"] == first


def test_initial_weights_are_a_point_where_they_are_asked_for():
    way, start = random_way([5, 9, 11]), np.linspace(-1, 1, 7)
    peers = [checkpoint(f"m{t}", w, "r", t, start) for t, w in way.items()]
    for name, fields in NAMES.items():
        found = values_of(name, peers, start="initial", **fields)
        whole = along(name, {"r": {0: start} | way}, **fields)["r"]
        assert found[0].status is Status.UNSUPPORTED
        assert [e.value for e in found[1:]] == [whole[t].value for t in (9, 11)]
        assert found[2].extras["first_step"] is None and found[2].extras["points"] == 4
        last = values_of(name, peers, start="initial", last=3, **fields)
        assert [e.extras["first_step"] for e in last[1:]] == [None, 5]
        unknown = values_of(name, [checkpoint("m", way[5], "r", 5)], start="initial", **fields)[0]
        assert unknown.status is Status.UNSUPPORTED and "initial weights" in unknown.message


@pytest.mark.parametrize("held", [1, 3, 16])
@pytest.mark.parametrize("start", ["first", "initial"])
def test_distances_are_of_all_pairs_however_few_vectors_are_kept(monkeypatch, held, start):
    monkeypatch.setattr(distances, "HELD", held)
    way = random_way(range(8))
    peers = [checkpoint(f"m{t}", w, "r", t, np.zeros(7)) for t, w in way.items()]
    opened = []
    for i, peer in enumerate(peers):
        real = peer.opened
        object.__setattr__(peer, "opened", lambda i=i, real=real: opened.append(i) or real())
    walk = checkpoints.Walk("r", peers, checkpoints.PathSpec(start=start))
    table, broken = distances.distances(walk)
    x = np.stack(([np.zeros(7)] if start == "initial" else []) + list(way.values()))
    assert table == pytest.approx(cdist(x, x), rel=1e-13, abs=1e-15) and broken is None
    passes = [range(max(first - (start == "initial"), 0), 8) for first in range(0, len(x), held)]
    assert opened == [i for one in passes for i in one]
    for name, fields in NAMES.items():
        measure = catalog().get("measures", name)
        spec = validate(measure.Spec, {"start": start, **fields}, name)
        assert measure().vectors(spec) == checkpoints.HELD + 1 + 2 * (start == "initial")
        assert measure().passes(spec).units == 0


def test_a_run_that_breaks_off_has_values_before():
    peers = [checkpoint(f"m{t}", np.arange(p) * (t + 1.0), "r", t) for t, p in enumerate([3, 3, 3, 4, 3])]
    for name, fields in NAMES.items():
        found = values_of(name, peers, **fields)
        assert found[2].status is Status.OK
        assert {e.message for e in found[3:]} == {"'m3' has other parameters than 'm0', of the same training run 'r'"}


def test_what_is_too_far_apart_has_no_finite_value():
    far = {t: [0.0, w] for t, w in enumerate([0, 1, 1e200, 2])}
    for name, fields in NAMES.items():
        found = along(name, {"r": far}, **fields)["r"]
        assert found[3].status is Status.NONFINITE and "too far apart" in found[3].message
    powers = along("lifetime_sum", {"r": {t: [0.0, 1e100 * t] for t in range(3)}}, alpha=4.0)["r"][2]
    assert powers.status is Status.NONFINITE and powers.message.endswith("to the power 4")


def test_the_order_of_the_models_changes_nothing():
    ways = {"a": random_way(range(6), seed=3), "b": random_way(range(4), seed=4)}
    peers = [checkpoint(f"{run}{t}", w, run, t) for run, way in ways.items() for t, w in way.items()]
    for name, fields in NAMES.items():
        whole = np.array([e.value for e in values_of(name, peers, **fields)])
        for seed in range(4):
            order = np.random.default_rng(seed).permutation(len(peers))
            turned = [e.value for e in values_of(name, [peers[i] for i in order], **fields)]
            assert np.array_equal(turned, whole[order], equal_nan=True)


@pytest.mark.slow
def test_lifetimes_are_those_of_ripser():
    """Last run with ripser 0.6.15."""
    ripser = pytest.importorskip("ripser")
    x = points(40, 5, 2)
    births, deaths = ripser.ripser(x, maxdim=0)["dgms"][0].T
    assert not births.any() and math.isinf(deaths[-1])
    # Theirs are float32.
    assert np.sort(spanning_tree(cdist(x, x))) == pytest.approx(np.sort(deaths[:-1]), rel=1e-6)
