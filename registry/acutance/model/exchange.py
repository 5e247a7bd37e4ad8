"""A model holds other tensors for a while, as its parameters, and then its own again."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.model.dispatched import HOOK

if TYPE_CHECKING:
    from acutance.model.functional import FunctionalModel
    from acutance.model.state import Snapshot

_MISSING = object()  # stands for what a table did not have
# How a recurrent layer of torch knows its weights. By the second it sees that they are others than in the pass before,
# and on a GPU moves them into memory of its own: a point that then moves would leave them behind.
HANDLES = ("_flat_weights", "_flat_weight_refs")


class Exchange:
    """Context in which a model holds other tensors, in evaluation mode; afterwards all is back, whatever happened.

    Args:
        functional: the model.
        pieces: one tensor for every slot in order, flat or in its shape.

    Attributes:
        held: the pieces that the model held before; None for its own tensors.
        attributes: what its modules' attributes were on entering; None before that, or where nothing was exchanged.
    """

    def __init__(self, functional: FunctionalModel, pieces: Sequence[Tensor]) -> None:
        self._functional, self._pieces = functional, pieces

    def __enter__(self) -> None:
        f = self._functional
        self.held, self._outer = f.held, f.snapshot
        if self.held is self._pieces:
            return
        if f.sharded is not None:
            f.sharded.settle()
            f.sharded.require_unchanged()
            self._before = f.sharded.held
        self._saved: list[tuple[dict[str, Any], str, Any]] = []
        self.attributes: Snapshot | None = None
        self._training = [module for module in f.modules if module.training]
        self._recurrent = [(module, {name: getattr(module, name) for name in HANDLES}) for module in f.recurrent_layers]
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        try:
            # The fused inference path of TransformerEncoderLayer rounds differently from the one with gradients.
            torch.backends.mha.set_fastpath_enabled(False)
            for module in self._training:
                # Past nn.Module's own __setattr__, which costs as much as a small layer.
                vars(module)["training"] = False
            for table, name in f.switches:
                self._put(table, name, False)
            for module, stand_in in f.dispatched.hooks if f.dispatched is not None else ():
                self._put(vars(module), HOOK, stand_in)
            if f.recomputation is not None:
                for layer in f.recomputation.layers:
                    self._put(vars(layer), "forward", f.recomputation.forward_of(layer))
            if f.sharded is not None:
                f.sharded.hold(self._pieces)
            for slot, piece in zip(f.slots, self._pieces, strict=True) if f.sharded is None else ():
                tensor = piece if piece.shape == slot.shape else piece.view(slot.shape)
                for table, name, view in slot.places:
                    self._put(table, name, tensor if view is None else view(tensor))
            for table, name, buffer in f.buffers:
                self._put(table, name, buffer)
            for module in f.recurrent_layers:
                weights = [getattr(module, name) for name in module._flat_weights_names]
                vars(module).update(zip(HANDLES, (weights, [*map(weakref.ref, weights)]), strict=True))
            self.attributes = f.snapshot = f.attributes.snapshot()
            f.held = self._pieces
        except BaseException:
            self.__exit__()
            raise

    def _put(self, table: dict[str, Any], name: str, value: object) -> None:
        self._saved.append((table, name, table.get(name, _MISSING)))
        table[name] = value

    def __exit__(self, *error: object) -> None:
        """Put everything back; a Ctrl-C that arrives meanwhile is raised only when all of it is back."""
        if self.held is self._pieces:
            return
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._functional.held, self._functional.snapshot = self.held, self._outer
                if self._functional.sharded is not None:
                    self._functional.sharded.hold(self._before)
                if self.attributes is not None:
                    self._functional.attributes.restore(self.attributes)
                for table, name, tensor in reversed(self._saved):
                    if tensor is _MISSING:
                        table.pop(name, None)
                    else:
                        table[name] = tensor
                for module in self._training:
                    vars(module)["training"] = True
                for recurrent, handles in self._recurrent:
                    vars(recurrent).update(handles)
                torch.backends.mha.set_fastpath_enabled(self._fast_path)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
