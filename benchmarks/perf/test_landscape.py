"""The points of a landscape against bare forwards: moving the weights, reading losses, and keeping points cost little.

Of the ResNet 9 points stand for the 41 x 41 ones, which take hours: each is a forward of its own, and what is done once a
landscape weighs more among few. ``--grid 41`` takes all.
"""

import pytest
import torch
from test_measures import clock, synchronize
from torch import nn

import acutance
from acutance.workflows.landscape import page, pictures

BOUNDS = {"resnet": 1.1, "mlp": 2.5}  # of a tiny network what is kept of a point costs as much as its pass


@pytest.fixture(autouse=True)
def points_alone(monkeypatch):
    """Pictures take the same seconds for a grid of any size."""
    monkeypatch.setattr(pictures, "files", lambda seen: {})
    monkeypatch.setattr(page, "page", lambda seen: "")


def resnet(device):
    from acutance_vision.networks.small import ResNet

    torch.manual_seed(0)
    return ResNet(16).to(device).eval(), torch.randn(512, 3, 32, 32, device=device), 2


def mlp(device):
    """A network whose points go together."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10)).to(device).eval()
    return model, torch.randn(128, 1, 28, 28, device=device), 8


@pytest.mark.parametrize("make", [resnet, mlp])
def test_points_of_a_plane(compare, make, device, tmp_path, request):
    model, inputs, rounds = make(device)
    targets = torch.arange(len(inputs), device=device) % 10
    grid = request.config.getoption("--grid") if make is resnet else 41
    kept = iter(range(1000))

    def work():
        acutance.landscape(model, (inputs, targets), grid=grid, curvature=False, out=tmp_path / str(next(kept)))
        synchronize(device)

    @torch.no_grad()
    def bare():
        for _ in range(grid * grid):
            nn.functional.cross_entropy(model(inputs), targets).item()
        synchronize(device)

    compare(
        work, bare, rounds, BOUNDS[make.__name__], seconds=clock(device), against="bare forwards", points=grid * grid
    )
