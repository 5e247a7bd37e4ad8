"""Trains a small network on full batches to the edge of stability, monitored, and draws docs/images/edge_of_stability.png.

    python benchmarks/edge_of_stability.py DIRECTORY

About a minute and a half on one core.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from acutance.monitor import Monitor

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "edge_of_stability.png"
EIGENVALUE = {"name": "hessian_top_eigenvalue", "scaling": "none", "level": "dataset", "tol": 1e-3}


def train(rate: float, out: str) -> None:
    """Train at one learning rate; the largest eigenvalue on all points every 25 steps."""
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    y = (torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2])[:, None]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    with Monitor([EIGENVALUE], (x, y), every=25, out=out, run=f"lr={rate:g}", surface={"loss": "mse"}) as monitor:
        for _ in range(1000):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            monitor.step(model, optimizer, loss=loss)


if __name__ == "__main__":
    for rate in (0.05, 0.1):
        train(rate, sys.argv[1])
    picture = Image.open(Path(sys.argv[1]) / "figures" / "trajectories.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(PICTURE, optimize=True)
