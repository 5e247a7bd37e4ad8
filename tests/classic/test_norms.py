"""Norms of all weights, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

import acutance
from acutance import Status, UserError


def line(weights, bias=0.0):
    """A linear model, (len(weights) -> 1), with these weights."""
    model = nn.Linear(len(weights), 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weights], dtype=torch.float64))
        model.bias.fill_(bias)
    return model


@pytest.mark.parametrize(
    ("p", "value"), [(1, 7.5), (2, math.sqrt(3**2 + 4**2 + 0.5**2)), ("inf", 4.0), (math.inf, 4.0)]
)
def test_the_norm_is_that_of_all_weights(p, value):
    assert acutance.measure("parameter_norm", line([3.0, -4.0], 0.5), p=p).value == pytest.approx(value, rel=1e-15)
    start = line([1.0, 1.0], 0.5)
    distance = {1: 7.0, 2: math.sqrt(4 + 25), "inf": 5.0, math.inf: 5.0}[p]
    found = acutance.measure("distance_from_initialization", line([3.0, -4.0], 0.5), initial=start, p=p)
    assert found.value == pytest.approx(distance, rel=1e-15) and found.cost.units == 0


def test_a_part_of_the_weights():
    assert acutance.measure("parameter_norm", line([3.0, -4.0], 0.5), parameters="weight").value == 5.0
    assert acutance.measure("parameter_count", line([3.0, -4.0]), parameters="!bias").value == 2
    with pytest.raises(UserError, match="'head'"):
        acutance.measure("parameter_count", line([3.0, -4.0]), parameters="head")


def test_no_initial_weights_are_made_up():
    found = acutance.measure("distance_from_initialization", line([3.0, -4.0]))
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    assert found.message.startswith("the initial weights of this model are not known: ")


def test_a_shared_parameter_counts_once():
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert acutance.measure("parameter_count", tied).value == 9


def test_small_and_many_entries_are_summed_in_float64():
    model = nn.Linear(1 << 20, 1, bias=False)
    nn.init.constant_(model.weight, 0.1)
    expected = float(torch.tensor(0.1)) * 2**20
    assert acutance.measure("parameter_norm", model, p=1).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", [0.5, -1, float("nan"), "two", True])
def test_an_order_below_one_is_no_norm(p):
    with pytest.raises(UserError, match=r"parameter_norm\.p"):
        acutance.measure("parameter_norm", line([1.0]), p=p)
