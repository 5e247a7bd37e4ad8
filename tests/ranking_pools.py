"""Linear models of increasing noise on points whose labels one of them knows."""

import torch
from torch import nn

K, D = 4, 6
TRUE = torch.randn(K, D, generator=torch.Generator().manual_seed(0))


def linear(weight):
    model = nn.Linear(D, K)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.zero_()
    return model


def noisy(levels, seed=0):
    """Models m0, m1 ... whose logits are those of the truth, then noise of these sizes; all of one length."""
    models = {}
    for i, level in enumerate(levels):
        noise = torch.randn(K, D, generator=torch.Generator().manual_seed(100 * seed + i + 1))
        weight = TRUE + level * noise
        models[f"m{i}"] = linear(3 * weight / weight.norm())
    return models


def points(n, seed, shift=0.0):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) + shift
    return x, (x @ TRUE.T).argmax(1)
