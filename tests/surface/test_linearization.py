"""Products with the Jacobian of very many outputs: the same, whatever of them is looked at in blocks."""

import pytest
import torch
from torch import nn

from acutance import LossSurface, Unsupported
from acutance.surface import linearization
from acutance.surface.linearization import Linearization


@pytest.fixture(params=[(linearization.PERIOD, linearization.BLOCK), (7, 5)], ids=["few", "many"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(linearization, "PERIOD", request.param[0])
    monkeypatch.setattr(linearization, "BLOCK", request.param[1])


def points():
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=g, dtype=torch.float64), torch.arange(6) % 3


def test_a_gauss_newton_product_is_the_dense_one(blocks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = points()
    surface = LossSurface(model, (x, y))
    names = dict(model.named_parameters())

    def logits(w):
        parts = {n: p.view(names[n].shape) for n, p in surface.unflatten(w).items()}
        return torch.func.functional_call(model, parts, x)

    jacobian = torch.func.jacrev(logits)(surface.w)  # (n, K, p)
    p = logits(surface.w).softmax(1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    v = torch.randn(surface.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.einsum("nkp,nkl,nlq,q->p", jacobian, hessian, jacobian, v) / len(x)
    for _ in range(2):  # the second product finds the graphs
        assert torch.allclose(surface.ggnvp(v), expected, rtol=1e-10, atol=1e-14)
    assert torch.allclose(surface.jvp(v), jacobian @ v, rtol=1e-10, atol=1e-14)


class CutOff(torch.autograd.Function):
    """The square, whose backward pass is cut off from its input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return (2 * ctx.saved_tensors[0] * g.detach()).detach()


def test_a_backward_pass_that_is_cut_off_is_refused(blocks):
    leaf = torch.randn(20, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    sound = Linearization((leaf**2)[:13], [leaf])
    v = torch.randn(20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(sound.jvp([v]), (2 * leaf * v)[:13])
    with pytest.raises(Unsupported, match="cut off"):
        Linearization(CutOff.apply(leaf)[:13], [leaf]).jvp([v])


def test_what_is_its_own_input_costs_nothing():
    leaf, v = torch.zeros(3, requires_grad=True), torch.ones(3)
    identity = Linearization(leaf, [leaf])
    assert identity.jvp([v]) is v and identity.vjp(v)[0] is v and not identity.prepared
