"""Mixed precision that accelerate writes over a module's forward is no part of what is measured."""

from types import MethodType

import pytest
import torch
from models import mlp_data
from torch import nn

import acutance
from acutance import UserError
from acutance.model.wrappers import unwrapped


class Dropped(nn.Module):
    """Its own flag says whether it drops."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return nn.functional.dropout(self.inner(x), 0.5, self.training)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def prepared(model):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is in the extra 'trainers'")
    accelerate.state.AcceleratorState._reset_state(True)  # there is one a process
    return accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)


def data():
    x, y = mlp_data()
    return x.float(), y


def values(model):
    return [acutance.measure(name, model, data()).value for name in ("loss", "gradient_norm")]


@pytest.mark.parametrize("wrap", [lambda m: m, Dropped])
def test_a_prepared_model_is_measured_as_the_bare_one_and_stays_as_it_is(wrap):
    model = wrap(network())
    expected = values(model.eval())
    model = prepared(model.train())
    before = dict(vars(model))
    found = values(model)
    assert found == expected
    assert vars(model) == before and model.training and "forward" in vars(model)
    x = data()[0]
    assert not torch.equal(model.eval()(x), type(model).forward(model, x))  # its autocast is there
    bare = unwrapped(model)
    assert bare is not model and unwrapped(bare) is bare and bare._parameters is model._parameters


def test_a_forward_that_was_bound_to_the_module_before_is_kept():
    model = network()
    model.forward = MethodType(lambda self, x: 2 * type(self).forward(self, x), model)
    expected = values(model.eval())
    assert values(prepared(model)) == expected != values(network())


def test_a_forward_that_was_replaced_before_is_refused():
    model = network()
    plain = model.forward
    model.forward = lambda x: plain(x)
    with pytest.raises(UserError, match=r"replaced by a function of its own.*before accelerator\.prepare"):
        acutance.measure("loss", prepared(model), data())
