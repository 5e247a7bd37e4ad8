"""Diagonals of curvature, with what the probes that estimate them leave open."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance_classic.weights.weight_matrices import refuse_computed

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.flatness.scale_free import NormalizedSpec

MAPS = ("Linear", "Conv", "MultiheadAttention")  # kinds of modules whose weights are matrices between neurons
PARTS = 4  # sets of probes whose spread gives a standard error
ROUNDS = 100  # of levelling rows and columns


@dataclass(frozen=True)
class Diagonal:
    """A diagonal of curvature, float64.

    Attributes:
        value: (p,).
        error: (p,) standard errors of its entries; zero where they are exact.
        parts: (k, p), estimates from k disjoint sets of probes, whose mean it is; its own where it is exact.
    """

    value: Tensor
    error: Tensor
    parts: Tensor


def matrices(view: LossSurface, *vectors: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield (name, the sum over kernel positions of each vector, (groups, rows, columns)) for every weight matrix.

    Raises:
        Unsupported: for a layer that computes its matrix from other parameters.
    """
    modules = dict(view.model.named_modules(remove_duplicate=False))
    for name, kind, shape, part in view.layers:
        path = name.rpartition(".")[0]
        refuse_computed(path, modules)
        if len(shape) >= 2 and any(word in kind for word in MAPS):
            groups = int(getattr(modules[path], "groups", 1))
            yield name, [v[part].view(groups, shape[0] // groups, shape[1], -1).sum(-1) for v in vectors]


def gauss_newton_roots(view: LossSurface, probes: int, rng: Streams) -> Iterator[Tensor]:
    r"""Yield :math:`v = J^\top u / \sqrt n`, (p,), with :math:`E\, v v^\top = G`: u_i = R_i signs, R_i R_i' = H_i.

    Raises:
        Unsupported: for a loss whose Hessian in the logits is not known here.
    """
    raw = view.clean().raw
    root = raw.double().softmax(1).sqrt() if view.classifies else None
    if root is None and view.criterion != "mse":
        raise Unsupported(
            "the Gauss-Newton matrix is taken apart for cross-entropy and mse, not for a loss of one's own"
        )
    for k in range(probes):
        signs = rng.signs("signs", k, raw).double()
        if root is None:
            u = math.sqrt(2) * signs
        else:
            u = root * signs - root.square() * (root * signs).sum(1, keepdim=True)
        yield view.vjp(u.to(raw)).div_(math.sqrt(view.n))


def diagonal(view: LossSurface, spec: NormalizedSpec, rng: Streams) -> Diagonal:
    """Return the diagonal of the curvature: of the Hessian exact where each weight has a product of its own."""
    if spec.curvature == "ggn":
        return _mean((v.double().square() for v in gauss_newton_roots(view, spec.probes, rng)), spec.probes)
    if (p := view.w.numel()) <= spec.probes:
        exact = torch.cat([q for start in range(0, p, 64) for q in _own(view, range(start, min(start + 64, p)))])
        return Diagonal(exact, torch.zeros_like(exact), exact[None])
    c = level(view)
    found = _mean(_hutchinson(view, spec.probes, c, rng), spec.probes)
    squares = c.double().square()
    return Diagonal(found.value / squares, found.error / squares, found.parts / squares)


def _own(view: LossSurface, entries: range) -> Iterator[Tensor]:
    """Yield entries of the diagonal, as many at once as the surface likes."""
    for some in torch.tensor(entries).split(view.products_together):
        units = torch.nn.functional.one_hot(some, view.w.numel()).to(view.w)
        yield (units * view.hvps(units)).double().sum(1)


def _hutchinson(view: LossSurface, probes: int, c: Tensor, rng: Streams) -> Iterator[Tensor]:
    r"""Yield :math:`z \odot H_c z`, (p,) float64, with random signs z and :math:`H_c = H \odot cc^\top`."""
    together = view.products_together
    for start in range(0, probes, together):
        z = torch.stack([rng.signs("signs", k, view.w) for k in range(start, min(start + together, probes))])
        yield from (z * c * view.hvps(z * c)).double()


def _mean(samples: Iterator[Tensor], count: int) -> Diagonal:
    """Return the mean of samples, sample k in set k modulo the number of sets."""
    sets = min(PARTS, count)
    sums, squares = list[Tensor](), torch.zeros(())
    for k, sample in enumerate(samples):
        squares = squares.to(sample) + sample.square()
        if k < sets:
            sums.append(sample.clone())
        else:
            sums[k % sets] += sample
    mean = torch.stack(sums).sum(0) / count
    spread = (squares / count - mean.square()).clamp_min(0)
    sizes = torch.tensor([len(range(k, count, sets)) for k in range(sets)], device=mean.device)
    return Diagonal(mean, (spread / max(count - 1, 1)).sqrt(), torch.stack(sums) / sizes[:, None])


def level(view: LossSurface) -> Tensor:
    r"""Return scales c, (p,), the same for all positions of a kernel: :math:`c_{ij} = \alpha_i \beta_j`.

    The rows and columns of :math:`W_{ij} / c_{ij}` have the mean square one. So c follows every rescaling of rows and
    columns, and the noise of the diagonal of :math:`H_c` knows none; probes without c bury small curvatures in large.
    """
    c = torch.ones_like(view.w)
    grids = dict(matrices(view, view.w.double().square()))
    for name, _, shape, part in view.layers:
        scales = torch.stack([_levelled(squares) for squares in grids[name][0]]).to(c)
        c[part] = scales.view(shape[0], shape[1], 1).expand(*shape[:2], shape[2:].numel()).reshape(-1)
    return c


def _levelled(squares: Tensor) -> Tensor:
    """Return the scales of one matrix of squares, (rows, columns); an empty row or column keeps the scale one."""
    a, b = torch.ones_like(squares[:, 0]), torch.ones_like(squares[0])
    for _ in range(ROUNDS):
        a = (squares / b).mean(1)
        a = a.masked_fill(a == 0, 1.0)
        b = (squares / a[:, None]).mean(0)
        b = b.masked_fill(b == 0, 1.0)
    return (a[:, None] * b).sqrt()
