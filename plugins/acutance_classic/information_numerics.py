r"""Traces over the damped curvature, :math:`\mathrm{tr}\,(H + \delta I)^{-1} M`, exactly and by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.numerics.lanczos import Lanczos, Ritz
from acutance_classic.gradient_numerics import sampled_labels
from acutance_classic.information_measure import DENSE

if TYPE_CHECKING:
    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface
    from acutance_classic.information_measure import InformationSpec


@dataclass(frozen=True)
class Traces:
    """Estimates of one trace: one where it is exact, one a probe otherwise, and those with half of the iterations."""

    values: list[float]
    halved: list[float]


class Damped:
    r"""The damped curvature :math:`H + \delta I` of a view; H is the Hessian or the Gauss-Newton matrix.

    Args:
        view: the surface with the parameters that are meant.
        spec: says which matrix, and how it is damped.
    """

    def __init__(self, view: LossSurface, spec: InformationSpec) -> None:
        self.view, self.spec = view, spec

    def product(self, x: Tensor) -> Tensor:
        """Return H x, (p,), new memory."""
        return self.view.hvp(x) if self.spec.curvature == "hessian" else self.view.ggnvp(x)

    def checked(self, eigenvalues: Tensor) -> Tensor:
        """Return eigenvalues of H as they may be damped: what is not negative but for rounding is not negative.

        Raises:
            Unsupported: where the damped matrix is not positive definite.
        """
        if not bool(eigenvalues.isfinite().all()):
            return eigenvalues
        if self.spec.curvature == "ggn":
            eigenvalues = eigenvalues.clamp_min(0)
        floor = 0.0
        if self.spec.damping == 0:
            floor = 10 * torch.finfo(self.view.w.dtype).eps * float(eigenvalues.abs().max())
        smallest = float(eigenvalues.min())
        if smallest + self.spec.damping <= floor:
            raise Unsupported(
                f"the matrix plus damping is not positive definite: its smallest eigenvalue is {smallest:.3g}; raise "
                "damping, or choose curvature: ggn, which has no negative ones"
            )
        return eigenvalues

    @torch.no_grad()
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Return all eigenvalues, (p,), and eigenvectors, (p, p), in double precision.

        Raises:
            Unsupported: for too many parameters.
        """
        p = self.view.w.numel()
        if p > DENSE:
            raise Unsupported(
                f"approximation: dense makes a product for each of {p} parameters, and is meant for at most {DENSE}: "
                "choose lanczos, or a part of the parameters"
            )
        unit = torch.zeros_like(self.view.w)
        columns = []
        for j in range(p):
            unit[j] = 1
            columns.append(self.product(unit).double())
            unit[j] = 0
        matrix = torch.stack(columns)
        if not bool(matrix.isfinite().all()):
            return matrix.new_full((p,), math.nan), matrix
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        return self.checked(values), vectors

    def quadratures(self, starts: list[Tensor], function: Callable[[Tensor], Tensor]) -> Traces:
        r"""Return :math:`v^\top f(H)\, v` for every start v, by Gauss's quadrature of a Lanczos run from there."""
        traces = Traces([], [])
        for v in starts:
            square = float(v.double().square().sum())
            run = Lanczos(v.clone())
            steps = run.extend(self.product, self.spec.iterations) if square else 0
            for k, values in ((steps, traces.values), ((steps + 1) // 2, traces.halved)):
                values.append(square * self._sum(run.ritz(k), function) if square else 0.0)
        return traces

    def _sum(self, ritz: Ritz, function: Callable[[Tensor], Tensor]) -> float:
        return float((ritz.weights * function(self.checked(ritz.values))).sum())


@torch.no_grad()
def second_moments(view: LossSurface, basis: Tensor | None = None, targets: Tensor | None = None) -> Tensor:
    r"""Return :math:`\frac1n \sum_i \langle b_j, g_i \rangle^2`, (p,), for columns of a basis, or the weights' own."""
    total = torch.zeros(view.w.numel(), dtype=torch.float64, device=view.w.device)
    for chunk in view.example_gradients(targets=targets):
        rows = chunk.double() if basis is None else chunk.double() @ basis
        total += torch.linalg.vector_norm(rows, dim=0).square()
    return total / view.n


@torch.no_grad()
def mixtures(view: LossSurface, rng: Streams, probes: int) -> list[Tensor]:
    r"""Return :math:`v_k = n^{-1/2} \sum_i \pm g_i`, random signs, so that :math:`E\, v v^\top = C`, from one pass."""
    like = torch.empty(view.n, dtype=torch.float64, device=view.w.device)
    signs = torch.stack([rng.signs("examples", k, like) for k in range(probes)])
    sums = torch.zeros(probes, view.w.numel(), dtype=torch.float64, device=view.w.device)
    start = 0
    for chunk in view.example_gradients():
        sums += signs[:, start : start + len(chunk)] @ chunk.double()
        start += len(chunk)
    return list((sums / math.sqrt(view.n)).to(view.w.dtype))


def directions(view: LossSurface, rng: Streams, probes: int) -> list[Tensor]:
    r"""Return random directions of length :math:`\sqrt p`, so that :math:`E\, v v^\top = I`."""
    starts = (rng.normal("start", k, view.w) for k in range(probes))
    return [v * (math.sqrt(v.numel()) / torch.linalg.vector_norm(v)) for v in starts]


def gauss_newton_diagonal(view: LossSurface, rng: Streams, draws: int) -> Tensor:
    """Return the diagonal of the Gauss-Newton matrix of cross-entropy, (p,), from gradients at sampled labels."""
    moments = [second_moments(view, targets=labels) for labels in sampled_labels(view, rng, draws)]
    return torch.stack(moments).mean(0)
