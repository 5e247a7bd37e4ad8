"""The values of public implementations, on cases where these are right (extra ``peers``); docs/classic.md has the others.

Last run with powerlaw 2.0.0, weightwatcher 0.7.7, curvlinops-for-pytorch 3.0.1 and devinterp 2.0.1.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import LossSurface
from acutance.testing.models import MLP, mlp_data, seeded
from acutance_classic.weights.power_laws import power_law

# The libraries are imported where they are used: some take many seconds for that.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def matrix_of(squares, rows, columns, seed):
    """A matrix, (rows, columns), with these squared singular values."""
    generator = seeded(seed)
    left, right = (
        torch.linalg.qr(torch.randn(k, len(squares), generator=generator, dtype=torch.float64))[0]
        for k in (rows, columns)
    )
    return left * torch.as_tensor(squares).sqrt() @ right.T


def linear_layers(*weights):
    layers = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        layer.weight.data.copy_(weight)
        layers.append(layer)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def heavy_tailed():
    """Three layers with tails of known exponents, of which one is wide and one is high."""
    draws = np.random.default_rng(5)
    spectra = [
        np.sort(draws.pareto(a - 1, k) + 1.0) * scale
        for a, k, scale in ((2.5, 90, 1.0), (3.2, 120, 0.3), (4.0, 70, 2.0))
    ]
    sizes = ((90, 140), (150, 120), (70, 70))
    return linear_layers(*(matrix_of(s, *size, k) for k, (s, size) in enumerate(zip(spectra, sizes))))


@pytest.mark.parametrize(("exponent", "count", "seed"), [(1.8, 80, 0), (2.5, 300, 1), (3.5, 150, 2)])
def test_power_laws_are_those_of_powerlaw(exponent, count, seed):
    powerlaw = pytest.importorskip("powerlaw")
    draws = np.random.default_rng(seed)
    values = np.concatenate([draws.pareto(exponent - 1, count) + 1.0, draws.uniform(0.05, 1.0, count)])
    # Left alone, version 2 admits exponents up to 3 only.
    theirs = powerlaw.Fit(values, verbose=False, parameter_ranges={"alpha": [1.0, None]})
    fit = power_law(torch.tensor(np.sort(values)))
    assert (fit.alpha, fit.xmin, fit.distance) == pytest.approx((theirs.alpha, theirs.xmin, theirs.D), rel=1e-9)
    assert fit.stderr == pytest.approx(theirs.sigma, rel=1e-9)


def test_spectra_of_layers_are_those_of_weightwatcher(heavy_tailed):
    weightwatcher = pytest.importorskip("weightwatcher")
    table = weightwatcher.WeightWatcher(model=heavy_tailed).analyze(min_evals=20, plot=False)
    assert len(table) == 3
    of = {
        name: acutance.measure(name, heavy_tailed)
        for name in ("power_law_alpha", "alpha_hat", "log_alpha_norm", "stable_rank")
    }
    layers = of["power_law_alpha"].extras["layers"].values()
    for field, column in (("alpha", "alpha"), ("xmin", "xmin"), ("distance", "D"), ("stderr", "sigma")):
        assert [layer[field] for layer in layers] == pytest.approx(table[column].tolist(), rel=1e-5)
    columns = ("alpha_hat", "alpha_weighted"), ("log_alpha_norm", "log_alpha_norm"), ("stable_rank", "stable_rank")
    for name, column in columns:
        assert list(of[name].extras["layers"].values()) == pytest.approx(table[column].tolist(), rel=1e-5)
        assert of[name].value == pytest.approx(table[column].mean(), rel=1e-5)
    product = acutance.measure("log_product_of_spectral_norms", heavy_tailed).value
    assert product == pytest.approx(np.log(table["spectral_norm"]).sum(), rel=1e-5)


def test_the_edge_of_random_layers_is_that_of_weightwatcher():
    """Both fit a variance to the bulk, by its median and by its density: for random entries it is the same one."""
    weightwatcher = pytest.importorskip("weightwatcher")
    generator = seeded(3)
    weights = [torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((300, 500), (400, 200))]
    model = linear_layers(*weights)
    table = weightwatcher.WeightWatcher(model=model).analyze(min_evals=20, mp_fit=True, plot=False)
    found = acutance.measure("mp_soft_rank", model).extras["layers"]
    assert list(found.values()) == pytest.approx(table["mp_softrank"].tolist(), rel=0.05)


def curvlinops_of(name, model, data, **options):
    curvlinops = pytest.importorskip("curvlinops")
    operator = getattr(curvlinops, name)
    return operator(model, nn.CrossEntropyLoss(), list(model.parameters()), [data], **options)


def dense(operator):
    """The matrix of a linear operator in double precision, (p, p)."""
    return torch.as_tensor(operator @ torch.eye(operator.shape[1], dtype=torch.float64))


@pytest.fixture(scope="module")
def network():
    model, (x, y) = MLP(torch.tanh).double(), mlp_data()
    return model, (x.double(), y)


def test_the_empirical_fisher_matrix_is_that_of_curvlinops(network):
    model, data = network
    fisher = dense(curvlinops_of("EFLinearOperator", model, data))
    w = LossSurface(model, data).w
    assert acutance.measure("fisher_trace", model, data).value == pytest.approx(float(fisher.trace()), rel=1e-9)
    assert acutance.measure("fisher_rao", model, data).value == pytest.approx(float(w @ fisher @ w), rel=1e-9)


def test_the_true_fisher_matrix_is_that_of_curvlinops(network):
    """Its trace and its quadratic form: ours at drawn labels and in expectation, theirs drawn, and their exact one."""
    model, data = network
    w = LossSurface(model, data).w
    exact = dense(curvlinops_of("GGNLinearOperator", model, data))
    found = acutance.measure("fisher_trace", model, data, labels="sampled", draws=200)
    assert abs(found.value - float(exact.trace())) < 4 * found.stderr < 0.1 * found.value
    quadratic = acutance.measure("fisher_rao", model, data, labels="sampled").value
    assert quadratic == pytest.approx(float(w @ exact @ w), rel=1e-9)
    drawn = [dense(curvlinops_of("FisherMCLinearOperator", model, data, mc_samples=20, seed=k)) for k in range(20)]
    for theirs, value, error in (
        ([float(m.trace()) for m in drawn], found.value, found.stderr),
        ([float(w @ m @ w) for m in drawn], quadratic, 0.0),
    ):
        spread = np.std(theirs, ddof=1) / math.sqrt(len(theirs))
        assert abs(np.mean(theirs) - value) < 4 * math.hypot(spread, error)


def test_takeuchi_is_that_of_the_matrices_of_curvlinops(network):
    model, data = network
    damping = 0.05
    fisher, ggn = (dense(curvlinops_of(name, model, data)) for name in ("EFLinearOperator", "GGNLinearOperator"))
    damped = ggn + damping * torch.eye(len(ggn), dtype=torch.float64)
    exact = float(torch.linalg.solve(damped, fisher).trace()) / len(data[1])
    found = acutance.measure("tic", model, data, damping=damping, approximation="dense")
    assert found.value == pytest.approx(exact, rel=1e-8)
    rank = float(torch.linalg.solve(damped, ggn).trace()) / len(data[1])
    found = acutance.measure("soft_rank_tic", model, data, damping=damping, approximation="dense")
    assert found.value == pytest.approx(rank, rel=1e-8)


def test_the_learning_coefficient_is_that_of_devinterp():
    """The same model, loss and settings; chains of SGLD as they implement it."""
    optim = pytest.importorskip("devinterp.optim")
    generator = seeded(0)
    x = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (200,), generator=generator)
    model = MLP(torch.tanh, dims=(4, 5, 3)).double()
    trained = torch.optim.LBFGS(model.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def closure():
        trained.zero_grad()
        value = nn.functional.cross_entropy(model(x), y) + 1e-3 * sum(p.square().sum() for p in model.parameters())
        value.backward()
        return value

    trained.step(closure)
    n_beta, step, localization, burn_in, draws, chains = len(y) / math.log(len(y)), 1e-2, 5.0, 100, 300, 12
    start = {name: value.clone() for name, value in model.state_dict().items()}
    loss = nn.CrossEntropyLoss()
    clean, means = float(loss(model(x), y)), []
    for chain in range(chains):
        model.load_state_dict(start)
        torch.manual_seed(chain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optim.SGLD(model.parameters(), lr=step, nbeta=n_beta, localization=localization)
        losses = []
        for _ in range(burn_in + draws):
            sampler.zero_grad()
            loss(model(x), y).backward()
            sampler.step()
            losses.append(float(loss(model(x), y)))
        means.append(n_beta * (np.mean(losses[burn_in:]) - clean))
    model.load_state_dict(start)
    model.zero_grad()
    settings = {"step": step, "localization": localization, "burn_in": burn_in, "draws": draws, "chains": chains}
    found = acutance.measure("local_learning_coefficient", model, (x, y), **settings)
    error = math.hypot(found.stderr, np.std(means, ddof=1) / math.sqrt(chains))
    assert abs(found.value - np.mean(means)) < 4 * error and error < 0.1 * abs(found.value)
