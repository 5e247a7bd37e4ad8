"""Workers and memory on CUDA devices."""

import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface
from acutance.plugins import catalog
from acutance.run.families import Ready, Unit, family_estimates
from acutance.run.jobs import Cell
from acutance.run.store import Store

pytestmark = pytest.mark.gpu


def test_each_worker_sees_one_gpu(toy_config, tmp_path):
    config = {
        **toy_config,
        "measures": [{"name": "place"}],
        "targets": ["attr:learning_rate"],
        "executor": {"name": "processes", "workers": 2 * torch.cuda.device_count()},
    }
    run = acutance.run(config, out=tmp_path, report=False)
    assert run.failed == 0
    store = Store(tmp_path / "acutance.db", write=False)
    found = [f.estimate.extras for f in store.cells().values() if "visible" in f.estimate.extras]
    store.close()
    assert {e["devices"] for e in found} == {1}
    assert len(found) == 6 and all("," not in e["visible"] for e in found)


class Wide(nn.Module):
    """Two megabytes of activations for every example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(4, 1 << 19), nn.Linear(1 << 19, 3)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


def peak(surface):
    """Return the bytes that one gradient reserves, and let go of them."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    surface.gradient(surface.w)
    found = torch.cuda.max_memory_reserved()
    surface.release()
    torch.cuda.empty_cache()
    return found


def test_out_of_memory_halves_the_microbatch():
    g = torch.Generator().manual_seed(0)
    data = torch.randn(128, 4, generator=g), torch.randint(0, 3, (128,), generator=g)
    surface = LossSurface(Wide(), data, device="cuda")
    surface.loss()
    whole = peak(surface)
    surface.microbatch = 32
    parts = peak(surface)
    assert whole > parts + (64 << 20)
    surface.microbatch = None
    item = catalog().find("measures", "worst_case")
    spec = item.target.Spec(rho=0.01, steps=2, start="zero")
    cell = Ready(Cell(0, item.id, spec.full(), 0, "train", "batch", (0,)), item.target(), spec)
    # A little more than the search's own vectors beside a quarter of the batch, and less than the whole needs.
    spare = 8 * surface.w.numel() * surface.w.element_size()
    limit = min(parts + spare, (whole + parts) // 2 + spare)
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        (found,) = family_estimates(Unit("train", "batch", 0, item.id, 0, [cell]), surface, 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert surface.microbatch in (64, 32, 16)
    assert found.status == "ok"
    alone = LossSurface(Wide(), data, device="cuda", microbatch=surface.microbatch)
    assert found.value == pytest.approx(
        acutance.measure(item.id, alone, rho=0.01, steps=2, start="zero").value, rel=1e-4
    )
