r"""A function as its linearization at one point: products with the Jacobian and its transpose.

:math:`J^\top u` is a backward pass. :math:`J v` is the derivative of :math:`u \mapsto J^\top u`, which is linear,
along v: a second backward pass through the graph of the first. Forward-mode differentiation would give the same,
but differentiating its result again is silently wrong through LayerNorm, so it is not used anywhere; the double
backward keeps one graph for all products, and its two halves check each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from acutance.errors import Unsupported
from acutance.model.derivatives import refuse_missing_derivatives

PERIOD = 1_048_573  # numbers without a pattern; a prime
BLOCK = 1 << 18  # numbers that are converted at once


class Linearization:
    """Jacobian products of ``outputs`` with respect to ``leaves``, as often as wanted, from one retained graph.

    Args:
        outputs: any shape, with the graph that leads from the leaves to it; constant outputs have J = 0.
        leaves: tensors that require a gradient.
        held: what the model must hold while derivatives are taken: the parameters that its forward pass saw.
    """

    def __init__(self, outputs: Tensor, leaves: Sequence[Tensor], held: Sequence[Tensor] = ()) -> None:
        self.outputs, self.leaves, self.held = outputs, list(leaves), held
        self._is_identity = len(self.leaves) == 1 and outputs is self.leaves[0]
        self._cotangent: Tensor | None = None
        self._pulled: list[tuple[int, Tensor]] = []
        self._checked = False

    @property
    def prepared(self) -> bool:
        """Whether the graph of the backward pass exists, which ``jvp`` needs."""
        return self._cotangent is not None

    def vjp(self, u: Tensor) -> list[Tensor]:
        r"""Return :math:`J^\top u`, one tensor for each leaf, for u of the outputs' shape."""
        if self._is_identity:
            return [u]
        if not self.outputs.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        return list(
            torch.autograd.grad(
                self.outputs, self.leaves, u, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    def prepare(self) -> None:
        r"""Build the graph of :math:`u \mapsto J^\top u`, at the cost of one backward pass.

        Raises:
            Unsupported: when some operation's backward pass cannot be differentiated.
        """
        u = _generic(self.outputs).requires_grad_()
        if self.outputs.requires_grad:
            gradients = torch.autograd.grad(self.outputs, self.leaves, u, create_graph=True, allow_unused=True)
            self._pulled = [(i, g) for i, g in enumerate(gradients) if g is not None]
            refuse_missing_derivatives(*(g for _, g in self._pulled))
        self._cotangent = u

    def jvp(self, tangents: Sequence[Tensor]) -> Tensor:
        """Return J v, of the outputs' shape, for v given as one tensor for each leaf.

        Raises:
            Unsupported: when some operation's backward pass cannot be differentiated.
        """
        if self._is_identity:
            return tangents[0]
        if self._cotangent is None:
            self.prepare()
        assert self._cotangent is not None
        pulled = [(g, tangents[i]) for i, g in self._pulled if g.requires_grad]
        if pulled:
            (product,) = torch.autograd.grad(
                [g for g, _ in pulled],
                self._cotangent,
                [v for _, v in pulled],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        else:
            product = torch.zeros_like(self._cotangent)
        if not self._checked:
            self._compare_halves(product, tangents)
        return product

    def _compare_halves(self, product: Tensor, tangents: Sequence[Tensor]) -> None:
        r"""Check :math:`\langle u, J v \rangle = \langle J^\top u, v \rangle`: a backward that detaches breaks it."""
        assert self._cotangent is not None
        u, pulled = self._cotangent.detach(), [(g.detach(), tangents[i]) for i, g in self._pulled]
        left = _inner(u, product)
        right = sum((_inner(g, v) for g, v in pulled), torch.zeros_like(left))
        # Of all parameters together: along one that the outputs do not depend on both sides are rounding alone.
        lengths = [torch.stack([_length(x) for x in side]).norm() for side in zip(*pulled, strict=True)]
        size = _length(u) * _length(product) + math.prod(lengths)
        precise = product.dtype == torch.float64 and all(v.dtype == torch.float64 for v in tangents)
        if bool((left - right).abs() > (1e-8 if precise else 1e-3) * size):
            raise Unsupported("the model has an operation whose backward pass is cut off from its input (detached)")
        self._checked = True


def _generic(like: Tensor) -> Tensor:
    """Return numbers without a pattern that a model could have, in the shape of a tensor.

    Any point will do, since the map is linear; a generic one makes the check in ``jvp`` sharp.
    """
    ramp = torch.arange(min(like.numel(), PERIOD), dtype=torch.float64, device=like.device)
    numbers = torch.cos(1.7 * ramp).to(like.dtype)
    # So many cosines would take longer than the pass; a prime period falls in step with no size of a layer.
    return numbers.repeat(-(-like.numel() // PERIOD) or 1)[: like.numel()].view(like.shape)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product, 0-d float64, without copies of tensors in float64."""
    pairs = zip(a.reshape(-1).split(BLOCK), b.reshape(-1).split(BLOCK), strict=True)
    return torch.stack([torch.dot(x.double(), y.double()) for x, y in pairs]).sum()


def _length(a: Tensor) -> Tensor:
    return _inner(a, a).sqrt()
