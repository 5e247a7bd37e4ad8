"""Which parameters are weight matrices, and the norms of these, against numbers worked out by hand and dense algebra."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import seeded
from acutance_classic.weights import matrix_norms
from acutance_classic.weights.weight_matrices import matrices


def drawn(model, seed=0):
    """The model in float64, with every parameter drawn anew."""
    model = model.double()
    generator = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def value(name, model, **settings):
    found = acutance.measure(name, model, **settings)
    assert found.status is Status.OK, found.message
    assert found.cost.units == 0
    return found.value


def message(name, model, **settings):
    found = acutance.measure(name, model, **settings)
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    return found.message


def diagonal(*rows):
    """Bias-free linear layers with these diagonals."""
    layers = [nn.Linear(len(row), len(row), bias=False) for row in rows]
    with torch.no_grad():
        for layer, row in zip(layers, rows, strict=True):
            layer.weight.copy_(torch.diag(torch.tensor(row)))
    return nn.Sequential(*layers).double()


TWO = ([3.0, 4.0], [2.0, -1.0])  # squared spectral norms 16, 4; squared Frobenius norms 25, 5
START = ([3.0, 2.0], [0.0, -1.0])  # moved by diag(0, 2) and diag(2, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stable_rank", (25 / 16 + 5 / 4) / 2),
        ("fro_over_spec", 25 / 16 + 5 / 4),
        ("log_product_of_spectral_norms", math.log(16 * 4)),
        ("log_sum_of_spectral_norms", math.log(2 * math.sqrt(16 * 4))),
        ("log_product_of_frobenius_norms", math.log(25 * 5)),
        ("log_sum_of_frobenius_norms", math.log(2 * math.sqrt(25 * 5))),
        ("spectral_orig_main", math.log(16 * 4 * (25 / 16 + 5 / 4))),
    ],
)
def test_two_diagonal_layers(name, expected):
    assert value(name, diagonal(*TWO)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frobenius_distance", 4 + 4 + 1),
        ("spectral_distance", 4 + 4),
        ("spectral_init_main", math.log(16 * 4 * (4 / 16 + 5 / 4))),
    ],
)
def test_two_diagonal_layers_that_have_moved(name, expected):
    start = diagonal([3.0, 2.0], [0.0, -2.0])
    assert value(name, diagonal(*TWO), initial=start) == pytest.approx(expected, rel=1e-14)
    assert message(name, diagonal(*TWO)).startswith("the initial weights of this model are not known: ")


def test_against_dense_linear_algebra():
    model = drawn(nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 4)))
    arrays = [layer.weight.detach().numpy() for layer in model]
    squares = [np.linalg.norm(a, 2) ** 2 for a in arrays]
    ranks = [np.linalg.norm(a) ** 2 / s for a, s in zip(arrays, squares, strict=True)]
    assert value("stable_rank", model) == pytest.approx(np.mean(ranks), rel=1e-12)
    assert value("log_product_of_spectral_norms", model) == pytest.approx(np.log(squares).sum(), rel=1e-12)
    found = acutance.measure("stable_rank", model).extras["layers"]
    assert found == pytest.approx({"0.weight": ranks[0], "1.weight": ranks[1]}, rel=1e-12)


# -- what is a weight matrix -----------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """As in transformers: the weight is (in, out)."""

    def __init__(self, out, into):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(into, out)), nn.Parameter(torch.zeros(out))


class Own(nn.Module):
    """A linear layer of one's own, with a table of positions."""

    def __init__(self):
        super().__init__()
        self.weight, self.positions = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(7, 2))


