"""The parameters of a model as slots of one flat vector: which of them are free, and how vectors over them lie."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from acutance.errors import UserError, did_you_mean

View = Callable[[Tensor], Tensor] | None  # from the slot's tensor to what a module holds; None for the tensor itself
Places = list[tuple[dict[str, Any], str, View]]


@dataclass(frozen=True)
class Slot:
    """One parameter in the flat vector; a tied one has several names and places in the model."""

    names: tuple[str, ...]
    kind: str
    shape: torch.Size
    numel: int
    places: Places

    @property
    def name(self) -> str:
        """The first of its names, in the model's order."""
        return self.names[0]


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model, some of them free: a vector v over the free ones, (p,), is their numbers in order.

    The model itself is called with pieces: one tensor for every slot, flat or in its shape, whether it is free or not.

    Attributes:
        slots: all floating-point parameters, tied ones once, in the model's order; their numbers are P.
        free: places of the free ones among the slots, in order.
    """

    slots: tuple[Slot, ...]
    free: tuple[int, ...]

    @classmethod
    def all_free(cls, slots: Iterable[Slot]) -> Parameters:
        """Return these parameters, all of them free."""
        slots = tuple(slots)
        return cls(slots, tuple(range(len(slots))))

    @cached_property
    def free_slots(self) -> tuple[Slot, ...]:
        """The slots of the free parameters."""
        return tuple(self.slots[i] for i in self.free)

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers each free parameter has."""
        return [slot.numel for slot in self.free_slots]

    @property
    def are_all_free(self) -> bool:
        """Whether no parameter is fixed."""
        return len(self.free) == len(self.slots)

    @property
    def layers(self) -> list[tuple[str, str, torch.Size, slice]]:
        """(name, kind of module, shape, slice of v) of every free parameter."""
        layers, start = [], 0
        for slot in self.free_slots:
            layers.append((slot.name, slot.kind, slot.shape, slice(start, start + slot.numel)))
            start += slot.numel
        return layers

    def names(self, places: Iterable[int]) -> list[str]:
        """Return the names of some slots."""
        return [self.slots[i].name for i in places]

    # -- vectors ------------------------------------------------------------------------------------

    def split(self, v: Tensor) -> Sequence[Tensor]:
        """Return v, (..., p), as one flat piece for every free parameter, (..., size): views of it."""
        return v.split_with_sizes(self.sizes, dim=-1)

    def shaped(self, v: Tensor) -> list[Tensor]:
        """Return v, (p,), as one piece for every free parameter, in its shape: views of it."""
        return [piece.view(slot.shape) for piece, slot in zip(self.split(v), self.free_slots, strict=True)]

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """Return {name: view of v} for v, (p,), in the parameters' shapes."""
        return {slot.name: piece for slot, piece in zip(self.free_slots, self.shaped(v), strict=True)}

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Return (p,) of {name: tensor}, each in the parameter's shape or one that broadcasts to it.

        Raises:
            UserError: naming what is missing, or does not fit.
        """
        pieces = []
        for slot in self.free_slots:
            tensor = named.get(slot.name)
            if tensor is None:
                raise UserError(f"there is no tensor for parameter '{slot.name}'", did_you_mean(slot.name, list(named)))
            try:
                pieces.append(tensor.expand(slot.shape).reshape(-1))
            except RuntimeError:
                shapes = f"is {tuple(tensor.shape)}, the parameter has {tuple(slot.shape)}"
                raise UserError(f"the tensor for '{slot.name}' {shapes}") from None
        return torch.cat(pieces)

    def free_part(self, v: Tensor) -> Tensor:
        """Return what a vector over all parameters, (P,), has in the free ones, (p,): v itself where all are free."""
        if self.are_all_free:
            return v
        pieces = v.split_with_sizes([slot.numel for slot in self.slots])
        return torch.cat([pieces[i] for i in self.free])

    def merged(self, fixed: Sequence[Tensor], free: Sequence[Tensor]) -> list[Tensor]:
        """Return one piece for every slot: from ``free`` for the free parameters, from ``fixed`` for the others.

        Args:
            fixed: one piece for every slot.
            free: one for every free parameter.
        """
        if self.are_all_free:
            return list(free)
        pieces = list(fixed)
        for i, piece in zip(self.free, free, strict=True):
            pieces[i] = piece
        return pieces

    # -- which are free -----------------------------------------------------------------------------

    def only(self, pattern: str) -> Parameters:
        """Return the parameters with only those of the free ones free that a pattern names.

        Args:
            pattern: ``all``, or comma-separated shell patterns of parameter names, ``!`` in front to leave out;
                a tied parameter goes by any of its names.

        Raises:
            UserError: for a pattern that matches nothing, or nothing that is free.
        """
        chosen = self._matched(pattern)
        free = tuple(i for i in self.free if self.slots[i].name in chosen)
        if not free:
            raise UserError(f"parameters: '{pattern}' matches none of the free parameters")
        return replace(self, free=free)

    def _matched(self, pattern: str) -> set[str]:
        """Return the first names of the parameters that a pattern names, free or not."""
        parts = [part.strip() for part in pattern.split(",") if part.strip()]
        primary = {name: slot.name for slot in self.slots for name in slot.names}
        names = list(primary)
        if not parts:
            raise UserError(f"parameters: '{pattern}' names none", "write all, or patterns of names such as blocks.*")
        wanted = [part for part in parts if not part.startswith("!")]
        chosen: set[str] = set() if wanted else set(primary.values())
        for part in wanted:
            matches = names if part == "all" else fnmatch.filter(names, part)
            if not matches:
                raise UserError(f"parameters: '{part}' matches no parameter", did_you_mean(part, names))
            chosen.update(primary[name] for name in matches)
        for part in parts:
            if part.startswith("!"):
                matches = fnmatch.filter(names, part[1:])
                if not matches:
                    raise UserError(f"parameters: '{part}' leaves out no parameter", did_you_mean(part[1:], names))
                chosen.difference_update(primary[name] for name in matches)
        if not chosen:
            raise UserError(f"parameters: '{pattern}' leaves no parameter free")
        return chosen
