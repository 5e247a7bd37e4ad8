"""What automatic differentiation needs around it: gradients as flat vectors, refusals instead of wrong derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import _engine_run_backward

from acutance.errors import Unsupported
from acutance.numerics.scalars import scalar


def gradients(loss: Tensor, leaves: list[Tensor], seed: Tensor | None = None) -> list[Tensor]:
    """Gradient of a 0-d loss with respect to each of its leaves, in their shapes; zero where it does not depend.

    Args:
        loss: with its graph, which is used up; or outputs of any shape, with a seed.
        leaves: in whose shapes the gradients come.
        seed: the gradient of the loss in these outputs.
    """
    partials: Sequence[Tensor | None] = [None] * len(leaves)
    if loss.requires_grad:
        seed = seed_of(loss) if seed is None else seed
        partials = _engine_run_backward(
            (loss,),
            (torch.ones_like(loss) if seed is None else seed,),
            False,
            False,
            tuple(leaves),
            allow_unreachable=True,
            accumulate_grad=False,
        )
    return [
        torch.zeros_like(leaf) if g is None else g.to_dense() if g.is_sparse else g
        for g, leaf in zip(partials, leaves, strict=True)
    ]


def gradients_into(
    loss: Tensor, leaves: Sequence[Tensor], put: Callable[[int, Tensor], object], seed: Tensor | None = None
) -> None:
    """Hand out the gradient of a 0-d loss with respect to each of its leaves as soon as it is complete, to be let go.

    It may be written over the leaf itself: were that still read, autograd would see it by the versions of tensors, so
    each leaf must have one of its own, and not share that of a vector of all weights.

    Args:
        loss: with its graph, which is used up.
        leaves: in whose shapes the gradients come.
        put: called with the place among the leaves and the gradient; zeros where the loss does not depend on it.
        seed: as of ``gradients``.

    Raises:
        OverwrittenError: where a leaf is read after its gradient was written over it.
    """
    missing = {id(leaf): i for i, leaf in enumerate(leaves)}

    def done(leaf: Tensor) -> None:
        g, leaf.grad = leaf.grad, None
        assert g is not None
        with torch.no_grad():
            put(missing.pop(id(leaf)), g.to_dense() if g.is_sparse else g)

    hooks = [leaf.register_post_accumulate_grad_hook(done) for leaf in leaves]
    try:
        if loss.requires_grad:
            loss.backward(seed_of(loss) if seed is None else seed, inputs=list(leaves))
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            raise OverwrittenError from error
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for leaf in leaves:
            leaf.grad = None
    with torch.no_grad():
        for i in missing.values():
            put(i, torch.zeros_like(leaves[i]))


class OverwrittenError(RuntimeError):
    """A backward pass reads weights that their gradient was written over."""


def seed_of(loss: Tensor) -> Tensor | None:
    """Return what a backward pass of a loss begins with: None, for 1, and NaN where the loss is no number.

    A model that puts NaN in the place of some outputs has gradients without one: those of its other outputs. They
    become NaN so, without a look at the loss where an accelerator would have to wait for it.
    """
    plain = loss.detach()
    value = scalar(plain)
    if isinstance(value, float) and math.isfinite(value):
        return None
    return (plain - plain).add_(1)


def of_a_number(loss: Tensor, derivatives: Sequence[Tensor]) -> list[Tensor]:
    """Return derivatives of losses, NaN where a loss is no number, also where no output has a gradient.

    Args:
        loss: 0-d, or (k,).
        derivatives: each of any shape; its first axis is k where the loss has one.
    """
    lost = ~loss.detach().isfinite()
    # Reading a flag costs nothing on the CPU, and would wait for the work in flight on an accelerator.
    if not lost.is_cuda and not bool(lost.any()):
        return list(derivatives)
    return [d.masked_fill(lost.view(lost.shape + (1,) * (d.dim() - lost.dim())), torch.nan) for d in derivatives]


def flat_gradient(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    """Gradient of a 0-d loss with respect to its leaves, (p,); zero where it does not depend, NaN for no number."""
    (flat,) = of_a_number(loss, [torch.cat([g.reshape(-1) for g in gradients(loss, leaves)])])
    return flat


def gradient_graph(loss: Tensor, leaf: Tensor) -> Tensor:
    """Gradient of a 0-d loss, (p,), that can be differentiated again; zero when the loss does not depend on it."""
    return gradient_graphs(loss, [leaf])[0]


def gradient_graphs(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradient of a 0-d loss with respect to each of its leaves, in their shapes, as ``gradient_graph``."""
    parts: Sequence[Tensor | None] = [None] * len(leaves)
    if loss.requires_grad:
        parts = torch.autograd.grad(loss, leaves, seed_of(loss), create_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(parts, leaves, strict=True)]


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Turn autograd's complaint about a missing second derivative into ``Unsupported``."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error).splitlines()[0]
        if "not implemented" in text or "double backward" in text or "once_differentiable" in text:
            raise Unsupported(f"the model has an operation without a second derivative: {text}") from error
        raise


def refuse_missing_derivatives(*gradients: Tensor, of: Tensor | None = None) -> None:
    """Look through the graph of gradients for operations that may be differentiated only once.

    Autograd leaves them out of a product with given inputs without a word: the product would be wrong.

    Args:
        gradients: with their graphs.
        of: what they are the gradients of; its graph knows the names of the operations.
    """
    roots = [gradient.grad_fn for gradient in gradients]
    if any(node.name() == "torch::autograd::Error" for node in graph_nodes(*roots)):
        functions = {_marked(node) for node in graph_nodes(of.grad_fn)} - {""} if of is not None else set()
        name = f"{', '.join(sorted(functions))}, " if functions else ""
        raise Unsupported(
            f"the model has an operation without a second derivative ({name}an autograd.Function marked "
            "once_differentiable)"
        )


def graph_nodes(*roots: Any) -> Iterator[Any]:
    """Return every node of the graphs above some nodes, once."""
    seen, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(parent for parent, _ in node.next_functions)


def coarsest(value: Tensor) -> float:
    """Return the rounding of the coarsest floating-point numbers that a value's graph goes through."""
    kinds = {value.dtype}
    for node in graph_nodes(value.grad_fn):
        kinds |= {meta.dtype for meta in getattr(node, "_input_metadata", ())}
    return max(torch.finfo(kind).eps for kind in kinds if kind.is_floating_point)


def _marked(node: Any) -> str:
    """Return the name of the autograd.Function of a node, if its backward is marked once_differentiable."""
    function = getattr(node, "_forward_cls", None)
    code = getattr(getattr(function, "backward", None), "__code__", None)
    return str(function.__name__) if function is not None and code is _ONCE else ""


# Whatever it wraps, the decorator's own code is the same.
_ONCE = getattr(once_differentiable(lambda ctx: None), "__code__", None)
