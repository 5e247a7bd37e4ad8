r"""The geometry of attention once the symmetries of its pairs are divided out (da Silva, Dangel & Oore 2025).

All of it in coordinates :math:`\gamma` in which the ball of the metric at w is round. There a function-preserving
mixing of a head is a rotation, which the search does not see.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_classic.flatness.attention_pairs import Pair

Metric = Literal["inv", "mix"]
SINGULAR = 1e-13  # smallest eigenvalue of a Gram matrix, relative to the largest, below which it has no inverse


class PairGeometry:
    r"""Pairs (G, H) of one shape, stacked: (P, rows, h) and (P, other rows, h).

    With :math:`M_G = G^\top G`, :math:`M_H = H^\top H`:

    .. math:: \langle \xi, \zeta \rangle_{inv} = tr(M_G^{-1} \xi_G^\top \zeta_G + M_H^{-1} \xi_H^\top \zeta_H), \qquad
       \langle \xi, \zeta \rangle_{mix} = tr(M_H\, \xi_G^\top \zeta_G + M_G\, \xi_H^\top \zeta_H)

    Both are the same for (G A^-1, H A^T) and tangent vectors that move along.

    Args:
        g: G, float64.
        h: H, float64.
        metric: which of the two.

    Raises:
        Unsupported: for matrices without full rank.
    """

    def __init__(self, g: Tensor, h: Tensor, metric: Metric) -> None:
        self.g, self.h, self.metric = g, h, metric
        self.m_g, self.m_h = g.mT @ g, h.mT @ h
        for m in (self.m_g, self.m_h):
            spectrum = torch.linalg.eigvalsh(m)
            if not bool((spectrum[..., 0] > SINGULAR * spectrum[..., -1]).all()):
                raise Unsupported("a head's query, key, value or output matrix has no full rank: it has no metric")
        self.inverse_g, self.inverse_h = torch.linalg.inv(self.m_g), torch.linalg.inv(self.m_h)
        units = (self.m_g, self.m_h) if metric == "inv" else (self.inverse_h, self.inverse_g)
        self.unit_g, self.unit_h = (_root(m) for m in units)
        # M_G M_H = V D V^-1 with V = L U: similar to the symmetric L' M_H L.
        lower = torch.linalg.cholesky(self.m_g)
        self._d, rotation = torch.linalg.eigh(lower.mT @ self.m_h @ lower)
        self._v = lower @ rotation
        self._v_inverse = torch.linalg.inv(self._v)

    def tangent(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the horizontal vector of coordinates of G's and H's shape: scaled, then without its vertical part."""
        xi, eta = x @ self.unit_g, y @ self.unit_h
        if self.metric == "mix":
            mixing = (eta.mT @ self.h @ self.inverse_h - self.inverse_g @ self.g.mT @ xi) / 2
        else:
            b = self.m_g @ self.h.mT @ eta - xi.mT @ self.g @ self.m_h
            mixing = self._sylvester(b).mT
        return xi + self.g @ mixing, eta - self.h @ mixing.mT

    def _sylvester(self, b: Tensor) -> Tensor:
        """Return X with A X + X A = B, A = M_G M_H."""
        inner = self._v_inverse @ b @ self._v
        solution: Tensor = self._v @ (inner / (self._d[..., :, None] + self._d[..., None, :])) @ self._v_inverse
        return solution

    def moved(self, xi: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\xi - \frac12 \Gamma[\xi, \xi]`: how far the geodesic gets in unit time, to second order."""
        if self.metric == "inv":
            return (
                xi - _bent_inv(xi, self.g, self.inverse_g) / 2,
                eta - _bent_inv(eta, self.h, self.inverse_h) / 2,
            )
        return (
            xi - _bent_mix(xi, eta, self.g, self.h, self.inverse_h) / 2,
            eta - _bent_mix(eta, xi, self.h, self.g, self.inverse_g) / 2,
        )


def _bent_inv(xi: Tensor, g: Tensor, inverse: Tensor) -> Tensor:
    r""":math:`-\xi M^{-1} (\xi^\top G + G^\top \xi) + G M^{-1} \xi^\top \xi`."""
    return -xi @ inverse @ (xi.mT @ g + g.mT @ xi) + g @ inverse @ xi.mT @ xi


def _bent_mix(xi: Tensor, eta: Tensor, g: Tensor, h: Tensor, inverse_h: Tensor) -> Tensor:
    r""":math:`\xi (\eta^\top H + H^\top \eta) M_H^{-1} - G\, \eta^\top \eta\, M_H^{-1}`."""
    return (xi @ (eta.mT @ h + h.mT @ eta) - g @ eta.mT @ eta) @ inverse_h


def _root(m: Tensor) -> Tensor:
    """Return the symmetric square root of positive definite matrices."""
    values, vectors = torch.linalg.eigh(m)
    root: Tensor = vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT
    return root


class Quotient:
    r"""The map from coordinates :math:`\gamma`, (p,), to the displacement of the weights.

    What is in no pair moves by :math:`|w| \odot \gamma`, in a straight line.

    Args:
        w: (p,) weights.
        pairs: which of them are pairs.
        metric: of the pairs.
    """

    def __init__(self, w: Tensor, pairs: Sequence[Pair], metric: Metric) -> None:
        stacks: dict[tuple[torch.Size, torch.Size], list[Pair]] = defaultdict(list)
        for pair in pairs:
            stacks[pair.g.shape, pair.h.shape].append(pair)
        self._units = w.abs()
        self._blocks: list[tuple[Tensor, Tensor, PairGeometry]] = []
        for members in stacks.values():
            g, h = (torch.stack(places).to(w.device) for places in ([m.g for m in members], [m.h for m in members]))
            self._blocks.append((g, h, PairGeometry(w[g].double(), w[h].double(), metric)))

    def displacement(self, gamma: Tensor) -> Tensor:
        """Return what is added to w, (p,), by the geodesic whose initial velocity has these coordinates."""
        delta = self._units * gamma
        for at_g, at_h, geometry in self._blocks:
            ends = geometry.moved(*geometry.tangent(gamma[at_g].double(), gamma[at_h].double()))
            for at, end in zip((at_g, at_h), ends, strict=True):
                delta = delta.index_put((at,), end.to(delta))
        return delta


def mixed(w: Tensor, pairs: Sequence[Pair]) -> Tensor:
    r"""Return the weights, (p,), with every pair replaced by :math:`(G A^{-1}, H A^\top)`, A far from diagonal."""
    w = w.clone()
    for pair in pairs:
        at_g, at_h = pair.g.to(w.device), pair.h.to(w.device)
        size = at_g.shape[1]
        ramp = torch.arange(size * size, dtype=torch.float64, device=w.device).view(size, size)
        a = torch.eye(size, dtype=torch.float64, device=w.device) + 0.4 * torch.cos(1.7 * ramp) / size**0.5
        w[at_g] = (w[at_g].double() @ torch.linalg.inv(a)).to(w)
        w[at_h] = (w[at_h].double() @ a.T).to(w)
    return w
