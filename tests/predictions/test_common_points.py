"""Validation points that are among those that are measured: found in any order, counted, and refused where they are many."""

from functools import partial

import pytest
import torch
from torch import nn

import acutance
from acutance import Status
from acutance.data.lazy import every_row
from acutance.numerics.draws import Streams
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.surface.beside import VALIDATION

VALIDATED = ["difference_of_confidences", "average_thresholded_confidence", "cot"]
N = 40


def drawn(n=N, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g)
    return x, torch.randint(0, 4, (n,), generator=g)


def model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 4)


def order(n=N):
    return torch.randperm(n, generator=torch.Generator().manual_seed(7))


def beside(shared, n=N):
    """Validation points of which so many are points of ``drawn()``, somewhere among the others."""
    x, y = drawn(n, seed=1)
    rows = order(n)[:shared]
    x[rows] = drawn()[0][order()[:shared]]
    return x, y


def measured(name, inputs, validation, net=None):
    return acutance.measure(name, net or model(), (inputs, None), validation=validation)


@pytest.mark.parametrize("name", VALIDATED)
def test_the_same_points_in_another_order_are_refused(name):
    x, y = drawn()
    for net in (model(), model(1).double()):
        again = measured(name, x, (x[order()].to(net.weight.dtype), y), net)
        assert again.status is Status.UNSUPPORTED
        assert again.message.startswith("the validation points are the points that are measured")


@pytest.mark.parametrize("name", VALIDATED)
def test_a_larger_share_than_half_of_the_smaller_set_is_refused_and_counted(name):
    for shared, n in ((21, N), (N, N + 30), (11, 20)):
        refused = measured(name, drawn()[0], beside(shared, n))
        assert refused.status is Status.UNSUPPORTED, (shared, n)
        assert f"{shared} of {min(n, N)} {'measured' if n > N else 'validation'} points are among" in refused.message


@pytest.mark.parametrize("name", VALIDATED)
def test_a_smaller_share_is_told_beside_the_value_and_none_is_not(name):
    for shared in (0, 1, 20):
        found = measured(name, drawn()[0], beside(shared))
        assert found.status is Status.OK and found.extras.get("shared_with_validation", 0) == shared
        assert ("are also among the validation points" in found.explain()) == (shared > 0)
    assert "shared_with_validation" not in measured(name, drawn()[0], beside(0)).extras


@pytest.mark.parametrize("name", VALIDATED)
def test_points_that_repeat_within_a_set_are_counted_once(name):
    x, (z, y) = drawn()[0].clone(), drawn(seed=1)
    for row in (0, *range(22, N)):
        x[row] = z[N - 1 - row] = drawn()[0][3].clone()
    found = measured(name, x, (z, y))
    assert found.status is Status.OK and found.extras["shared_with_validation"] == 1


@pytest.mark.parametrize("name", VALIDATED)
def test_samples_of_few_different_rows_have_the_same_rows_and_are_other_points(name):
    def rows(n, seed):
        return torch.randint(0, 2, (n, 3), generator=torch.Generator().manual_seed(seed)).float()

    y = drawn()[1]
    found = measured(name, rows(N, 1), (rows(N, 2), y))
    assert found.status is Status.OK and found.extras["shared_with_validation"] == 8
    own = measured(name, rows(N, 1), (rows(N, 1)[order()], y))
    assert own.status is Status.UNSUPPORTED and "name another split" in own.message


def test_a_set_that_has_each_point_several_times_is_found_in_the_other():
    x, y = drawn()
    found = measured(VALIDATED[0], x.repeat(3, 1), (x, y))
    assert found.status is Status.UNSUPPORTED and "40 of 40 validation points" in found.message


def test_changed_points_are_other_examples():
    x, y = drawn()
    surface = acutance.LossSurface(model(), (x, y))
    own = surface.example_digests()
    surface.core.example_digests = lambda: own
    z = x.clone()
    z[3] += 1
    other = surface.at_inputs(z).example_digests()
    assert (other != own).nonzero().flatten().tolist() == [3]
    assert torch.equal(acutance.LossSurface(model().double(), (x.double(), y)).example_digests(), own)


