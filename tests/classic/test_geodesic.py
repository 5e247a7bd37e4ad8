"""Geodesic sharpness: the geometry against automatic differentiation, the symmetries against twins and real layouts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import token_data
from acutance.testing.problems import PROBLEMS
from acutance.testing.twins import TWINS
from acutance_classic.flatness.attention_pairs import pairs_of
from acutance_classic.flatness.geodesic_numerics import Geodesics, symmetric_pairs
from acutance_classic.flatness.quotient import PairGeometry, Quotient, mixed

METRICS = ("inv", "mix")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inner(g, h, metric, a, b):
    """The metric at (G, H) of tangent vectors a = (a_G, a_H) and b."""
    m_g, m_h = g.T @ g, h.T @ h
    if metric == "inv":
        return torch.trace(torch.linalg.inv(m_g) @ a[0].T @ b[0]) + torch.trace(torch.linalg.inv(m_h) @ a[1].T @ b[1])
    return torch.trace(m_h @ a[0].T @ b[0]) + torch.trace(m_g @ a[1].T @ b[1])


def geometry(metric, seed=0, rows=(5, 6), size=3):
    g, h = random(rows[0], size, seed=seed), random(rows[1], size, seed=seed + 1)
    return g, h, PairGeometry(g[None], h[None], metric)


# -- the geometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_coordinates_are_those_of_a_round_ball_and_the_tangent_is_horizontal(metric):
    g, h, geo = geometry(metric)
    x, y = random(5, 3, seed=4), random(6, 3, seed=5)
    xi, eta = x @ geo.unit_g[0], y @ geo.unit_h[0]
    assert float(inner(g, h, metric, (xi, eta), (xi, eta))) == pytest.approx(float(x.square().sum() + y.square().sum()))
    flat = [part[0] for part in geo.tangent(x[None], y[None])]
    for i in range(9):
        mixing = torch.zeros(9, dtype=torch.float64)
        mixing[i] = 1
        vertical = -g @ mixing.view(3, 3), h @ mixing.view(3, 3).T
        assert abs(float(inner(g, h, metric, flat, vertical))) < 1e-11
    # What was taken away is itself a mixing: the projection is the orthogonal one.
    gone = [(a - b) for a, b in zip((xi, eta), flat)]
    assert abs(float(inner(g, h, metric, gone, flat))) < 1e-10
    assert torch.allclose(gone[0] @ h.T + g @ gone[1].T, torch.zeros(5, 6, dtype=torch.float64), atol=1e-11)


@pytest.mark.parametrize("metric", METRICS)
def test_the_bend_is_that_of_the_geodesic_equation(metric):
    g, h, geo = geometry(metric, seed=7)
    shapes = (5, 3), (6, 3)
    xi = torch.cat([random(15, seed=8), random(18, seed=9)])

    def parts(v):
        return v[:15].view(shapes[0]), v[15:].view(shapes[1])

    def energy(point, velocity):
        v = parts(velocity)
        return inner(*parts(point), metric, v, v) / 2

    point = torch.cat([g.reshape(-1), h.reshape(-1)])
    mass = torch.autograd.functional.hessian(lambda v: energy(point, v), xi)
    # d/dt (dE/dv) = dE/dx: mass x'' = dE/dx - d^2E/(dv dx) v, and Gamma[v, v] = -x''.
    force = torch.autograd.functional.jacobian(lambda x: energy(x, xi), point)
    drift = torch.autograd.functional.jvp(
        lambda x: torch.autograd.functional.jacobian(lambda v: energy(x, v), xi, create_graph=True), point, xi
    )[1]
    gamma = torch.linalg.solve(mass, drift - force)
    ends = geo.moved(*(part[None] for part in parts(xi)))
    found = torch.cat([2 * (part - end[0]).reshape(-1) for part, end in zip(parts(xi), ends)])
    assert torch.allclose(found, gamma, atol=1e-10)


@pytest.mark.parametrize("metric", METRICS)
def test_a_mixing_rotates_the_coordinates_and_moves_the_end(metric):
    g, h, geo = geometry(metric)
    a = torch.eye(3).double() + 0.5 * random(3, 3, seed=3)
    inverse = torch.linalg.inv(a)
    other = PairGeometry((g @ inverse)[None], (h @ a.T)[None], metric)
    x, y = random(1, 5, 3, seed=4), random(1, 6, 3, seed=5)
    turned = (
        x @ geo.unit_g @ inverse @ torch.linalg.inv(other.unit_g),
        y @ geo.unit_h @ a.T @ torch.linalg.inv(other.unit_h),
    )
    assert float(turned[0].norm()) == pytest.approx(float(x.norm()), rel=1e-10)
    ends, moved = geo.moved(*geo.tangent(x, y)), other.moved(*other.tangent(*turned))
    assert torch.allclose(ends[0] @ inverse, moved[0], atol=1e-9)
    assert torch.allclose(ends[1] @ a.T, moved[1], atol=1e-9)


def test_a_head_of_one_dimension_moves_along_its_exponential():
    # inv: u exp(t b), v exp(-t b) is a mixing; u exp(b), v exp(b) is the geodesic of a diagonal linear network.
    u, v, b = 1.3, -0.7, 1e-3
    geo = PairGeometry(torch.tensor([[[u]]]).double(), torch.tensor([[[v]]]).double(), "inv")
    root = torch.tensor([[[b]]]).double()
    ends = geo.moved(*geo.tangent(root, root * math.copysign(1, v)))
    assert float(ends[0]) == pytest.approx(u * math.expm1(b), rel=1e-6)
    assert float(ends[1]) == pytest.approx(v * math.expm1(b), rel=1e-6)
    still = geo.tangent(root, -root * math.copysign(1, v))
    assert abs(float(still[0])) < 1e-15 and abs(float(still[1])) < 1e-15


# -- where the pairs lie ----------------------------------------------------------------------------------


class Grouped(nn.Module):
    """Llama's names: four query heads that share two key heads."""

    def __init__(self, bias=False, rotary=False, heads=4, groups=2, size=3, dim=8):
        super().__init__()
        torch.manual_seed(0)
        self.num_heads, self.groups, self.size, self.rotary = heads, groups, size, rotary
        self.q_proj = nn.Linear(dim, heads * size, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(dim, groups * size, bias=bias) for _ in range(2))
        self.o_proj, self.head = nn.Linear(heads * size, dim, bias=bias), nn.Linear(dim, 3)
        self.double()

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (m(x).view(n, t, -1, self.size).transpose(1, 2) for m in (self.q_proj, self.k_proj, self.v_proj))
        if self.rotary:
            turn = torch.arange(t, dtype=x.dtype)[:, None]
            q, k = (z * torch.cos(turn) + z.roll(1, -1) * torch.sin(turn) for z in (q, k))
        k, v = (z.repeat_interleave(self.num_heads // self.groups, 1) for z in (k, v))
        a = F.scaled_dot_product_attention(q, k, v)
        return self.head((x + self.o_proj(a.transpose(1, 2).reshape(n, t, -1))).mean(1))


class Torch(nn.Module):
    """torch's own attention, with its maps in one tensor."""

    def __init__(self, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True, **settings), nn.Linear(8, 3)
        nn.init.normal_(self.attention.out_proj.weight, std=0.3)
        self.double()

    def forward(self, x):
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class Packed(nn.Module):
    """A vision transformer's attention: one map for all three."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.to_qkv = 2, nn.Linear(8, 24, bias=False)
        self.to_out, self.head = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0)), nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (z.view(n, t, 2, 4).transpose(1, 2) for z in self.to_qkv(x).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 8)
        return self.head((x + self.to_out(a)).mean(1))


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
                        max_position_embeddings=8, num_labels=3)  # fmt: skip
    return BertForSequenceClassification(config).double().eval()


def llama():
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
                         intermediate_size=12, max_position_embeddings=8, num_labels=3, pad_token_id=0)  # fmt: skip
    return LlamaForSequenceClassification(config).double().eval()


def tokens():
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 20, (6, 5), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(0, 3, (6,), generator=g)


CASES = {
    "kit": (lambda: PROBLEMS["attention"].model(), token_data, 2, 2), "grouped": (Grouped, token_data, 2, 2),
    "grouped with biases": (lambda: Grouped(bias=True), token_data, 2, 2), "rotary": (lambda: Grouped(rotary=True), token_data, 0, 2),
    "torch": (Torch, token_data, 2, 2), "torch without biases": (lambda: Torch(bias=False), token_data, 2, 2),
    "torch, three maps": (lambda: Torch(kdim=8, vdim=8), token_data, 2, 2), "packed": (Packed, token_data, 2, 2),
    "bert": (bert, tokens, 2, 2), "llama": (llama, tokens, 0, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_pairs_of_a_layout_are_those_whose_mixing_preserves_the_function(case):
    model, data, queries, values = CASES[case]
    surface = LossSurface(model(), data())
    pairs = symmetric_pairs(surface)
    counts = [sum(pair.kind == kind for pair in pairs) for kind in ("query_key", "value_output")]
    assert counts == [queries, values]
    moved = mixed(surface.w, pairs)
    assert float((moved - surface.w).norm()) > 0.05 * float(surface.w.norm()) * len(pairs) ** 0.5 / 10
    assert torch.allclose(surface.raw_logits(moved), surface.raw_logits(), atol=1e-10)
    # The value at mixed weights is that at the weights, though the search goes other ways.
    a = acutance.measure("geodesic_sharpness", surface, rho=0.3, steps=3)
    with torch.no_grad():
        other = model()
        for name, p in surface.unflatten(moved).items():
            other.get_parameter(name).copy_(p)
    b = acutance.measure("geodesic_sharpness", LossSurface(other, data()), rho=0.3, steps=3)
    assert a.status is Status.OK and a.value == pytest.approx(b.value, rel=1e-6) and a.value > 0
    assert (a.extras["query_key_pairs"], a.extras["value_output_pairs"]) == (queries, values)


# -- the measure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rho", [0.5])
def test_mixing_heads_changes_nothing_where_adaptive_sharpness_does(metric, rho):
    for twin in TWINS:
        if twin.invariance == "head_mixing":
            a, b = (acutance.measure("geodesic_sharpness", p.surface(), rho=rho, metric=metric, steps=6).value
                    for p in (twin.original, twin.changed))  # fmt: skip
            assert a == pytest.approx(b, rel=1e-7)
            a, b = (acutance.measure("worst_case", p.surface(), rho=rho, norm="l2", steps=2).value
                    for p in (twin.original, twin.changed))  # fmt: skip
            assert not a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_a_small_ball_rises_by_the_norm_of_the_riemannian_gradient(metric):
    surface = PROBLEMS["attention"].surface()
    g = surface.gradient()[1]
    squared = (surface.w * g).square()
    for pair in pairs_of(surface):
        squared[pair.g], squared[pair.h] = 0, 0
        m_g, m_h = (surface.w[at].T @ surface.w[at] for at in (pair.g, pair.h))
        units = (m_g, m_h) if metric == "inv" else (torch.linalg.inv(m_h), torch.linalg.inv(m_g))
        # The gradient of an invariant loss is horizontal: its norm is that of the metric's inverse.
        squared = torch.cat(
            [squared, *(torch.trace(u @ g[at].T @ g[at])[None] for u, at in zip(units, (pair.g, pair.h)))]
        )
    expected = 1e-6 * float(squared.sum().sqrt())
    found = acutance.measure("geodesic_sharpness", surface, rho=1e-6, metric=metric)
    assert found.value == pytest.approx(expected, rel=1e-4)


def test_the_gradient_in_coordinates_is_that_of_the_differences():
    surface = PROBLEMS["attention"].surface()
    for metric in METRICS:
        objective = Geodesics(surface, Quotient(surface.w, symmetric_pairs(surface), metric))
        x = 0.1 * random(surface.w.numel(), seed=2)
        slope = objective.gradient(x)[2].flat()
        for seed in range(3):
            v = random(surface.w.numel(), seed=seed)
            ahead, behind = (float(objective.value(x + s * v)[0]) for s in (1e-5, -1e-5))
            assert float(slope @ v) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5, abs=1e-9)
        origin = objective.gradient(torch.zeros_like(x))[2].flat()
        assert torch.allclose(objective.origin().flat(), origin, atol=1e-12)


def test_parameters_leave_pairs_out():
    surface = PROBLEMS["attention"].surface()
    found = acutance.measure("geodesic_sharpness", surface, rho=0.1, parameters="v.*,o.*,head.*")
    assert (found.extras["query_key_pairs"], found.extras["value_output_pairs"]) == (0, 2)
    none = acutance.measure("geodesic_sharpness", surface, rho=0.1, parameters="head.*")
    assert none.status is Status.UNSUPPORTED and "no attention is found" in none.message


def test_models_without_attention_and_matrices_without_full_rank_are_told():
    found = acutance.measure("geodesic_sharpness", PROBLEMS["tanh_mlp"].surface(), rho=0.1)
    assert found.status is Status.UNSUPPORTED and "worst_case in the adaptive l2 ball" in found.message
    model = PROBLEMS["attention"].model()
    with torch.no_grad():
        model.q.weight.zero_()
        model.q.bias.zero_()
    found = acutance.measure("geodesic_sharpness", LossSurface(model, token_data()), rho=0.1)
    assert found.status is Status.UNSUPPORTED and "full rank" in found.message
    with pytest.raises(UserError, match=r"geodesic_sharpness\.metric"):
        acutance.measure("geodesic_sharpness", PROBLEMS["attention"].surface(), rho=0.1, metric="mixed")
