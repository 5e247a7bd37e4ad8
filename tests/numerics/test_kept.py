"""What a search over many weights keeps of the best point's gradient does for a step what the gradient would."""

import pytest
import torch

from acutance.numerics.balls import ball
from acutance.numerics.slopes import Slope

P = 1200


@pytest.fixture(params=["l2", "linf"])
def region(request):
    return ball(request.param, 0.5)


def vector(seed):
    return torch.randn(P, generator=torch.Generator().manual_seed(seed))


def step(region, g, to=None):
    out = torch.empty(P)
    region.advance(0.01 * vector(8), 0.01 * vector(9), g, 0.2, 0.25, out)
    return out


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_from_what_was_kept_is_bitwise_that_of_the_gradient(region, scaled):
    c = vector(3).abs() if scaled else None
    first, second = vector(0), vector(1)
    if scaled:
        c[5] = 0.0
    first[7] = second[7] = 0.0
    # Inner products are summed part by part.
    parts = [first] if region.gaussian else list(first.split([1, 600, 599]))
    kept = region.kept(Slope(parts, c))
    wanted = step(region, Slope(parts, c))
    for part in parts:
        part.zero_()  # it was passing
    assert torch.equal(step(region, kept.slope()), wanted)
    into = torch.empty(P)
    assert torch.equal(step(region, kept.slope(into)), wanted)
    assert kept.replaced(False, Slope([second], c)) is kept
    assert torch.equal(step(region, kept.slope()), wanted)
    assert kept.replaced(True, Slope([second], c)) is kept
    assert torch.equal(step(region, kept.slope()), step(region, Slope([second], c)))


def test_flags_that_are_not_known_write_over_what_is_held(region):
    first, second, third = (Slope([vector(i)]) for i in range(3))
    kept = region.kept(first)
    wanted = step(region, second)
    kept.replaced(torch.tensor(False), third)
    kept.replaced(torch.tensor(True), second)
    kept.replaced(torch.tensor(False), third)
    assert torch.equal(step(region, kept.slope()), wanted)
    g = Slope([part.clone() for part in third.parts])
    assert kept.again(torch.tensor(False), g, None) is g and torch.equal(g.flat(), third.flat())
    assert torch.equal(step(region, kept.again(torch.tensor(True), g, None)), wanted)
    assert kept.again(False, third, None) is third
    assert torch.equal(step(region, kept.again(True, third, torch.empty(P))), wanted)


def test_signs_take_a_byte_a_weight():
    from acutance.numerics.kept import Signs

    kept = ball("linf", 0.5).kept(Slope([vector(0)]))
    assert isinstance(kept, Signs) and {v.dtype for v in vars(kept).values() if isinstance(v, torch.Tensor)} == {
        torch.int8
    }
