"""Draws of noise one after the other, and made ahead by threads."""

import threading

import pytest
import torch

from acutance import Streams
from acutance.numerics.draws import AHEAD, BLOCK, GROUP, ahead


@pytest.mark.parametrize("kind", ["normal", "uniform", "signs"])
def test_draws_in_a_row_are_those_drawn_alone(kind):
    streams, like = Streams("test"), torch.empty(70, dtype=torch.float64)
    alone = [getattr(streams, kind)("x", k, like) for k in (3, 0, 7)]
    found = list(streams.draws(kind, "x", (3, 0, 7), like))
    out = torch.empty_like(like)
    again = [noise.clone() for noise in streams.draws(kind, "x", (3, 0, 7), like, out=out) if noise is out]
    assert len({float(noise[0:8].sum()) for noise in alone}) == 3 or kind == "signs"
    for expected, *others in zip(alone, found, again, strict=True):
        assert all(torch.equal(expected, other) for other in others)


def test_work_made_ahead_comes_in_order_and_not_too_early():
    begun, lock = [], threading.Lock()

    def work(k):
        def make():
            with lock:
                begun.append(k)
            return k

        return make

    found = ahead((work(k) for k in range(20)), AHEAD)
    for k in range(20):
        assert next(found) == k
        assert max(begun) <= k + AHEAD
    assert next(found, None) is None and sorted(begun) == list(range(20))


def test_work_made_ahead_fails_where_it_would_have_and_ends_when_nobody_wants_more():
    def broken():
        raise ArithmeticError("broken")

    found = ahead([lambda: 1, broken, lambda: 3], 2)
    assert next(found) == 1
    with pytest.raises(ArithmeticError, match="broken"):
        next(found)
    threads = threading.active_count()
    found = ahead(((lambda: 1) for _ in range(1000)), 2)
    assert next(found) == 1 and threading.active_count() > threads
    found.close()
    assert threading.active_count() == threads


@pytest.mark.parametrize("kind", ["normal", "uniform", "signs"])
@pytest.mark.parametrize("size", [5, BLOCK, BLOCK + 3, BLOCK + GROUP - 1, BLOCK + GROUP, 2 * BLOCK + 17])
def test_noise_in_blocks_is_the_whole_draw(kind, size):
    streams = Streams("blocks", 1)
    whole = getattr(streams, kind)("x", 3, torch.empty(size))
    blocks = [block.clone() for block in streams.noise(kind, "x", 3, size).blocks()]
    assert torch.equal(torch.cat(blocks), whole)
    assert max(map(len, blocks)) < BLOCK + GROUP
