"""What is shared: the forwards of a second loss transform, the graph of Hessian-vector products."""

import pytest
import torch
from test_measures import clock, prepare, synchronize
from tracking import examples as spec_examples

from acutance import Streams
from acutance.plugins import catalog


def skip_unless_large(network):
    if network.size in ("tiny", "small") or network.name == "resnet18_w64":
        pytest.skip("the bound is for networks of middle size")


def test_a_second_loss_transform(compare, budget, network, device):
    skip_unless_large(network)
    surface, _, forward_seconds, _ = prepare(network, device)
    measure, rng = catalog().measure("average_case"), Streams(0)
    one = [measure.Spec(rho=0.1, draws=network.effort)]
    two = [*one, measure.Spec(rho=0.1, draws=network.effort, logit_norm=True)]

    def run(specs):
        surface.release()
        measure.evaluate_many(surface, specs, rng)
        synchronize(device)

    rounds = spec_examples.rounds((network.effort + 1) * forward_seconds, budget)
    compare(lambda: run(two), lambda: run(one), rounds, 1.15, seconds=clock(device))


def test_hvp_after_the_first(compare, budget, network, device):
    skip_unless_large(network)
    surface, bare, forward_seconds, _ = prepare(network, device)
    v = torch.randn_like(surface.w)
    surface.hvp(v)

    def product():
        surface.hvp(v)
        synchronize(device)

    def backward():
        bare.backward(bare.n)
        synchronize(device)

    rounds = spec_examples.rounds(9 * forward_seconds, budget)
    compare(product, backward, rounds, 2.9, seconds=clock(device))
    surface.release()
