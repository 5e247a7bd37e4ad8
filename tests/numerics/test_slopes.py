"""Gradients in parts behave as the one vector they make."""

import pytest
import torch

from acutance.numerics import slopes
from acutance.numerics.balls import ball
from acutance.numerics.slopes import Slope, blocks

P = 23


def vector(seed):
    return torch.randn(P, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[[P], [1, 22], [9, 9, 5]], ids=str)
def parts(request):
    return vector(0).split(request.param)


@pytest.fixture(params=[4, 1000])
def block(request, monkeypatch):
    monkeypatch.setattr(slopes, "BLOCK", request.param)
    return request.param


@pytest.mark.parametrize("c", [None, vector(1).abs()], ids=["plain", "scaled"])
def test_a_walk_meets_everything_once_in_order(parts, block, c):
    g, other = torch.cat(parts), torch.arange(P)
    expected = g if c is None else g * c
    slope = Slope(parts, c)
    met = [(product.clone(), room.shape, at) for product, room, at in slope.walk(other)]
    assert torch.equal(torch.cat([product for product, _, _ in met]), expected)
    assert torch.equal(torch.cat([at for *_, at in met]), other)
    assert all(product.shape == shape == at.shape for product, shape, at in met)
    assert block > P or max(len(at) for *_, at in met) <= block
    assert torch.equal(slope.flat(), expected)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("momentum", [None, 0.25])
def test_a_step_is_the_same_however_the_gradient_is_cut_and_leaves_it_alone(parts, block, norm, momentum):
    region, c = ball(norm, 0.7), vector(2).abs()
    c[3] = 0.0
    x, before, whole = 0.1 * vector(3), 0.1 * vector(4), torch.empty(P, dtype=torch.float64)
    g = torch.cat(parts)
    region.advance(x, before, Slope([g * c]), 0.3, momentum, out=whole)
    out = before.clone()
    region.advance(x, out, Slope(parts, c), 0.3, momentum, out=out)
    torch.testing.assert_close(out, whole, rtol=1e-12, atol=1e-15)
    assert torch.equal(torch.cat(parts), vector(0)) and torch.equal(g, vector(0))
    torch.testing.assert_close(region.steepest(Slope(parts, c)), region.steepest(Slope([g * c])))


def test_known_flags_keep_references_and_unknown_ones_write_over_the_kept_copy():
    old, new = Slope([vector(5)]), Slope([vector(6)])
    assert old.replaced(True, new) is new and old.replaced(False, new) is old and old.snapshot() is old
    mine = Slope([old.parts[0].clone()])
    assert mine.replaced(torch.tensor(False), new) is mine and torch.equal(mine.parts[0], vector(5))
    assert mine.replaced(torch.tensor(True), new) is mine and torch.equal(mine.parts[0], vector(6))
    assert torch.equal(new.parts[0], vector(6))


def test_blocks_are_aligned(block):
    a, b = vector(7), torch.arange(P)
    met = list(blocks(a, b))
    assert torch.equal(torch.cat([x for x, _ in met]), a) and torch.equal(torch.cat([y for _, y in met]), b)
