"""What it costs to look at a training: the mnist ResNet on batches of 128, monitored on 32 points, beside itself alone."""

import pytest
import torch
from test_measures import clock, synchronize
from torch.nn.functional import cross_entropy

from acutance.monitor import Monitor
from acutance_vision.networks.small import mnist_resnet

OFTEN = [
    {"name": "critical_sharpness", "rtol": 0.05},
    {"name": "gradient_norm", "scaling": "none"},
    {"name": "sam_sharpness", "rho": 0.05},
]
SELDOM = [*OFTEN, {"name": "hessian_top_eigenvalue", "scaling": "none", "tol": 1e-2, "every": 200}]
POINTS = 32


@pytest.mark.parametrize(
    ("measures", "steps", "bound"), [(OFTEN, 50, 1.05), (SELDOM, 200, 1.15)], ids=["often", "seldom"]
)
def test_a_monitored_training(compare, device, tmp_path, measures, steps, bound):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 1, 28, 28, generator=generator).to(device)
    y = (torch.arange(1024) % 10).to(device)
    model = mnist_resnet(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    monitor = Monitor(measures, (x[:POINTS], y[:POINTS]), every=50, out=tmp_path / "run", report=False)

    def train(look):
        model.train()
        for step in range(steps):
            rows = slice(step % 8 * 128, step % 8 * 128 + 128)
            optimizer.zero_grad()
            loss = cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            look(loss)
        synchronize(device)

    def monitored():
        train(lambda loss: monitor.step(model, optimizer, loss=loss))

    monitor.start(model, optimizer)  # what is looked at once a training is no part of its steps
    compare(monitored, lambda: train(lambda loss: None), rounds=max(4, 500 // steps), bound=bound, seconds=clock(device),
            against="the training alone", steps=steps, points=POINTS)  # fmt: skip
    monitor.close()