class Words(nn.Module):
    """A bag of words, with what the mask hides left out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, input_ids, attention_mask):
        return (self.table(input_ids) * attention_mask[..., None]).sum(1)


def texts(n, seed, width):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (n, 6), generator=g)
    padded = torch.full((n, width), 49)
    padded[:, :6] = ids
    mask = torch.zeros(n, width, dtype=torch.long)
    mask[:, :6] = 1
    return {"input_ids": padded, "attention_mask": mask}


def test_texts_are_found_again_under_other_padding_and_in_another_order():
    y, net = drawn()[1], Words()
    own, wide = texts(N, 0, 6), {k: v[order()] for k, v in texts(N, 0, 9).items()}
    again = measured(VALIDATED[0], own, (wide, y), net)
    assert again.status is Status.UNSUPPORTED and "name another split" in again.message
    other = measured(VALIDATED[0], own, (texts(N, 1, 9), y), net)
    assert other.status is Status.OK and "shared_with_validation" not in other.extras


def test_points_that_are_read_when_they_are_used_are_found_again():
    x, y = drawn(600)
    surface = acutance.LossSurface(model(), (every_row(lambda rows: x[rows], 600), y))
    z = x[order(600)]
    surface.core.companions[VALIDATION] = partial(acutance.LossSurface, model(), (z, y))
    with pytest.raises(acutance.Unsupported, match="name another split"):
        compared([surface], VALIDATED[0])


def compared(surfaces, name="agreement_on_the_line", **fields):
    target = catalog().get("measures", name)
    spec = target.Spec(**fields)
    if len(surfaces) == 1:
        return target().evaluate(surfaces[0].unlabelled(), spec, Streams("test"))
    peers = [Peer.of(f"m{i}", surface.unlabelled()) for i, surface in enumerate(surfaces)]
    return target().evaluate_pool(peers, spec, Streams("test"))


def pool(shared):
    z, y = beside(shared)
    surfaces = []
    for seed in range(6):
        net = model(seed)
        surface = acutance.LossSurface(net, drawn())
        surface.core.companions[VALIDATION] = partial(acutance.LossSurface, net, (z, y))
        surfaces.append(surface)
    return surfaces


def test_measures_that_compare_models_refuse_the_same_points_and_count_shared_ones():
    for shared, message in (
        (N, "are the points that are measured"),
        (21, "21 of 40 validation points are among the m"),
    ):
        found = compared(pool(shared), least_r2=0)
        assert all(e.status is Status.UNSUPPORTED and message in e.message for e in found)
    for shared in (0, 3):
        found = compared(pool(shared), least_r2=0)
        assert found[0].status is Status.OK
        assert {e.extras.get("shared_with_validation", 0) for e in found if e.status is Status.OK} == {shared}


def test_studies_refuse_and_count_in_the_same_way_and_read_points_once_for_all_models(tmp_path, monkeypatch):
    from acutance.data import pointsets

    calls, digest = [], pointsets.digest_examples
    monkeypatch.setattr(pointsets, "digest_examples", lambda inputs: calls.append(1) or digest(inputs))
    x, y = drawn()
    measures = ["difference_of_confidences", {"name": "agreement_on_the_line", "least_r2": 0}]
    for shared, status in ((N, "unsupported"), (3, "ok")):
        done = acutance.study(
            {f"m{i}": model(i) for i in range(4)}, (x, y), {"quality": list(range(4))}, measures,
            splits={"held_out": beside(shared)},
            surface={"points": N, "m": N, "select": "first", "validation": "held_out"}, out=tmp_path / status,
            report=False,
        )  # fmt: skip
        rows = done.results
        assert len(calls) == 2 and calls.clear() is None
        assert len(rows) == 8 and set(rows["status"]) == {status}, rows[["measure", "status", "message"]]
        if status == "ok":
            assert set(rows["extra.shared_with_validation"]) == {3}
        else:
            assert rows["message"].str.contains("name another split").all()


def test_rankings_refuse_and_count_in_the_same_way():
    x, models = drawn()[0], {f"m{i}": model(i) for i in range(2)}
    names = ["difference_of_confidences", "mean_confidence"]
    with pytest.raises(acutance.UserError, match="are the very points of 'points'"):
        acutance.rank(models, x, beside(N), names)
    many, few, none = (acutance.rank(models, x, beside(k), names) for k in (21, 20, 0))
    values = many.table.set_index("measure")["value"]
    assert values["difference_of_confidences"].isna().all() and values["mean_confidence"].notna().all()
    assert any("21 of 40 validation points are among" in note for note in many.notes)
    assert few.table["value"].notna().all() and few.table["stderr"].notna().all()
    assert "20 of the 40 ranked points are also in 'validation'" in few.notes
    assert not none.notes


def test_examples_are_read_once_for_all_measures_of_a_surface(monkeypatch):
    from acutance.surface import beside as module

    calls, digest = [], module.digest_examples
    monkeypatch.setattr(module, "digest_examples", lambda inputs: calls.append(1) or digest(inputs))
    net = model()
    surface = acutance.LossSurface(net, drawn())
    other = acutance.LossSurface(net, beside(3))
    surface.core.companions[VALIDATION] = lambda: other
    for name in VALIDATED:
        acutance.measure(name, surface)
    assert len(calls) == 2
