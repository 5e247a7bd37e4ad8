"""Checkpoints of training runs that are vectors, as measures along runs see them."""

import numpy as np
import torch
from torch import nn

import acutance
from acutance.numerics.draws import Streams
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.spec import validate


class Point(nn.Module):
    """A model that is a vector, in two parameters."""

    def __init__(self, w, dtype=torch.float64):
        super().__init__()
        w = torch.as_tensor(np.asarray(w), dtype=dtype)
        self.a, self.b = nn.Parameter(w[:1].clone()), nn.Parameter(w[1:].clone())

    def forward(self, x):
        return x @ torch.cat([self.a, self.b])[:, None]


def checkpoint(name, w, run="r", step=None, initial=None, dtype=torch.float64):
    """Return a model as a pool measure sees it, opened anew at each call."""
    start = None if initial is None else Point(initial, dtype)

    def opened():
        return acutance.LossSurface(Point(w, dtype), None, initial=start)

    return Peer(name, None, None, opened, lambda: None, run, step)


def along(name, ways, **fields):
    """Return the values of a measure for the checkpoints of runs, {run: {step: weights}}, as {run: {step: value}}."""
    peers = [checkpoint(f"{run}{step}", w, run, step) for run, way in ways.items() for step, w in way.items()]
    values = iter(values_of(name, peers, **fields))
    return {run: {step: next(values) for step in way} for run, way in ways.items()}


def values_of(name, peers, **fields):
    target = catalog().get("measures", name)
    return target().evaluate_pool(peers, validate(target.Spec, fields, name), Streams("test"))


def random_way(steps, p=7, seed=0):
    w = np.random.default_rng(seed).normal(size=(len(steps), p))
    return dict(zip(steps, w, strict=True))
