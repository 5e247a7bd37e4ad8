"""The measure against values worked out by hand."""

import acutance
import pytest
import torch

MEASURE = "acme-sam/sam_rise"


class Weights(torch.nn.Module):
    """A model that answers every input with its weights, so that the loss is a function of them alone."""

    def __init__(self, *w):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), -1)


def half_square(logits, targets):
    """Return |w|^2 / 2."""
    return (logits**2).sum(-1).mean() / 2


def surface(*w):
    return acutance.LossSurface(Weights(*w), (torch.zeros(4, 1), torch.zeros(4)), loss=half_square)


@pytest.mark.parametrize("rho", [0.05, 0.5, 2.0])
def test_a_quadratic(rho):
    # The gradient of |w|^2 / 2 is w: the step ends at length 5 + rho, and ((5 + rho)^2 - 5^2) / 2 = 5 rho + rho^2 / 2.
    found = acutance.measure(MEASURE, surface(3.0, 4.0), rho=rho)
    assert found.value == pytest.approx(5 * rho + rho**2 / 2, rel=1e-12)


def test_a_stationary_point_has_no_direction():
    assert acutance.measure(MEASURE, surface(0.0, 0.0)).value == 0.0


def test_the_work_is_what_it_says():
    measure = acutance.catalog().measure(MEASURE)
    promised, found = measure.passes(measure.Spec()), acutance.measure(MEASURE, surface(3.0, 4.0))
    assert (found.cost.forwards, found.cost.backwards) == (4 * promised.forwards, 4 * promised.backwards)


def test_a_radius_must_be_positive():
    with pytest.raises(acutance.UserError, match="rho: Input should be greater than 0"):
        acutance.measure(MEASURE, surface(3.0, 4.0), rho=-1)
