"""On a quadratic loss, in float64, everything that a landscape says has a closed form."""

import math

import numpy as np
import pytest
import torch
from models import MLP, ConvBN, conv_data, mlp_data, seeded
from pairs_of_models import IMAGES, KINDS, X, Y, compared, conv_bn, mlp
from torch import nn

import acutance
from acutance import LossSurface
from acutance.errors import UserError
from acutance.numerics.lanczos import Lanczos
from acutance.workflows.landscape.ends import End
from acutance.workflows.landscape.frames import Place, box, coordinates, plane, signed, trajectory
from acutance.workflows.landscape.normalizing import normalized
from acutance.workflows.landscape.result import barrier


def quadratic(p=5, n=40, seed=0):
    """A linear model with mean squared error: L(w) = |y - X w|^2 / n, H = 2 X'X / n."""
    x = torch.randn(n, p, generator=seeded(seed), dtype=torch.float64) * torch.arange(1, p + 1)
    y = torch.randn(n, 1, generator=seeded(seed + 1), dtype=torch.float64)
    model = nn.Linear(p, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, p, generator=seeded(seed + 2), dtype=torch.float64))
    return model, x, y


def loss_at(x, y, w):
    return float((y[:, 0] - x @ w).square().mean())


def hessian(x):
    return 2 * x.T @ x / len(x)


def landscape(model, data, *args, **kwargs):
    return acutance.landscape(model, data, *args, loss="mse", **{"grid": 5, **kwargs})


def test_values_along_eigenvectors_are_the_parabolas_of_their_eigenvalues():
    model, x, y = quadratic()
    w, (values, vectors) = model.weight.detach()[0], torch.linalg.eigh(hessian(x))
    seen = landscape(model, {"train": (x, y), "shift": (x + 1, y)}, "eigenvectors", extent=2.0)
    v1, v2 = signed(vectors[:, -1]), signed(vectors[:, -2])
    assert [axis["norm"] for axis in seen.about["axes"]] == pytest.approx([1, 1])
    assert seen.about["axes"][0]["relative"] == pytest.approx(1 / float(w.norm()))
    for split, points in (("train", x), ("shift", x + 1)):
        a, b, found = seen.grid(split)
        assert a.tolist() == b.tolist() == [-2, -1, 0, 1, 2]
        wanted = [[loss_at(points, y, w + s * v1 + t * v2) for s in a] for t in b]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # The gradient does not vanish at w*, so a parabola along v has the curvature of its eigenvalue alone.
    a, b, found = seen.grid("train")
    assert found[2, 3] + found[2, 1] - 2 * found[2, 2] == pytest.approx(float(values[-1]), rel=1e-8)
    assert found[3, 2] + found[1, 2] - 2 * found[2, 2] == pytest.approx(float(values[-2]), rel=1e-8)


def test_the_share_of_the_trace_in_the_plane_is_that_of_the_eigenvalues():
    model, x, y = quadratic()
    values = torch.linalg.eigvalsh(hessian(x))
    found = landscape(model, (x, y), "eigenvectors").curvature
    assert found["trace"] == pytest.approx(float(values.sum())) and found["trace_stderr"] == 0
    assert found["trace_share"] == pytest.approx(float(values[-2:].sum() / values.sum()), rel=1e-8)
    # The plane holds the steepest direction itself, which no direction exceeds.
    assert found["top_share"] == 1.0 and found["lambda_max"] == found["plane_top"] and found["parameters"] == 5
    one = landscape(model, (x, y), "eigenvectors", dimensions=1).curvature
    assert one["plane_trace"] == pytest.approx(float(values[-1]), rel=1e-8) and one["dimensions"] == 1


