"""Whether automatic differentiation sees all parameters that a model depends on: found once a model.

What a forward pass does with a parameter under ``no_grad`` or ``detach``, through ``.data`` or numpy, moves with the
weights and has no gradient. The graph of a few examples' logits says which parameters differentiation reaches, whatever
their values. The others are moved, near the weights rather than at them: there a last layer of zeros would hide all
before it. Those with which the logits do not move have no effect, and are none of these. A parameter of which only a
part goes past differentiation is in the graph, and is not found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.batch import take_rows
from acutance.conditions import conditions
from acutance.errors import Unsupported, Untracked, some
from acutance.lazy import realised

if TYPE_CHECKING:
    from acutance.core import Core
    from acutance.functional import FunctionalModel

ROWS = 8  # examples that are looked at, and no more than a quarter of the batch
NEAR = 0.03  # how far from the weights, in units of theirs
MOVED = 0.1  # how far parameters without a gradient are moved from there


@dataclass(frozen=True)
class Tracking:
    """What automatic differentiation does not see of a model: parameters by their place among the slots."""

    blind: frozenset[int] = frozenset()

    def refuse(self, functional: FunctionalModel, free: Iterable[int]) -> None:
        """Refuse derivatives in parameters of which they would be wrong.

        Raises:
            Untracked: naming them.
        """
        if not self.blind or not (bad := self.blind.intersection(free)):
            return
        names = [functional.slots[i].name for i in sorted(bad)]
        cure = "let automatic differentiation record that part of the forward pass"
        if len(bad) < len(functional.slots):
            cure += f', or leave it out: parameters: "{_pattern(functional, self.blind)}"'
        raise Untracked(
            f"the loss depends on {some(names)} past automatic differentiation (no_grad, detach, .data, "
            f"numpy): derivatives would be wrong; {cure}"
        )


def _pattern(functional: FunctionalModel, blind: frozenset[int]) -> str:
    """Return the pattern of names that leaves these parameters out, modules of the top whole."""
    parts: dict[str, None] = {}
    for i in sorted(blind):
        name = functional.slots[i].name
        top = name.partition(".")[0]
        siblings = {j for j, slot in enumerate(functional.slots) if slot.name.startswith(f"{top}.")}
        parts[f"!{top}.*" if siblings and siblings <= blind else f"!{name}"] = None
    return ",".join(parts)


def examine(core: Core) -> Tracking:
    """Return what automatic differentiation does not see of the model of a surface; its passes are booked as checks.

    One forward over 8 examples, or over a quarter of fewer than 32. Where the graph lacks parameters, two more;
    where the logits move with these, one for each, or for groups of them, as many as make no more than a pass with its
    gradient over the batch.
    """
    functional = core.functional
    rows = max(min(core.n, 2), min(ROWS, core.n // 4))
    inputs = realised(take_rows(core.inputs, slice(0, rows)))
    forwards, blind = 1, []
    lost = _out_of_reach(functional, inputs)
    if lost:
        with conditions(functional):
            near = [_away(piece, i, NEAR) for i, piece in enumerate(functional.split(functional.w))]

        def answer(slots: Sequence[int]) -> Tensor:
            nonlocal forwards
            forwards += 1
            moved = [_away(piece, i, MOVED) if i in slots else piece for i, piece in enumerate(near)]
            with conditions(functional):
                return functional(moved, inputs)

        blind = _those_that_move(lost, answer, answer(()), max(1, 3 * core.n // rows - 3))
    core.book(checks=forwards * rows)
    return Tracking(frozenset(blind))


def _out_of_reach(functional: FunctionalModel, inputs: Any) -> list[int]:
    """Return the parameters that the graph of the logits does not lead to. No gradient is taken, nothing copied."""
    with conditions(functional, order=1):
        leaves = [piece.detach().requires_grad_() for piece in functional.split(functional.w)]
        with functional.holding(leaves):
            reached = _leaves_of(functional(leaves, inputs))
    return [i for i, leaf in enumerate(leaves) if id(leaf) not in reached]


def _leaves_of(raw: Tensor) -> set[int]:
    """Return the identities of the tensors at which a graph ends."""
    found: set[int] = set()
    waiting, seen = [raw.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(after for after, _ in node.next_functions)
    return found


def _away(piece: Tensor, seed: int, far: float) -> Tensor:
    """Return a parameter moved at random, drawn without the global generators; zeros as if they were 0.1."""
    generator = torch.Generator(piece.device).manual_seed(seed)
    size = torch.linalg.vector_norm(piece.detach()) / max(piece.numel(), 1) ** 0.5
    noise = torch.empty_like(piece).normal_(generator=generator)
    return noise.mul_(size.masked_fill(size == 0, 0.1)).mul_(far).add_(piece)


def refuse_elsewhere(functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any, raw: Tensor) -> None:
    """Refuse a model whose forward pass takes parameters from elsewhere than where modules hold them, as from a list.

    Their own tensors are moved, and put back, while the model holds others: its answer must not change. Asked once a
    model.

    Args:
        functional: the model.
        pieces: one tensor for each of its parameters.
        inputs: a few examples.
        raw: the logits there.

    Raises:
        Unsupported: naming them: no other weights can be given to such a model.
    """
    if functional.elsewhere is None:

        def answer(slots: Sequence[int]) -> Tensor:
            with ExitStack() as stack:
                for tensor in (own for i in slots for own in functional.originals[i]):
                    stack.callback(setattr, tensor, "data", tensor.data)
                    tensor.data = (1.5 * tensor.data).add_(0.1)
                return functional(pieces, inputs)

        found = _those_that_move(range(len(functional.slots)), answer, raw)
        functional.elsewhere = [functional.slots[i].name for i in found]
    if functional.elsewhere:
        raise Unsupported(
            f"the model's forward pass takes {some(functional.elsewhere)} from elsewhere than its modules (a list, a "
            "closure), so no other weights can be given to it: let it use the module's own parameter"
        )


def _those_that_move(
    slots: Sequence[int], answer: Callable[[Sequence[int]], Tensor], raw: Tensor, most: int | None = None
) -> list[int]:
    """Return the parameters with which the logits move, asked for all at once, and one by one only if they do.

    Args:
        slots: the parameters to ask for.
        answer: gives the logits with some of them moved.
        raw: the logits with none of them moved.
        most: how many questions the second round may take; more parameters are asked for in groups.
    """
    largest = raw[raw.isfinite()].abs().amax() if bool(raw.isfinite().any()) else 0.0
    least = (1e-5 if raw.dtype == torch.float32 else 1e-9) * largest

    def moves(some: Sequence[int], least: Tensor | float) -> bool:
        moved = answer(some)
        # What is no number at the weights says nothing; what is none any more has moved.
        return moved.shape != raw.shape or not bool(((moved - raw).abs()[raw.isfinite()] <= least).all())

    if not slots or not moves(slots, least):
        return []
    size = 1 if most is None else -(-len(slots) // most)
    groups = [slots[start : start + size] for start in range(0, len(slots), size)]
    return [i for group in groups if len(groups) == 1 or moves(group, 0.0) for i in group]
