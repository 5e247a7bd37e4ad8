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

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from acutance.errors import Unsupported, UserError, some
from acutance.model.derivatives import seed_of
from acutance.model.parameters import Parameters, Places, Slot
from acutance.model.shares import Portion, Share
from acutance.model.ties import GATHER, usable
from acutance.model.weights import EXACT

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

NO_VECTOR = (
    "it asks for a vector of all weights, or a derivative that is no gradient in parts, and here they {}: " + GATHER
)
UNEQUAL = (
    "the processes of the group were given {}",
    "call the same in each of them, with the same points, weights and settings",
)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sharded(model: nn.Module) -> Sharded | None:
    """Return what processes share of a model, None where it has no DTensor among its parameters.

    Raises:
        UserError: for DTensors that are not handled; the same in every process.
    """
    roots = _roots(model)
    _settle(roots)  # a forward pass of one's own may have left the parameters of the outermost module gathered
    if not any(is_dtensor(p) for p in model.parameters()):
        return None
    _refuse_modules(model)
    return Sharded(model, roots)


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether a tensor is one of several processes."""
    return "DTensor" in (type(tensor).__name__, type(tensor.data).__name__)


def whole(tensor: Any) -> Tensor:
    """Return a tensor as every process has it whole."""
    made: Tensor = tensor.full_tensor() if is_dtensor(tensor) else tensor
    return made


class Sharded:
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
        device: where passes are made.
    """

    def __init__(self, model: nn.Module, roots: list[Any]) -> None:
        self._roots, self._modules = roots, list(model.modules())
        slots = _slots(model)
        self._places = [slot.places[0] for slot in slots]
        self._tensors = self._tensors_there()
        self.parameters = Parameters.all_free(slots)
        for slot, p in zip(slots, self._tensors, strict=True):
            _refuse_placement(slot.name, p)
        meshes = {slot.name: p.device_mesh for slot, p in zip(slots, self._tensors, strict=True) if is_dtensor(p)}
        mesh = next(iter(meshes.values()))
        if other := [name for name, each in meshes.items() if each != mesh]:
            raise UserError(f"parameter '{other[0]}' is sharded over another mesh than '{next(iter(meshes))}'", GATHER)
        if mesh.get_coordinate() is None:
            raise UserError("this process is none of those that the model is sharded over", "measure in these alone")
        self._group, rank, count = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        self.device = torch.device(mesh.device_type)
        if self.device.type != "cpu":
            self.device = torch.device(self.device.type, torch.get_device_module(self.device).current_device())
        self.where = f"are sharded over {count} processes (DTensor)"
        self.shares = [_share(slot.shape, p, rank, count) for slot, p in zip(slots, self._tensors, strict=True)]
        self.held: Sequence[Tensor] | None = None
        self.stored = [part.clone().reshape(-1) for part in self.parts()]
        self._require_alike()

    def portion(self, places: Sequence[int]) -> Portion:
        """Return what this process holds of some of the parameters."""
        return Portion([self.shares[i] for i in places], self._reduced)

    # -- what the processes agree on ----------------------------------------------------------------

    def _reduced(self, values: Tensor, largest: bool = False) -> Tensor:
        from torch import distributed

        there = values.to(self.device, copy=True)
        operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
        distributed.all_reduce(there, operation, self._group)
        return there.to(values.device)

    def anywhere(self, flag: bool) -> bool:
        """Return whether a flag is set in any of the processes."""
        return bool(self._reduced(torch.tensor([flag], dtype=torch.int64), largest=True))

    def require_same(self, what: str, *values: object) -> None:
        """Refuse what is not the same in all processes, in all of them.

        Args:
            what: they are, for the message.
            values: whose ``repr`` is compared.

        Raises:
            UserError: saying so.
        """
        digest = hashlib.sha256("\x1f".join(map(repr, values)).encode()).digest()
        number = int.from_bytes(digest[:8], "big") >> 2
        low, high = self._reduced(torch.tensor([-number, number]), largest=True).tolist()
        if -low != high:
            raise UserError(UNEQUAL[0].format(what), UNEQUAL[1])

    def _require_alike(self) -> None:
        """Refuse processes whose parts do not make one model, or whose copies of what each holds whole differ."""
        parts = list(zip(self.parts(), self.shares, strict=True))
        fits = all(part.shape == share.shape and part.dim() == len(share.shape) for part, share in parts)
        if self.anywhere(not fits):
            raise UserError("the parts that processes hold of a parameter are not those of torch.chunk", GATHER)
        shapes = [(slot.names, slot.shape, part.dtype) for slot, (part, _) in zip(self._slots, parts, strict=True)]
        self.require_same("models of other shapes", *shapes)
        copies = [_sum_of_bits(part) for part, share in parts if share.axis is None]
        self.require_same("other values of the parameters that each holds whole", *copies)

    @property
    def _slots(self) -> tuple[Slot, ...]:
        return self.parameters.slots

    # -- the weights where they lie -----------------------------------------------------------------

    def _tensors_there(self) -> list[Any]:
        """Return the model's own parameters, one for each slot, as its modules hold them while nothing is gathered."""
        return [table[name] for table, name, _ in self._places]

    def parts(self) -> list[Tensor]:
        """Return what this process holds of each parameter, in its memory; writing there leaves versions alone."""
        return [_part(p) for p in self._tensors]

    def watched(self) -> list[Tensor]:
        """Return the same with the counts of in-place changes, for reading."""
        with torch.no_grad():
            return [p.to_local() if is_dtensor(p) else p.detach() for p in self._tensors]

    def settle(self) -> None:
        """Let go of what ``fully_shard`` has gathered: the next pass gathers anew, whatever an earlier one left."""
        _settle(self._roots)
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
        if self.anywhere(not all(torch.equal(_bits(part), _bits(was)) for part, was in pairs)):
            raise UserError(
                "the model's weights were written to since this surface was made of them",
                "make another surface of it in every process",
            )

    def padding_row(self, i: int, row: int) -> int | None:
        """Return where a row of a parameter is in this process's part; None where it is not."""
        share = self.shares[i]
        if share.axis != 0:
            return row
        length = share.width // self._slots[i].shape[0]
        there = row - share.first // length
        return there if 0 <= there < share.shape[0] else None

    # -- gradients ----------------------------------------------------------------------------------

    def refuse_gradient(self, free: Sequence[int], kind: torch.dtype) -> None:
        """Refuse gradients that a backward pass of the sharded model does not give, or that would have other effects.

        Args:
            free: the parameters.
            kind: of the weights.

        Raises:
            Unsupported: saying what to do; the same in every process.
        """
        if kind not in EXACT:
            name = str(kind).removeprefix("torch.")
            raise Unsupported(
                f"a gradient of sharded weights in {name} is not taken, since what rounding does to it is told by a "
                "whole copy in float32: shard float32 weights, or " + GATHER
            )
        tensors = self._tensors
        if fixed := [self._slots[i].name for i in free if not tensors[i].requires_grad]:
            raise Unsupported(
                f"a backward pass of the sharded model gives no gradient in {some(fixed)} (requires_grad=False): leave "
                "these out with 'parameters', or let them require one before the model is sharded"
            )
        if hooked := [self._slots[i].name for i, p in enumerate(tensors) if getattr(p, HOOKS, None)]:
            raise Unsupported(
                f"something steps or listens when the gradient of {some(hooked)} is there "
                "(register_post_accumulate_grad_hook, an optimizer within the backward pass): take its hooks off first"
            )
        groups = [group for module in self._modules for group in _groups(module)]
        if any(not group.reduce_grads for group in groups):
            raise Unsupported(
                "gradients are not reduced over the processes: call set_requires_gradient_sync(True), when no "
                "accumulated gradient waits for its step"
            )
        if any(getattr(group, "gradient_divide_factor", None) is not None for group in groups):
            raise Unsupported(
                "gradients are divided by a factor that was set (set_gradient_divide_factor), so they are no derivatives "
                "of the loss: shard the model without it"
            )

    def gradients_into(self, loss: Tensor, free: Sequence[int], put: Callable[[int, Tensor], object]) -> list[int]:
        """Hand out this process's parts of the gradient of a 0-d loss; return the places that it did not reach.

        The gradients that the parameters had are there again afterwards.

        Args:
            loss: with its graph, which is used up.
            free: the parameters.
            put: called with the place among these and the part, flat; zeros where the loss does not depend on it.
        """
        tensors, missing = self._tensors, []
        before = [p.grad for p in tensors]
        try:
            for p in tensors:
                p.grad = None
            if loss.requires_grad:
                loss.backward(seed_of(loss))
            self.settle()
            with torch.no_grad():
                for place, i in enumerate(free):
                    g, p = tensors[i].grad, tensors[i]
                    tensors[i].grad = None
                    missing += [place] if g is None else []
                    part = torch.zeros_like(_part(p)) if g is None else _part_of_gradient(g, p)
                    put(place, part.reshape(-1))
        finally:
            # What a pass that failed left on gathered parameters would be added to the next one.
            for module in self._modules:
                for p in module.parameters(recurse=False):
                    p.grad = None
            for p, g in zip(tensors, before, strict=True):
                p.grad = g
        return missing


