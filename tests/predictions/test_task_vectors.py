"""Task vectors: cosines and subspaces worked out with numpy, starts that differ, matrices that say nothing."""

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status, Streams
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.spec import validate
from acutance_predictions.pairs import held, task_vector_numerics


def network(seed=0, dtype=torch.float64, layers=None):
    torch.manual_seed(seed)
    return (layers or (lambda: nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 8))))().to(dtype)


def moved(seed, start=0, rank=None, size=0.1, **options):
    """Return a network away from its start, and its start."""
    initial, model = network(start, **options), network(start, **options)
    g = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for p in model.parameters():
            step = torch.randn(p.shape, generator=g, dtype=torch.float64)
            if rank and p.dim() == 2:
                step = step[:, :rank] @ torch.randn(rank, p.shape[1], generator=g, dtype=torch.float64)
            p.add_(size * step.to(p))
    return model, initial


def compared(name, pairs, parameters="all", **fields):
    peers = [
        Peer.of(f"m{i}", LossSurface(model, None, initial=initial, parameters=parameters))
        for i, (model, initial) in enumerate(pairs)
    ]
    target = catalog().get("measures", name)
    return target().evaluate_pool(peers, validate(target.Spec, fields, name), Streams("test"))


def added(model, initial):
    start = dict(initial.named_parameters())
    return {name: (p - start[name]).detach().double().numpy() for name, p in model.named_parameters()}


def cosine(a, b):
    u, v = (np.concatenate([t.ravel() for t in added(*one).values()]) for one in (a, b))
    return u @ v / np.sqrt((u @ u) * (v @ v))


def overlap(a, b, k, lay_out=lambda name, t: t.reshape(len(t), -1), names=None):
    """Return the mean over matrices, by projections: tr(P Q)/k."""
    found = []
    one, other = added(*a), added(*b)
    for name in names or [name for name in one if one[name].ndim > 1]:
        bases = [np.linalg.svd(lay_out(name, t[name]))[0][:, :k] for t in (one, other)]
        p, q = (u @ u.T for u in bases)
        found.append(np.trace(p @ q) / k)
    return np.mean(found)


@pytest.mark.parametrize("name", ["task_vector_cosine", "subspace_overlap"])
@pytest.mark.parametrize("limit", [2**30, 0])
def test_values_are_those_of_numpy(name, limit, monkeypatch):
    monkeypatch.setattr(task_vector_numerics, "HELD", limit)
    monkeypatch.setattr(task_vector_numerics, "COLUMNS", 100)
    models = [moved(seed) for seed in range(4)]
    fields = {"k": 3} if name == "subspace_overlap" else {}
    by_hand = (lambda a, b: overlap(a, b, 3)) if fields else cosine
    for i, estimate in enumerate(compared(name, models, **fields)):
        pairs = {f"m{j}": by_hand(models[i], models[j]) for j in range(4) if j != i}
        assert estimate.extras["partners"] == pytest.approx(pairs, rel=1e-10)
        assert estimate.value == pytest.approx(np.mean(list(pairs.values())), rel=1e-10)
    if fields:
        assert estimate.extras["layers"] == 2 and estimate.extras["undetermined"] == 0


def test_ways_that_are_the_same_or_opposite():
    model, initial = moved(0)
    longer, back = network(0), network(0)
    with torch.no_grad():
        for p, q, w, start in zip(
            longer.parameters(), back.parameters(), model.parameters(), initial.parameters(), strict=True
        ):
            p.copy_(start + 7 * (w - start))
            q.copy_(start - 2 * (w - start))
    three = [(model, initial), (longer, initial), (back, initial)]
    first = compared("task_vector_cosine", three)[0]
    assert first.extras["partners"] == pytest.approx({"m1": 1, "m2": -1}, rel=1e-12)
    assert max(abs(v) for v in first.extras["partners"].values()) <= 1
    assert compared("subspace_overlap", three, k=3)[0].value == pytest.approx(1, rel=1e-12)


