r"""Whether products with the Hessian by double backward are derivatives of the gradient: found once a model.

A backward pass may be right and its own derivative wrong: it uses constants (numpy, ``detach``), recomputes its forward
pass without a graph, or has a second derivative that forgets a term. For

.. math:: \varphi(w) = \langle u, f(w) \rangle / \sigma + \tfrac12 \|f(w)\|^2 / \sigma^2

with random u and :math:`\sigma` the size of the outputs, near w*, and a random direction v, the rest

.. math:: E(t) = \frac{\nabla \varphi(w + tv) - \nabla \varphi(w)}{t} - H v

is the same vector at every small t where H v lacks something. That of a kink grows as t falls, and so does rounding;
that of curvature falls. All of it happens in float64, where t is so small that hardly a kink lies within, and that a
difference to one side will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.checks.tracking import Ledger, few_examples, near
from acutance.errors import Unsupported, lacks_memory, some
from acutance.model.conditions import conditions
from acutance.model.derivatives import coarsest, graph_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from acutance.model.functional import FunctionalModel
    from acutance.surface.core import Core

SHORT, LONG = 1e-8, 1e-7  # lengths, in units of the weights
SHARE = 1e-3  # of a parameter's part of H v, and a tenth of that of all of H v, that the rest may be
CONSTANT = 0.1  # of the rest, by which it may differ between the two lengths
ROUNDED = 1e3  # units of rounding of the gradient that the difference must exceed
SEED = 1 << 21  # apart from the seeds of the point
WRONG = (
    "the Hessian product by double backward in {} is not the derivative of the gradient (a backward pass that loses a "
    "term when it is differentiated again: an autograd.Function that uses constants or builds no graph, torch's "
    "weight_norm), while a finite difference of gradients is right"
)


def refuse_products(functional: FunctionalModel, wrong: Iterable[int], free: Iterable[int]) -> None:
    """Refuse Hessian products in parameters of which they would be wrong.

    Raises:
        Unsupported: naming them.
    """
    if bad := sorted(set(wrong).intersection(free)):
        raise Unsupported(WRONG.format(some(functional.parameters.names(bad))))


def wrong_products(core: Core) -> frozenset[int]:
    """Return the parameters in which double backward is not the derivative of the gradient; booked as checks.

    One product and two gradients over the few examples that the gradient was looked at with, one more where these leave
    a doubt: from 4 examples on no more than a pass with its gradient over all. Models that float64 does not take, that
    compute in a coarser dtype by themselves, or that refuse to be differentiated twice (the product says so itself) are
    not looked at.

    Raises:
        RuntimeError: where the memory does not suffice, which says nothing about the model.
    """
    rows, inputs = few_examples(core)
    functional, ledger = core.functional, Ledger(core, rows)
    try:
        double = functional.in_type(torch.float64)
        with conditions(double):
            point = [piece.double() for piece in near(functional)]
            sizes = [torch.linalg.vector_norm(p) / max(p.numel(), 1) ** 0.5 for p in point]
        products = _Products(double, point, sizes, double.cast_inputs(inputs), ledger)
        return products.wrong() if products.differentiable else frozenset()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if lacks_memory(error):
            raise
        return frozenset()


class _Products:
    """A point, H v there, and how far differences of gradients are from it."""

    def __init__(
        self, functional: FunctionalModel, point: list[Tensor], sizes: list[Tensor], inputs: Any, ledger: Ledger
    ) -> None:
        self._functional, self._point, self._inputs, self._ledger = functional, point, inputs, ledger
        self._sizes = [size.masked_fill(size == 0, 0.1) for size in sizes]
        self._u, self._sigma = torch.empty(0), torch.empty(0)
        self._direction = [self._drawn(i, p) * s for i, (p, s) in enumerate(zip(point, self._sizes, strict=True))]
        for i, row in functional.padding_rows():
            self._direction[i][row] = 0.0
        self._gradient, self._product, self._moved = list[Tensor](), list[Tensor](), 0.0
        self._differentiate()

    @property
    def differentiable(self) -> bool:
        """Whether there is a product to look at."""
        return bool(self._product)

    @staticmethod
    def _drawn(i: int, like: Tensor) -> Tensor:
        generator = torch.Generator(like.device).manual_seed(SEED + i)
        return torch.empty_like(like).normal_(generator=generator)

    def _value(self, raw: Tensor) -> Tensor:
        return (self._u * raw / self._sigma + (raw / self._sigma).square() / 2).sum()

    def _gradients(self, pieces: Sequence[Tensor], products: bool = False) -> list[Tensor]:
        """Return the gradient at a point, with its graph where products follow; empty where there is none."""
        raw = self._functional(pieces, self._inputs)
        if not len(self._u):
            raised = raw.detach()
            self._u, self._sigma = self._drawn(-1, raised), raised.square().mean().sqrt().clamp(min=1e-30)
            if coarsest(raw) > torch.finfo(torch.float64).eps or not bool(raised.isfinite().all()):
                self._ledger.book(1)
                return []
        gradients = torch.autograd.grad(self._value(raw), pieces, create_graph=products, allow_unused=True)
        self._ledger.book(3)
        return [torch.zeros_like(p) if g is None else g.to_dense() for g, p in zip(gradients, pieces, strict=True)]

    def _differentiate(self) -> None:
        """Compute the gradient and H v at the point; both stay empty where there is no product to look at."""
        with conditions(self._functional, order=2):
            leaves = [piece.detach().requires_grad_() for piece in self._point]
            with self._functional.holding(leaves):
                gradients = self._gradients(leaves, products=True)
                if not gradients:
                    return
                recorded = [(g, v) for g, v in zip(gradients, self._direction, strict=True) if g.requires_grad]
                names = {node.name() for g, _ in recorded for node in graph_nodes(g.grad_fn)}
                if not recorded or "torch::autograd::Error" in names:
                    return
                outputs, vectors = zip(*recorded, strict=True)
                products = torch.autograd.grad(outputs, leaves, vectors, allow_unused=True)
        self._ledger.book(4)
        self._gradient = [g.detach() for g in gradients]
        self._product = [
            torch.zeros_like(p) if h is None else h.to_dense() for h, p in zip(products, leaves, strict=True)
        ]

    def _rest(self, t: float) -> list[Tensor]:
        """Return E(t), each parameter's part in units of it; the point moves there, in its own memory."""
        with conditions(self._functional, order=2):
            for piece, direction in zip(self._point, self._direction, strict=True):
                piece.add_(direction, alpha=t - self._moved)
            self._moved = t
            leaves = [piece.detach().requires_grad_() for piece in self._point]
            with self._functional.holding(leaves):
                gradients = self._gradients(leaves)
            # In place as well: these vectors are as long as the weights.
            parts = zip(gradients, self._gradient, self._product, self._sizes, strict=True)
            return [a.sub_(g).div_(t).sub_(h).mul_(s) for a, g, h, s in parts]

    def wrong(self) -> frozenset[int]:
        """Return the parameters in which the rest is large, and the same at two lengths."""
        sized = [torch.stack([torch.linalg.vector_norm(x) * s for x, s in zip(vectors, self._sizes, strict=True)])
                 for vectors in (self._product, self._gradient)]  # fmt: skip
        products, gradients = sized
        rounded = ROUNDED * torch.finfo(torch.float64).eps * gradients.norm() / SHORT
        least = (SHARE * products).clamp(min=float(torch.maximum(SHARE / 10 * products.norm(), rounded)))
        short = self._rest(SHORT)
        large = torch.stack([torch.linalg.vector_norm(e) for e in short])
        if not bool((large > least).any()):
            return frozenset()
        apart = [torch.linalg.vector_norm(a.sub_(b)) for a, b in zip(self._rest(LONG), short, strict=True)]
        same = torch.stack(apart) <= CONSTANT * large
        return frozenset(torch.nonzero((large > least) & same).flatten().tolist())