LAYERS = {
    "linear": (nn.Linear(3, 5), {"weight": (5, 3)}),
    "conv1d": (nn.Conv1d(4, 6, 3), {"weight": (6, 12)}),
    "conv2d": (nn.Conv2d(4, 6, 3, groups=2), {"weight": (6, 18)}),
    "conv3d": (nn.Conv3d(2, 3, 2), {"weight": (3, 16)}),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), {"weight": (6, 18)}),
    "transformers": (Conv1D(5, 3), {"weight": (5, 3)}),
    "own": (Own(), {"weight": (3, 2)}),
    "embedding": (nn.Embedding(7, 3), {"weight": (7, 3)}),
    "lstm": (nn.LSTM(2, 3), {f"weight_{k}_l0[{i}]": (3, n) for k, n in (("ih", 2), ("hh", 3)) for i in range(4)}),
    "rnn": (nn.RNN(2, 3), {"weight_ih_l0": (3, 2), "weight_hh_l0": (3, 3)}),
    "attention": (
        nn.MultiheadAttention(4, 2),
        {f"in_proj_weight[{which}]": (4, 4) for which in ("query", "key", "value")} | {"out_proj.weight": (4, 4)},
    ),
    "attention of two widths": (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        {"q_proj_weight": (4, 4), "k_proj_weight": (4, 3), "v_proj_weight": (4, 5), "out_proj.weight": (4, 4)},
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_and_their_matrices(kind):
    layer, shapes = LAYERS[kind]
    model = drawn(nn.Sequential(layer, nn.BatchNorm1d(3), nn.LayerNorm([2, 2])))
    found = matrices(LossSurface(model, None), "all")
    assert {m.name.removeprefix("0."): tuple(m.values.shape) for m in found} == shapes


def test_a_transposed_convolution_is_laid_out_by_its_outputs():
    layer = drawn(nn.ConvTranspose1d(4, 6, 1, groups=2, bias=False))
    (found,) = matrices(LossSurface(layer, None), "all")
    x = torch.randn(1, 4, 1, generator=seeded(1), dtype=torch.float64)
    rows = found.values.view(2, 3, 2)
    expected = torch.einsum("goi,gi->go", rows, x.view(2, 2)).flatten()
    assert torch.allclose(layer(x).flatten(), expected)


def test_a_table_tied_to_the_output_counts_once():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    assert [m.name for m in matrices(LossSurface(model, None), "all")] == ["embed.weight"]


def test_a_part_of_the_layers():
    model = diagonal(*TWO)
    assert value("stable_rank", model, parameters="1.*") == 5 / 4
    assert value("fro_over_spec", model, parameters="!1.*") == 25 / 16
    with pytest.raises(UserError, match="'head'"):
        acutance.measure("stable_rank", model, parameters="head")


def test_no_matrix_behind_a_pattern_is_one_sentence():
    told = message("stable_rank", nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), parameters="*bias")
    assert told.startswith("no weight matrix stands behind parameters '*bias': name the weights of")


def test_a_computed_weight_is_refused():
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        told = message("stable_rank", nn.Sequential(nn.Linear(3, 3), wrap(nn.Linear(3, 2))))
        assert told.startswith("the weight of '1' is computed from other parameters")
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(3, 2))
    assert "computed from other parameters" in message("fro_over_spec", nn.Sequential(old))


@pytest.mark.parametrize(
    "name", ["stable_rank", "fro_over_spec", "log_product_of_frobenius_norms", "spectral_orig_main"]
)
def test_a_matrix_of_zeros_is_named(name):
    assert message(name, diagonal([1.0, 2.0], [0.0, 0.0])).startswith("the weight matrix '1.weight' is zero")


def test_weights_that_stayed_where_they_were():
    model = diagonal(*TWO)
    assert value("spectral_distance", model, initial=model) == value("frobenius_distance", model, initial=model) == 0
    assert "every weight matrix is the initial one" in message("spectral_init_main", model, initial=model)


# -- precision -------------------------------------------------------------------------------------------------


