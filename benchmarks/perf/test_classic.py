"""Gradients of single examples beside functorch's, and all measures that read weights alone, on 11 million of them."""

import pytest
import torch
from test_measures import LONGEST, clock, prepare, synchronize
from torch.nn import functional as F
from tracking import examples as spec_examples
from tracking.networks import NETWORKS, make

from acutance import LossSurface
from acutance.plugins import catalog
from acutance.surface.evaluation import evaluate_family

WEIGHTS = {"weights", "initial_weights"}


def vectorised(model, inputs, targets, rows):
    """Return {name: (k, ...)}: what one writes with torch.func."""
    weights = {name: w.detach() for name, w in model.named_parameters()}

    def loss(weights, x, y):
        return F.cross_entropy(torch.func.functional_call(model, weights, x[None]), y[None])

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, inputs[rows], targets[rows])


def test_gradients_of_single_examples(compare, budget, network, device):
    surface, bare, forward_seconds, _ = prepare(network, device)
    if isinstance(bare.inputs, dict):
        pytest.skip("models of transformers look at values of their masks, which functorch does not take")
    if 6 * forward_seconds > LONGEST:
        pytest.skip("takes more than 20 seconds")
    # Whether vmap takes the model is found out once a surface; as many examples at a time on both sides.
    chunk = len(next(iter(surface.example_gradients())))

    def ours():
        for gradients in surface.example_gradients():
            assert len(gradients) <= chunk
        synchronize(device)

    def theirs():
        for rows in torch.arange(surface.n, device=device).split(chunk):
            vectorised(bare.model, bare.inputs, bare.targets, rows)
        synchronize(device)

    rounds = spec_examples.rounds(12 * forward_seconds, budget)
    compare(ours, theirs, rounds, 1.3, seconds=clock(device), against="torch.func.vmap")
    surface.release()


def test_all_measures_of_weights(timed):
    """Each measure that opens no data, once with its defaults, on ResNet-18 of width 64 and its initial weights."""
    model, inputs, targets = make(NETWORKS["resnet18_w64"], "cpu")
    initial = {name: 0.9 * w.detach() for name, w in model.named_parameters()}
    surface = LossSurface(model, (inputs, targets), initial=initial)
    measures = [item for item in catalog().items("measures") if set(item.target().traits.needs) <= WEIGHTS]
    assert len(measures) >= 15

    def work():
        surface.release()
        for item in measures:
            measure = item.target()
            evaluate_family(item.id, measure, surface, [measure.Spec()], seed=0, batch=0)
        assert surface.cost.forwards == 0

    work()
    timed(work, rounds=3, bound=20.0)
