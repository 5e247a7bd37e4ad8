"""A loss of one's own that reads the weights of the model is refused: what it adds of them does not follow the point."""

import copy

import pytest
import torch
from models import MLP, mlp_data
from torch import nn

import acutance
from acutance import LossSurface, UserError


def fragile(held):
    first = held[0].detach().clone()

    def read():
        if not torch.equal(held[0], first):
            raise ValueError("other weights")
        return first.sum()

    return read


PENALTIES = {
    "parameters": lambda model, held: lambda: sum(p.square().sum() for p in model.parameters()),
    "a list": lambda model, held: lambda: sum(p.square().sum() for p in held),
    "detached": lambda model, held: lambda: 1e-3 * float(model.state_dict()["0.weight"].abs().sum()),
    "a pass": lambda model, held: lambda: model(mlp_data()[0]).square().mean(),
    "fails elsewhere": lambda model, held: fragile(held),
    "zeros": lambda model, held: lambda: held[-1].sum(),
}


@pytest.mark.parametrize("how", PENALTIES)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_loss_that_reads_the_weights_is_refused(how, frozen):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4)).double().requires_grad_(not frozen)
    nn.init.zeros_(model[2].bias)
    before, read = copy.deepcopy(model.state_dict()), PENALTIES[how](model, list(model.parameters()))
    with pytest.raises(UserError, match=r"your loss reads the model's weights .*the penalty apart"):
        acutance.measure(
            "average_case", model, mlp_data(), rho=0.1, loss=lambda f, t: nn.functional.cross_entropy(f, t) + read()
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loss_with_weights_of_its_own_and_one_that_is_no_number_are_not_said_to_read_the_models():
    scale, other = nn.Parameter(torch.ones((), dtype=torch.float64)), MLP()
    penalized = LossSurface(
        MLP(), mlp_data(),
        loss=lambda f, t: nn.functional.cross_entropy(f * scale, t) + next(other.parameters()).square().sum().detach(),
    )  # fmt: skip
    assert penalized.loss() > LossSurface(MLP(), mlp_data()).loss()
    assert LossSurface(MLP(), mlp_data(), loss=lambda f, t: f.sum() * float("nan")).loss().isnan()


def test_a_loss_of_all_examples_alone_is_not_said_to_read_what_a_forward_leaves():
    class Leaving(MLP):
        def forward(self, x):
            self.left = next(self.parameters()).sum()
            return super().forward(x)

    weights = torch.rand(24, dtype=torch.float64)
    surface = LossSurface(
        Leaving(), mlp_data(),
        loss=lambda f, t: (weights * nn.functional.cross_entropy(f, t, reduction="none")).mean(),
    )  # fmt: skip
    assert surface.loss().isfinite()