def test_large_matrices_have_the_same_norm(monkeypatch):
    model = drawn(nn.Sequential(nn.Linear(60, 90), nn.Linear(90, 60)))
    names = ("stable_rank", "log_product_of_spectral_norms")
    exact = [value(name, model) for name in names] + [value("spectral_distance", model, initial=drawn(model, 3))]
    monkeypatch.setattr(matrix_norms, "WHOLE", 10)
    made = []
    monkeypatch.setattr(matrix_norms, "squared_singular_values", made.append)
    model = drawn(model)
    large = [value(name, model) for name in names]
    assert large == pytest.approx(exact[:2], rel=1e-9) and not made


def test_a_run_that_does_not_converge_gives_way_to_all_eigenvalues(monkeypatch):
    monkeypatch.setattr(matrix_norms, "PRODUCTS", 3)
    a = torch.randn(40, 50, generator=seeded(2), dtype=torch.float64)
    assert float(matrix_norms.largest_square(a)) == pytest.approx(np.linalg.norm(a.numpy(), 2) ** 2, rel=1e-13)


def test_singular_values_are_computed_once(monkeypatch):
    surface = LossSurface(drawn(nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 4))), None)
    made = []
    whole = matrix_norms.squared_singular_values
    monkeypatch.setattr(matrix_norms, "squared_singular_values", lambda a: made.append(a) or whole(a))
    for name in ("stable_rank", "fro_over_spec", "spectral_orig_main", "log_sum_of_spectral_norms"):
        acutance.measure(name, surface)
    assert len(made) == 2


# -- convolutions as operators ---------------------------------------------------------------------------------


def dense(layer, size):
    """The matrix of a layer on a periodic grid, one column an input."""
    axes = layer.weight.dim() - 2
    shape = (layer.in_channels, *[size] * axes)
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    reach = [(k - 1) * d for k, d in zip(layer.weight.shape[2:], layer.dilation, strict=True)]
    for axis, width in enumerate(reach, start=2):
        # Repeated as often as the kernel is wide: what lies beyond the grid is the grid again.
        basis = torch.cat([basis, *[basis] * math.ceil(width / size)], axis).narrow(axis, 0, size + width)
    apply = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[axes]
    out = apply(basis, layer.weight, stride=layer.stride, dilation=layer.dilation, groups=layer.groups)
    return out.flatten(1).detach().T.numpy()


CONVOLUTIONS = [
    (nn.Conv1d(3, 2, 3, bias=False), 7),
    (nn.Conv2d(2, 3, 3, bias=False), 4),
    (nn.Conv2d(2, 3, (1, 3), bias=False), 5),
    (nn.Conv2d(2, 3, 3, stride=2, bias=False), 6),
    (nn.Conv2d(2, 3, 3, stride=(1, 3), bias=False), 6),
    (nn.Conv2d(4, 6, 3, dilation=2, groups=2, bias=False), 4),
    (nn.Conv2d(2, 2, 5, bias=False), 3),
    (nn.Conv3d(2, 2, 2, stride=2, bias=False), 4),
]


@pytest.mark.parametrize(("layer", "size"), CONVOLUTIONS, ids=lambda v: str(v).replace(", bias=False", ""))
def test_a_convolution_as_an_operator_is_its_dense_matrix(layer, size):
    layer = drawn(layer)
    a = dense(layer, size)
    settings = {"convolution": "operator", "size": size}
    spectral, frobenius = np.linalg.norm(a, 2) ** 2, np.linalg.norm(a) ** 2
    assert value("log_product_of_spectral_norms", layer, **settings) == pytest.approx(np.log(spectral), rel=1e-10)
    assert value("fro_over_spec", layer, **settings) == pytest.approx(frobenius / spectral, rel=1e-10)
    reshaped = np.linalg.norm(layer.weight.detach().flatten(1).numpy(), 2) ** 2
    assert value("log_product_of_spectral_norms", layer) == pytest.approx(np.log(reshaped), rel=1e-10)


