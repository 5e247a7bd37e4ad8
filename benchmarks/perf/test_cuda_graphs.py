"""Passes recorded and replayed on a GPU, and the whole grid of one network there: skipped without one."""

import time

import pytest
import torch
from test_grid import AVERAGE, WORST, cells
from tracking.networks import NETWORKS, make

from acutance import LossSurface
from acutance.plugins import catalog
from acutance.surface.evaluation import evaluate_family

BATCHES = 8  # m-batches of 128: 1024 points
EFFORT = {"worst_case": {"rho": 0.002, "steps": 20}, "average_case": {"rho": 0.1, "draws": 20}}


def skip_without(device):
    if device != "cuda":
        pytest.skip("needs a CUDA device")


@pytest.mark.parametrize("name", EFFORT)
def test_replayed(compare, name, network, device):
    """A search or an average with CUDA graphs against the same without."""
    skip_without(device)
    model, inputs, targets = make(network, device)
    measure = catalog().measure(name)
    surfaces = [LossSurface(model, (inputs, targets), cuda_graphs=graphs) for graphs in (True, False)]

    def evaluation(surface):
        def work():
            evaluate_family(name, measure, surface, [measure.Spec(**EFFORT[name])], seed=0, batch=0)
            torch.cuda.synchronize()

        return work

    replayed, one_by_one = map(evaluation, surfaces)
    replayed()  # recorded once for all walks on a surface
    compare(replayed, one_by_one, 5, 1.05, seconds=time.perf_counter, against="passes made one by one")
    surfaces[0].release()


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_the_whole_grid(timed, device, cuda_graphs):
    """48 cells of a CIFAR ResNet-18 on 1024 points, the surfaces made anew."""
    skip_without(device)
    model, inputs, targets = make(NETWORKS["resnet18_w64"], device)
    families = {
        "average_case": cells(catalog().measure("average_case"), AVERAGE, draws=100),
        "worst_case": cells(catalog().measure("worst_case"), WORST, steps=20),
    }

    def work():
        start = time.perf_counter()
        for batch in range(BATCHES):
            surface = LossSurface(model, (inputs + batch, targets), cuda_graphs=cuda_graphs)
            for name, specs in families.items():
                evaluate_family(name, catalog().measure(name), surface, specs, seed=0, batch=batch)
            surface.release()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    timed(work, rounds=1, bound=60.0, cells=48, points=BATCHES * len(targets))
