"""Segments between models: interpolation by hand in float64, statistics on the way, pairs without a segment, passes."""

import copy
import itertools
import math
import sqlite3

import pytest
import torch
from pairs_of_models import IMAGES, KINDS, X, Y, by_hand, compared, conv_bn, mixed, mlp
from torch import nn

import acutance
from acutance import LossSurface, Status, Streams
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance_predictions.pairs import segments
from acutance_predictions.pairs.ends import End, between
from acutance_predictions.pairs.held import Held
from acutance_predictions.pairs.segments import barrier


def error(logits, y):
    return (logits.argmax(1) != y).double().mean()


NETWORKS = {"mlp": (mlp, X, Y), "conv_bn": (conv_bn, IMAGES, KINDS)}


@pytest.mark.parametrize("of", ["loss", "error"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_barrier_is_the_interpolation_by_hand(kind, of):
    make, x, y = NETWORKS[kind]
    models = [make(seed) for seed in range(3)]
    found, _ = compared(models, (x, y), of=of)
    read = nn.functional.cross_entropy if of == "loss" else error
    for i, estimate in enumerate(found):
        pairs = {f"m{j}": by_hand(models[i], models[j], x, y, read=read) for j in range(3) if j != i}
        assert min(pairs.values()) > 0.02
        assert estimate.extras["partners"] == pytest.approx(pairs, rel=1e-10, abs=1e-14)
        assert estimate.value == pytest.approx(sum(pairs.values()) / 2, rel=1e-10)


def test_more_points_come_closer_to_the_highest():
    models = mlp(0), mlp(1)
    values = [compared(models, (X, Y), grid=grid)[0][0].value for grid in (4, 6, 11)]
    assert values == pytest.approx([by_hand(*models, X, Y, grid) for grid in (4, 6, 11)], rel=1e-10)
    assert 0 < values[0] < values[1] < values[2]


def test_running_statistics_of_one_end_are_another_barrier():
    a, b = conv_bn(0), conv_bn(1)

    def of_one(a, b, t):
        weights = dict(a.named_parameters())
        return {k: v if k in weights else a.state_dict()[k] for k, v in mixed(a, b, t).items()}

    (found, _), _ = compared((a, b), (IMAGES, KINDS))
    wrong = by_hand(a, b, IMAGES, KINDS, state=of_one)
    assert abs(found.value - wrong) > 0.02 * found.value


@pytest.mark.parametrize("n", [40, 300])
def test_recalibrated_statistics_are_those_that_torch_finds_on_the_way(n):
    x = torch.randn(n, 2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = (x[:, 0].mean((1, 2)) > 0).long()
    a, b = conv_bn(0), conv_bn(1)
    parts = [x] if n == 40 else [x[:150], x[150:]]

    def at_the_point(a, b, t):
        model = copy.deepcopy(a)
        model.load_state_dict(mixed(a, b, t))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None
        model.train()
        for part in parts:
            model(part)
        return model.state_dict()

    found, surfaces = compared((a, b), (x, y), buffers="recalibrated")
    expected = by_hand(a, b, x, y, state=at_the_point)
    assert found[0].value == pytest.approx(expected, rel=1e-9) and expected > 0.01
    # Outputs, the pass that knows the second, the ends and the points in between with two passes each.
    assert sum(surface.cost.forwards for surface in surfaces) == n * (2 + 1 + 2 * 2 + 2 * 9)
    without = compared((mlp(0), mlp(1)), (X, Y), buffers="recalibrated")
    assert without[0][0].value == compared((mlp(0), mlp(1)), (X, Y))[0][0].value
    assert sum(surface.cost.forwards for surface in without[1]) == 40 * (2 + 1 + 9)


@pytest.mark.parametrize("kind", NETWORKS)
def test_passes_are_those_of_the_points_between(kind):
    make, x, y = NETWORKS[kind]
    for models, grid in ((2, 11), (4, 5)):
        _, surfaces = compared([make(seed) for seed in range(models)], (x, y), grid=grid)
        pairs = models * (models - 1) // 2
        made = sum(surface.cost.forwards for surface in surfaces)
        assert made == 40 * (models + models - 1 + pairs * (grid - 2))
        measure = catalog().get("measures", "linear_barrier")
        spec = measure.Spec(grid=grid)
        assert measure().passes_among(spec, models).forwards * models * 40 == pytest.approx(made, rel=1e-12)
    assert measure().passes(spec) == measure().passes_among(spec, 2)


def test_models_and_their_statistics_are_what_they_were():
    models = [conv_bn(0), conv_bn(1)]
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    places = [[p.data_ptr() for p in model.state_dict().values()] for model in models]
    for buffers in ("interpolated", "recalibrated"):
        compared(models, (IMAGES, KINDS), buffers=buffers)
    for model, state, place in zip(models, before, places, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert [p.data_ptr() for p in model.state_dict().values()] == place and not model.training


def test_equal_models_have_no_barrier_and_its_direction_says_nothing():
    a, b = mlp(0), mlp(1)
    found, _ = compared([a, b, mlp(0)], (X, Y))
    assert found[0].extras["partners"]["m2"] == 0
    assert found[0].extras["partners"]["m1"] == found[1].extras["partners"]["m0"] == found[1].extras["partners"]["m2"]
    turned, _ = compared([b, a], (X, Y))
    assert turned[0].value == found[0].extras["partners"]["m1"]


def test_other_networks_are_no_partners_and_fail_nobody():
    models = [mlp(0), mlp(1), mlp(2, width=9), mlp(3, nn.Tanh), mlp(4, nn.Tanh)]
    found, _ = compared(models, (X, Y))
    assert [sorted(e.extras.get("partners", ())) for e in found] == [["m1"], ["m0"], [], ["m4"], ["m3"]]
    assert [e.extras.get("undefined") for e in found] == [3, 3, None, 3, 3]
    assert found[2].status is Status.UNSUPPORTED and "names and shapes" in found[2].message
    assert found[0].value == pytest.approx(by_hand(*models[:2], X, Y), rel=1e-10)
    target = catalog().get("measures", "linear_barrier")
    for points in ((X + 1, Y), (X, (Y + 1) % 3)):
        surfaces = LossSurface(mlp(0), (X, Y)), LossSurface(mlp(1), points)
        apart = [Peer.of(f"m{i}", surface) for i, surface in enumerate(surfaces)]
        found = target().evaluate_pool(apart, target.Spec(), Streams("test"))
        assert {e.status for e in found} == {Status.UNSUPPORTED}


def test_weights_that_jump_on_the_way_cost_their_own_kind_alone():
    def turned(seed):
        torch.manual_seed(seed)
        layer = nn.Linear(6, 6).double()
        return nn.Sequential(
            nn.utils.parametrizations.orthogonal(layer, orthogonal_map="householder"), nn.Linear(6, 3).double()
        )

    found, _ = compared([turned(0), turned(1), mlp(0), mlp(1)], (X, Y))
    assert [e.status for e in found] == [Status.UNSUPPORTED] * 2 + [Status.OK] * 2
    assert "jump" in found[0].message and found[2].extras["undefined"] == 2


def test_numbers_that_are_none_are_said():
    a, b, broken = mlp(0), mlp(1), mlp(2)
    with torch.no_grad():
        broken[2].weight.fill_(1e308)
    found, _ = compared([a, b, broken], (X, Y))
    assert found[2].status is Status.NONFINITE and "loss of this model" in found[2].message
    assert found[0].status is Status.OK and found[0].extras["undefined"] == 1
    assert barrier([1.0, math.nan], 0.0, 0.0) == math.inf and barrier([0.5, 0.5, 0.5], 1.0, 1.0) == 0
    assert barrier([3.0, 5.0, 1.0], 0.0, 4.0) == 3.0


def test_errors_need_classes():
    models = [nn.Linear(6, 3).double(), nn.Linear(6, 3).double()]
    points = X, X[:, :3]
    found, _ = compared(models, points, loss="mse", of="error")
    assert {e.status for e in found} == {Status.UNSUPPORTED} and "of: loss" in found[0].message
    convex, _ = compared(models, points, loss="mse")
    assert convex[0].value == 0  # a convex loss lies below its chords


def test_all_parameters_take_part_whatever_a_study_leaves_free(monkeypatch):
    monkeypatch.setattr(segments, "HELD", 0)  # so that models are opened again
    models = [mlp(0), mlp(1), mlp(2)]
    peers = [
        Peer.of(f"m{i}", LossSurface(model, (X, Y)).restricted("2.*")) for i, model in enumerate(models)
    ]  # fmt: skip
    assert peers[0].surface().unrestricted().w.numel() == 6 * 8 + 8 + 8 * 3 + 3
    target = catalog().get("measures", "linear_barrier")
    found = target().evaluate_pool(peers, target.Spec(), Streams("test"))
    assert found[0].value == pytest.approx(sum(by_hand(models[0], other, X, Y) for other in models[1:]) / 2, rel=1e-10)


def test_points_between_are_symmetric_and_end_in_the_ends():
    g = torch.Generator().manual_seed(3)
    a, b = (End(torch.randn(50, generator=g), {"mean": torch.randn(5, generator=g)}) for _ in range(2))
    for k in range(11):
        one, other = between(a, b, k, 10), between(b, a, 10 - k, 10)
        assert torch.equal(one.w, other.w) and torch.equal(one.buffers["mean"], other.buffers["mean"])
        assert torch.allclose(one.w, a.w * (1 - k / 10) + b.w * k / 10)
        assert torch.equal(between(a, a, k, 10).w, a.w)
    assert torch.equal(between(a, b, 0, 10).w, a.w) and torch.equal(between(a, b, 10, 10).w, b.w)


@pytest.mark.parametrize(("held", "most"), [(2**30, 7), (4 * 83 * 8, 20), (0, 36)])
def test_models_are_opened_again_only_where_memory_does_not_hold_them(held, most):
    opened = []
    surfaces = [LossSurface(mlp(0), (X, Y)) for _ in range(7)]
    ends = Held(lambda i: opened.append(i) or End.of(surfaces[i]), held)
    pairs = []
    for i, j in ends.pairs(range(7)):
        assert torch.equal(ends[i].w, surfaces[i].w) and torch.equal(ends[j].w, surfaces[j].w)
        pairs.append((i, j))
    assert sorted(pairs) == list(itertools.combinations(range(7), 2)) and len(opened) <= most
    assert list(ends.pairs([3])) == []


def test_a_study_has_the_barriers_and_books_their_passes(tmp_path):
    models = {f"m{i}": mlp(i) for i in range(3)}
    run = acutance.study(
        models=models, data=(X, Y), targets={"test_error": [0.1, 0.2, 0.3]}, out=tmp_path / "run",
        measures=[{"name": "linear_barrier"}],
    )  # fmt: skip
    rows = run.results[run.results["measure"] == "linear_barrier"].set_index("model")
    assert set(rows["status"]) == {"ok"}
    for name, own in models.items():
        pairs = [by_hand(own, other, X, Y) for other in models.values() if other is not own]
        assert rows.loc[name, "value"] == pytest.approx(sum(pairs) / 2, rel=1e-4)
    with sqlite3.connect(tmp_path / "run" / "acutance.db") as db:
        ((booked,),) = db.execute("SELECT sum(forwards) FROM attempt WHERE measure = 'acutance/linear_barrier'")
    assert booked == pytest.approx(40 * (3 + 2 + 3 * 9))
