"""What a forward pass changes on a model: attributes and buffers are restored, changed weights and inputs refused."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.data.lazy import Lazy
from acutance.errors import lacks_memory, some

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel

_OWN = frozenset(vars(nn.Module()))  # tables that nn.Module keeps itself
_NAMED = ("_parameters", "_buffers", "_modules")  # those that hold what a module's attributes are bound to
_CONTAINERS = (list, dict, OrderedDict, set, deque)
Moving = Sequence[tuple[str, Tensor, Tensor]]  # name, buffer, as it was
Snapshot = tuple[list[dict[str, Any]], list[Any]]


class Attributes:
    """What the attributes of a model's modules are bound to: a hook's weight, an auxiliary loss, a cache, a buffer.

    Layers of torch without a hook leave nothing behind; only what they hold may be bound anew, by a module around them.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        own = [vars(module) for module in modules if _may_leave(module)]
        self._containers: list[Any] = [
            value for table in own for name, value in table.items()
            if name not in _OWN and type(value) in _CONTAINERS
        ]  # fmt: skip
        named = [
            vars(module)[name] for module in modules for name in _NAMED if vars(module)[name] or _may_leave(module)
        ]
        self._tables: list[dict[str, Any]] = own + named

    def snapshot(self) -> Snapshot:
        """Return what is there now: no tensor is copied."""
        return [table.copy() for table in self._tables], [value.copy() for value in self._containers]

    def fill_with_nan(self, snapshot: Snapshot) -> list[str]:
        """Replace the numbers that have come since by NaN, and return the names under which they lie."""
        names = []
        for table, before in zip(self._tables, snapshot[0], strict=True):
            for name in [n for n, value in table.items() if n not in _OWN and value is not before.get(n)]:
                names += [name] if _filled_with_nan(table, name) else []
        for value, old in zip(self._containers, snapshot[1], strict=True):
            if not _holds_the_same(value, old) and isinstance(value, list | dict):
                keys = list(value) if isinstance(value, dict) else range(len(value))
                names += ["an entry of a list"] * any([_filled_with_nan(value, key) for key in keys])
        return names

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what was there; may be called again after an interrupt."""
        tables, containers = snapshot
        for table, before in zip(self._tables, tables, strict=True):
            if len(table) != len(before) or not all(map(is_, table.values(), before.values())):
                for name in [name for name in table if name not in before]:
                    del table[name]
                table.update(before)
        for value, old in zip(self._containers, containers, strict=True):
            if not _holds_the_same(value, old):
                value.clear()
                value.update(old) if isinstance(value, dict | set) else value.extend(old)


def _may_leave(module: nn.Module) -> bool:
    hooked = module._forward_pre_hooks or module._forward_hooks
    return bool(hooked) or not type(module).__module__.startswith("torch.nn.modules.")


def _filled_with_nan(table: Any, name: Any) -> bool:
    """Replace a floating-point tensor or number by NaN; return whether it was one."""
    value = table[name]
    if isinstance(value, Tensor) and value.is_floating_point():
        table[name] = torch.full_like(value, torch.nan)
    elif isinstance(value, float):
        table[name] = float("nan")
    else:
        return False
    return True


def _holds_the_same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(is_, a.values(), b.values()))
    return len(a) == len(b) and all(map(is_, a, b))


def first_pass(functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any) -> Tensor:
    """Make a model's first pass, and see what it changes.

    Buffers that it changes begin each later pass as they are now. The pass works on copies of the inputs.

    Args:
        functional: the model, which holds the pieces.
        pieces: one tensor for every slot.
        inputs: the model's.

    Returns:
        The logits.

    Raises:
        UserError: when the pass writes to the weights or the inputs.
    """
    inputs = _copied(inputs)
    parts = [] if functional.sharded is None else functional.sharded.watched()
    watched = {"weights": [*pieces, *parts], "inputs": list(tensors_of(inputs))}
    before = {name: [version_of(tensor) for tensor in tensors] for name, tensors in watched.items()}
    buffers = [(name, b, version_of(b), b.clone()) for name, b in functional.named_buffers()]
    logits = functional.forward(inputs)
    changed = {name for name, tensors in watched.items() if [version_of(t) for t in tensors] != before[name]}
    moving = [(name, b, start) for name, b, version, start in buffers if version_of(b) != version]
    restore_buffers(moving)
    if "weights" in changed:
        names = some(_renormalized(functional))
        functional.weights.reread()
        raise functional.refuse(
            f"the model changes its weights{names and ' '}{names} in every forward pass",
            "an embedding with max_norm does that: normalize its weights once, then set max_norm to None",
        )
    if "inputs" in changed:
        raise functional.refuse(
            "the model changes its inputs in place in every forward pass",
            "let its first operation make a new tensor (x = x.mul(2), ReLU without inplace)",
        )
    functional.moving = moving
    return logits


def size_of(outputs: Tensor) -> float:
    """Return the largest absolute value among the outputs that are numbers; 0 for none."""
    return float(outputs.abs().nan_to_num(0.0, posinf=0.0).max())


def refuse_drift(functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any, first: Tensor) -> None:
    """Refuse a model whose outputs follow a buffer that its passes change; a counter that nothing reads is none.

    Args:
        functional: the model.
        pieces: one tensor for every slot.
        inputs: some examples.
        first: its logits for them, the buffers as they were.

    Raises:
        UserError: naming the buffers.
    """
    tolerance, read = 1e-6 * size_of(first), []
    for name, buffer, _ in functional.moving or ():
        with functional.holding(pieces):
            functional.forward(inputs)
            moved = buffer.clone()
            restore_buffers(functional.moving or ())
            buffer.copy_(moved)
            functional.restore_attributes()
            again = functional.forward(inputs)
        restore_buffers(functional.moving or ())
        if not torch.allclose(first, again, rtol=0, atol=tolerance, equal_nan=True):
            read.append(name)
    if read:
        raise functional.refuse(
            f"the model changes its buffer {some(read)} in every forward pass, and its outputs with it",
            "in evaluation mode a pass must leave what it reads as it is: update it only while self.training",
        )


def refuse_reading(
    functional: FunctionalModel, pieces: Sequence[Tensor], inputs: Any, loss: Callable[[Tensor], Tensor]
) -> None:
    """Refuse a user's loss that reads what a forward pass leaves on the model: that is gone when the loss is computed.

    What the pass left is replaced by NaN; a loss of the same logits that changes, or fails, has read it.

    Args:
        functional: the model.
        pieces: one tensor for every slot.
        inputs: some examples.
        loss: of logits, 0-d.

    Raises:
        UserError: naming what it reads.
    """
    with functional.holding(pieces):
        logits = functional.forward(inputs).detach()
        names = functional.fill_with_nan()
        if not names:
            return
        value = _outcome(loss, logits)
    if value is None or not torch.equal(value, loss(logits)):
        raise functional.refuse(
            f"the loss reads what a forward pass leaves on the model ({some(names)})",
            "let the model return it with its outputs, or make it from the logits",
        )


def refuse_penalty(
    functional: FunctionalModel, pieces: Sequence[Tensor], logits: Tensor, loss: Callable[[Tensor], Tensor]
) -> None:
    """Refuse a user's loss that reads the model's weights: what it adds of them does not follow the point measured.

    The same logits are judged again while the model holds other weights, and its own tensors are moved, which a list
    or a closure may hold; no pass of the model is made.

    Args:
        functional: the model.
        pieces: one tensor for every slot.
        logits: of some examples.
        loss: of logits, 0-d.

    Raises:
        UserError: saying so.
    """
    slots, logits = range(len(functional.slots)), logits.detach()
    moved_pieces = [far_from(piece) for piece in pieces]
    with functional.holding(moved_pieces), originals_moved(functional, slots, moved_pieces):
        moved = _outcome(loss, logits)
    del moved_pieces
    value = loss(logits)
    eps = 16 * torch.finfo(logits.dtype).eps  # kernels may add in another order
    if moved is None or not torch.allclose(moved, value, rtol=eps, atol=0.0, equal_nan=True):
        raise functional.refuse(
            "your loss reads the model's weights (a penalty on them, or a pass of its own), which do not follow the "
            "point that is measured",
            "measure the loss of the outputs alone, and the penalty apart",
        )


def far_from(weights: Tensor) -> Tensor:
    """Return weights far from these, in their shape: 1.5 w + 0.1, so that zeros move too."""
    return (1.5 * weights.detach()).add_(0.1)


@contextmanager
def originals_moved(
    functional: FunctionalModel, slots: Sequence[int], to: Sequence[Tensor] | None = None
) -> Iterator[None]:
    """Context in which the model's original tensors of some slots have other values; those it holds for passes stay.

    Args:
        functional: the model.
        slots: which.
        to: a tensor for every slot, whose memory the originals take where it fits them; else each has its own.
    """
    with ExitStack() as stack:
        for place, tensor in ((i, own) for i in slots for own in functional.originals[i]):
            stack.callback(setattr, tensor, "data", tensor.data)
            given = None if to is None else to[place]
            fits = given is not None and _kind(given) == _kind(tensor)
            tensor.data = given.view(tensor.shape) if given is not None and fits else far_from(tensor.data)
        yield


def _kind(tensor: Tensor) -> tuple[int, torch.dtype, torch.device]:
    return tensor.numel(), tensor.dtype, tensor.device


def _outcome(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor | None:
    """Return a user's loss of logits; None where it fails."""
    try:
        return loss(logits)
    except Exception as error:
        if lacks_memory(error):
            raise
        # A user's loss raises what it likes where what it reads has changed; that it reads is all that is asked.
        return None


def restore_buffers(moving: Moving) -> None:
    """Let the buffers that forward passes change be what they were before the first one."""
    with torch.no_grad():
        for _, buffer, start in moving:
            buffer.copy_(start)


def _renormalized(functional: FunctionalModel) -> list[str]:
    """Return the names of the weights of layers that are told to keep them below a norm."""
    modules = functional.model.named_modules()
    return [f"{name}.weight" if name else "weight" for name, m in modules if getattr(m, "max_norm", None) is not None]


def version_of(tensor: Tensor) -> int:
    """Return the count of in-place changes; tensors made in inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


def _copied(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.clone()
    if isinstance(inputs, Mapping):
        return {key: _copied(value) for key, value in inputs.items()}
    return tuple(_copied(value) for value in inputs) if isinstance(inputs, tuple | list) else inputs


def tensors_of(inputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of inputs; what is read when it is used is read anew each time, and cannot be kept changed."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Lazy) or inputs is None:
        return
    elif hasattr(inputs, "values"):
        for value in inputs.values():
            yield from tensors_of(value)
    elif isinstance(inputs, tuple | list):
        for value in inputs:
            yield from tensors_of(value)
