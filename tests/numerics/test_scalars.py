"""Whether all numbers of a tensor are finite is told by its ends."""

import math

import pytest
import torch

from acutance.numerics.scalars import is_finite


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_seen_wherever_it_is(kind, odd):
    for size in (1, 7, 1031):
        x = torch.linspace(-3, 3, size).to(kind).requires_grad_()
        assert bool(is_finite(x)) and is_finite(x).dim() == 0
        for place in {0, size // 2, size - 1}:
            broken = x.detach().clone()
            broken[place] = odd
            assert not bool(is_finite(broken))
    ends = torch.tensor([torch.finfo(kind).max, torch.finfo(kind).min], dtype=kind)
    assert bool(is_finite(ends)) and bool(is_finite(torch.empty(0, dtype=kind)))
    assert bool(is_finite(torch.ones(2, dtype=torch.bool)))