def test_the_share_of_a_random_plane_is_that_of_its_orthonormal_basis():
    model, x, y = quadratic(p=7)
    seen = landscape(model, (x, y), "random", normalize="none", probes=4)
    rng = acutance.Streams("landscape", 0)
    like = model.weight.detach()[0]
    d = torch.stack([rng.normal("direction", k, like) for k in range(2)], dim=1)
    q, _ = torch.linalg.qr(d)
    small = q.T @ hessian(x) @ q
    found = seen.curvature
    assert found["plane_trace"] == pytest.approx(float(small.trace()), rel=1e-9)
    assert found["plane_top"] == pytest.approx(float(torch.linalg.eigvalsh(small)[-1]), rel=1e-9)
    # 4 probes of 7 dimensions are an estimate, with its error.
    assert found["trace"] == pytest.approx(float(hessian(x).trace()), abs=4 * found["trace_stderr"])
    relative = found["trace_stderr"] / found["trace"]
    assert found["trace_share_stderr"] == pytest.approx(found["trace_share"] * relative) and relative > 0
    assert [axis["norm"] for axis in seen.about["axes"]] == pytest.approx(d.norm(dim=0).tolist())
    a, b, values = seen.grid()
    w = model.weight.detach()[0]
    assert values[4, 1] == pytest.approx(loss_at(x, y, w + a[1] * d[:, 0] + b[4] * d[:, 1]), rel=1e-12)


def test_the_gradient_is_the_direction_in_which_the_loss_rises_by_its_square():
    model, x, y = quadratic()
    w = model.weight.detach()[0]
    g = 2 * x.T @ (x @ w - y[:, 0]) / len(x)
    seen = landscape(model, (x, y), "gradient", extent=0.01)
    a, _, values = seen.grid()
    assert seen.dimensions == 1 and seen.about["axes"][0]["norm"] == pytest.approx(float(g.norm()))
    np.testing.assert_allclose(values[0], [loss_at(x, y, w + t * g) for t in a], rtol=1e-12)
    both = landscape(model, (x, y), ("gradient", "eigenvectors"), extent=0.01)
    assert [axis["name"] for axis in both.about["axes"]] == ["gradient", "eigenvector 1"]


def test_a_second_eigenvector_is_found_where_one_run_sees_a_single_one():
    """H = 2 I: every vector is an eigenvector, and Lanczos ends after one product."""
    x = torch.eye(4, dtype=torch.float64) * 2
    model = nn.Linear(4, 1, bias=False).double()
    seen = landscape(model, (x, torch.zeros(4, 1, dtype=torch.float64)), "eigenvectors")
    assert seen.curvature["plane_trace"] == pytest.approx(4.0) and seen.curvature["trace_share"] == pytest.approx(0.5)


def test_ritz_vectors_are_eigenvectors_of_length_one():
    a = torch.diag(torch.tensor([9.0, 4.0, 1.0, -3.0], dtype=torch.float64))
    run = Lanczos(torch.ones(4, dtype=torch.float64))
    run.extend(lambda x: a @ x, 4)
    one, two = run.vectors(2)
    assert one.abs().tolist() == pytest.approx([1, 0, 0, 0], abs=1e-9)
    assert two.abs().tolist() == pytest.approx([0, 1, 0, 0], abs=1e-9)
    assert len(run.vectors(9)) == 4
    run.forget()
    with pytest.raises(RuntimeError, match="freed"):
        run.vectors(1)


def test_filter_normalization_is_its_formula():
    """d_ij <- d_ij / |d_ij| * |w_ij| for every filter (Li et al. 2018); biases and norm weights stay."""
    surface = LossSurface(ConvBN(), conv_data())
    noise = acutance.Streams("landscape", 0).normal("direction", 0, surface.w)
    found = surface.unflatten(normalized(surface, noise.clone(), "filter", True, True))
    for name, w in surface.unflatten(surface.w).items():
        u = surface.unflatten(noise)[name]
        if w.dim() == 1:
            assert not found[name].any()
            continue
        for f in range(len(w)):
            wanted = u[f] / u[f].norm() * w[f].norm()
            torch.testing.assert_close(found[name][f], wanted, rtol=1e-12, atol=0)
    moved = surface.unflatten(normalized(surface, noise.clone(), "filter", True, False))
    for name, w in surface.unflatten(surface.w).items():
        if w.dim() == 1:
            torch.testing.assert_close(moved[name].norm(), w.norm())
    layers = surface.unflatten(normalized(surface, noise.clone(), "layer", True, True))
    for name, w in surface.unflatten(surface.w).items():
        if w.dim() > 1:
            u = surface.unflatten(noise)[name]
            torch.testing.assert_close(layers[name], u / u.norm() * w.norm(), rtol=1e-12, atol=0)
    each = normalized(surface, noise.clone(), "elementwise", True, True)
    torch.testing.assert_close(each, noise * surface.w.abs(), rtol=0, atol=0)
    given = normalized(surface, 7 * noise, "elementwise", False, True)
    wanted = noise * surface.w.abs() * noise.numel() ** 0.5 / noise.norm()
    torch.testing.assert_close(given, wanted)


