import math

import pytest
import torch
from torch import nn

from acutance.monitor import Monitor
from acutance.monitor.optimizers import stability_threshold


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_quadratic_diverges_just_above_the_threshold_and_not_below(momentum, nesterov, decay):
    if nesterov and not momentum:
        nesterov = False
    for share, diverges in ((0.98, False), (1.02, True)):
        w = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        curvature = share * stability_threshold(optimizer)
        for _ in range(2000):
            optimizer.zero_grad()
            (curvature * w.square() / 2).sum().backward()
            optimizer.step()
        assert (abs(w.item()) > 1) is diverges


def test_where_it_is_not_known_there_is_none():
    w = nn.Parameter(torch.ones(1))
    assert stability_threshold(torch.optim.SGD([w], lr=0.1)) == pytest.approx(20)
    assert stability_threshold(torch.optim.Adam([w], lr=0.1)) is None
    assert stability_threshold(torch.optim.SGD([w], lr=0.1, momentum=0.9, dampening=0.5)) is None
    assert stability_threshold(torch.optim.SGD([w], lr=0.1, maximize=True)) is None
    assert stability_threshold(torch.optim.SGD([w], lr=0.0)) is None
    groups = [{"params": [w], "lr": 0.1}, {"params": [nn.Parameter(torch.ones(1))], "lr": 0.2}]
    assert stability_threshold(torch.optim.SGD(groups, lr=0.1)) is None


def test_full_batches_train_to_the_edge_of_stability(tmp_path):
    """The largest eigenvalue rises to 2 / learning rate and stays within 10% (Cohen et al. 2021)."""
    torch.manual_seed(0)
    x = torch.randn(32, 8)
    y = (torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2])[:, None]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    eigenvalue = {"name": "hessian_top_eigenvalue", "scaling": "none", "level": "dataset", "tol": 1e-3}
    with Monitor(
        [eigenvalue], (x, y), every=lambda step: step in (1, 20, 800, 900, 1000), out=tmp_path / "run",
        surface={"loss": "mse"}, report=False,
    ) as monitor:  # fmt: skip
        for _ in range(1000):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            monitor.step(model, optimizer)
    values = {r["step"]: r["value"] for r in monitor.rows if r["measure"] == "hessian_top_eigenvalue"}
    assert values[1] < values[20] < 10
    assert all(math.isclose(values[step], 20, rel_tol=0.1) for step in (800, 900, 1000))
    assert {row["attr.stability_threshold"] for row in monitor.rows} == {20.0}
