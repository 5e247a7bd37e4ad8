"""Small networks for ``search_held_out.py``: trained in seconds to 0% train error on images that are always there.

A network is named ``kind/seed``. Seeds below ``HELD_OUT`` served to choose how the search spends its passes; the others, whose
widths are other ones too, did not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.data.pointsets import PointSets
from acutance.study.config import load_config
from acutance_vision.networks.small import ResNet

HELD_OUT = 100
POINTS, TRAINED_ON, BATCH = 64, 1024, 128


class Block(nn.Module):
    """Attention and a perceptron with residual connections and layer normalization."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens, (n, t, dim)."""
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.after(x))


class Transformer(nn.Module):
    """A vision transformer on patches of 7 x 7, the mean of whose tokens is classified."""

    def __init__(self, dim: int, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 7, 7)
        self.positions = nn.Parameter(0.02 * torch.randn(16, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (n, 10)."""
        logits: Tensor = self.head(self.blocks(self.patch(x).flatten(2).mT + self.positions).mean(1))
        return logits


def _perceptron(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def _convolutions(width: int, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for i, o in ((1, width), (width, 2 * width), (2 * width, 2 * width)):
        layers += [nn.Conv2d(i, o, 3, 2, 1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 16, 10))


# Kind -> name, network from a width, widths (tuning, held out), Adam's largest rate, epochs.
KINDS: dict[str, tuple[str, Callable[[int], nn.Module], tuple[int, int], float, int]] = {
    "mlp": ("perceptron", _perceptron, (64, 96), 3e-3, 40),
    "cnn": ("convolutions", lambda width: _convolutions(width, False), (12, 16), 5e-3, 40),
    "bn": ("convolutions, batch norm", lambda width: _convolutions(width, True), (8, 12), 1e-2, 30),
    "resnet": ("residual, batch norm", lambda width: ResNet(width=width, blocks=1, channels=1), (4, 6), 1e-2, 16),
    "vit": ("transformer", Transformer, (32, 24), 5e-3, 80),
}


@cache
def images() -> tuple[Tensor, Tensor]:
    """Return training images, (n, 1, 28, 28), and labels."""
    study = load_config("mnist", [f"surface.points={TRAINED_ON}", "surface.m=128"])
    inputs, targets = PointSets(study.dataset.item.target(study.dataset.spec), study.surface, 0).points
    return inputs, targets


def trained(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor], str]:
    """Return the network of a name, points that it was trained on, and what it is."""
    kind, seed = name.split("/")
    title, build, widths, rate, epochs = KINDS[kind]
    x, y = images()
    torch.manual_seed(int(seed))
    model = build(widths[int(seed) >= HELD_OUT])
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval(), (x[:POINTS], y[:POINTS]), f"mnist: {title}"
