"""A small training, monitored or not, with everything in it that a monitor could disturb."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def points(n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.arange(n) % 3


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )  # fmt: skip


def stepped(monitor, model, optimizer, steps):
    """Make full-batch steps, and say each to the monitor."""
    x, y = points()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        monitor.step(model, optimizer)


def train(monitor=None, epochs=3, wrap=lambda model: model, autocast=False, start=True, each=lambda step: None):
    """Train, and return all that a monitor must not change: tensors, gradients, generators, the order of the data."""
    model = network()
    trained = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    torch.manual_seed(2), random.seed(2), np.random.seed(2)
    order, step = [], 0
    if monitor is not None and start:
        monitor.start(trained, optimizer)
    loader = DataLoader(TensorDataset(*points(), torch.arange(64)), batch_size=16, shuffle=True)
    for _ in range(epochs):
        for x, y, index in loader:
            order += index.tolist()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(trained(x), y)
                loss.backward()
                optimizer.step()
                if monitor is not None:
                    monitor.step(trained, optimizer, loss=loss)
            step += 1
            each(step)
        if monitor is not None:
            monitor.epoch(trained, optimizer)
    return {
        "tensors": [t.clone() for t in model.state_dict().values()],
        "gradients": [p.grad.clone() for p in model.parameters()],
        "momentum": [s["momentum_buffer"].clone() for s in optimizer.state.values()],
        "generators": [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype("int64"))],
        "python": random.getstate(),
        "order": order,
        "flags": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
    }


def same(a, b):
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name