def test_a_transposed_convolution_has_the_norm_of_its_adjoint():
    layer = drawn(nn.Conv2d(2, 3, 3, stride=2, bias=False))
    back = nn.ConvTranspose2d(3, 2, 3, stride=2, bias=False).double()
    back.weight = layer.weight
    settings = {"convolution": "operator", "size": 6}
    assert value("fro_over_spec", back, **settings) == value("fro_over_spec", layer, **settings)


def test_a_distance_as_an_operator():
    layer, start = drawn(nn.Conv2d(2, 3, 3, bias=False)), drawn(nn.Conv2d(2, 3, 3, bias=False), 1)
    expected = np.linalg.norm(dense(layer, 4) - dense(start, 4), 2) ** 2
    found = value("spectral_distance", layer, initial=start, convolution="operator", size=4)
    assert found == pytest.approx(expected, rel=1e-12)


def test_frequencies_come_in_parts(monkeypatch):
    from acutance_classic.weights import circular

    layer = drawn(nn.Conv2d(2, 3, 3, stride=2, bias=False))
    settings = {"convolution": "operator", "size": 6}
    whole = value("fro_over_spec", layer, **settings)
    monkeypatch.setattr(circular, "ENTRIES", 50)
    assert value("fro_over_spec", layer, **settings) == pytest.approx(whole, rel=1e-13)


def test_a_stride_that_does_not_fit_the_grid_is_one_sentence():
    told = message("fro_over_spec", nn.Conv2d(2, 3, 3, stride=2), convolution="operator", size=7)
    assert "stride 2, which does not divide size = 7" in told


# -- over the margin -------------------------------------------------------------------------------------------

IDENTITY = ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
OVER_MARGIN = {
    "log_product_of_spectral_norms": 1.0, "log_sum_of_spectral_norms": 0.5, "log_product_of_frobenius_norms": 1.0,
    "log_sum_of_frobenius_norms": 0.5, "spectral_orig_main": 1.0, "spectral_init_main": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", OVER_MARGIN)
def test_the_margin_divides_once(name):
    x = torch.randn(21, 3, generator=seeded(4), dtype=torch.float64)
    y = x.argmax(1)
    x[:2] *= -1  # two of 21 points, the lowest tenth, are wrong
    logits = 2 * x.numpy()
    leads = [f[k] - np.delete(f, k).max() for f, k in zip(logits, y.tolist(), strict=True)]
    gamma = np.percentile(leads, 10)
    assert gamma > 0 > min(leads)
    model, start = diagonal(*IDENTITY), diagonal(*START)
    start = diagonal([0.0, 1.0, 1.0], [2.0, 2.0, 1.0])
    plain = acutance.measure(name, model, initial=start).value
    over = acutance.measure(name, model, (x, y), initial=start, margin=True)
    assert over.value == pytest.approx(plain - OVER_MARGIN[name] * 2 * math.log(gamma), rel=1e-12)
    assert over.cost.forwards == 21 and over.cost.backwards == 0


def test_a_misfit_is_no_margin():
    x, y = torch.eye(3, dtype=torch.float64), torch.tensor([1, 2, 0])
    found = acutance.measure("spectral_orig_main", diagonal(*IDENTITY), (x, y), margin=True)
    assert found.status is Status.UNSUPPORTED and "10th percentile of the output margins) is -2:" in found.message
    with pytest.raises(UserError, match="needs data"):
        acutance.measure("spectral_orig_main", diagonal(*IDENTITY), margin=True)


def test_no_classes_no_margin():
    surface = LossSurface(diagonal([1.0, 2.0]), (torch.eye(2), torch.eye(2)), loss="mse")
    found = acutance.measure("log_product_of_spectral_norms", surface, margin=True)
    assert found.status is Status.UNSUPPORTED and found.message.startswith("a margin needs class labels")


@pytest.mark.parametrize("settings", [{"size": 0}, {"convolution": "fft"}, {"margin": 1}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UserError, match=f"log_product_of_spectral_norms.{next(iter(settings))}"):
        acutance.measure("log_product_of_spectral_norms", diagonal(*TWO), **settings)
