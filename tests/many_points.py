"""A network on so many points that networks with larger and smaller weights agree on some of them, but not on all."""

from dataclasses import dataclass, replace

import torch

from acutance.testing.problems import PROBLEMS


@dataclass(frozen=True)
class ManyPoints:
    """Points far from the origin, with labels of their own."""

    n: int = 400

    def __call__(self):
        g = torch.Generator().manual_seed(0)
        inputs, targets = PROBLEMS["tanh_mlp"].data()
        many = 2 * torch.randn(self.n, inputs.shape[1], generator=g, dtype=inputs.dtype)
        return many, torch.randint(int(targets.max()) + 1, (self.n,), generator=g)


SURFACES = [replace(PROBLEMS["tanh_mlp"], name="many points", data=ManyPoints())]
