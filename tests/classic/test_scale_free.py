"""Sharpness at the best scales, against optimizers that know no closed form, dense matrices and rescaled twins."""

import bias_free
import numpy as np
import pytest
import torch
from bias_free import Plain
from scipy.optimize import minimize
from torch import nn

import acutance
from acutance import LossSurface, Status
from acutance.numerics.draws import Streams
from acutance.testing.models import MLP, mlp_data
from acutance.testing.problems import PROBLEMS
from acutance_classic.flatness.diagonals import gauss_newton_roots, level
from acutance_classic.flatness.scale_free_numerics import solved


def least(h, s):
    return solved(h, s)[0]


def dense(surface, product):
    view = surface
    return torch.stack([getattr(view, product)(e) for e in torch.eye(view.w.numel(), dtype=view.w.dtype)])


def brute(h, s):
    """The least of sum h a b + s / (a b), by a general optimizer in the logarithms."""
    h, s, (m, k) = h.numpy(), s.numpy(), h.shape

    def f(x):
        t = np.exp(x[:m, None] + x[None, m:])
        up, down = h * t, s / t
        d = up - down
        return (up + down).sum(), np.concatenate([d.sum(1), d.sum(0)])

    return minimize(f, np.zeros(m + k), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000}).fun


@pytest.mark.parametrize("seed", range(4))
def test_the_solver_finds_the_least_of_a_general_optimizer(seed):
    g = torch.Generator().manual_seed(seed)
    h, s = (10 ** torch.randn(3 + seed, 4, generator=g, dtype=torch.float64) for _ in range(2))
    assert least(h, s) == pytest.approx(brute(h, s), rel=1e-7)
    rows, columns = 10 ** torch.randn(3 + seed, 1, generator=g, dtype=torch.float64), 10 ** torch.randn(4, generator=g)
    scale = rows * columns.double()
    assert least(h / scale, s * scale) == pytest.approx(least(h, s), rel=1e-9)


def test_a_single_entry_and_empty_rows():
    assert least(torch.tensor([[9.0]]).double(), torch.tensor([[4.0]]).double()) == pytest.approx(2 * 6)
    h, s = torch.rand(3, 4).double(), torch.rand(3, 4).double()
    whole = least(h, s)
    h4, s4 = (torch.cat([m, torch.zeros(1, 4).double()]) for m in (h, s))
    assert least(h4, s4) == pytest.approx(whole, rel=1e-9)
    h4[3], s4[3] = 1.0, 0.0  # curvature without a weight: its scale goes to zero
    assert least(h4, s4) == pytest.approx(whole, rel=1e-9)
    h4[3], s4[3] = 0.0, 1.0
    assert least(h4, s4) == pytest.approx(whole, rel=1e-9)
    assert least(torch.zeros(2, 2).double(), s[:2, :2]) == 0


@pytest.mark.parametrize("name", ["tanh_mlp", "conv_bn"])
def test_it_is_the_sum_over_layers_of_the_exact_diagonal(name):
    surface = PROBLEMS[name].surface()
    weights = [layer for layer in surface.layers if "Linear" in layer[1] or "Conv" in layer[1]]
    diagonal, expected, negative, count = dense(surface, "hvp").diagonal(), 0.0, 0, 0
    for _, _, shape, part in weights:
        if len(shape) > 1:
            h, s = diagonal[part], surface.w[part].square()
            negative, count = negative + int((h < 0).sum()), count + h.numel()
            expected += brute(h.clamp_min(0).view(*shape[:2], -1).sum(-1), s.view(*shape[:2], -1).sum(-1))
    found = acutance.measure("normalized_sharpness", PROBLEMS[name].surface(), probes=1000)
    assert found.value == pytest.approx(expected, rel=1e-6) and found.cost.hvps == count * surface.n
    assert found.extras["negative_share"] == pytest.approx(negative / count)
    assert (negative > 0) == (name == "tanh_mlp")
    again = acutance.measure("normalized_sharpness", PROBLEMS[name].surface(), probes=1000, seed=1)
    assert again.value == found.value


