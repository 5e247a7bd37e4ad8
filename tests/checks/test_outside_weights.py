"""Weights that take part and that no module of the model holds are said, and what was made of its own is refused."""

import warnings

import pytest
import torch
from models import MLP, mlp_data
from torch import nn

import acutance
from acutance import UserError


class Partly(MLP):
    def __init__(self, how):
        super().__init__()
        outside = nn.Linear(6, 6).double()
        self.kept, self.call, self.how, self.cache = [outside], lambda x: outside(x), how, None
        if how == "hook":
            self.register_forward_pre_hook(lambda module, args: (outside(args[0]),))

    def forward(self, x):
        if self.how == "list":
            x = self.kept[0](x)
        if self.how == "closure":
            x = self.call(x)
        if self.how == "leaf of the pass":
            x = x.detach().requires_grad_()
        if self.how == "cache":
            self.cache = next(self.parameters()).sum() if self.cache is None else self.cache
            return super().forward(x) * self.cache
        return super().forward(x)


@pytest.mark.parametrize("how,said", [
    ("list", True), ("closure", True), ("hook", True), ("leaf of the pass", False), ("cache", False), ("", False),
])  # fmt: skip
def test_weights_outside_the_modules_are_said_once(how, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = acutance.measure("average_case", Partly(how), mlp_data(), m=12, rho=0.1, draws=2)
    assert len(found.notes) == said
    for note in found.notes:
        assert note.startswith("42 numbers that are no parameters of the model's modules take part (shapes (6")


def test_what_an_earlier_pass_made_of_the_weights_is_refused():
    model = Partly("cache")
    model(mlp_data()[0])
    with pytest.raises(UserError, match=r"what an earlier pass made of .* \(a cache\).*clear it"):
        acutance.measure("average_case", model, mlp_data(), rho=0.1, draws=2)
    with torch.no_grad():
        model.cache = None
    assert not acutance.measure("average_case", model, mlp_data(), rho=0.1, draws=2).notes
