r"""Products with the Hessian of the loss, the Jacobian of the logits and the generalized Gauss-Newton matrix.

All of it is double backward through graphs that are built once at w* and kept, unless microbatching forbids it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from acutance.checks.double_backward import refuse_products, wrong_products
from acutance.data.batch import tensor
from acutance.errors import Unsupported, UserError
from acutance.model.conditions import conditions, in_own_conditions, trackable
from acutance.model.derivatives import (
    gradient_graph,
    gradient_graphs,
    graph_nodes,
    of_a_number,
    refuse_missing_derivatives,
    second_derivatives,
)
from acutance.model.many_classes import many
from acutance.model.normalization import Jacobian, Normalization
from acutance.model.parameters import Parameters
from acutance.surface.core import Core
from acutance.surface.linearization import Linearization

# The free parameters, all parameters, the places of the gradient's parts in its graph, and the loss.
Differentiated = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[GradientEdge | None], Tensor]
TOGETHER = 8  # products through one graph at once, for models whose passes are mostly overhead
SMALL, FEW = 1 << 16, 1 << 10  # parameters and examples of such a model


class SecondOrder:
    """The second-order oracle of one view of a surface.

    Args:
        core: what the views share.
        parameters: which are free.
        w: (p,) the view's w*.
        transform: from raw logits to what the loss sees.
    """

    def __init__(self, core: Core, parameters: Parameters, w: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.core, self.parameters, self._w, self._transform = core, parameters, w, transform
        self._name = object()  # names its graph in the core, which must not refer back to this view
        self._together: int | None = None

    @contextmanager
    def _differentiable(self, pieces: Sequence[Tensor]) -> Iterator[None]:
        """Conditions of derivatives at the weights that the model holds meanwhile."""
        functional = self.core.functional
        self.core.refuse_derivatives(self.parameters.free)
        with conditions(functional, order=2), second_derivatives(), functional.holding(pieces):
            yield

    def _vector(self, name: str, v: Tensor) -> Tensor:
        if tensor(v, name).shape != self._w.shape:
            raise UserError(f"{name} has shape {tuple(v.shape)}, this surface has {self._w.numel()} free parameters")
        return trackable(v.detach().to(self._w))

    def _point(self, w: Tensor | None) -> Tensor:
        return self._w.detach() if w is None else self._vector("w", w)

    def _pieces(self, free: list[Tensor]) -> list[Tensor]:
        return self.parameters.merged(self.core.functional.own_pieces(), free)

    # -- Hessian ------------------------------------------------------------------------------------

    @in_own_conditions
    def hvp(self, v: Tensor, w: Tensor | None) -> Tensor:
        """Return H v, (p,), in memory of its own."""
        core, v = self.core, self._vector("v", v)
        total: Tensor | None = None
        keep = w is None and core.in_one_pass
        for leaves, pieces, edges, loss in [self._cached_gradient()] if keep else self._gradient_graphs(w):
            parts = self._products(leaves, pieces, edges, self.parameters.shaped(v), keep)
            parts = [part.reshape(-1) for part in of_a_number(loss, parts)]
            if total is None:
                total = torch.cat(parts)
            else:
                torch._foreach_add_(list(self.parameters.split(total)), parts)
            del parts  # before the next graph is built
        core.book(hvps=core.n)
        assert total is not None
        return total

    @in_own_conditions
    def hvps(self, vs: Tensor) -> Tensor:
        """Return H v for every row v of vs, (k, p)."""
        if tensor(vs, "vs").dim() != 2 or vs.shape[1:] != self._w.shape:
            raise UserError(f"vs has shape {tuple(vs.shape)}, this surface has {self._w.numel()} free parameters")
        vs = trackable(vs.detach().to(self._w))
        if len(vs) > 1 and self.together > 1:
            try:
                return self._batched(vs)
            except (RuntimeError, Unsupported):
                # Some operation has no rule for batches; if something else is wrong, one product says so as well.
                self._together = 1
        return torch.stack([self.hvp(v, None) for v in vs])

    def _batched(self, vs: Tensor) -> Tensor:
        """Return H v for every row v of vs, (k, p), by one batched backward pass."""
        leaves, pieces, edges, loss = self._cached_gradient()
        sizes = [(len(vs), *leaf.shape) for leaf in leaves]
        tangents = [v.view(size) for v, size in zip(self.parameters.split(vs), sizes, strict=True)]
        parts = self._products(leaves, pieces, edges, tangents, keep=True, batched=True)
        self.core.book(hvps=len(vs) * self.core.n)
        (products,) = of_a_number(loss, [torch.cat([part.reshape(len(vs), -1) for part in parts], dim=1)])
        return products

    def _products(
        self,
        leaves: Sequence[Tensor],
        pieces: Sequence[Tensor],
        edges: Sequence[GradientEdge | None],
        tangents: Sequence[Tensor],
        keep: bool,
        batched: bool = False,
    ) -> list[Tensor]:
        """Return one part of H v for every free parameter, of tangents in their shapes, or with one more axis."""
        pairs = [(edge, v) for edge, v in zip(edges, tangents, strict=True) if edge is not None]
        if not pairs:
            return [torch.zeros_like(v) for v in tangents]
        with self._differentiable(pieces):
            found = torch.autograd.grad(
                [edge for edge, _ in pairs],
                leaves,
                [v for _, v in pairs],
                retain_graph=keep,
                allow_unused=True,
                is_grads_batched=batched,
            )
        return [torch.zeros_like(v) if part is None else part for part, v in zip(found, tangents, strict=True)]

    @property
    def together(self) -> int:
        """How many products to make at once: more than one where a pass is mostly overhead, convolutions excepted."""
        if self._together is None:
            core, small = self.core, self._w.numel() <= SMALL and self.core.n <= FEW
            edges = self._cached_gradient()[2] if small and core.in_one_pass else ()
            nodes = [edge.node for edge in edges if edge is not None]
            convolves = not nodes or any("Convolution" in node.name() for node in graph_nodes(*nodes))
            self._together = 1 if convolves else TOGETHER
        return self._together

    def _cached_gradient(self) -> Differentiated:
        """Return the point w* and the gradient there with its graph; another view's graph makes room for it."""
        core = self.core
        if core.gradient_graph is None or core.gradient_graph[0] is not self._name:
            core.gradient_graph = None
            core.gradient_graph = (self._name, *next(self._gradient_graphs(None)))
        return core.gradient_graph[1:]

    def _gradient_graphs(self, w: Tensor | None) -> Iterator[Differentiated]:
        """Yield what products need, of every microbatch; a part of the gradient that is constant has no place."""
        core = self.core
        self._refuse_wrong_products()
        for inputs, targets in core.chunks(as_given=True):
            # Each parameter is a leaf of its own: gradients and products are not put together inside the graph.
            leaves = [piece.requires_grad_() for piece in self.parameters.shaped(self._point(w))]
            with conditions(core.functional, order=1):
                pieces = self._pieces(leaves)
            with self._differentiable(pieces):
                raw = core.functional(pieces, inputs)
                loss = core.head.part(self._transform(raw), targets, core.n)
                parts = gradient_graphs(loss, leaves)
            refuse_missing_derivatives(*parts, of=loss)
            core.book(forwards=len(targets), backwards=len(targets))
            # The graph is what products need; the gradient's own numbers can go.
            edges = [get_gradient_edge(part) if part.requires_grad else None for part in parts]
            value = loss.detach()
            del raw, loss, parts
            yield leaves, pieces, edges, value
            del leaves, pieces, edges

    def _refuse_wrong_products(self) -> None:
        """Look, once a model, whether double backward is the derivative of a gradient that is one itself."""
        functional = self.core.functional
        self.core.refuse_derivatives(self.parameters.free)
        self.core.refuse_products()
        if functional.wrong_products is None:
            functional.wrong_products = wrong_products(self.core)
        refuse_products(functional, functional.wrong_products, self.parameters.free)

    # -- Jacobian and Gauss-Newton ------------------------------------------------------------------

    @in_own_conditions
    def jvp(self, v: Tensor, w: Tensor | None) -> Tensor:
        """Return J v, (n, K)."""
        v = self._vector("v", v)
        parts = []
        for raw, _ in self._linearized(w):
            with self._differentiable(raw.held):
                parts.append(self._transformed(raw).jvp([self._raw_jvp(raw, v)]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @in_own_conditions
    def vjp(self, u: Tensor, w: Tensor | None) -> Tensor:
        """Return J^T u, (p,)."""
        total, start = torch.zeros_like(self._w), 0
        for raw, targets in self._linearized(w):
            with self._differentiable(raw.held):
                transformed = self._transformed(raw)
                shape = (self.core.n, *transformed.outputs.shape[1:])
                if tensor(u, "u").shape != shape:
                    raise UserError(f"u has shape {tuple(u.shape)}, the logits have {shape}")
                rows = u[start : start + len(targets)].detach().to(transformed.outputs)
                rows = trackable(rows)
                total += self._raw_vjp(raw, *transformed.vjp(rows))
            start += len(targets)
        return total

    @in_own_conditions
    def ggnvp(self, v: Tensor, w: Tensor | None) -> Tensor:
        """Return the product with the generalized Gauss-Newton matrix, (p,)."""
        v = self._vector("v", v)
        self.core.refuse_products()
        total = torch.zeros_like(self._w)
        for raw, targets in self._linearized(w):
            with self._differentiable(raw.held):
                transformed = self._transformed(raw)
                tangent = transformed.jvp([self._raw_jvp(raw, v)])
                loss, curved = self._loss_hessian(transformed.outputs, targets, tangent)
                total += of_a_number(loss, [self._raw_vjp(raw, *transformed.vjp(curved))])[0]
        return total

    def _linearized(self, w: Tensor | None) -> Iterator[tuple[Linearization, Tensor]]:
        """Yield (raw logits as a function of the free parameters, targets) of every microbatch."""
        core, key = self.core, self.parameters.free
        keep = w is None and core.in_one_pass
        if keep and key in core.linearizations:
            yield core.linearizations[key], core.targets
            return
        for inputs, targets in core.chunks(as_given=True):
            if keep:
                core.linearizations.clear()  # the graphs of other parameters make room
            leaves = [piece.requires_grad_() for piece in self.parameters.shaped(self._point(w))]
            pieces = self._pieces(leaves)
            with self._differentiable(pieces):
                raw = Linearization(core.functional(pieces, inputs), leaves, pieces)
            core.book(forwards=len(targets))
            if keep:
                # Views that differ only in the transform of the logits share it.
                core.linearizations[key] = raw
            yield raw, targets

    def _transformed(self, raw: Linearization) -> Linearization | Jacobian:
        """Return what the loss sees as a function of the raw logits: themselves, or normalized."""
        if isinstance(self._transform, Normalization) and many(raw.outputs):
            return self._transform.linearized(raw.outputs)
        leaf = raw.outputs.detach().requires_grad_()
        return Linearization(self._transform(leaf), [leaf])

    def _raw_jvp(self, raw: Linearization, v: Tensor) -> Tensor:
        if not raw.prepared:
            raw.prepare()
            self.core.book(backwards=len(raw.outputs))
        product = raw.jvp(self.parameters.shaped(v))
        self.core.book(backwards=len(raw.outputs))
        return product

    def _raw_vjp(self, raw: Linearization, u: Tensor) -> Tensor:
        product = torch.cat([g.reshape(-1) for g in raw.vjp(u)])
        self.core.book(backwards=len(raw.outputs))
        return product

    def _loss_hessian(self, outputs: Tensor, targets: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return this microbatch's share of the loss, and of its Hessian in the outputs times t, (n, K)."""
        leaf = outputs.detach().requires_grad_()
        loss = self.core.head.part(leaf, targets, self.core.n)
        g = gradient_graph(loss, leaf)
        refuse_missing_derivatives(g)
        if not g.requires_grad:
            return loss, torch.zeros_like(leaf)
        (product,) = torch.autograd.grad(g, leaf, t, allow_unused=True, materialize_grads=True)
        return loss, product