def test_groups_are_matrices_of_their_own():
    torch.manual_seed(0)
    grouped = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 3)).double()
    whole = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        whole[0].weight.zero_()
        whole[0].weight[:3, :2], whole[0].weight[3:, 2:] = grouped[0].weight[:3], grouped[0].weight[3:]
        whole[0].bias.copy_(grouped[0].bias)
    whole[2] = grouped[2]
    points = torch.randn(8, 4, 3, 3).double(), torch.randint(0, 3, (8,))
    mask = torch.zeros(6, 4, 9, dtype=torch.bool)
    mask[:3, :2] = mask[3:, 2:] = True
    view = LossSurface(whole, points).restricted("0.weight")
    h = dense(view, "hvp").diagonal().view(6, 4, 9).clamp_min(0)
    expected = sum(brute(h[r, c].sum(-1), view.w.view(6, 4, 9)[r, c].square().sum(-1))
                   for r, c in ((slice(3), slice(2)), (slice(3, 6), slice(2, 4))))  # fmt: skip
    found = acutance.measure("normalized_sharpness", LossSurface(grouped, points), parameters="0.weight", probes=200)
    assert found.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
@pytest.mark.parametrize("twin", bias_free.TWINS[:2], ids=["layer", "neuron"])
def test_rescaling_changes_nothing(curvature, twin):
    # Exact diagonal, or the same signs on the logits for both.
    values = [acutance.measure("normalized_sharpness", p.surface(), curvature=curvature, probes=400).value
              for p in (twin.original, twin.changed)]  # fmt: skip
    assert values[0] == pytest.approx(values[1], rel=1e-8) and values[0] > 0


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_roots_have_the_gauss_newton_matrix_as_their_covariance(loss):
    x, y = mlp_data()
    targets = y if loss == "cross_entropy" else torch.randn(24, 4).double()
    surface = LossSurface(MLP(dims=(6, 4)), (x, targets), loss=loss)
    roots = torch.stack(list(gauss_newton_roots(surface, 1000, Streams("test"))))
    exact = dense(surface, "ggnvp")
    assert float((roots.T @ roots / 1000 - exact).norm() / exact.norm()) < 0.2
    assert float(roots.square().sum(1).mean()) == pytest.approx(float(exact.trace()), rel=0.04)


def test_estimated_diagonals_agree_with_exact_ones():
    exact = acutance.measure("normalized_sharpness", PROBLEMS["softmax"].surface(), probes=1000).value
    for curvature in ("hessian", "ggn"):  # of a linear model they are the same
        found = acutance.measure("normalized_sharpness", PROBLEMS["softmax"].surface(), probes=1000 if curvature == "ggn" else 23,
                                 curvature=curvature)  # fmt: skip
        assert found.value == pytest.approx(exact, rel=0.05 if curvature == "ggn" else 0.4)
        assert found.value != exact


def test_minimum_sharpness_is_the_least_over_the_scales_of_the_layers():
    surface = bias_free.PROBLEM.surface()
    g = dense(surface, "ggnvp").diagonal()
    traces = [float(g[part].sum()) for _, _, _, part in surface.layers]
    closed = 3 * np.prod(traces) ** (1 / 3)
    searched = minimize(
        lambda x: sum(t * np.exp(-2 * s) for t, s in zip(traces, [*x, -sum(x)])), np.zeros(2), tol=1e-14
    )
    assert closed == pytest.approx(searched.fun, rel=1e-8)
    found = acutance.measure("minimum_sharpness", surface, probes=300)
    assert abs(found.value - closed) <= 4 * found.stderr and found.stderr < 0.1 * closed
    # At the best scales the layers of a rescaled twin weigh the same: the value is that of any other twin.
    twin = bias_free.TWINS[0]
    assert acutance.measure("minimum_sharpness", twin.changed.surface(), probes=300).value == pytest.approx(
        found.value, rel=1e-9
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [(Plain(bias=True), "biases and normalization"), (Plain(activation=torch.tanh), "should be 1.25^3"),
     (Plain(residual=True), "residual path"), (Plain(norm=True), "normalization")],
)  # fmt: skip
def test_minimum_sharpness_is_refused_where_its_scales_change_the_function(model, why):
    found = acutance.measure("minimum_sharpness", LossSurface(model, mlp_data()))
    assert found.status is Status.UNSUPPORTED and why in found.message


