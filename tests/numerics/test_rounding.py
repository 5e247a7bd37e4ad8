"""Numbers that are rounded at random: their mean, their neighbours, and the compiled walk bitwise."""

import math

import pytest
import torch

from acutance.numerics import rounding
from acutance.numerics.draws import Streams
from acutance.numerics.rounding import STEPS, _dithered, dithered, sixteen_bits

HALVES = [torch.bfloat16, torch.float16]
ODD = [0.0, -0.0, 1.0, -2.0, 1e-45, -1e-41, 6e-8, -3e-5, 65519.0, 65520.0, 3.38e38, 3.3953e38, 3.4e38, -3.4e38]


@pytest.mark.parametrize("kind", HALVES)
def test_each_neighbour_is_taken_by_its_share_of_the_random_numbers_exactly(kind):
    """All 65536 random numbers once: the mean is that of the exact number, to what their steps can tell."""
    exact = torch.cat(
        [torch.randn(6, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, -2.0, 0.0, 3e-8])]
    )
    every = torch.arange(-STEPS // 2, STEPS // 2).to(torch.int16)
    for x in exact:
        found = dithered(x.repeat(STEPS), every, torch.empty(STEPS, dtype=kind)).double()
        ulp = max(torch.finfo(kind).eps * abs(float(x)), torch.finfo(kind).smallest_normal * torch.finfo(kind).eps)
        assert abs(float(found.mean() - x.double())) <= ulp / STEPS
        assert float((found - x.double()).abs().max()) < ulp
        assert len(found.unique()) == (1 if float(x) == float(x.to(kind)) else 2)


@pytest.mark.parametrize("kind", HALVES)
def test_numbers_beyond_the_largest_are_rounded_as_usual(kind):
    largest = torch.finfo(kind).max
    wide = torch.tensor([largest * (1 + torch.finfo(kind).eps / 8)], dtype=torch.float32)
    ends = torch.tensor([math.inf, -math.inf])
    lowest = torch.tensor([0, 0], dtype=torch.int16)  # which takes the neighbour wherever there is one
    for sign in (1, -1):
        assert float(dithered(sign * wide, lowest[:1], torch.empty(1, dtype=kind))) == sign * largest
    assert torch.equal(dithered(ends, lowest, torch.empty(2, dtype=kind)).float(), ends)
    assert bool(dithered(torch.tensor([math.nan]), lowest[:1], torch.empty(1, dtype=kind)).isnan())


def test_the_compiled_walk_is_bitwise_that_of_torch():
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(1)
    exact = torch.cat([torch.tensor([*ODD, math.inf, -math.inf]), torch.randn(1 << 16, generator=generator).mul_(3)])
    exact = torch.cat(
        [exact, torch.randint(-(2**31), 2**31, (1 << 16,), generator=generator).int().view(torch.float32)]
    )
    exact = exact[~exact.isnan()]
    bits = sixteen_bits(Streams("test"), "dither", 0, len(exact))
    wanted = _dithered(exact, bits, torch.bfloat16)
    found = dithered(exact, bits, torch.empty_like(wanted))
    assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))
    assert float((found != exact.bfloat16()).float().mean()) > 0.1


def test_without_numba_torch_rounds(monkeypatch):
    monkeypatch.setattr(rounding, "kernels", lambda: None)
    exact, bits = torch.tensor([1 + 2**-8]), torch.tensor([-(2**15), 2**15 - 1], dtype=torch.int16)
    found = [float(dithered(exact, each, torch.empty(1, dtype=torch.bfloat16))) for each in bits.split(1)]
    assert found == [1.0, 1 + 2**-7]  # half-way from 1: 32768 of 65536 stays there, and 32767 does not


@pytest.mark.parametrize("kind", HALVES)
def test_opposite_numbers_are_rounded_to_opposite_ones_and_opposite_moves_too(kind):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    bits = sixteen_bits(Streams("test"), "dither", 0, 1000)
    assert torch.equal(
        dithered(-x, bits, torch.empty(1000, dtype=kind)), -dithered(x, bits, torch.empty(1000, dtype=kind))
    )
    on = torch.full((1000,), 1.5)
    up, down = (dithered(on + s * x * 0.01, bits, torch.empty(1000, dtype=kind)).float() - on for s in (1, -1))
    assert torch.equal(up, -down) and int((up != 0).sum()) > 100


@pytest.mark.parametrize("count", [1, 3, 64, 1001])
def test_random_bits_are_uniform_and_a_shorter_draw_begins_a_longer_one(count):
    longer = sixteen_bits(Streams("test"), "dither", 0, 1 << 16)
    assert torch.equal(sixteen_bits(Streams("test"), "dither", 0, count), longer[:count])
    assert not torch.equal(sixteen_bits(Streams("test"), "dither", 1, 64), longer[:64])
    mean = float(longer.double().mean())
    assert abs(mean + 0.5) < 5 * STEPS / 12**0.5 / 2**8
    assert abs(float((longer.int() & 1).double().mean()) - 0.5) < 0.01
