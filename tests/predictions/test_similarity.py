"""Alignments of kernels: the definition with centring matrices, invariances, and pairs without a value."""

import numpy as np
import pytest
import torch
from torch import nn

import acutance
from acutance import Status, Streams
from acutance.peers import Peer
from acutance_predictions.measure import NoSettings
from acutance_predictions.representations.similarity import CKA


class Features(nn.Module):
    """A table of features, in front of a linear head."""

    def __init__(self, f, classes=3):
        super().__init__()
        self.f = nn.Parameter(torch.as_tensor(np.asarray(f), dtype=torch.float64))
        self.head = nn.Linear(self.f.shape[1], classes, dtype=torch.float64)

    def forward(self, x):
        return self.head(self.f[x.long().flatten()])


def surface_of(f, y=None):
    return acutance.LossSurface(Features(f), (torch.arange(len(f)).double()[:, None], y))


def aligned(k, m):
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    k, m = h @ k @ h, h @ m @ h
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def features(n=12, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) + 0.5


@pytest.mark.parametrize("d", [4, 40])
def test_the_alignment_with_the_labels_is_its_definition(d):
    f, y = features(d=d), np.arange(12) % 3
    y[0] = 1
    found = acutance.measure("centred_kernel_alignment", surface_of(f, torch.tensor(y)))
    assert found.value == pytest.approx(aligned(f @ f.T, (y[:, None] == y).astype(float)), rel=1e-11)
    assert found.cost.forwards == 12


def test_features_that_are_the_labels_are_aligned():
    y = torch.arange(12) % 3
    one_hot = np.eye(3)[y.numpy()]
    assert acutance.measure("centred_kernel_alignment", surface_of(one_hot * 3 + 1, y)).value == pytest.approx(1)


def pool(*tables):
    peers = [Peer.of(str(i), surface_of(f)) for i, f in enumerate(tables)]
    return CKA().evaluate_pool(peers, NoSettings(), Streams("test"))


def test_models_are_compared_with_each_of_the_others():
    tables = [features(d=4), features(d=9, seed=1), features(d=30, seed=2)]
    kernels = [f @ f.T for f in tables]
    for i, found in enumerate(pool(*tables)):
        expected = np.mean([aligned(kernels[i], kernels[j]) for j in range(3) if j != i])
        assert found.value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_model_without_a_last_linear_layer_costs_itself_alone(place):
    class Sure(Features):
        def forward(self, x):
            return super().forward(x).relu()

    tables = [features(d=4), features(d=9, seed=1), features(d=30, seed=2)]
    x = torch.arange(12).double()[:, None]
    peers = [Peer.of(str(i), surface_of(f)) for i, f in enumerate(tables)]
    peers.insert(place, Peer.of("odd", acutance.LossSurface(Sure(tables[0]), (x, None))))
    found = CKA().evaluate_pool(peers, NoSettings(), Streams("test"))
    own = found.pop(place)
    assert own.status is Status.UNSUPPORTED and "model odd has no features: " in own.message
    assert [e.value for e in found] == [e.value for e in pool(*tables)]
    assert all(e.extras["undefined"] == 1 for e in found)


def test_turned_scaled_and_shifted_features_are_alike():
    f = features()
    q = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    assert pool(f, 1e3 * f @ q + 7)[0].value == pytest.approx(1, rel=1e-9)


def test_pairs_with_constant_features_are_left_out():
    found = pool(features(), features(seed=1), np.ones((12, 3)))
    assert found[0].extras["undefined"] == 1 and list(found[0].extras["partners"]) == ["1"]
    assert found[2].status is Status.UNSUPPORTED
    constant = acutance.measure("centred_kernel_alignment", surface_of(np.ones((12, 3)), torch.arange(12) % 3))
    assert constant.status is Status.UNSUPPORTED and "the same at all points" in constant.message