HOOKS = "_post_accumulate_grad_hooks"


def _groups(module: nn.Module) -> list[Any]:
    """Return the groups of parameters that a module of ``fully_shard`` gathers together."""
    state = getattr(module, "_get_fsdp_state", lambda: None)()
    groups = getattr(state, "_fsdp_param_groups", None)
    return list(groups) if groups is not None else [g for g in [getattr(state, "_fsdp_param_group", None)] if g]


def _roots(model: nn.Module) -> list[Any]:
    """Return the outermost modules of ``fully_shard``."""
    roots: list[Any] = []
    inside: set[int] = set()
    for module in model.modules():
        if "FSDPModule" in {base.__name__ for base in type(module).__mro__}:
            if id(module) not in inside:
                roots.append(module)
            inside.update(id(inner) for inner in module.modules())
    return roots


def _settle(roots: list[Any]) -> None:
    for root in roots:
        begun = getattr(getattr(root, "_get_fsdp_state", lambda: None)(), "_is_root", None)
        if begun and hasattr(root, "reset_iter_state"):
            root.reset_iter_state()  # also after a pass that failed half-way
            continue
        for module in root.modules():
            if hasattr(module, "reshard"):
                module.reshard()


def _refuse_modules(model: nn.Module) -> None:
    """Refuse modules whose weights are not simply what a process holds."""
    for name, module in model.named_modules():
        where = f"module '{name}'" if name else "the model"
        if is_parametrized(module):
            raise UserError(f"{where} is sharded, and has parametrized weights", GATHER)
        if hasattr(module, "_flat_weights_names"):
            raise UserError(f"{where} is a recurrent layer of a sharded model", GATHER)
        if getattr(module, "max_norm", None) is not None:
            raise UserError(
                f"{where} of the sharded model changes its weights in every forward pass (max_norm)",
                "normalize its weights once, then set max_norm to None",
            )
        if buffers := [key for key, b in module.named_buffers(recurse=False) if is_dtensor(b)]:
            raise UserError(f"buffer '{buffers[0]}' of {where} is sharded over processes", GATHER)