def test_subspaces_that_are_orthogonal_and_random_ones():
    initial = nn.Linear(40, 50, bias=False).double()
    q = torch.linalg.qr(torch.randn(50, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]

    def along(columns, seed):
        model = nn.Linear(40, 50, bias=False).double()
        g = torch.Generator().manual_seed(seed)
        right = torch.randn(len(columns), 40, dtype=torch.float64, generator=g)
        model.weight.data = initial.weight.data + q[:, columns] @ right
        return model, initial

    a, b, c = along([0, 1, 2, 3], 0), along([4, 5, 6, 7], 1), along([2, 3, 8, 9], 2)
    found = compared("subspace_overlap", [a, b, c], k=4)
    assert found[0].extras["partners"] == pytest.approx({"m1": 0, "m2": 0.5}, abs=1e-12)
    many = compared("subspace_overlap", [along(list(range(50)), seed) for seed in range(20)], k=5)
    assert np.mean([e.value for e in many]) == pytest.approx(5 / 50, rel=0.05)


def test_starts_that_differ_or_are_unknown_make_no_pair():
    models = [moved(0), moved(1), moved(2, start=1), (network(0), None), (network(0), network(0)), moved(5)]
    for name, fields in (("task_vector_cosine", {}), ("subspace_overlap", {"k": 2})):
        found = compared(name, models, **fields)
        assert [sorted(e.extras.get("partners", ())) for e in found] == [
            ["m1", "m5"],
            ["m0", "m5"],
            [],
            [],
            [],
            ["m0", "m1"],
        ]
        assert found[0].extras["undefined"] == 3
        messages = [found[i].message for i in (2, 3, 4)]
        for message, part in zip(messages, ("same weights", "not known", "no task vector"), strict=True):
            assert part in message
        assert {found[i].status for i in (2, 3, 4)} == {Status.UNSUPPORTED}
        with pytest.raises(acutance.Unsupported, match="initial weights of this model are not known"):
            compared(name, [(network(0), None), (network(1), None)], **fields)


def test_a_head_that_is_begun_anew_is_left_out_by_its_name():
    def fine_tuned(seed):
        model, _ = moved(seed)
        start = network(0)
        head = network(10 + seed)[2].state_dict()
        start[2].load_state_dict(head)
        return model, start

    two = [fine_tuned(0), fine_tuned(1)]
    assert {e.status for e in compared("task_vector_cosine", two)} == {Status.UNSUPPORTED}
    target = catalog().get("measures", "task_vector_cosine")
    peers = [Peer.of(f"m{i}", LossSurface(m, None, initial=s)) for i, (m, s) in enumerate(two)]
    found = target().evaluate_pool(peers, target.Spec(parameters="!2.*"), Streams("test"))[0].value
    u, v = (np.concatenate([added(*one)[f"0.{n}"].ravel() for n in ("weight", "bias")]) for one in two)
    assert found == pytest.approx(u @ v / np.sqrt((u @ u) * (v @ v)), rel=1e-12)


def test_what_a_study_fixes_takes_no_part():
    models = [moved(0), moved(1)]
    found = compared("task_vector_cosine", models, parameters="0.weight")[0].value
    u, v = (added(*one)["0.weight"].ravel() for one in models)
    assert found == pytest.approx(u @ v / np.sqrt((u @ u) * (v @ v)), rel=1e-12)


class Stored(nn.Module):
    """Matrices that are stored in every way, and parameters that are none."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 7)
        self.up = nn.ConvTranspose2d(5, 8, 3)
        self.conv = nn.Conv2d(4, 9, 3)
        self.attention = nn.MultiheadAttention(6, 2)
        self.norm = nn.LayerNorm((6, 6))
        self.position = nn.Parameter(torch.randn(10, 12))
        self.small = nn.Linear(30, 3)

    def forward(self, x):
        return x


def test_matrices_are_maps_from_inputs_to_outputs():
    models = [moved(seed, layers=Stored) for seed in range(2)]
    names = ["table.weight", "up.weight", "conv.weight", "attention.in_proj_weight", "attention.out_proj.weight"]

    def lay_out(name, t):
        t = t.swapaxes(0, 1) if name.startswith(("table", "up")) else t
        return t.reshape(len(t), -1)

    found = compared("subspace_overlap", models, k=4, parameters="!norm.*")[0]
    assert found.value == pytest.approx(overlap(*models, 4, lay_out, names), rel=1e-10)
    assert found.extras["layers"] == 5  # not the three rows of the last, the positions, gains or biases


def test_directions_that_do_not_stand_out_are_not_compared():
    low = [moved(seed, rank=2) for seed in range(2)]
    assert compared("subspace_overlap", low, k=2)[0].value == pytest.approx(overlap(*low, 2), rel=1e-9)
    with pytest.raises(acutance.Unsupported, match="3 leading directions that stand out of rounding"):
        compared("subspace_overlap", low, k=3)
    single = [moved(seed, rank=2, dtype=torch.float32) for seed in range(2)]
    with pytest.raises(acutance.Unsupported, match="stand out of rounding"):
        compared("subspace_overlap", single, k=3)
    with pytest.raises(acutance.Unsupported, match="more than 12 rows and 12 columns"):
        compared("subspace_overlap", low, k=12)
    tied, full = moved(0), moved(1)
    with torch.no_grad():
        tied[0][2].weight.copy_(tied[1][2].weight + 0.25 * torch.eye(8, 12))  # all singular values are equal
    found = compared("subspace_overlap", [tied, full, moved(2)], k=3)
    assert found[0].extras["layers"] == 1 and found[0].extras["undetermined"] == 1
    assert found[0].extras["partners"]["m1"] == pytest.approx(overlap(tied, full, 3, names=["0.weight"]), rel=1e-9)
    assert found[1].extras["partners"]["m2"] == pytest.approx(overlap(full, moved(2), 3), rel=1e-9)
    # As many columns as directions: the subspace is that of all columns.
    assert compared("subspace_overlap", [moved(3), full], k=9)[0].extras["layers"] == 1
    # As many rows as directions: it would be all of the space.
    assert compared("subspace_overlap", [moved(3), full], k=8)[0].extras["layers"] == 1


def test_rounding_makes_no_cosine_larger_than_one():
    def along(factor):
        initial, model = nn.Linear(7, 3).double(), nn.Linear(7, 3).double()
        with torch.no_grad():
            for p, q in zip(initial.parameters(), model.parameters(), strict=True):
                p.zero_()
                q.copy_(factor * torch.linspace(0.1, 1.3, q.numel(), dtype=torch.float64).view(q.shape))
        return model, initial

    found = compared("task_vector_cosine", [along(1 + 0.37 * i) for i in range(12)])
    assert all(0.999999 < v <= 1 for e in found for v in e.extras["partners"].values())


def test_no_pass_is_made_and_models_stay():
    models = [moved(seed, dtype=torch.float32) for seed in range(3)]
    before = [[p.clone() for p in model.parameters()] for model, _ in models]
    for name, fields in (("task_vector_cosine", {}), ("subspace_overlap", {"k": 3})):
        found = compared(name, models, **fields)
        by_hand = overlap(models[0], models[1], 3) if fields else cosine(models[0], models[1])
        assert found[0].extras["partners"]["m1"] == pytest.approx(by_hand, rel=1e-3, abs=1e-5)
        measure = catalog().get("measures", name)()
        assert not measure.reads_points(measure.Spec()) and measure.passes(measure.Spec()).units == 0
    for (model, _), old in zip(models, before, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), old, strict=True))


def test_blocks_cover_every_pair_once_and_the_models_themselves():
    class Thing:
        size = 10

    for limit in (0, 40, 45, 10**6):
        store = held.Held(lambda place: Thing(), limit)
        seen = [
            (i, j) for a, b in store.blocks(range(7)) for i in a for j in b if i <= j or a is not b
        ]  # fmt: skip
        assert sorted(seen) == [(i, j) for i in range(7) for j in range(i, 7)]
