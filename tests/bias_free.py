"""Networks without biases for the tests: perceptrons with ReLU, positively homogeneous unless something spoils it."""

import itertools

import torch
from torch import nn

from acutance.testing.models import global_seed, mlp_data
from acutance.testing.problems import Problem
from acutance.testing.twins import Twin


class Plain(nn.Module):
    """A bias-free ReLU perceptron, or one with something in it that spoils the degree."""

    def __init__(self, dims=(6, 9, 7, 4), activation=torch.relu, residual=False, bias=False, norm=False):
        super().__init__()
        with global_seed(3):
            self.layers = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(dims))
        self.norm = nn.LayerNorm(dims[1], elementwise_affine=False) if norm else nn.Identity()
        self.activation, self.residual = activation, residual
        self.double()

    def forward(self, x):
        first, *middle, last = self.layers
        x = self.norm(self.activation(first(x)))
        for layer in middle:
            x = self.activation(layer(x)) + (x[:, : layer.out_features] if self.residual else 0)
        return last(x)


def rescaled(model, factor=3.7):
    """One layer times a factor, the next divided by it."""
    model.layers[0].weight.mul_(factor)
    model.layers[1].weight.div_(factor)


def by_neuron(model):
    """Every neuron's incoming weights times a factor of its own, the outgoing ones divided by it."""
    factors = torch.linspace(0.3, 4, len(model.layers[0].weight), dtype=torch.float64)
    model.layers[0].weight.mul_(factors[:, None])
    model.layers[1].weight.div_(factors)


PROBLEM = Problem("bias_free", Plain, mlp_data)
TWINS = tuple(
    Twin(name, letter, word, PROBLEM, change)
    for name, letter, word, change in (
        ("a layer and the next one", "f", "rescaling", rescaled),
        ("each neuron and what it feeds", "f", "rescaling", by_neuron),
    )
)
