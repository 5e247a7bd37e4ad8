"""Arguments of ``acutance.measure``: what no measure looks at is held to the model all the same."""

import pytest
import torch

import acutance
from acutance import UserError


@pytest.fixture
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


@pytest.fixture
def points():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log": "nofile.csv"}, "nofile.csv: no such file"),
        ({"log": 3}, "log: got int"),
        ({"validation": (torch.ones(4, 3), torch.full((4,), 9))}, "validation: labels run from 9 to 9"),
        ({"validation": (torch.ones(4, 5), torch.zeros(4, dtype=torch.long))}, "validation: the model does not take"),
        ({"validation": (torch.ones(4, 3), None)}, "validation: there are no targets"),
        ({"num_train": 0}, "num_train: must be a whole number of at least 1, got 0"),
    ],
)
def test_what_no_measure_asked_for_is_refused_where_it_is_wrong(net, points, arguments, message):
    with pytest.raises(UserError) as found:
        acutance.measure("loss", net, points, **arguments)
    assert message in str(found.value)


def test_no_pattern_is_not_all_parameters(net):
    with pytest.raises(UserError, match="parameters: '' names none"):
        acutance.measure("stable_rank", net, parameters="")
    with pytest.raises(UserError, match="parameters: ' , ' names none"):
        acutance.LossSurface(net, None, parameters=" , ")


def test_bounds_take_the_size_of_the_training_set(net, points):
    few, many = (acutance.measure("tic", net, points, num_train=n).value for n in (None, 8000))
    # tr[(H + dI)^-1 C] / m: m is 8, the points, where nobody says how many there were.
    assert few / many == pytest.approx(1000)
    with pytest.raises(UserError, match="give num_train to LossSurface"):
        acutance.measure("loss", acutance.LossSurface(net, points), num_train=3)
