"""Whether automatic differentiation sees all that a model depends on: found once a model.

What a forward pass does with a parameter under ``no_grad`` or ``detach``, through ``.data`` or numpy, moves with the
weights and has no gradient. The graph of a few examples' logits says which parameters differentiation reaches, whatever
their values. The others are moved, near the weights rather than at them: there a last layer of zeros would hide all
before it, and zero biases put every kink under dead inputs. Those with which the logits do not move have no effect, and
are none of these. In the parameters that are reached the gradient is compared with differences (``secants``).

Half precision has no digits for such a comparison: there a copy of the model in float32 is looked at, so the code is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor

from acutance.checks.secants import Secants, wrong
from acutance.data.batch import take_rows
from acutance.data.lazy import realised
from acutance.errors import Unsupported, Untracked, lacks_memory, some
from acutance.model.conditions import conditions
from acutance.model.derivatives import graph_nodes
from acutance.model.state import originals_moved
from acutance.model.ties import GATHER
from acutance.model.weights import EXACT

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel
    from acutance.surface.core import Core

ROWS = 8  # examples that are looked at, and no more than a sixteenth of the batch
NEAR = 0.03  # how far from the weights, in units of theirs
MOVED = 0.1  # how far parameters without a gradient are moved from there


@dataclass(frozen=True)
class Tracking:
    """What automatic differentiation does not see of a model: parameters by their place among the slots.

    Attributes:
        blind: those that the outputs move with, and that have no gradient.
        wrong: those whose gradient is not the derivative.
        loss: why the gradient of the user's own loss in the outputs is not its derivative; empty where it is.
        untold: why it cannot be told whether derivatives are right; empty where it can.
    """

    blind: frozenset[int] = frozenset()
    wrong: frozenset[int] = frozenset()
    loss: str = ""
    untold: str = ""

    def refuse(self, functional: FunctionalModel, free: Iterable[int]) -> None:
        """Refuse derivatives in parameters of which they would be wrong.

        Raises:
            Untracked: naming them.
            Unsupported: where it cannot be told.
        """
        if self.untold:
            raise Unsupported(self.untold)
        if self.loss:
            raise Untracked(self.loss)
        for slots, template in ((self.blind, BLIND), (self.wrong, WRONG)):
            if not (bad := slots.intersection(free)):
                continue
            names = functional.parameters.names(sorted(bad))
            cure = "let automatic differentiation record all of the forward pass"
            if len(self.blind | self.wrong) < len(functional.slots):
                cure += f', or leave it out: parameters: "{pattern_without(functional, self.blind | self.wrong)}"'
            raise Untracked(f"{template.format(some(names))}: derivatives would be wrong; {cure}")


BLIND = "the loss depends on {} past automatic differentiation (no_grad, detach, .data, numpy)"
WRONG = (
    "the gradient in {} is not the derivative of the loss (a part of it is detached, a straight-through estimator, as "
    "of quantization-aware training, or a backward pass of your own), while values of the loss are right"
)
UNTOLD = (
    "whether derivatives of this model are right cannot be told with weights in {}: that is looked for with a copy in "
    "float32, and there its forward pass fails ({}); let it follow the type of its weights"
)


def pattern_without(functional: FunctionalModel, left_out: frozenset[int]) -> str:
    """Return the pattern of names that leaves these parameters out, modules of the top whole."""
    parts: dict[str, None] = {}
    for i in sorted(left_out):
        name = functional.slots[i].name
        top = name.partition(".")[0]
        siblings = {j for j, slot in enumerate(functional.slots) if slot.name.startswith(f"{top}.")}
        parts[f"!{top}.*" if siblings and siblings <= left_out else f"!{name}"] = None
    return ",".join(parts)


def examine(core: Core) -> Tracking:
    """Return what automatic differentiation does not see of the model of a surface; its passes are booked as checks.

    One pass with its gradient and two forwards over 8 examples, or over a sixteenth of fewer than 128; more only where
    these leave a doubt, and no more than a pass with its gradient over a batch of 8 or more.
    """
    functional = core.functional
    rows, inputs = few_examples(core)
    ledger = Ledger(core, rows)
    if functional.dtype in EXACT:
        secants = Secants(functional, near(functional), inputs, ledger.book)
    else:
        try:
            wide = functional.in_type(torch.float32)
            secants = Secants(wide, near(wide), wide.cast_inputs(inputs), ledger.book)
        except (RuntimeError, TypeError) as error:
            if lacks_memory(error):
                raise
            kind = str(functional.dtype).removeprefix("torch.")
            return Tracking(untold=UNTOLD.format(kind, str(error).splitlines()[0]))
    reserved = 3 if secants.lost else 0  # forwards to ask for these
    wrong_slots: list[int] = []
    if core.n > 1:
        wrong_slots = wrong(secants, partial(_in_double, secants, ledger), lambda: ledger.remaining() - reserved)
    blind = _blind(secants, ledger) if secants.lost else []
    return Tracking(frozenset(blind), frozenset(wrong_slots))


def few_examples(core: Core) -> tuple[int, Any]:
    """Return how many examples are looked at, and their inputs."""
    rows = max(min(core.n, 2 if core.refuses_single else 1), min(ROWS, core.n // 16))
    return rows, realised(take_rows(core.inputs, slice(0, rows)))


def near(functional: FunctionalModel) -> list[Tensor]:
    """Return a point near the weights, one tensor for each parameter; of half-precision weights in float32."""
    with conditions(functional):
        pieces = enumerate(zip(functional.own_pieces(), functional.shapes, strict=True))
        return [away(_single(piece), i, NEAR).view(shape) for i, (piece, shape) in pieces]


def _single(piece: Tensor) -> Tensor:
    return piece if piece.dtype in EXACT else piece.float()


class Ledger:
    """Passes over a few examples of a surface: booked as checks, and no more than a pass over all with its gradient."""

    def __init__(self, core: Core, rows: int) -> None:
        self._core, self._rows, self._passes = core, rows, 0

    def book(self, passes: int) -> None:
        """Enter passes, in forwards."""
        self._passes += passes
        self._core.book(checks=passes * self._rows)

    def remaining(self) -> int:
        """Return how many forwards may still be made."""
        return 3 * self._core.n // self._rows - self._passes


def _blind(secants: Secants, ledger: Ledger) -> list[int]:
    """Return the parameters that the outputs move with though their graph does not lead to them."""
    functional, point = secants.functional, secants.point

    def logits_moving(slots: Sequence[int]) -> Tensor:
        ledger.book(1)
        with conditions(functional):
            return functional([away(p, i, MOVED) if i in slots else p for i, p in enumerate(point)], secants.inputs)

    raw = logits_moving(())
    return _moving_slots(secants.lost, logits_moving, raw, max(1, ledger.remaining() - 1))


def _in_double(secants: Secants, ledger: Ledger) -> Secants | None:
    """Return the same point in float64; None where the model cannot be evaluated in it, as its code or device says."""
    if secants.functional.sharded is not None:
        return None
    try:
        double = secants.functional.in_type(torch.float64)
        point = [piece.double() for piece in secants.point]
        return Secants(double, point, double.cast_inputs(secants.inputs), ledger.book)
    except (RuntimeError, TypeError) as error:
        if lacks_memory(error):
            raise
        return None


def away(piece: Tensor, seed: int, far: float) -> Tensor:
    """Return a parameter moved at random, drawn without the global generators; zeros as if they were 0.1."""
    generator = torch.Generator(piece.device).manual_seed(seed)
    size = torch.linalg.vector_norm(piece.detach()) / max(piece.numel(), 1) ** 0.5
    noise = torch.empty_like(piece).normal_(generator=generator)
    return noise.mul_(size.masked_fill(size == 0, 0.1)).mul_(far).add_(piece)


def refuse_elsewhere(functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any, raw: Tensor) -> None:
    """Refuse a model whose forward pass takes parameters from elsewhere than where modules hold them, as from a list.

    Their own tensors are moved, and put back, while the model holds others: its answer must not change. Those of a
    sharded model are what is moved at a point: there it must change. Asked once a model.

    Args:
        functional: the model.
        pieces: one tensor for each of its parameters.
        inputs: a few examples.
        raw: the logits there.

    Raises:
        Unsupported: naming them: no other weights can be given to such a model.
        UserError: for a sharded model whose outputs do not follow its weights where they lie.
    """
    if functional.elsewhere is None and functional.sharded is not None:
        _refuse_still(functional, pieces, inputs, raw)
        functional.elsewhere = []
    if functional.elsewhere is None:

        def logits_moving(slots: Sequence[int]) -> Tensor:
            with originals_moved(functional, slots):
                return functional(pieces, inputs)

        slots_elsewhere = _moving_slots(range(len(functional.slots)), logits_moving, raw)
        functional.elsewhere = functional.parameters.names(slots_elsewhere)
    if functional.elsewhere:
        raise Unsupported(
            f"the model's forward pass takes {some(functional.elsewhere)} from elsewhere than its modules (a list, a "
            "closure), so no other weights can be given to it: let it use the module's own parameter"
        )


def _refuse_still(functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any, raw: Tensor) -> None:
    moved = functional([away(piece, i, MOVED) for i, piece in enumerate(pieces)], inputs)
    if torch.equal(moved, raw):
        raise functional.refuse("the outputs of the sharded model do not follow what processes hold of it", GATHER)


def leaves_of(raw: Tensor, leaves: Sequence[Tensor]) -> list[ref[Tensor]]:
    """Return weak references to the tensors that outputs are differentiable in, besides these: kept by no graph."""
    ids = {id(leaf) for leaf in leaves}
    tensors = [node.variable for node in graph_nodes(raw.grad_fn) if hasattr(node, "variable")]
    return [ref(tensor) for tensor in tensors if id(tensor) not in ids]


def note_outside(functional: FunctionalModel, others: Sequence[ref[Tensor]]) -> None:
    """Note weights that outputs depend on and that no module of the model holds, as those of modules in a plain list.

    Args:
        functional: the model.
        others: of ``leaves_of``, asked when the graph is gone, so that what the pass itself made is gone too.

    Raises:
        UserError: where they are the model's own, though it holds others: something made of them earlier was used.
    """
    alive = [tensor for tensor in (other() for other in others) if tensor is not None]
    names = {id(t): slot.name for slot, ts in zip(functional.slots, functional.originals, strict=True) for t in ts}
    if stale := [names[id(tensor)] for tensor in alive if id(tensor) in names]:
        raise functional.refuse(
            f"the model's outputs come from what an earlier pass made of {some(stale)} (a cache), which does not "
            "follow the point that is measured",
            "clear it, or let every pass make it anew",
        )
    if alive:
        shapes = some([str(tuple(tensor.shape)) for tensor in alive])
        functional.note(
            f"{sum(tensor.numel() for tensor in alive)} numbers that are no parameters of the model's modules take "
            f"part (shapes {shapes}; of a list, a closure, a hook): they stay as they are; register them to move them"
        )


def _moving_slots(
    slots: Sequence[int], logits_moving: Callable[[Sequence[int]], Tensor], raw: Tensor, most: int | None = None
) -> list[int]:
    """Return the parameters with which the logits move, asked for all at once, and one by one only if they do.

    Args:
        slots: the parameters to ask for.
        logits_moving: gives the logits with some of them moved.
        raw: the logits with none of them moved.
        most: how many questions the second round may take; more parameters are asked for in groups.
    """
    largest = raw[raw.isfinite()].abs().amax() if bool(raw.isfinite().any()) else 0.0
    least = (1e-5 if raw.dtype == torch.float32 else 1e-9) * largest

    def moves(asked: Sequence[int], least: Tensor | float) -> bool:
        moved = logits_moving(asked)
        # What is no number at the weights says nothing; what is none any more has moved.
        return moved.shape != raw.shape or not bool(((moved - raw).abs()[raw.isfinite()] <= least).all())

    if not slots or not moves(slots, least):
        return []
    size = 1 if most is None else -(-len(slots) // most)
    groups = [slots[start : start + size] for start in range(0, len(slots), size)]
    return [i for group in groups if len(groups) == 1 or moves(group, 0.0) for i in group]