def test_what_has_no_matrices_or_no_known_curvature_is_told():
    found = acutance.measure("normalized_sharpness", PROBLEMS["slope"].surface())
    assert found.status is Status.UNSUPPORTED and "no linear map or convolution" in found.message
    own = LossSurface(Plain(), mlp_data(), loss=lambda f, y: nn.functional.cross_entropy(f, y))
    for measure, settings in (("minimum_sharpness", {}), ("normalized_sharpness", {"curvature": "ggn"})):
        found = acutance.measure(measure, own, **settings)
        assert found.status is Status.UNSUPPORTED and "a loss of one's own" in found.message
    with torch.no_grad():
        dead = Plain()
        dead.layers[0].weight.copy_(-dead.layers[0].weight.abs())
    found = acutance.measure("minimum_sharpness", LossSurface(dead, (mlp_data()[0].abs(), mlp_data()[1])))
    assert found.status is Status.UNSUPPORTED


def rescaled(s):
    """A network of rectified units, float64, with one layer s times as large and the next as much smaller."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    with torch.no_grad():
        net[0].weight.mul_(s), net[0].bias.mul_(s), net[2].weight.div_(s)
    return net


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_estimates_at_default_settings_survive_strong_rescalings(curvature):
    plain, scaled = (acutance.measure("normalized_sharpness", rescaled(s), mlp_data(), curvature=curvature, probes=40)
                     for s in (1, 100))  # fmt: skip
    assert scaled.value == pytest.approx(plain.value, rel=1e-6) and scaled.status is plain.status


def test_what_noise_lifts_is_not_ok():
    net, data = rescaled(1), mlp_data()
    exact = acutance.measure("normalized_sharpness", net, data, probes=1000)
    assert exact.status is Status.OK and exact.stderr is None and exact.extras["clipped_noise"] == 0
    rough = acutance.measure("normalized_sharpness", net, data, probes=4)
    assert rough.status is Status.NOT_CONVERGED and "curvature: ggn" in rough.message
    assert rough.value > 1.05 * exact.value
    # The diagonal of a piecewise linear network's Hessian is that of its Gauss-Newton matrix.
    found = acutance.measure("normalized_sharpness", net, data, curvature="ggn", probes=400)
    assert abs(found.value - exact.value) < 5 * found.stderr and found.stderr < 0.05 * exact.value


def test_the_levels_follow_rows_and_columns():
    surface = LossSurface(nn.Sequential(nn.Conv2d(4, 6, 2, groups=2, bias=False), nn.Flatten()).double(),
                          (torch.randn(4, 4, 2, 2).double(), torch.randint(0, 6, (4,))))  # fmt: skip
    c = level(surface)
    squares = (surface.w / c).square().view(2, 3, 2, 4).sum(-1)
    assert squares.mean(2).flatten().tolist() == pytest.approx([1] * 6, rel=1e-6)
    assert squares.mean(1).flatten().tolist() == pytest.approx([1] * 4, rel=1e-6)
    assert bool((c.view(6, 2, 4) == c.view(6, 2, 4)[..., :1]).all())


def test_weights_that_a_layer_computes_are_refused_in_words():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))).double()
    found = acutance.measure("normalized_sharpness", net, mlp_data())
    assert found.status is Status.UNSUPPORTED and "computed from other parameters" in found.message
