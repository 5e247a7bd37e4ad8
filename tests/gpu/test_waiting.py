"""Inside the loops of Auto-PGD and of average_case the host never waits for the device."""

import pytest
import torch
from host_reads import Quadratic
from models import MLP, mlp_data

import acutance
from acutance import LossSurface
from acutance.numerics.auto_pgd import auto_pgd
from acutance.numerics.balls import ball

pytestmark = pytest.mark.gpu


def test_the_counter_counts(waits):
    x = torch.ones(3, device="cuda")

    def work():
        float(x[0])
        x.sum().item()
        x.mul_(0.5)

    assert waits(work) == 2


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_auto_pgd_never_waits(norm):
    objective = Quadratic(device="cuda")
    start = torch.full((12,), 0.01, dtype=torch.float64, device="cuda")
    auto_pgd(objective, start.clone(), ball(norm, 0.5), 3)  # what is set up on first use
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    best = auto_pgd(objective, start, ball(norm, 0.5), 50)
    torch.cuda.set_sync_debug_mode("default")
    assert float(best.value) > 0


@pytest.mark.parametrize("logit_norm", [False, True])
@pytest.mark.parametrize(
    "name, fields, effort",
    [("worst_case", {"norm": norm, "start": start}, "steps") for norm in ("l2", "linf") for start in ("random", "screened")]
    + [("average_case", {"norm": "l2", "variance_reduction": kind}, "draws") for kind in ("none", "linear", "antithetic")]
    + [("average_case", {"norm": "linf"}, "draws")],
    ids=str,
)  # fmt: skip
def test_more_steps_and_draws_bring_no_more_waiting(waits, name, fields, effort, logit_norm):
    """Some waiting is meant, at the start (checks, the best start) and at the end (the value): it does not grow."""

    def measured(n):
        surface = LossSurface(MLP(), mlp_data(24), device="cuda")
        return waits(lambda: acutance.measure(name, surface, rho=0.3, logit_norm=logit_norm, **fields, **{effort: n}))

    measured(6)  # what is set up on first use
    assert measured(50) == measured(6)
