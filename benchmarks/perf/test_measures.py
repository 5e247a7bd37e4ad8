"""Every registered measure against the passes that its own ledger counts."""

import time
from functools import lru_cache

import pytest
import torch
from tracking import examples as spec_examples
from tracking.bare import Bare
from tracking.memory import peak_bytes, stretches, vectors
from tracking.networks import make

from acutance import LossSurface
from acutance.measure import Status
from acutance.plugins import catalog
from acutance.surface.evaluation import evaluate_family

LONGEST = 20.0  # seconds that one evaluation may take; a slower one needs a smaller example


@lru_cache(maxsize=1)
def prepare(network, device):
    """Return (surface, bare passes, seconds of a forward, {kind of pass: its peak of bytes}), once a network."""
    model, inputs, targets = make(network, device)
    surface, bare = LossSurface(model, (inputs, targets)), Bare(model, inputs, targets)
    surface.loss()
    bare.forward(bare.n)
    start = clock(device)()
    bare.forward(bare.n)
    synchronize(device)
    seconds = clock(device)() - start
    return surface, bare, seconds, {}


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def clock(device):
    """CPU time does not see what a GPU does."""
    return time.perf_counter if device == "cuda" else time.process_time


@pytest.mark.parametrize("example", spec_examples.examples(catalog()), ids=lambda example: example.name)
def test_measure(compare, budget, example, network, device):
    surface, bare, forward_seconds, peaks = prepare(network, device)
    measure, spec = example.item.target(), example.spec(network)
    predicted = measure.passes(spec).units * forward_seconds
    if predicted > LONGEST:
        pytest.skip(
            f"one evaluation would take about {predicted:.0f} s: give it a smaller example in tracking/examples.py"
        )

    def work():
        # Nothing is left over from the round before: each makes all passes of its ledger.
        surface.release()
        (estimate,) = evaluate_family(example.item.id, measure, surface, [spec], seed=0, batch=0)
        synchronize(device)
        return estimate

    surface.release()
    before, estimates = surface.cost, []
    held = stretches(lambda: estimates.append(work()), device, surface.core)
    cost = surface.cost - before
    if estimates[0].status is Status.UNSUPPORTED:
        pytest.skip(estimates[0].message)
    for each, one in bare.kinds(cost).items():
        if each not in peaks:
            peaks[each] = peak_bytes(one, device)
    noises = round(cost.forwards / bare.n) - 1 if example.draws_noise else 0
    plain = bare.passes(cost, noises)

    def passes():
        plain()
        synchronize(device)

    compare(
        work,
        passes,
        spec_examples.rounds(cost.units / bare.n * forward_seconds, budget),
        example.bound(network),
        seconds=clock(device),
        batch=bare.n,
        forwards=cost.forwards,
        backwards=cost.backwards,
        hvps=cost.hvps,
        parameters=bare.p,
        vectors=vectors(held, peaks, bare.p * surface.w.element_size()),
        vectors_bound=example.vectors_bound,
        vectors_stated=measure.vectors(spec),
    )
    surface.release()
