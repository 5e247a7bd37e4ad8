"""Checkpoints beside the model: their weights and buffers as vectors, held to its architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.data.batch import take_rows
from acutance.data.lazy import realised
from acutance.errors import UserError
from acutance.io.checkpoints import load_file
from acutance.model.conditions import conditions
from acutance.model.functional import FunctionalModel
from acutance.model.initial import initial_vector
from acutance.system.memory import free_bytes

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

FEW = 8  # examples on which another checkpoint's own code is held against the model's
SAME = 1e-3  # of the largest logit


@dataclass(frozen=True)
class End:
    """A checkpoint.

    Attributes:
        name: how pictures call it.
        w: (p,) all of its parameters, on the surface's device, in its dtype.
        buffers: {name: tensor} of its floating-point buffers.
    """

    name: str
    w: Tensor
    buffers: Mapping[str, Tensor]


def ends(surface: LossSurface, checkpoints: Sequence[Any], names: Sequence[str], key: str, prefix: str) -> list[End]:
    """Return checkpoints as vectors, the given ones in order; the model's own weights are not among them.

    Args:
        surface: of the model, all parameters free.
        checkpoints: modules, state dicts, or paths of checkpoint files.
        names: one for each; their file names, or numbers, by default.
        key: where in a file the state lies.
        prefix: taken off the names in a file.

    Raises:
        UserError: for one of another architecture, one that cannot be read, or more than memory holds.
    """
    if names and len(names) != len(checkpoints):
        raise UserError(f"names: there are {len(names)} for {len(checkpoints)} checkpoints", "give one for each")
    require_room(surface, len(checkpoints) + 1, "checkpoints")
    found = []
    for i, checkpoint in enumerate(checkpoints):
        name = names[i] if names else _name(checkpoint, i)
        found.append(_end(surface, checkpoint, name, key, prefix))
    return found


def require_room(surface: LossSurface, vectors: int, what: str) -> None:
    """Refuse so many vectors of all weights where memory does not hold them.

    Raises:
        UserError: saying how much is needed.
    """
    free = free_bytes(surface.w.device)
    needed = vectors * surface.w.numel() * surface.w.element_size()
    if free is not None and needed > free:
        raise UserError(
            f"{what}: {vectors} vectors of {surface.w.numel()} weights take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of memory are free",
            "fix some of the weights (parameters), or take fewer directions",
        )


def own_end(surface: LossSurface) -> End:
    """Return the model itself."""
    return End("model", surface.w, surface.buffers)


def _name(checkpoint: Any, i: int) -> str:
    return Path(checkpoint).stem if isinstance(checkpoint, str | Path) else f"checkpoint {i + 1}"


def _end(surface: LossSurface, checkpoint: Any, name: str, key: str, prefix: str) -> End:
    """Return one checkpoint as a vector."""
    functional = surface.core.functional
    what = f"weights of checkpoint '{name}'"
    if isinstance(checkpoint, str | Path):
        if not Path(checkpoint).is_file():
            raise UserError(
                f"checkpoint {checkpoint}: there is no such file", "give a .safetensors, .pt, .npz ... file"
            )
        try:
            checkpoint = load_file(copy.deepcopy(functional.model), Path(checkpoint), key, prefix)
        except UserError as error:
            raise UserError(f"checkpoint {name}: {error.message}", error.hint) from None
        own_code = False
    else:
        own_code = isinstance(checkpoint, nn.Module)
    if isinstance(checkpoint, nn.Module):
        other = FunctionalModel(checkpoint, functional.device, functional.dtype)
        w = initial_vector(functional, other.model, what)
        buffers = {n: b.detach().to(functional.device) for n, b in other.named_buffers() if b.is_floating_point()}
    elif isinstance(checkpoint, Mapping):
        w = initial_vector(functional, checkpoint, what)
        buffers = {n: checkpoint[n].to(b) for n, b in surface.buffers.items() if n in checkpoint}
    else:
        raise UserError(f"checkpoint '{name}' is a {type(checkpoint).__name__}", "give a model, a state dict or a file")
    missing = [n for n in surface.buffers if n not in buffers or buffers[n].shape != surface.buffers[n].shape]
    if missing and isinstance(checkpoint, nn.Module):
        raise UserError(f"checkpoint '{name}' has no buffer '{missing[0]}' of the model's shape", ARCHITECTURE)
    buffers = {n: buffers.get(n, own).to(own) for n, own in surface.buffers.items()}
    end = End(name, w, buffers)
    if own_code:
        _require_same_function(surface, other, end)
    return end


ARCHITECTURE = "the checkpoints must be of one architecture"


def _require_same_function(surface: LossSurface, other: FunctionalModel, end: End) -> None:
    """Refuse a module of equal names and shapes that computes something else, as with another activation."""
    functional = surface.with_buffers(end.buffers).core.functional
    few = realised(take_rows(surface.inputs, slice(0, FEW)))
    with conditions(functional):
        ours = functional(functional.parameters.shaped(end.w), few)
        theirs = other(other.own_pieces(), few)
    surface.core.book(checks=2 * len(ours))
    scale = float(theirs[theirs.isfinite()].abs().max()) if bool(theirs.isfinite().any()) else 0.0
    same = ours.shape == theirs.shape and torch.isclose(ours, theirs, rtol=0, atol=SAME * scale, equal_nan=True).all()
    if not same:
        raise UserError(
            f"checkpoint '{end.name}' has the names and shapes of the model and is another function", ARCHITECTURE
        )
