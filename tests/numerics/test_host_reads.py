"""Inside the loops of Auto-PGD and of average_case nothing waits for an accelerator."""

import pytest
import torch
from host_reads import HostWaits, Quadratic, as_on_an_accelerator
from models import MLP, mlp_data

import acutance
import acutance_worst_case.search  # noqa: F401  (imported before it is made to work as on an accelerator)
from acutance import LossSurface
from acutance.numerics.auto_pgd import auto_pgd
from acutance.numerics.balls import ball
from acutance.numerics.scalars import choose


def test_the_counter_counts():
    x = torch.rand(4)
    with HostWaits() as waits:
        float(x[0])
        x.sum().item()
        bool(x[0] > 2)
        x[x > 0.5]
        torch.tensor(0.5)
        torch.where(x > 0.5, 1.0, x)
    assert waits.found == {
        "value read": 3, "index by a mask": 1, "tensor of a Python number": 1, "where of a Python number": 1,
    }  # fmt: skip
    with HostWaits() as waits:
        x.mul_(0.5).add_(x, alpha=2)
        torch.where(x > 0.5, x, -x)
        torch.full((), 0.5)
    assert waits.count == 0, waits.found


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_auto_pgd_never_waits(norm, monkeypatch):
    as_on_an_accelerator(monkeypatch)
    g = torch.Generator().manual_seed(1)

    def waits(steps):
        start = torch.randn(12, generator=g, dtype=torch.float64).mul_(0.01)
        with HostWaits() as found:
            auto_pgd(Quadratic(), start, ball(norm, 0.5), steps)
        return found.found

    assert not waits(5)
    assert not waits(50)


def surface():
    return LossSurface(MLP(), mlp_data(24))


SPECS = [
    ("worst_case", {"rho": 0.3, "norm": norm, "start": start, "logit_norm": logit_norm}, "steps")
    for norm in ("l2", "linf")
    for start in ("random", "screened")
    for logit_norm in (False, True)
] + [
    ("average_case", {"rho": 0.3, "norm": norm, "logit_norm": logit_norm, "variance_reduction": kind}, "draws")
    for norm, kind in (("l2", "none"), ("linf", "none"), ("l2", "linear"), ("l2", "antithetic"))
    for logit_norm in (False, True)
]


@pytest.mark.parametrize("name, fields, effort", SPECS, ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else v)  # fmt: skip
def test_more_steps_and_draws_bring_no_more_waiting(name, fields, effort, monkeypatch):
    as_on_an_accelerator(monkeypatch)

    def waits(n):
        with HostWaits() as found:
            acutance.measure(name, surface(), **fields, **{effort: n})
        return found.found

    # At the start and the end there are some: the checks of data and scaling, the best start, the value; and half-way,
    # where a search of this many steps is stuck.
    many, few = (80, 40) if effort == "steps" else (50, 6)
    assert waits(many) == waits(few)


@pytest.mark.parametrize("name, fields, effort", SPECS[::2], ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else v)  # fmt: skip
def test_tensors_steer_as_numbers_do(name, fields, effort, monkeypatch):
    ordinary = acutance.measure(name, surface(), **fields, **{effort: 20})
    as_on_an_accelerator(monkeypatch)
    found = acutance.measure(name, surface(), **fields, **{effort: 20})
    assert found.value == pytest.approx(ordinary.value, rel=1e-12)
    assert found.extras["perturbed_loss"] == pytest.approx(ordinary.extras["perturbed_loss"], rel=1e-12)


def test_choosing_keeps_double_precision():
    flag = torch.tensor(True)
    chosen = choose(flag, torch.tensor(1 / 3, dtype=torch.float64), 1.0)
    assert chosen.dtype == torch.float64 and float(chosen) == 1 / 3
    assert choose(flag, 1 / 3, 1.0).dtype == torch.float64
    assert float(choose(flag, 1 / 3, 1.0)) == 1 / 3
