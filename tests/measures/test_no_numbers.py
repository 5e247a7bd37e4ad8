"""A model that gives no numbers for some points has no value, whatever its other outputs would say."""

import math

import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.model.derivatives import of_a_number
from acutance.testing.models import MLP, mlp_data


class Masked(nn.Module):
    """Logits that are NaN, which no gradient passes through, for inputs above a threshold."""

    def __init__(self, above):
        super().__init__()
        self.net, self.above = MLP(), above

    def forward(self, x):
        return torch.where(x[:, :1] > self.above, math.nan, self.net(x))


SOME = Masked(1.0)
LOST = int((mlp_data()[0][:, 0] > 1.0).sum())
MEASURES = {
    "loss": {}, "error": {}, "gradient_norm": {}, "directional_sharpness": {}, "hessian_trace": {"probes": 4},
    "hessian_top_eigenvalue": {}, "hessian_frobenius": {"probes": 4},
    "hessian_effective_dimension": {"iterations": 5}, "hessian_density": {"iterations": 5},
    "gauss_newton_trace": {"probes": 4}, "soft_rank_tic": {}, "normalized_sharpness": {"probes": 4},
    "gradient_of_local_entropy": {"steps": 20}, "low_pass_filter": {"draws": 4}, "fisher_trace": {},
    "gradient_variance": {}, "local_learning_coefficient": {"burn_in": 1, "draws": 4}, "sam_sharpness": {"rho": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("above", [1.0, -100.0], ids=["some", "all"])
def test_points_without_outputs_leave_no_value(name, above):
    model, (x, y) = Masked(above), mlp_data()
    lost = int((x[:, 0] > above).sum())
    assert 0 < lost
    found = acutance.measure(name, model, (x, y), **MEASURES[name])
    assert found.status is Status.NONFINITE and math.isnan(found.value)
    assert f"the outputs of {lost} of {len(x)} points are not finite" in found.message


def test_the_derivatives_of_no_number_are_none_and_of_a_number_untouched():
    surface, v = LossSurface(SOME, mlp_data()), torch.ones(LossSurface(SOME, mlp_data()).w.numel()).double()
    for derivative in (surface.gradient()[1], surface.hvp(v), surface.hvps(torch.stack([v] * 9)), surface.ggnvp(v)):
        assert bool(derivative.isnan().all())
    rows = torch.cat(list(surface.example_gradients()))
    assert rows.isnan().all(1).sum() == rows.isnan().any(1).sum() == LOST
    g = torch.randn(3)
    assert of_a_number(torch.tensor(1.0), [g])[0] is g
    microbatched = LossSurface(SOME, mlp_data(), microbatch=5)
    assert bool(microbatched.gradient()[1].isnan().all()) and bool(microbatched.hvp(v).isnan().all())


def test_examples_without_outputs_do_not_look_mixed():
    """The scale of rounding is that of the outputs that are numbers."""
    x, y = mlp_data()
    assert bool((x[:8, 0] > 0).any())
    surface = LossSurface(Masked(0.0).float(), (x.float(), y))
    surface.check()
    assert not surface.core.mixes_examples


def test_passes_that_explain_are_no_work_of_the_measure():
    found = acutance.measure("gradient_of_local_entropy", SOME, mlp_data(), steps=20)
    assert found.cost.forwards == 20 * len(mlp_data()[0])
