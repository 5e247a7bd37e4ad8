"""The next model is loaded beside the measuring of the present one: the same model, and nobody's random numbers."""

import threading

import pytest
import torch
from torch import nn

from acutance import UserError
from acutance.data.prefetch import Prefetch, PrivateRandomness
from acutance.model.layouts import Convolutions
from acutance.pool import ModelEntry, ModelPool


class Pool(ModelPool):
    """Builds a network with random weights, then sets them, and tells in which thread."""

    name = "slow"
    loads_ahead = True

    def __init__(self):
        self.threads = []

    def entries(self, spec):
        return [ModelEntry(id=str(i), architecture="x") for i in range(3)]

    def load(self, entry, spec):
        self.threads.append(threading.current_thread().name)
        if entry.id == "2":
            raise UserError("damaged")
        model = nn.Linear(3, 2)
        nn.init.trunc_normal_(model.weight)
        with torch.no_grad():
            model.weight.fill_(float(entry.id))
            model.bias.zero_()
        return model


def test_a_model_that_was_loaded_ahead_is_the_model():
    pool, prefetch = Pool(), Prefetch()
    first, second, damaged = pool.entries(None)
    prefetch.begin(pool, None, second)
    model, key = prefetch.get(pool, None, second)
    assert float(model.weight.detach().mean()) == 1 and model.weight.requires_grad
    assert key == Prefetch().get(pool, None, second)[1]
    assert [name.startswith("acutance-prefetch") for name in pool.threads] == [True, False]
    # Another one than was expected is loaded now; what was loaded ahead is dropped.
    prefetch.begin(pool, None, second)
    assert float(prefetch.get(pool, None, first)[0].weight.detach().mean()) == 0
    assert prefetch._future is None
    prefetch.begin(pool, None, damaged)
    with pytest.raises(UserError, match="damaged"):
        prefetch.get(pool, None, damaged)


def test_loading_ahead_draws_none_of_the_random_numbers_of_others():
    pool, prefetch = Pool(), Prefetch()
    before = torch.get_rng_state()
    prefetch.begin(pool, None, pool.entries(None)[1])
    prefetch.get(pool, None, pool.entries(None)[1])
    assert torch.equal(before, torch.get_rng_state())
    Prefetch().get(pool, None, pool.entries(None)[1])
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(3), lambda: torch.rand(3), lambda: torch.randperm(9), lambda: torch.randint(0, 9, (3,)),
        lambda: torch.randint(2, 9, (3,)),
        lambda: torch.empty(3).normal_(), lambda: torch.empty(3).uniform_(), lambda: torch.bernoulli(torch.full((9,), 0.5)),
        lambda: torch.empty(3).exponential_(), lambda: nn.init.kaiming_uniform_(torch.empty(3, 3)),
        lambda: torch.normal(torch.zeros(3), 1.0), lambda: nn.init.orthogonal_(torch.empty(3, 3)),
        lambda: torch.randn_like(torch.zeros(3)), lambda: torch.multinomial(torch.ones(4), 2),
    ],
)  # fmt: skip
def test_every_way_of_drawing_is_private(draw):
    before = torch.get_rng_state()
    with PrivateRandomness():
        first = draw()
    with PrivateRandomness():
        again = draw()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)


def test_watching_operations_does_not_import_torchs_compiler():
    # torch wraps what a mode does in a function that imports its compiler, seconds in every process, unless it is told.
    for mode in (PrivateRandomness, Convolutions):
        assert not hasattr(mode.__torch_dispatch__, "__wrapped__")