class Rescaled(nn.Module):
    """A ReLU network whose hidden neurons are multiplied by alpha, and their outgoing weights divided by it."""

    def __init__(self, alpha):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False)).double()
        alpha = torch.as_tensor(alpha, dtype=torch.float64).expand(8)
        with torch.no_grad():
            self.net[0].weight.mul_(alpha[:, None])
            self.net[0].bias.mul_(alpha)
            self.net[2].weight.div_(alpha[None])

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("normalize", ["filter", "layer", "elementwise"])
def test_rescaling_a_layer_leaves_normalized_slices_alone(normalize):
    data = mlp_data()
    slices = [
        acutance.landscape(Rescaled(alpha), data, normalize=normalize, grid=3, curvature=False, fixed_vectors=False)
        for alpha in (1.0, 4.0)
    ]
    np.testing.assert_allclose(slices[0].grid()[2], slices[1].grid()[2], rtol=1e-12)
    raw = [acutance.landscape(Rescaled(alpha), data, normalize="none", grid=3, curvature=False) for alpha in (1.0, 4.0)]
    assert np.abs(raw[0].grid()[2] - raw[1].grid()[2]).max() > 0.01


def test_rescaling_single_neurons_leaves_elementwise_slices_alone_and_not_those_by_filter():
    """A filter of the next layer mixes neurons of different factors: its norm is no unit that follows them."""
    alpha, data = 2.0 ** torch.arange(-4, 4), mlp_data()

    def pair(normalize):
        return [
            acutance.landscape(Rescaled(a), data, normalize=normalize, grid=3, curvature=False).grid()[2]
            for a in (1.0, alpha)
        ]

    np.testing.assert_allclose(*pair("elementwise"), rtol=1e-12)
    one, other = pair("filter")
    assert np.abs(one - other).max() > 1e-3


def test_what_a_measure_finds_lies_at_one_with_its_value():
    model, data = MLP(), mlp_data()
    settings = {"rho": 0.1, "norm": "l2", "steps": 5}
    estimate = acutance.measure("worst_case", model, data, **settings)
    seen = acutance.landscape(model, data, "worst_case", settings=settings, grid=3, curvature=False)
    a, _, values = seen.grid()
    assert a.tolist() == [-1, 0, 1]
    assert values[0, 2] - values[0, 1] == pytest.approx(estimate.value, rel=1e-9)
    assert values[0, 1] == pytest.approx(estimate.extras["clean_loss"], rel=1e-12)


@pytest.mark.parametrize(("make", "points"), [(mlp, (X, Y)), (conv_bn, (IMAGES, KINDS))])
def test_the_barrier_of_a_segment_is_that_of_the_measure_of_pairs(make, points):
    one, two = make(0), make(1)
    options = {"grid": 11, "curvature": False}
    for buffers, batch_norm in (("interpolated", "eval"), ("recalibrated", "recalibrated")):
        for of in ("loss", "error"):
            (estimate, _), _ = compared([one, two], points, of=of, buffers=buffers)
            seen = acutance.landscape(one, points, "segment", checkpoints=[two], batch_norm=batch_norm, **options)
            assert estimate.value > 0
            assert seen.barrier["data"][of]["height"] == pytest.approx(estimate.value, rel=1e-9)
    seen = acutance.landscape(one, points, "segment", checkpoints=[two], **options)
    a, _, values = seen.grid()
    at = seen.barrier["data"]["loss"]["at"]
    chord = (1 - a) * values[0, 0] + a * values[0, -1]
    assert (values[0] - chord).max() == pytest.approx(seen.barrier["data"]["loss"]["height"])
    assert at == a[(values[0] - chord).argmax()]


