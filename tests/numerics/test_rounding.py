"""Numbers that are rounded at random: their mean, their neighbours, and the compiled walk bitwise."""

import math

import pytest
import torch

from acutance.numerics import rounding
from acutance.numerics.draws import Streams
from acutance.numerics.rounding import STEPS, Dither, _dithered, dithered_move, neighbours

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
        found = _dithered(x.repeat(STEPS), every, kind).double()
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
        assert float(_dithered(sign * wide, lowest[:1], kind)) == sign * largest
    assert torch.equal(_dithered(ends, lowest, kind).float(), ends)
    assert bool(_dithered(torch.tensor([math.nan]), lowest[:1], kind).isnan())


@pytest.mark.parametrize("place", [0, 77, 2**32 - 3, 2**32 + 5, 2**40 + 1])
def test_the_compiled_walk_is_bitwise_that_of_torch(monkeypatch, place):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(1)
    any_bits = torch.randint(-(2**31), 2**31, (2, 1 << 16), generator=generator).int().view(torch.float32)
    x = torch.cat([torch.tensor([*ODD, math.inf, -math.inf]), torch.randn(1 << 16, generator=generator), any_bits[0]])
    w = torch.randn(len(x), generator=generator).mul_(3)
    w[: len(ODD) + 2], w[-len(any_bits[1]) :] = 0.0, any_bits[1]
    w = w.bfloat16()
    dither = Dither.of(Streams("test"), "dither")
    found = dithered_move(w, x, 0.7, dither, place, torch.empty_like(w))
    monkeypatch.setattr(rounding, "compiled", lambda dtype: None)
    wanted = dithered_move(w, x, 0.7, dither, place, torch.empty_like(w))
    assert torch.equal(found.isnan(), wanted.isnan()) and int(found.isnan().sum()) < len(w) // 10
    assert torch.equal(found.nan_to_num().view(torch.int16), wanted.nan_to_num().view(torch.int16))
    places = torch.arange(place, place + len(w))
    apart = dithered_move(w[1::2], x[1::2], 0.7, dither, places[1::2], torch.empty_like(w[1::2]))
    assert torch.equal(apart.nan_to_num(), wanted[1::2].nan_to_num())
    assert float((found != (w.float() + 0.7 * x).bfloat16()).float().mean()) > 0.1


def test_a_compiled_walk_is_taken_where_it_can_be(monkeypatch):
    pytest.importorskip("numba")
    w = torch.ones(8, dtype=torch.bfloat16)
    monkeypatch.setattr(rounding, "_dithered", None)
    assert dithered_move(w, w, 1.0, Dither(1, 2), 5, w.clone()).tolist() == [2.0] * 8


def test_without_numba_torch_rounds(monkeypatch):
    monkeypatch.setattr(rounding, "compiled", lambda dtype: None)
    w, x = torch.ones(1 << 12, dtype=torch.bfloat16), torch.full((1 << 12,), 2**-8)
    found = dithered_move(w, x, 1.0, Dither(1, 2), 0, torch.empty_like(w)).float()
    assert sorted({*found.tolist()}) == [1.0, 1 + 2**-7]
    assert abs(float(found.mean()) - 1 - 2**-8) < 5 * 2**-8 / 2**6