def _slots(model: nn.Module) -> list[Slot]:
    """Return the floating-point parameters; several names of one parameter are tied."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, tuple[Any, list[str], Places]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if not usable(name, p):
            continue
        _, names, places = found.setdefault(id(p), (p, [], []))
        path, _, last = name.rpartition(".")
        names.append(name)
        if not any(table is modules[path]._parameters for table, key, _ in places if key == last):
            places.append((modules[path]._parameters, last, None))
    memory: dict[int, str] = {}
    for p, names, _ in found.values():
        here = 0 if is_dtensor(p) else p.untyped_storage().data_ptr()
        if here and (first := memory.setdefault(here, names[0])) != names[0]:
            raise UserError(f"parameters '{first}' and '{names[0]}' of the sharded model share memory", GATHER)
    return [
        Slot(tuple(names), _kind(modules[names[0].rpartition(".")[0]]), p.shape, p.numel(), places)
        for p, names, places in found.values()
    ]


def _kind(module: nn.Module) -> str:
    """Return the kind of a module as it was before it was sharded: ``fully_shard`` makes a class of its own."""
    bases = type(module).__mro__
    if len(bases) > 2 and bases[1].__name__ == "FSDPModule":
        return bases[2].__name__
    return bases[0].__name__


def _refuse_placement(name: str, parameter: Any) -> None:
    """Refuse a mesh of several dimensions, and what is not cut along one axis or held whole by each.

    Raises:
        UserError: the same in every process.
    """
    if not is_dtensor(parameter):
        return
    from torch.distributed.tensor import Replicate, Shard

    placements = parameter.placements
    if len(placements) != 1:
        raise UserError(
            f"parameter '{name}' is sharded over a mesh of {len(placements)} dimensions (DTensor)",
            f"shard it over a mesh of one, or {GATHER}",
        )
    if type(placements[0]) not in (Replicate, Shard):
        raise UserError(f"parameter '{name}' is placed as {placements[0]} (DTensor)", GATHER)


def _share(shape: torch.Size, parameter: Any, rank: int, count: int) -> Share:
    """Return what this process holds of a parameter of this shape."""
    axis = parameter.placements[0].dim if is_dtensor(parameter) and parameter.placements[0].is_shard() else None
    return Share.whole(shape) if axis is None else Share.cut(shape, axis % len(shape), rank, count)


def _part(parameter: Any) -> Tensor:
    with torch.no_grad():
        local: Tensor = parameter.to_local() if is_dtensor(parameter) else parameter
        return local.data


def _part_of_gradient(g: Any, parameter: Any) -> Tensor:
    """Return the part of a gradient that belongs to a process's part of the parameter."""
    if not is_dtensor(parameter):
        plain = whole(g)
        return plain.to_dense() if plain.is_sparse else plain
    there: DTensor = g.redistribute(placements=parameter.placements)
    return there.to_local()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(_BITS[tensor.element_size()])


def _sum_of_bits(tensor: Tensor) -> int:
    return int(_bits(tensor).sum(dtype=torch.int64))
