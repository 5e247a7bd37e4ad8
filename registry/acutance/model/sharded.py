"""Models whose parameters are DTensors: each of several processes holds a part, and all of them measure together.

A module of ``fully_shard`` (FSDP2) gathers its parameters before it computes and lets them go afterwards, and it keeps
references of its own to what it gathers: no other tensors can be put in their place. So the parts that a process holds
are written over where they lie, and what they were is kept, to be put back bit by bit. Modules of tensor parallelism
(``distribute_tensor``, ``parallelize_module``) compute with their DTensors, which are moved in the same way.

Every process of the group calls the same, with the same points. Whatever one of them decides follows from what all know
alike: from shapes and places, from the outputs, or from numbers that were summed over the group. One that raised alone
would leave the others waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from acutance.data.fingerprint import digest_points
from acutance.errors import UserError
from acutance.model.dtensors import (
    bits_of,
    part_of,
    refuse_modules,
    refuse_placement,
    roots_of,
    settle,
    share_of,
    slots_of,
    sum_of_bits,
)  # fmt: skip
from acutance.model.parameters import Parameters
from acutance.model.parts_of_gradients import PartsOfGradients
from acutance.model.shares import Portion, Processes, is_dtensor
from acutance.model.ties import GATHER, nonfinite

NO_VECTOR = (
    "it asks for a vector of all weights, or a derivative that is no gradient in parts, and here they {}: " + GATHER
)


def sharded(model: nn.Module) -> Sharded | None:
    """Return what processes share of a model, None where it has no DTensor among its parameters.

    Raises:
        UserError: for DTensors that are not handled; the same in every process.
    """
    roots = roots_of(model)
    settle(roots)  # a forward pass of one's own may have left the parameters of the outermost module gathered
    if not any(is_dtensor(p) for p in model.parameters()):
        return None
    refuse_modules(model)
    return Sharded(model, roots)


def refuse_shared(model: nn.Module) -> None:
    """Refuse a sharded model where one process works alone, or what is asked of the weights needs all of them.

    Nothing is asked of other processes: they may be elsewhere.

    Raises:
        UserError: saying what measures it.
    """
    if roots_of(model) or any(is_dtensor(p) for p in model.parameters()):
        raise UserError(
            "the model is sharded over processes (DTensor), and here one of them would work alone",
            f"call acutance.measure in all of them, or {GATHER}",
        )


class Sharded(PartsOfGradients):
    """The parameters of a model that processes share, in this process.

    Args:
        model: with all of its parameters sharded, where they are.
        roots: the outermost modules of ``fully_shard`` in it.

    Attributes:
        parameters: in their whole shapes, tied ones once.
        shares: what this process holds of each.
        stored: what it held when the model was opened, one flat tensor for each.
        held: what was written over them, None for what was there.
        where: in words.
        processes: that share it.
        device: where passes are made.
    """

    def __init__(self, model: nn.Module, roots: list[Any]) -> None:
        self._roots, self._modules = roots, list(model.modules())
        slots = slots_of(model)
        self._places = [slot.places[0] for slot in slots]
        self._tensors = self._tensors_there()
        self.parameters = Parameters.all_free(slots)
        for slot, p in zip(slots, self._tensors, strict=True):
            refuse_placement(slot.name, p)
        meshes = {slot.name: p.device_mesh for slot, p in zip(slots, self._tensors, strict=True) if is_dtensor(p)}
        mesh = next(iter(meshes.values()))
        if other := [name for name, each in meshes.items() if each != mesh]:
            raise UserError(f"parameter '{other[0]}' is sharded over another mesh than '{next(iter(meshes))}'", GATHER)
        if mesh.get_coordinate() is None:
            raise UserError("this process is none of those that the model is sharded over", "measure in these alone")
        rank, count = mesh.get_local_rank(), mesh.size()
        self.device = torch.device(mesh.device_type)
        if self.device.type != "cpu":
            self.device = torch.device(self.device.type, torch.get_device_module(self.device).current_device())
        self.processes = Processes(mesh.get_group(), self.device)
        self.where = f"are sharded over {count} processes (DTensor)"
        self.shares = [share_of(slot.shape, p, rank, count) for slot, p in zip(slots, self._tensors, strict=True)]
        self.held: Sequence[Tensor] | None = None
        self.stored = [part.clone().reshape(-1) for part in self.parts()]
        self._require_alike()

    def portion(self, places: Sequence[int]) -> Portion:
        """Return what this process holds of some of the parameters."""
        return Portion([self.shares[i] for i in places], self.processes.reduced)

    # -- what the processes agree on ----------------------------------------------------------------

    def require_same_points(self, inputs: Any, targets: Tensor, microbatch: int | None) -> None:
        """Refuse points that are not the same in all processes, or that they would pass in other parts.

        Raises:
            UserError: in all of them.
        """
        self.processes.require_same("other points", digest_points(inputs, targets), microbatch)

    def require_same_buffers(self, buffers: Sequence[Tensor]) -> None:
        """Refuse buffers that are not the same in all processes, as running statistics of each one's own data.

        Raises:
            UserError: in all of them.
        """
        sums = [sum_of_bits(buffer) for buffer in buffers if buffer.layout is torch.strided]
        self.processes.require_same("buffers (running statistics) of other values", *sums)

    def _require_alike(self) -> None:
        """Refuse processes whose parts do not make one model, or whose copies of what each holds whole differ."""
        parts = list(zip(self.parts(), self.shares, strict=True))
        fits = all(part.shape == share.shape and part.dim() == len(share.shape) for part, share in parts)
        if self.processes.anywhere(not fits):
            raise UserError("the parts that processes hold of a parameter are not those of torch.chunk", GATHER)
        shapes = [
            (slot.names, slot.shape, part.dtype) for slot, (part, _) in zip(self.parameters.slots, parts, strict=True)
        ]
        self.processes.require_same("models of other shapes", *shapes)
        copies = [sum_of_bits(part) for part, share in parts if share.axis is None]
        self.processes.require_same("other values of the parameters that each holds whole", *copies)

    def refuse_nonfinite(self) -> None:
        """Refuse weights that are no numbers, in all processes."""
        counts = torch.stack([(~torch.isfinite(piece)).sum().double().cpu() for piece in self.stored])
        bad = self.portion(range(len(counts))).summed(counts).tolist()
        for slot, count in zip(self.parameters.slots, bad, strict=True):
            if count:
                raise nonfinite(slot.name, int(count))

    # -- the weights where they lie -----------------------------------------------------------------

    def _tensors_there(self) -> list[Any]:
        """Return the model's own parameters, one for each slot, as its modules hold them while nothing is gathered."""
        return [table[name] for table, name, _ in self._places]

    def parts(self) -> list[Tensor]:
        """Return what this process holds of each parameter, in its memory; writing there leaves versions alone."""
        return [part_of(p) for p in self._tensors]

    def watched(self) -> list[Tensor]:
        """Return the same with the counts of in-place changes, for reading."""
        with torch.no_grad():
            return [p.to_local() if is_dtensor(p) else p.detach() for p in self._tensors]

    def settle(self) -> None:
        """Let go of what ``fully_shard`` has gathered: the next pass gathers anew, whatever an earlier one left."""
        settle(self._roots)
        self._tensors = self._tensors_there()

    def hold(self, pieces: Sequence[Tensor] | None) -> None:
        """Write other weights over the parts, or what was there at first.

        Args:
            pieces: one for each parameter, of the numbers that are held of it; None for the stored ones.
        """
        self.held = pieces
        self.settle()
        with torch.no_grad():
            for part, piece in zip(self.parts(), self.stored if pieces is None else pieces, strict=True):
                part.copy_(piece.detach().view(part.shape))

    def require_unchanged(self) -> None:
        """Refuse weights that somebody has written to since they were stored: they would be lost.

        Raises:
            UserError: in all processes.
        """
        if self.held is not None:
            return
        pairs = zip(self.parts(), self.stored, strict=True)
        if self.processes.anywhere(not all(torch.equal(bits_of(part), bits_of(was)) for part, was in pairs)):
            raise UserError(
                "the model's weights were written to since this surface was made of them",
                "make another surface of it in every process",
            )

    def padding_row(self, i: int, row: int) -> int | None:
        """Return where a row of a parameter is in this process's part; None where it is not."""
        share = self.shares[i]
        if share.axis != 0:
            return row
        length = share.width // self.parameters.slots[i].shape[0]
        there = row - share.first // length
        return there if 0 <= there < share.shape[0] else None