def test_the_ends_of_a_segment_are_the_models_themselves_with_their_statistics():
    torch.manual_seed(2)
    one, two = ConvBN(), ConvBN()
    with torch.no_grad():
        for p in two.parameters():
            p.add_(0.1 * torch.randn_like(p))
    for b in two.buffers():
        if b.is_floating_point():
            b.mul_(1.5)
    data = conv_data()
    seen = acutance.landscape(one, data, "segment", checkpoints=[two], grid=2, curvature=False)
    losses = seen.table["loss"].tolist()
    assert losses == [float(LossSurface(one, data).loss()), float(LossSurface(two, data).loss())]
    assert seen.about["batch_norm"] == "eval"
    wide = acutance.landscape(one, data, "segment", checkpoints=[two], grid=4, extent=3.0, curvature=False)
    assert wide.grid()[0].tolist() == [-1, 0, 1, 2] and wide.grid()[2][0, 1:3].tolist() == losses


def test_a_barrier_is_above_the_chord_and_has_its_place():
    assert barrier([0, 0.5, 1], [1.0, 4.0, 3.0]) == {"height": 2.0, "at": 0.5}
    assert barrier([-1, 0, 0.5, 1, 2], [99.0, 1.0, 1.0, 3.0, 99.0]) == {"height": 0.0, "at": 0.0}
    assert barrier([0, 0.5, 1], [1.0, math.nan, 3.0]) is None
    assert barrier([0, 0.5, 1], [1.0, math.inf, 3.0]) is None


def shifted(model, delta):
    other = nn.Linear(model.in_features, 1, bias=False).double()
    with torch.no_grad():
        other.weight.copy_(model.weight + delta)
    return other


def test_a_plane_goes_through_its_three_checkpoints():
    model, x, y = quadratic()
    w = model.weight.detach()[0]
    d1, d2 = torch.tensor([3.0, 0, 0, 0, 0]).double(), torch.tensor([1.0, 2.0, 0, 0, 0]).double()
    others = [shifted(model, d1), shifted(model, d2)]
    seen = landscape(model, (x, y), "plane", checkpoints=others, names=["b", "c"])
    marks = {name: tuple(place) for name, place in seen.about["marks"].items()}
    assert marks["model"] == (0, 0) and marks["b"] == pytest.approx((3, 0)) and marks["c"] == pytest.approx((1, 2))
    rows = seen.table[seen.table["mark"] != ""].set_index("mark")["loss"]
    for name, delta in (("model", 0 * d1), ("b", d1), ("c", d2)):
        assert rows[name] == pytest.approx(loss_at(x, y, w + delta), rel=1e-10)
    assert set(seen.table.columns) >= {"on_grid"} and int(seen.table["on_grid"].sum()) == 25


def test_a_trajectory_is_projected_onto_its_principal_components():
    model, x, y = quadratic()
    w = model.weight.detach()[0]
    deltas = torch.randn(4, 5, generator=seeded(9), dtype=torch.float64)
    deltas[:, 0] *= 9
    seen = landscape(model, (x, y), "pca", checkpoints=[shifted(model, d) for d in deltas])
    every = torch.cat([deltas, torch.zeros(1, 5, dtype=torch.float64)])
    centred = every - every.mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    assert seen.about["explained"] == pytest.approx((s.square() / s.square().sum())[:2].tolist(), rel=1e-9)
    axes = torch.stack([signed(v[0]), signed(v[1])])
    np.testing.assert_allclose(seen.about["path"], (every @ axes.T).numpy(), atol=1e-9)
    a, b, values = seen.grid()
    assert values[0, 0] == pytest.approx(loss_at(x, y, w + a[0] * axes[0] + b[0] * axes[1]), rel=1e-9)
    path = np.array(seen.about["path"])
    assert (a[0] < path[:, 0]).all() and (path[:, 0] < a[-1]).all() and (b[0] < path[:, 1]).all()


