"""Fits to spectra of weights, against maximum likelihood by brute force, exact laws and a numerical integral."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import seeded
from acutance_classic.weights import matrix_norms
from acutance_classic.weights.layer_spectra import Layer
from acutance_classic.weights.power_laws import marchenko_pastur_median, power_law

NAMES = ("power_law_alpha", "alpha_hat", "log_alpha_norm", "mp_soft_rank")


def with_spectrum(*spectra):
    """Linear layers whose squared singular values are these."""
    generator, layers = seeded(0), []
    for squares in spectra:
        n = len(squares)
        turns = [torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0] for k in (n, n + 3)]
        layer = nn.Linear(n + 3, n, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(turns[0] @ torch.diag(torch.tensor(squares, dtype=torch.float64).sqrt()) @ turns[1][:n])
        layers.append(layer)
    return nn.Sequential(*layers)


def by_the_book(x):
    """(alpha, xmin, tail, distance): every start of a tail, one after the other, by the formulas of the paper."""
    x, best = np.sort(x), None
    for i in range(len(x) - 1):
        if (i and x[i] == x[i - 1]) or x[i] == x[-1]:
            continue
        tail = x[i:]
        alpha = 1 + len(tail) / np.log(tail / x[i]).sum()
        law = 1 - (tail / x[i]) ** (1 - alpha)
        smaller = np.arange(len(tail)) / len(tail)
        distance = np.abs(law - smaller).max()
        if best is None or distance < best[3]:
            best = (alpha, x[i], len(tail), distance)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_a_fit_is_that_of_the_formulas(seed):
    x = np.random.default_rng(seed).pareto(1.5, 60 + 200 * seed) + 0.2
    fit = power_law(torch.tensor(np.sort(x)))
    assert (fit.alpha, fit.xmin, fit.tail, fit.distance) == pytest.approx(by_the_book(x), rel=1e-10)
    assert fit.stderr == pytest.approx((fit.alpha - 1) / math.sqrt(fit.tail), rel=1e-15)


def test_ties_are_one_start():
    x = np.array([1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 5.0, 9.0, 9.0])
    fit = power_law(torch.tensor(x))
    assert (fit.alpha, fit.xmin, fit.tail, fit.distance) == pytest.approx(by_the_book(x), rel=1e-12)


def test_the_exponent_of_exact_quantiles():
    alpha, n = 2.5, 2000
    x = (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))
    fit = power_law(torch.tensor(x))
    assert fit.alpha == pytest.approx(alpha, abs=2 * fit.stderr) and fit.alpha == pytest.approx(alpha, rel=0.01)
    assert fit == power_law(torch.tensor([1e-3, *x]))  # what lies below the tail does not count


def test_the_measures_of_known_spectra():
    spectra = [np.sort(np.random.default_rng(k).pareto(2.0, 30 + k) + 1.0) for k in (1, 2)]
    surface = LossSurface(with_spectrum(*spectra), None)
    alphas = [by_the_book(x)[0] for x in spectra]
    expected = {
        "power_law_alpha": np.mean(alphas),
        "alpha_hat": np.mean([a * np.log10(x.max()) for a, x in zip(alphas, spectra, strict=True)]),
        "log_alpha_norm": np.mean([np.log10((x**a).sum()) for a, x in zip(alphas, spectra, strict=True)]),
    }
    for name, number in expected.items():
        found = acutance.measure(name, surface)
        assert found.value == pytest.approx(number, rel=1e-9) and found.cost.units == 0
    extras = acutance.measure("power_law_alpha", surface).extras
    alpha, xmin, tail, distance = by_the_book(spectra[0])
    stderr = (alpha - 1) / math.sqrt(tail)
    assert extras["layers"]["0.weight"] == pytest.approx(
        {"alpha": alpha, "xmin": xmin, "tail": tail, "distance": distance, "stderr": stderr}, rel=1e-9
    )
    errors = [layer["stderr"] for layer in extras["layers"].values()]
    assert extras["fit_stderr"] == pytest.approx(math.hypot(*errors) / 2, rel=1e-12)
    assert (extras["fitted"], extras["left_out"]) == (2, 0) and "reasons" not in extras


def test_a_huge_exponent_does_not_overflow():
    spectrum = 1e8 * (1 + 1e-6 * np.arange(12.0))
    found = acutance.measure("log_alpha_norm", with_spectrum(spectrum))
    assert found.status is Status.OK and found.value > 1e5


# -- Marchenko and Pastur --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.05, 0.5, 0.999, 1.0])
def test_the_median_halves_the_law(beta):
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2

    def root(y):  # x = y^2: bounded at zero
        return math.sqrt(max(0, (high - y * y) * (y * y - low))) / (math.pi * beta * y)

    median = math.sqrt(marchenko_pastur_median(beta))
    share = quad(root, max(math.sqrt(low), 1e-9), median, limit=200)[0]
    assert share == pytest.approx(0.5, abs=1e-6)


def test_random_weights_have_a_soft_rank_of_one_and_one_outlier_lowers_it():
    w = torch.randn(300, 500, generator=seeded(1), dtype=torch.float64)
    model = nn.Linear(500, 300, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(0.03 * w)
    random = acutance.measure("mp_soft_rank", model).value
    assert random == pytest.approx(1, abs=0.03)
    # A spike of this size puts its eigenvalue at (s^2 + 1)(s^2 + beta)/s^2 (Benaych-Georges & Nadakuditi 2012).
    s, beta = 3.0, 300 / 500
    with torch.no_grad():
        model.weight.copy_(0.03 * (w + s * math.sqrt(500) * torch.outer(w[:, 0] / w[:, 0].norm(), w[0] / w[0].norm())))
    spiked = acutance.measure("mp_soft_rank", model).value
    expected = (1 + math.sqrt(beta)) ** 2 / ((s * s + 1) * (s * s + beta) / (s * s))
    assert spiked == pytest.approx(expected, rel=0.1)


def test_the_soft_rank_is_the_edge_at_the_median():
    squares = torch.tensor([1.0, 2.0, 3.0, 5.0, 9.0], dtype=torch.float64)
    edge = 3 / marchenko_pastur_median(0.25) * 1.5**2
    assert Layer(squares, squares, (20, 5)).soft_rank == pytest.approx(edge / 9, rel=1e-15)


# -- what cannot be fitted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_small_layer_is_left_out_and_counted(name):
    spectra = np.linspace(1, 3, 20), [1.0, 2.0, 4.0]
    alone = acutance.measure(name, with_spectrum(spectra[0]))
    both = acutance.measure(name, with_spectrum(*spectra))
    assert both.value == alone.value and (both.extras["fitted"], both.extras["left_out"]) == (1, 1)
    assert both.extras["reasons"] == {"1.weight": "3 eigenvalues above zero, fewer than 5"}
    more = acutance.measure(name, with_spectrum(*spectra), min_eigenvalues=3)
    assert more.extras["left_out"] == 0 and more.value != alone.value


@pytest.mark.parametrize("name", NAMES)
def test_no_layer_to_fit_is_one_sentence(name):
    found = acutance.measure(name, with_spectrum([1.0, 2.0], [3.0, 4.0, 5.0]))
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    told = "nothing can be fitted to any of the 2 weight matrices ('0.weight': 2 eigenvalues above zero, fewer than 5)"
    assert found.message == told


def test_equal_eigenvalues_have_no_tail():
    found = acutance.measure("power_law_alpha", with_spectrum([4.0] * 8))
    assert found.status is Status.UNSUPPORTED and "all eigenvalues are the same" in found.message


def test_zeros_up_to_rounding_do_not_count():
    full = np.random.default_rng(3).pareto(2.0, 12) + 1
    low = np.concatenate([np.zeros(20), full])
    found = acutance.measure("power_law_alpha", with_spectrum(low))
    assert found.value == pytest.approx(by_the_book(full)[0], rel=1e-9)
    bulk = acutance.measure("mp_soft_rank", with_spectrum(low))
    assert bulk.status is Status.UNSUPPORTED and "half of its eigenvalues are zero" in bulk.message


def test_a_layer_without_weights():
    model = with_spectrum(np.linspace(1, 3, 20), np.linspace(1, 3, 20))
    with torch.no_grad():
        model[1].weight.zero_()
    assert acutance.measure("alpha_hat", model).extras["reasons"]["1.weight"].startswith("0 eigenvalues")


def test_spectra_are_computed_once_for_all(monkeypatch):
    surface = LossSurface(with_spectrum(np.linspace(1, 3, 20)), None)
    made, whole = [], matrix_norms.squared_singular_values
    monkeypatch.setattr(matrix_norms, "squared_singular_values", lambda a: made.append(a) or whole(a))
    for name in (*NAMES, "stable_rank"):
        acutance.measure(name, surface)
    assert len(made) == 1


@pytest.mark.parametrize("fewest", [2, 2.5, "five"])
def test_settings_that_make_no_sense(fewest):
    with pytest.raises(UserError, match=r"power_law_alpha\.min_eigenvalues"):
        acutance.measure("power_law_alpha", nn.Linear(3, 3), min_eigenvalues=fewest)