@pytest.mark.parametrize("kind", HALVES)
def test_neighbours_are_the_next_numbers_on_either_side_and_the_walk_is_bitwise_that_of_torch(monkeypatch, kind):
    pytest.importorskip("numba")
    any_bits = torch.randint(-(2**15), 2**15, (1 << 18,), generator=torch.Generator().manual_seed(3)).to(torch.int16)
    w = any_bits.view(kind)
    w = w[w.isfinite()]
    dither, place = Dither.of(Streams("test"), "neighbours"), 2**33 + 7
    found = neighbours(w, 0.5, dither, place, torch.empty_like(w))
    with monkeypatch.context() as no_numba:
        no_numba.setattr(rounding, "compiled", lambda dtype: None)
        wanted = neighbours(w, 0.5, dither, place, torch.empty_like(w))
    assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))
    outwards = torch.nextafter(w, w.sign() * torch.tensor(math.inf, dtype=kind))
    inwards = torch.nextafter(w, torch.zeros_like(w))
    there = (w != 0) & outwards.isfinite()
    shares = [float((found == side)[there].double().mean()) for side in (outwards, w, inwards)]
    assert sum(shares) == 1 and shares == pytest.approx([0.25, 0.5, 0.25], abs=5 * 0.5 / 2**9)
    assert torch.equal(found[w == 0], w[w == 0]) and bool(found.isfinite().all())
    monkeypatch.setattr(torch, "where", None)  # the walk is taken where it can be
    neighbours(w[:8], 0.5, dither, 0, torch.empty_like(w[:8]))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_neighbours_of_longer_types_are_those_of_their_own(kind):
    """Beside half-precision weights a model may have others."""
    w = torch.randn(1000, generator=torch.Generator().manual_seed(4), dtype=kind)
    w[0], w[1] = 0.0, torch.finfo(kind).max
    found = neighbours(w, 1.0, Dither(1, 2), 0, torch.empty_like(w))
    outwards, inwards = (torch.nextafter(w, end) for end in (w.sign() * math.inf, torch.zeros_like(w)))
    assert bool(((found == outwards) | (found == inwards))[2:].all()) and bool(found.isfinite().all())
    assert abs(int((found == outwards)[2:].sum()) - 499) < 5 * 16 and found[0] == 0


@pytest.mark.parametrize("kind", HALVES)
def test_opposite_numbers_are_rounded_to_opposite_ones_and_opposite_moves_too(kind):
    x, dither = torch.randn(1000, generator=torch.Generator().manual_seed(2)), Dither.of(Streams("test"), "dither")

    def moved(on, x):
        return dithered_move(on.to(kind), x, 1.0, dither, 0, torch.empty(1000, dtype=kind)).float()

    nothing, on = torch.zeros(1000), torch.full((1000,), 1.5)
    assert torch.equal(moved(nothing, -x), -moved(nothing, x))
    up, down = (moved(on, s * x * 0.01) - on for s in (1, -1))
    assert torch.equal(up, -down) and int((up != 0).sum()) > 100


def test_random_bits_are_uniform_and_those_of_neighbours_keys_and_turns_are_independent():
    """Chi-square of all 65536 values, of each bit, and correlations: within five standard deviations."""
    count = 1 << 20
    dither, places = Dither.of(Streams("test"), "dither 0"), torch.arange(count)
    words = dither.words(places)
    values = torch.bincount(words & STEPS - 1, minlength=STEPS).double()
    chi = float((values - count / STEPS).square().sum() / (count / STEPS))
    assert abs(chi - STEPS) < 5 * math.sqrt(2 * STEPS)
    for bit in range(32):
        assert abs(float((words >> bit & 1).double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(count)

    def centred(words):
        return torch.stack([(words & STEPS - 1).double() - (STEPS - 1) / 2, words.double() - (2**32 - 1) / 2])

    own, sizes = centred(words), torch.tensor([STEPS, 2**32]).double()
    others = [
        *(words.roll(lag) for lag in (1, 2, 64, 1024, 4096)),
        *(dither.words(places + turn) for turn in (2**32, 2**33)),
        Dither.of(Streams("test"), "dither 1").words(places),
        Dither(dither.first + 1, dither.second).words(places),
        Dither(dither.first, dither.second + 1).words(places),
    ]
    for other in others:
        shares = (own * centred(other)).mean(1) / (sizes**2 / 12)
        assert float(shares.abs().max()) < 5 / math.sqrt(count)


def test_each_bit_of_a_place_changes_each_random_bit_half_the_time():
    places, dither = torch.arange(1 << 14) * 40503, Dither.of(Streams("test"), "dither 0")
    for bit in range(36):
        changed = dither.words(places) ^ dither.words(places ^ 1 << bit)
        for k in range(32):
            assert abs(float((changed >> k & 1).double().mean()) - 0.5) < 5 * 0.5 / 2**7