@pytest.mark.parametrize("through", [plane, trajectory])
def test_axes_are_orthogonal_where_checkpoints_lie_almost_on_one_line(through):
    torch.manual_seed(0)
    surface = LossSurface(nn.Linear(400, 5), (torch.randn(16, 400), torch.arange(16) % 5))
    d, beside = (torch.randn(surface.size, generator=seeded(k)) for k in (1, 2))
    ends = [End("b", surface.w + d, {}), End("c", surface.w + 3 * d + 0.02 * beside, {})]
    one, other = (axis.vector.double() for axis in through(surface, "key", ends).axes)
    assert abs(float(one @ other)) < 3e-7  # float32; what is left of 3 d after one projection is 50 times as much
    assert float(one.norm()) == pytest.approx(1, abs=3e-7) and float(other.norm()) == pytest.approx(1, abs=3e-7)


def test_a_flat_path_has_a_picture_with_room_above_and_below():
    spans = box([Place(-1.0, 0.0), Place(3.0, 0.0)])
    assert spans == (pytest.approx((-1.5, 3.5)), pytest.approx((-0.25, 0.25)))


def test_several_lines_are_along_directions_of_their_own():
    model, x, y = quadratic()
    seen = landscape(model, (x, y), "random", draws=3, normalize="none", grid=3)
    a, draws, values = seen.grid()
    w, rng = model.weight.detach()[0], acutance.Streams("landscape", 0)
    assert draws.tolist() == [0, 1, 2]
    for k in range(3):
        d = rng.normal("direction", k, w)
        np.testing.assert_allclose(values[k], [loss_at(x, y, w + t * d) for t in a], rtol=1e-12)
    assert seen.about["axes"][0]["name"] == "random 1 to 3" and seen.curvature["planes"] == 3


def test_coordinates_are_numbers_that_grids_share():
    assert coordinates(-0.3, 0.3, 7) == [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]
    assert set(coordinates(-0.5, 0.5, 11)) <= set(coordinates(-1, 1, 21))
    assert Place(0.5) == Place(0.5, 0.0)


def test_errors_stand_beside_losses_where_there_are_classes():
    model, data = MLP(), mlp_data()
    seen = acutance.landscape(model, data, grid=3, curvature=False)
    surface = LossSurface(model, data)
    middle = seen.table[(seen.table["a"] == 0) & (seen.table["b"] == 0)].iloc[0]
    assert middle["error"] == pytest.approx(float(surface.errors().mean()))
    assert middle["loss"] == pytest.approx(float(surface.loss()), rel=1e-12)
    model, x, y = quadratic()
    assert landscape(model, (x, y), curvature=False).table["error"].isna().all()


def test_curvature_that_is_skipped_or_not_to_be_had_is_said():
    model, data = MLP(), mlp_data()
    assert "not asked for" in acutance.landscape(model, data, grid=2, curvature=False).about["carries"]
    with pytest.raises(UserError, match="probes"):
        acutance.landscape(model, data, grid=2, probes=0)


@pytest.mark.parametrize(("stderr", "told"), [(0.45, True), (0.55, False), (0.0, True)])
def test_a_share_of_a_trace_is_told_where_the_trace_is_two_errors_from_zero(monkeypatch, stderr, told):
    from acutance.workflows.landscape import curvature

    for trace in (1.0, -1.0):
        monkeypatch.setattr(curvature, "_trace", lambda surface, probes, seed, trace=trace: (trace, stderr))
        surface = LossSurface(MLP(), mlp_data())
        found = curvature.carried(surface, [torch.eye(2, dtype=torch.float64)], 4, 0)
        assert found["trace_share"] == (2 / trace if told else None)
        assert found["trace_share_stderr"] == (pytest.approx(2 * stderr) if told else None)
        assert ("is not told from 0" in curvature.in_words(found)) is not told
