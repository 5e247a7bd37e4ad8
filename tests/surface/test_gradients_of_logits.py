"""Gradients of combinations of the logits of single examples: rows of the Jacobian, from any example on."""

import pytest
import torch
from models import MLP, mlp_data
from torch import nn

from acutance import LossSurface, UserError


def combinations(seed=0):
    return torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whole(view, u=None, **more):
    return torch.cat(list(view.example_gradients(u=u, **more)))


class Looking(MLP):
    """One that vmap cannot take."""

    def forward(self, x):
        return super().forward(x) * (1 if float(x.detach().abs().sum()) > 0 else 2)


@pytest.mark.parametrize("build", [MLP, Looking])
@pytest.mark.parametrize("start", [0, 5, 23])
def test_they_are_products_with_the_jacobian(build, start):
    for make in (lambda s: s, lambda s: s.transformed(), lambda s: s.restricted("*weight"), lambda s: s.unlabelled()):
        view, u = make(LossSurface(build(), mlp_data())), combinations()
        expected = []
        for i in range(24):
            alone = torch.zeros_like(u)
            alone[i] = u[i]
            expected.append(view.vjp(alone))
        before = view.cost
        found = whole(view, u, chunk=4, start=start)
        spent = view.cost - before
        torch.testing.assert_close(found, torch.stack(expected)[start:], rtol=1e-10, atol=1e-12)
        assert (spent.forwards, spent.backwards) == (24 - start, 24 - start)
        assert view.core.vectorises is (build is MLP)


def test_losses_are_of_the_same_examples_and_w_moves_both():
    surface = LossSurface(MLP(), mlp_data())
    assert torch.equal(whole(surface, start=7), whole(surface)[7:])
    w = surface.w * 0.5
    other = LossSurface(MLP(), mlp_data())
    with torch.no_grad():
        nn.utils.vector_to_parameters(w, other.model.parameters())
    moved = LossSurface(other.model, mlp_data())
    torch.testing.assert_close(
        torch.cat(list(surface.example_gradients(w, u=combinations()))), whole(moved, combinations())
    )


def test_what_does_not_fit_is_refused():
    surface, u = LossSurface(MLP(), mlp_data()), combinations()
    with pytest.raises(UserError, match="u has 3 rows, this surface has 24 examples"):
        surface.example_gradients(u=u[:3])
    for narrow in (u[:, :1], u[:, 0]):
        with pytest.raises(UserError, match=r"u has shape .*, an example has logits \(4,\)"):
            whole(surface, narrow)
    whole(surface, u)
    with pytest.raises(UserError, match="an example has logits"):
        whole(surface, u[:, :1])  # also where it is known that vmap takes the model
    for start in (-1, 24):
        with pytest.raises(UserError, match=f"start: must be one of the 24 examples, 0 to 23, got {start}"):
            surface.example_gradients(u=u, start=start)
    with pytest.raises(UserError, match="so it goes without targets"):
        surface.example_gradients(u=u, targets=surface.targets)
