"""The values of public implementations of measures of outputs and features (extra ``peers``).

Last run with torchmetrics 1.9.0 and scikit-dimension 0.5.0.
"""

import numpy as np
import pytest
import torch
from tables_of_logits import measured
from torch import nn

import acutance

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def outputs(n=2000, classes=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    logits = 2 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    logits[torch.arange(n), y] += 2 * torch.rand(n, generator=g, dtype=torch.float64)
    return logits, y


@pytest.mark.parametrize("bins", [5, 15])
def test_the_calibration_error_is_that_of_torchmetrics(bins):
    classification = pytest.importorskip("torchmetrics.functional.classification")
    logits, y = outputs()
    expected = classification.multiclass_calibration_error(logits.softmax(1), y, logits.shape[1], bins, "l1")
    found = measured("expected_calibration_error", logits, y, bins=bins)
    # Their bins have edges in float32.
    assert found.value == pytest.approx(float(expected), rel=1e-6)


def test_the_davies_bouldin_index_is_that_of_torchmetrics():
    clustering = pytest.importorskip("torchmetrics.functional.clustering")
    g = torch.Generator().manual_seed(0)
    y = torch.randint(4, (300,), generator=g)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)[y] * 2 + torch.randn(
        300, 5, generator=g, dtype=torch.float64
    )
    model = nn.Sequential(nn.Identity(), nn.Linear(5, 4, dtype=torch.float64))
    found = acutance.measure("davies_bouldin", model, (x, y))
    assert found.value == pytest.approx(float(clustering.davies_bouldin_score(x, y)), rel=1e-6)


def ball(n=800, d=4, within=9, seed=0):
    """Points of a ball of dimension d, turned into a space of more dimensions."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, d))
    x *= (g.random((n, 1)) ** (1 / d)) / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ np.linalg.qr(g.normal(size=(within, d)))[0].T


@pytest.mark.parametrize("d", [2, 4])
def test_the_intrinsic_dimension_is_that_of_scikit_dimension(d):
    skdim = pytest.importorskip("skdim")
    x = ball(d=d)
    model = nn.Sequential(nn.Identity(), nn.Linear(x.shape[1], 3, dtype=torch.float64))
    data = (torch.from_numpy(x), None)
    two = acutance.measure("intrinsic_dimension", model, data, method="two_nn", discard=0.1).value
    assert two == pytest.approx(skdim.id.TwoNN(discard_fraction=0.1).fit(x).dimension_, rel=5e-3)
    # They average inverses of the points' own dimensions, divided by k - 1.
    theirs = skdim.id.MLE(unbiased=False).fit_transform_pw(x, n_neighbors=20)
    mle = acutance.measure("intrinsic_dimension", model, data, method="mle", k=20).value
    assert mle == pytest.approx(1 / np.mean(1 / theirs), rel=1e-6)
