"""Whether a model takes the points it is given: tried with one forward over a few of them, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.data.batch import take_rows
from acutance.data.lazy import realised
from acutance.errors import Misfit, UserError, lacks_memory
from acutance.model.losses import LossHead, Unlabelled

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel

REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError, AssertionError)
FEW = 8  # examples of the one forward
SCALES = {torch.uint8: "x.float() / 255", torch.uint16: "x.float() / 65535"}


@contextmanager
def answering(inputs: Any) -> Iterator[None]:
    """Turn what a model raises when it sees its first points into a sentence that says what they are.

    Raises:
        Misfit: instead of torch's errors, but for those of a machine without memory.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except REFUSALS as error:
        text = str(error).strip().splitlines()
        complaint = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
        if lacks_memory(error):
            raise
        raise Misfit(f"the model does not take {described(inputs)}: {complaint}", _hint(inputs, error)) from error


def require_fit(functional: FunctionalModel, inputs: Any, targets: Tensor, loss: Any, where: str) -> None:
    """Refuse points that a model does not take, by one forward over the first of them and a look at all targets.

    Args:
        functional: the model.
        inputs: all of them; of those that are read when they are used the first are read.
        targets: all of them, (n, ...); (n, 0) where there are none.
        loss: as LossSurface takes it.
        where: what the message calls the points.

    Raises:
        Misfit: for shapes or types that the model does not take, or labels that it has no output for.
    """
    few = realised(functional.cast_inputs(take_rows(inputs, slice(0, FEW))))
    try:
        with torch.no_grad(), answering(few):
            logits = functional(functional.own_pieces(), few)
        head = Unlabelled(loss) if targets.shape[1:] == (0,) else LossHead(loss)
        head.check(logits, min(FEW, len(targets)), targets)
    except UserError as error:
        raise Misfit(f"{where}: {error.message}", error.hint) from error


def described(inputs: Any) -> str:
    """Return shapes and types of inputs in words: ``inputs of shape (8, 3, 32, 32), uint8``."""
    parts = list(_parts(inputs, ""))
    if len(parts) == 1 and not parts[0][0]:
        tensor = parts[0][1]
        return f"inputs of shape {tuple(tensor.shape)}, {_kind(tensor)}"
    return "inputs " + ", ".join(f"{name} {tuple(x.shape)} {_kind(x)}".strip() for name, x in parts)


def _parts(inputs: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of every tensor in inputs; a single one has no name."""
    if isinstance(inputs, Tensor):
        yield name, inputs
    elif isinstance(inputs, Mapping):
        for key, value in inputs.items():
            yield from _parts(value, str(key))
    elif isinstance(inputs, tuple | list):
        for i, value in enumerate(inputs):
            yield from _parts(value, f"{name}{i}:")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _hint(inputs: Any, error: Exception) -> str:
    """Return the likeliest remedy."""
    tensors = [tensor for _, tensor in _parts(inputs, "")]
    for tensor in tensors:
        if tensor.dtype in SCALES and tensor.dim() > 2:
            return f"images as bytes are no numbers that a model takes: give {SCALES[tensor.dtype]}, as in training"
        if tensor.dtype in SCALES:
            return f"give {SCALES[tensor.dtype]}, as in training, or x.long() where they are token ids"
    ids = [tensor for tensor in tensors if tensor.dtype == torch.long and tensor.numel()]
    if isinstance(error, IndexError) and ids:
        low, high = min(int(x.min()) for x in ids), max(int(x.max()) for x in ids)
        return f"ids run from {low} to {high}: do they belong to this model?"
    if isinstance(error, TypeError):
        return "inputs in a dict go to the model by their names, several in a tuple by their places"
    return "check shape, channels and type of the inputs against the model"
