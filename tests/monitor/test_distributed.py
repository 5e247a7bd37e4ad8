"""Two processes that train together: rank 0 measures alone, and training is what it is without."""

import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
from tests.monitor.trainings import network, points
from torch import distributed, nn

import acutance
from acutance.monitor import Monitor

STEPS = 6


def rank_trains(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    for monitored in (False, True):
        train(rank, folder, monitored)
    distributed.destroy_process_group()


def train(rank, folder, monitored):
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    monitor = None
    if monitored:
        measures = ["gradient_norm", {"name": "critical_sharpness", "direction": "update"}]
        monitor = Monitor(measures, points(32, seed=5), every=2, out=folder / "run", report=False)
        monitor.start(model, optimizer)
    x, y = points()
    torch.manual_seed(rank)
    for _ in range(STEPS):
        rows = torch.randperm(len(x))[:16]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        if monitor is not None:
            measured = monitor.step(model, optimizer, loss=loss)
            assert not measured or rank == 0
    if monitor is not None:
        monitor.close()
    if rank == 0:
        name = "monitored" if monitored else "alone"
        torch.save([model.module.state_dict(), torch.get_rng_state()], folder / f"{name}.pt")


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
def test_rank_0_measures_what_one_device_would(tmp_path):
    mp.spawn(rank_trains, (tmp_path,), nprocs=2)
    alone, monitored = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("alone", "monitored"))
    assert torch.equal(alone[1], monitored[1])
    assert all(torch.equal(a, b) for a, b in zip(alone[0].values(), monitored[0].values(), strict=True))
    table = pd.read_csv(tmp_path / "run" / "results.csv")
    found = table[(table["measure"] == "gradient_norm") & (table["attr.step"] == STEPS)]["value"].item()
    model = network()
    model.load_state_dict(monitored[0])
    # All points that rank 0 was given, not its share of them.
    expected = acutance.measure("gradient_norm", model.eval(), points(32, seed=5))
    assert found == pytest.approx(expected.value, rel=1e-6)
    steps = table[table["measure"] == "critical_sharpness"].set_index("attr.step")["status"]
    assert list(steps[:STEPS]) == ["ok"] * 3 + ["unsupported"]
