"""A model as a function of its weights: evaluated at any point without ever writing to the model.

Parameters and buffers are exchanged for other tensors during a call and put back afterwards, whatever
happens in between. So the model's own tensors, flags and gradients are bitwise untouched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.data.lazy import Lazy, realised
from acutance.errors import AcutanceWarning, Unsupported, UserError, did_you_mean, some
from acutance.model.conditions import conditions, trackable
from acutance.model.dispatched import SEVERAL, dispatched
from acutance.model.exchange import Exchange
from acutance.model.initial import initial_parts, initial_vector
from acutance.model.notes import no_weights, notes_on, remarks_on
from acutance.model.parameters import Slot
from acutance.model.recomputed import Recomputation
from acutance.model.sharded import NO_VECTOR, sharded
from acutance.model.shares import Portion
from acutance.model.state import Attributes, Moving, Snapshot, first_pass, restore_buffers
from acutance.model.ties import GATHER, nonfinite, parameters_of
from acutance.model.weights import Wanted, Weights
from acutance.model.wrappers import calls_compiled_code, unwrapped
from acutance.numerics.scalars import is_finite
from acutance.system.devices import require_device

if TYPE_CHECKING:
    from acutance.checks.tracking import Tracking
    from acutance.io.training_log import TrainingLog


STEPS = "steps of the optimizer"


class FunctionalModel:
    """Holds what is needed to call ``model`` with other weights.

    Args:
        model: any module; evaluated in evaluation mode. Compiled and data-parallel ones stand for the module inside.
        device: where to evaluate; where the model is by default, and always where one device does not hold it.
        dtype: float32 or float64; the model's by default (bf16 and fp16 are evaluated in float32); ``native`` for the
            types that the weights are stored in, in which no vector of all weights is held.
        lent: whether nobody writes to the model's own tensors as long as this is used, so that no copy is needed.

    Attributes:
        dispatched: where its weights lie, if not on one device, or hooks of accelerate move inputs; else None.
        sharded: what several processes share of it, if its parameters are DTensors; else None.
        device: where inputs go, and logits come back to.
        computing: the device whose arithmetic counts.
        parameters: the floating-point ones, tied ones once, all of them free.
        weights: those that the model came with.
        originals: the model's own tensors, those of each slot.
        notes: sentences a reader of the results should see; a surface warns of them.
        remarks: more of them, of what is as documented.
        buffers: (table of a module, name there, the tensor that passes see) of each buffer.
        convolves: whether it convolves images.
        compiled: whether some part of it was given to ``torch.compile``.
        modules: all of its modules.
        recurrent_layers: those of torch.
        attributes: those of the modules, which a pass may change; restored before the next one.
        switches: (table, name) of settings that are off in a pass.
        recomputation: the layers whose activations are not kept in first-order passes; None where all are.
        held: the pieces that the model holds, None for its own tensors.
        snapshot: what the attributes were before the model held what it holds.
        initial: opens the model at its initial weights, or its state dict; None where they are not known.
        update: gives the optimizer's next step, {parameter name: change}; None where it is not known.
        log: reads what training wrote down; None where nothing is known.
        moving: (name, buffer, as it was) of each buffer that a forward pass changes; known after the first one.
        refused: why the model cannot be measured, once that is known.

    Raises:
        UserError: for meta, complex or non-finite parameters, or a model without parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        dtype: Wanted = None,
        lent: bool = False,
    ) -> None:
        self.model = model = unwrapped(model)
        self.compiled = calls_compiled_code(model)
        self.notes: list[str] = list(vars(model).get("load_notes", ()))
        self._warned = 0
        self.dispatched = dispatched(model)
        self.sharded = sharded(model)
        value_of = (lambda tensor: tensor) if self.dispatched is None else self.dispatched.value_of
        if self.sharded is None:
            self.parameters, owners = parameters_of(model, value_of)
        else:
            self.parameters, owners = self.sharded.parameters, self.sharded.stored
        if not self.slots:
            raise UserError("the model has no floating-point parameters", no_weights(model))
        self.notes += notes_on(model)
        self.remarks = remarks_on(model, self.slots)
        # Those of a sharded model are written over where they lie: it has no others.
        self.originals = [
            list({id(tensor): tensor for t, n, _ in slot.places for tensor in (t[n], value_of(t[n]))}.values())
            if self.sharded is None
            else list[Tensor]()
            for slot in self.slots
        ]
        self._tied = [
            (i, table, name, view)
            for i, slot in enumerate(self.slots)
            for table, name, view in slot.places
            if view is not None
        ]
        spread = "" if self.dispatched is None else self.dispatched.where
        self.device = owners[0].device if device is None else require_device(device)
        if self.dispatched is not None and spread:
            self.device = self.dispatched.device
        if self.sharded is not None:
            self.device, spread = self.sharded.device, self.sharded.where
        self.computing = self.device if self.dispatched is None else self.dispatched.computing
        no_vector = SEVERAL if self.sharded is None else NO_VECTOR
        self.weights = Weights(owners, self.parameters, self.device, dtype, lent, spread, no_vector)
        self.dtype, self.of_inputs = self.weights.dtype, self.weights.of_inputs
        self.notes += [self.weights.note] if self.weights.note else []
        with conditions(self):
            self._refuse_nonfinite()
        self.initial: Callable[[], nn.Module | Mapping[str, Tensor] | None] = lambda: None
        self.update: Callable[[], Mapping[str, Tensor] | None] = lambda: None
        self.log: Callable[[], TrainingLog | None] = lambda: None
        with conditions(self):
            self.buffers = [
                (module._buffers, name, self._as_passes_see(value_of(buffer).detach().clone()))
                for module in model.modules()
                for name, buffer in module._buffers.items()
                if buffer is not None
            ]
            if self.sharded is not None:
                self.sharded.require_same_buffers([buffer for _, _, buffer in self.buffers])
        self.recurrent_layers: list[Any] = [m for m in model.modules() if hasattr(m, "_flat_weights_names")]
        self.modules = list(model.modules())
        self.attributes = Attributes(self.modules)
        self.snapshot: Snapshot | None = None
        # Their gradients are divided by how often a row occurs in a batch, or sparse: settings of training.
        self.switches = [
            (vars(module), name)
            for module in self.modules
            for name in ("scale_grad_by_freq", "sparse")
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and getattr(module, name)
        ]
        self.moving: Moving | None = None
        self.refused: UserError | None = None
        self.returns_several = False  # whether the model has returned anything else than logits
        self.convolves = any(isinstance(module, nn.Conv2d) for module in self.modules)
        self.recomputation: Recomputation | None = None
        self.held: Sequence[Tensor] | None = None
        self.elsewhere: list[str] | None = None  # parameters that a forward pass does not take from modules
        self.jumps: frozenset[int] | None = None  # parameters whose parametrization jumps
        self.tracking: dict[int, Tracking] = {}  # what automatic differentiation misses, by size of batch
        self.wrong_products: frozenset[int] | None = None  # parameters in which double backward is no derivative

    def recompute(self) -> None:
        """Keep no activations of the layers that transformers can make again, in first-order passes.

        Raises:
            UserError: for a model without such layers, or a sharded one.
        """
        if self.sharded is not None:
            raise UserError(
                "checkpointing: the layers of a sharded model are not exchanged for others",
                "wrap them with torch's checkpoint_wrapper before fully_shard, and leave the setting out",
            )
        if self.recomputation is None:
            self.recomputation = Recomputation(self.model)

    @property
    def w(self) -> Tensor:
        """The weights that the model came with, (P,).

        Raises:
            Unsupported: for weights in their own types.
        """
        with conditions(self):
            return self.weights.flat

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(slot.numel for slot in self.slots)

    def in_type(self, dtype: torch.dtype) -> FunctionalModel:
        """Return the same model for passes in another type: its buffers are cast, its weights are those of each call.

        Args:
            dtype: float32 or float64.
        """
        other = copy(self)
        other.dtype, other.of_inputs, other.moving, other.held = dtype, dtype, None, None
        with conditions(other):
            other.buffers = [(table, name, other.cast_inputs(buffer)) for table, name, buffer in self.buffers]
        return other

    def refuse(self, message: str, hint: str) -> UserError:
        """Record why the model cannot be measured, and return it to be raised: the fault is the model's alone."""
        self.refused = UserError(message, hint)
        return self.refused

    def with_buffers(self, named: Mapping[str, Tensor]) -> FunctionalModel:
        """Return the same model for passes with other buffers, which are copied; those without a name here stay.

        Raises:
            UserError: for a buffer that the model does not have, or of another shape.
        """
        own = dict(self.named_buffers())
        for name, tensor in named.items():
            if name not in own:
                raise UserError(f"the model has no buffer '{name}'", did_you_mean(name, list(own)))
            if tensor.shape != own[name].shape:
                raise UserError(f"buffer '{name}' is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}")
        other = copy(self)
        # Which of them a pass changes is seen anew where there are some; a model without any is not looked at again.
        other.moving, other.held = self.moving and None, None
        with conditions(other):
            other.buffers = [
                (table, name, named[path].detach().to(buffer, copy=True) if path in named else buffer)
                for (table, name, buffer), (path, _) in zip(self.buffers, self.named_buffers(), strict=True)
            ]
        return other

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """Return the buffers that passes see, with their names in the model."""
        paths = {id(module._buffers): path for path, module in self.model.named_modules()}
        return [(f"{paths[id(table)]}.{name}".strip("."), buffer) for table, name, buffer in self.buffers]

    @cached_property
    def w0(self) -> Tensor | None:
        """(p,) initial weights, fetched on first use; None where they are not known."""
        initial = self.initial()
        return None if initial is None else initial_vector(self, initial)

    @cached_property
    def update_vector(self) -> Tensor | None:
        """(P,) the optimizer's next step, fetched on first use; None where it is not known."""
        step = self.update()
        return None if step is None else initial_vector(self, step, STEPS)

    @property
    def update_step(self) -> Tensor | list[Tensor] | None:
        """The optimizer's next step in the form that is kept: in parts where no vectors of native weights are."""
        return self.update_parts if self.weights.native else self.update_vector

    @cached_property
    def update_parts(self) -> list[Tensor] | None:
        """The optimizer's next step, a tensor for each slot as it was given, fetched on first use; None as above."""
        step = self.update()
        return None if step is None else [part.detach() for part in initial_parts(self, step, STEPS)]

    @cached_property
    def training_log(self) -> TrainingLog | None:
        """What training wrote down, read on first use; None where nothing is known."""
        return self.log()

    def note(self, sentence: str) -> None:
        """Add a sentence to the notes, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def remark(self, sentence: str) -> None:
        """Add a sentence to the remarks, once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)

    @property
    def all_notes(self) -> list[str]:
        """What a reader of the results should know: notes, which are warned of, then remarks, which are not."""
        return [*self.notes, *self.remarks]

    def warn(self, stacklevel: int) -> None:
        """Warn of the notes that nobody was warned of yet.

        Args:
            stacklevel: of the caller's caller, as ``warnings.warn`` counts from the caller.
        """
        for sentence in self.notes[self._warned :]:
            warnings.warn(sentence, AcutanceWarning, stacklevel=stacklevel)
        self._warned = len(self.notes)

    def _refuse_nonfinite(self) -> None:
        """Raise UserError naming the first parameter with values that are not finite."""
        if self.sharded is not None:
            self.sharded.refuse_nonfinite()
            return
        finite = [is_finite(piece) for piece in self.own_pieces()]
        if all(map(bool, finite)) if self.weights.spread else bool(torch.stack(finite).all()):
            return
        for slot, piece in zip(self.slots, self.own_pieces(), strict=True):
            if not bool(is_finite(piece)):
                raise nonfinite(slot.name, int((~torch.isfinite(piece)).sum()))

    def portion(self, places: Sequence[int]) -> Portion | None:
        """Return what this process holds of some parameters; None where it holds all of the model."""
        return None if self.sharded is None else self.sharded.portion(places)

    def refuse_inner(self, what: str) -> None:
        """Refuse what looks at a layer between its passes, where a sharded model holds it in parts.

        Raises:
            Unsupported: saying so.
        """
        if self.sharded is not None:
            raise Unsupported(f"it asks for {what}, and here the weights {self.sharded.where}: {GATHER}")

    @property
    def shapes(self) -> list[torch.Size]:
        """The shapes of the pieces: those of the parameters, or of what this process holds of them."""
        shares = None if self.sharded is None else self.sharded.shares
        return [slot.shape for slot in self.slots] if shares is None else [share.shape for share in shares]

    @property
    def recurrent(self) -> bool:
        """Whether it has recurrent layers of torch."""
        return bool(self.recurrent_layers)

    @property
    def hooked(self) -> bool:
        """Whether something listens to the model's forward passes, and so expects one for each point."""
        listening = any(module._forward_hooks or module._forward_pre_hooks for module in self.modules)
        return listening or bool(self.dispatched and self.dispatched.hooks)

    def padding_rows(self) -> list[tuple[int, int]]:
        """Return (slot, row) of each embedding's padding, which has no gradient by torch's definition."""
        rows = {id(module._parameters): getattr(module, "padding_idx", None) for module in self.modules}
        found = [
            (i, row)
            for i, slot in enumerate(self.slots)
            for table, name, view in slot.places
            if name == "weight" and view is None and isinstance(row := rows.get(id(table)), int)
        ]
        if self.sharded is None:
            return found
        return [(i, there) for i, row in found if (there := self.sharded.padding_row(i, row)) is not None]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of its parameters."""
        return self.parameters.slots

    def own_pieces(self) -> Sequence[Tensor]:
        """Return the model's own weights as one flat piece for every slot, for reading."""
        return self.weights.pieces

    def _as_passes_see(self, buffer: Tensor) -> Tensor:
        """Return a buffer where passes are made, in their type; those beside native weights have types of their own."""
        if self.weights.spread:
            return buffer
        return buffer.to(self.device) if self.weights.native else self._cast(buffer)

    def _cast(self, tensor: Tensor, kind: torch.dtype | None = None) -> Tensor:
        return tensor.to(self.device, kind or self.dtype if tensor.is_floating_point() else tensor.dtype)

    def cast_inputs(self, inputs: Any) -> Any:
        """Return inputs on the device, floating-point ones in their type; keeps dicts and tuples, reads nothing."""
        if isinstance(inputs, Tensor):
            with conditions(self):
                return self._cast(trackable(inputs.detach()), self.of_inputs)
        if isinstance(inputs, Lazy):
            return inputs.then(self.cast_inputs)
        if isinstance(inputs, Mapping):
            return {key: self.cast_inputs(value) for key, value in inputs.items()}
        if isinstance(inputs, tuple | list):
            return tuple(self.cast_inputs(value) for value in inputs)
        return inputs

    def cast_targets(self, targets: Tensor) -> Tensor:
        """Return targets on the device: class numbers as int64, others in the type of the logits."""
        if targets.is_floating_point() and self.weights.native:
            return trackable(targets.detach()).to(self.device, of_logits(self.dtype))
        cast: Tensor = self.cast_inputs(targets if targets.is_floating_point() else targets.long())
        return cast

    def __call__(self, pieces: Sequence[Tensor], inputs: Any) -> Tensor:
        """Return the model's logits with one piece for every slot in order, flat or in its shape.

        Those of half precision come as float32: what is made of them is not to be rounded any further.
        """
        if self.moving is None and self.weights.own and self.sharded is None:
            pieces = self._first_pieces(pieces)
        if pieces is self.held:
            if self.sharded is not None:
                self.sharded.hold(pieces)  # which may have moved since
            self.restore_attributes()
            return self._logits_of(inputs)
        with self.holding(pieces):
            return self._logits_of(inputs)

    def _first_pieces(self, pieces: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return copies of pieces that are the model's own tensors: nobody knows yet whether a pass writes to them."""
        own = {tensor.untyped_storage().data_ptr() for tensor in self.weights.pieces}
        return [p.clone() if p.untyped_storage().data_ptr() in own else p for p in pieces]

    def restore_attributes(self) -> None:
        """Take off the modules what an earlier pass left there (a counter, a buffer, a cache): no pass is to see it."""
        assert self.snapshot is not None
        if self.sharded is not None:
            self.sharded.settle()
        self.attributes.restore(self.snapshot)

    def fill_with_nan(self) -> list[str]:
        """Replace the numbers that passes have left on the modules by NaN, and return their names."""
        assert self.snapshot is not None
        if self.sharded is not None:
            self.sharded.settle()
        return self.attributes.fill_with_nan(self.snapshot)

    def _logits_of(self, inputs: Any) -> Tensor:
        """Return logits at the pieces that the model holds; its first pass ever is looked at for what it changes."""
        inputs = realised(inputs)
        assert self.held is not None
        for i, table, name, view in self._tied:
            # Made anew for every pass, in its grad mode: a view does not follow a point that moves.
            table[name] = view(self.held[i])
        if self.moving is None:
            return first_pass(self, self.held, inputs)
        if self.moving:
            restore_buffers(self.moving)
        return self.forward(inputs)

    def forward(self, inputs: Any) -> Tensor:
        """Call the model as it stands: no buffer is restored before, and no change of it is looked for."""
        output = self._call(inputs)
        logits = output if isinstance(output, Tensor) else self._select_logits(output)
        logits = logits if self.dispatched is None else logits.to(self.device)
        logits = logits if self.sharded is None else self.sharded.processes.agreed(logits)
        return logits.to(of_logits(logits.dtype)) if self.weights.native else logits

    def _call(self, inputs: Any) -> Any:
        if isinstance(inputs, Tensor):
            return self.model(inputs)
        return self.model(**inputs) if isinstance(inputs, Mapping) else self.model(*inputs)

    def _select_logits(self, output: Any) -> Tensor:
        """Return the logits among several things that a model returned, and note what is left out."""
        logits = _logits(output)
        self.returns_several = True
        if isinstance(output, Mapping):
            others = [str(name) for name, value in output.items() if name != "logits" and isinstance(value, Tensor)]
            if others:
                self.remark(f"the model returns {some(others)} beside 'logits': the logits are measured")
        elif not hasattr(output, "logits") and any(isinstance(value, Tensor) for value in output[1:]):
            shape = tuple(logits.shape[1:])
            self.note(f"the model returns {len(output)} outputs: the first, of shape {shape} an example, is measured")
        return logits

    def outputs(self, pieces: Sequence[Tensor], inputs: Any) -> Any:
        """Return all that the model returns with one piece for every slot, whatever it is."""
        with self.holding(pieces):
            self.restore_attributes()
            return self._call(realised(inputs))

    def holding(self, pieces: Sequence[Tensor]) -> Exchange:
        """Return a context in which the model holds these pieces, so that calls with them need not exchange them.

        Calls with others exchange theirs meanwhile, and contexts nest. A backward pass may call parts of the model
        again (activation checkpointing): derivatives are taken while the model holds what its forward pass saw.
        """
        return Exchange(self, pieces)


def of_logits(kind: torch.dtype) -> torch.dtype:
    """Return in which type logits are looked at: half precision holds too few digits for what is made of them."""
    return torch.float32 if kind in (torch.float16, torch.bfloat16) else kind


def default_device() -> str:
    """Return where models are evaluated when nobody says: the GPU when there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _logits(output: Any) -> Tensor:
    """Return the logits of what a model returned: ``.logits``, ``["logits"]`` or the first of a tuple."""
    if hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise UserError(
            f"the model returned {type(output).__name__}", "it must return logits or an object with .logits"
        )
    return output
