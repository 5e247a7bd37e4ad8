"""The sparse regression task: its designs, its true beta, its points, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import acutance
from acutance import UserError
from acutance.data.points import select
from acutance.plugins import catalog
from acutance.spec import validate
from acutance_dln.network import DiagonalLinearNetwork
from acutance_dln.regression import RegressionSpec, SparseRegression, task_identity, training_points, true_beta
from acutance_dln.regression import test_points as fresh_points


def spec(**fields):
    return validate(RegressionSpec, fields, "dataset")


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.995])
def test_beta_has_as_many_zeros_as_asked_and_one_length(sparsity):
    beta = true_beta(spec(sparsity=sparsity))
    assert (beta == 0).sum() == round(200 * sparsity)
    assert np.linalg.norm(beta) == pytest.approx(1, abs=1e-15)


def test_a_sparser_beta_is_part_of_a_denser_one():
    dense, sparse = (true_beta(spec(sparsity=s)) for s in (0.2, 0.8))
    ratio = sparse[sparse != 0] / dense[sparse != 0]
    assert ratio == pytest.approx(np.full(40, ratio[0]), rel=1e-12) and ratio[0] > 1


def test_columns_are_what_the_design_says():
    gaussian, _ = training_points(spec(n=100))
    lengths = (gaussian**2).sum(axis=0)
    assert lengths.mean() == pytest.approx(1, abs=0.05) and lengths.std() == pytest.approx(0.02**0.5, rel=0.2)
    unit, _ = training_points(spec(n=100, design="unit_columns"))
    assert np.abs((unit**2).sum(axis=0) - 1).max() < 1e-15 * 4
    assert unit == pytest.approx(gaussian / lengths**0.5, abs=1e-15)
    for n, d in ((40, 30), (30, 30), (200, 200)):
        x, _ = training_points(spec(n=n, d=d, design="orthonormal"))
        assert x.shape == (n, d) and np.abs(x.T @ x - np.eye(d)).max() < 1e-14


def test_targets_are_linear_with_the_noise_that_was_asked_for():
    exact, noisy = spec(n=4000, d=20), spec(n=4000, d=20, noise=0.5)
    (x, y), (same, with_noise) = training_points(exact), training_points(noisy)
    assert np.array_equal(x, same) and y == pytest.approx(x @ true_beta(exact), abs=1e-15)
    assert (with_noise - y).std() == pytest.approx(0.5 / 4000**0.5, rel=0.05)
    assert y.std() == pytest.approx(1 / 4000**0.5, rel=0.05)
    x, y = fresh_points(noisy)
    assert y == pytest.approx(x @ true_beta(noisy), abs=1e-15) and x.shape == (2000, 20)
    assert (x**2).mean() == pytest.approx(1 / 4000, rel=0.05)


def test_more_test_points_begin_with_the_fewer():
    few, many = fresh_points(spec(test_points=10)), fresh_points(spec(test_points=50))
    assert np.array_equal(few[0], many[0][:10]) and np.array_equal(few[1], many[1][:10])


def test_points_depend_on_the_seed_and_nothing_else():
    first = SparseRegression(spec(n=20, d=30)).open("train")
    torch.manual_seed(1), np.random.seed(1)
    again, other = (SparseRegression(spec(n=20, d=30, data_seed=s)).open("train") for s in (0, 1))
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.inputs.dtype == first.targets.dtype == torch.float64
    # Fixed figures: another machine must have the same points.
    x, y = training_points(spec())
    assert (x[0, 0], x[-1, -1], y[0]) == pytest.approx((FIRST, LAST, TARGET), abs=1e-15)


FIRST, LAST, TARGET = -0.23600871467557447, -0.07918389023045594, -0.06523459231703045


def test_the_test_loss_is_proportional_to_the_distance_from_the_true_beta():
    chosen = spec(test_points=100_000, d=20)
    beta = true_beta(chosen) + np.linspace(-0.3, 0.3, 20)
    net = DiagonalLinearNetwork(torch.ones(20, dtype=torch.float64), torch.from_numpy(beta))
    split = SparseRegression(chosen).open("test")
    surface = acutance.LossSurface(net, (split.inputs, split.targets), loss="mse")
    assert float(surface.loss()) == pytest.approx(((beta - true_beta(chosen)) ** 2).sum() / chosen.n, rel=0.02)


def test_there_is_a_loss_but_no_error():
    split = SparseRegression(spec(n=20, d=30)).open("train")
    net = DiagonalLinearNetwork(*torch.ones(2, 30, dtype=torch.float64))
    surface = acutance.LossSurface(net, (split.inputs, split.targets), loss="half_squared_sum")
    assert acutance.measure("error", surface).status is acutance.Status.UNSUPPORTED
    expected = float(((split.inputs.sum(1) - split.targets) ** 2).sum() / 2)
    assert acutance.measure("loss", surface).value == pytest.approx(expected, rel=1e-14)
    with pytest.raises(UserError, match=r"balanced needs class labels.*select: first"):
        select(split.targets, 10, "balanced")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"design": "orthonormal"}, r"60 points cannot satisfy X\^T X = I in 200 dimensions; unit_columns is enough"),
        ({"design": "whitened"}, "dataset.design: Input should be"),
        ({"sparsity": 1.0}, "dataset.sparsity: Input should be less than 1"),
        ({"sparsity": 0.99, "d": 10}, "sparsity 0.99 leaves none of 10 entries of beta: lower it"),
        ({"noise": -0.1}, "dataset.noise"),
        ({"n": 0}, "dataset.n"),
    ],
)
def test_impossible_tasks_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        spec(**fields)


def test_an_unknown_split_is_told():
    with pytest.raises(UserError, match="did you mean 'train'"):
        SparseRegression(spec()).open("trian")


def test_the_name_of_the_training_points_leaves_out_what_they_do_not_depend_on():
    assert task_identity(spec()) == task_identity(spec(test_points=7)) != task_identity(spec(noise=0.1))


def test_listing_needs_neither_numpy_nor_numba():
    code = (
        "import sys; from acutance.plugins import catalog; p = catalog().get('pools', 'dln')(); s = p.Spec();"
        "e = p.entries(s); p.missing(e, s); catalog().get('datasets', 'sparse_regression')();"
        "assert len(e) == 200 and not {'torch', 'numpy', 'numba', 'filelock', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert catalog().get("datasets", "sparse_regression") is SparseRegression
