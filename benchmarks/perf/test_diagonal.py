"""Training the pool of diagonal linear networks, beside the same arithmetic as products of matrices in torch."""

import numpy as np
import pytest
import torch

from acutance_dln.kernel import train
from acutance_dln.pools import DLN, DLNSpec, initial_weights
from acutance_dln.regression import training_points


def batched(x, y, u, v, learning_rate, tolerance, max_steps):
    """Train all networks at once; those that have ended leave the batch. Return the losses and the steps."""
    x, y, u, v, rates = (torch.from_numpy(a) for a in (x, y, u, v, learning_rate[:, None]))
    columns = x.T.contiguous()
    left = torch.arange(len(u))
    losses, steps = torch.zeros(len(u), dtype=torch.float64), torch.zeros(len(u), dtype=torch.int64)
    for t in range(max_steps + 1):
        r = torch.addmm(y, u * v, columns, beta=-1)
        loss = r.square().sum(dim=1) / 2
        ended = ~(loss > tolerance) if t < max_steps else torch.ones_like(loss, dtype=torch.bool)
        if bool(ended.any()):
            losses[left[ended]], steps[left[ended]] = loss[ended], t
            left, u, v, rates, r = (a[~ended] for a in (left, u, v, rates, r))
            if not len(left):
                break
        g = (r @ x).mul_(rates)
        u, v = torch.addcmul(u, g, v, value=-1), torch.addcmul(v, g, u, value=-1)
    return losses.numpy(), steps.numpy()


@pytest.mark.parametrize("n", [40, DLNSpec().n])
def test_training_of_200_networks(compare, n):
    spec = DLNSpec(n=n)
    recipes = [DLN().recipe(spec, i) for i in range(spec.size)]
    u, v = (np.stack(weights) for weights in zip(*map(initial_weights, recipes), strict=True))
    problem = (*training_points(spec), u, v, np.array([recipe["learning_rate"] for recipe in recipes]))
    found = train(*problem, tolerance=spec.tolerance, max_steps=spec.max_steps)  # compiles
    losses, steps = batched(*problem, spec.tolerance, spec.max_steps)
    assert np.array_equal(found.steps, steps) and np.allclose(found.loss, losses, rtol=1e-6)
    compare(
        lambda: train(*problem, tolerance=spec.tolerance, max_steps=spec.max_steps),
        lambda: batched(*problem, spec.tolerance, spec.max_steps),
        rounds=4, bound=1 / 1.5, against="torch, batched", converged=int((losses <= spec.tolerance).sum()),
        steps=int(steps.sum()),
    )  # fmt: skip
