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
from acutance.errors import AcutanceWarning, UserError, did_you_mean, some
from acutance.model.conditions import conditions, trackable
from acutance.model.exchange import Exchange
from acutance.model.initial import initial_vector
from acutance.model.notes import no_weights, notes_on, remarks_on
from acutance.model.parameters import Slot
from acutance.model.state import Attributes, Moving, Snapshot, first_pass, restore_buffers
from acutance.model.ties import parameters_of
from acutance.model.wrappers import calls_compiled_code, unwrapped
from acutance.system.devices import require_device

if TYPE_CHECKING:
    from acutance.checks.tracking import Tracking
    from acutance.io.training_log import TrainingLog


class FunctionalModel:
    """Holds what is needed to call ``model`` with other weights.

    Args:
        model: any module; evaluated in evaluation mode. Compiled and data-parallel ones stand for the module inside.
        device: where to evaluate; where the model is by default.
        dtype: float32 or float64; the model's by default (bf16 and fp16 are evaluated in float32).

    Attributes:
        parameters: the floating-point ones, tied ones once, all of them free.
        w: (P,) flat copy of the weights.
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
        held: the pieces that the model holds, None for its own tensors.
        snapshot: what the attributes were before the model held what it holds.
        initial: opens the model at its initial weights, or its state dict; None where they are not known.
        update: gives the optimizer's next step, {parameter name: change}; None where it is not known.
        log: reads what training wrote down; None where nothing is known.
        moving: (name, buffer, as it was) of each buffer that a forward pass changes; known after the first one.
        refused: why the model cannot be measured, once that is known.

    Raises:
        UserError: for sharded, meta, complex or non-finite parameters, or a model without parameters.
    """

    def __init__(
        self, model: nn.Module, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.model = model = unwrapped(model)
        self.compiled = calls_compiled_code(model)
        self.notes: list[str] = list(vars(model).get("load_notes", ()))
        self._warned = 0
        self.parameters, self._owners = parameters_of(model)
        if not self.slots:
            raise UserError("the model has no floating-point parameters", no_weights(model))
        self.notes += notes_on(model)
        self.remarks = remarks_on(model, self.slots)
        self.originals = [list({id(t[n]): t[n] for t, n, _ in slot.places}.values()) for slot in self.slots]
        self._tied = [
            (i, table, name, view)
            for i, slot in enumerate(self.slots)
            for table, name, view in slot.places
            if view is not None
        ]
        self.device = require_device(device) if device is not None else self._owners[0].device
        self.dtype = dtype or self._own_dtype()
        if self.dtype not in (torch.float32, torch.float64):
            raise UserError(f"dtype {self.dtype} is not supported", "choose float32 or float64")
        self.w = self._read()
        self._refuse_nonfinite()
        self.initial: Callable[[], nn.Module | Mapping[str, Tensor] | None] = lambda: None
        self.update: Callable[[], Mapping[str, Tensor] | None] = lambda: None
        self.log: Callable[[], TrainingLog | None] = lambda: None
        with conditions(self):
            self.buffers = [
                (module._buffers, name, self._cast(buffer.detach().clone()))
                for module in model.modules()
                for name, buffer in module._buffers.items()
                if buffer is not None
            ]
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
        self.held: Sequence[Tensor] | None = None
        self.elsewhere: list[str] | None = None  # parameters that a forward pass does not take from modules
        self.jumps: frozenset[int] | None = None  # parameters whose parametrization jumps
        self.tracking: dict[int, Tracking] = {}  # what automatic differentiation misses, by size of batch
        self.wrong_products: frozenset[int] | None = None  # parameters in which double backward is no derivative

    def _read(self) -> Tensor:
        """Return the model's own weights, (P,)."""
        with conditions(self):
            return torch.cat([p.detach().to(self.device, self.dtype).reshape(-1) for p in self._owners]).contiguous()

    def in_double(self) -> FunctionalModel:
        """Return the same model for passes in float64: its buffers are cast, its weights are those of each call."""
        other = copy(self)
        other.dtype, other.moving, other.held = torch.float64, None, None
        with conditions(other):
            other.buffers = [(table, name, other.cast_inputs(buffer)) for table, name, buffer in self.buffers]
        return other

    def reread(self) -> None:
        """Put the model's own weights back into ``w``, which a pass has written to; the model itself never holds it."""
        with conditions(self):
            self.w.copy_(self._read())

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

    def _own_dtype(self) -> torch.dtype:
        dtypes = {p.dtype for p in self._owners}
        low = dtypes - {torch.float32, torch.float64}
        if low:
            names = ", ".join(sorted(str(d).removeprefix("torch.") for d in low))
            self.notes.append(f"weights stored in {names} are evaluated in float32")
        return torch.float64 if dtypes == {torch.float64} else torch.float32

    @cached_property
    def w0(self) -> Tensor | None:
        """(p,) initial weights, fetched on first use; None where they are not known."""
        initial = self.initial()
        return None if initial is None else initial_vector(self, initial)

    @cached_property
    def update_vector(self) -> Tensor | None:
        """(P,) the optimizer's next step, fetched on first use; None where it is not known."""
        step = self.update()
        return None if step is None else initial_vector(self, step, "steps of the optimizer")

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
        if bool(torch.isfinite(self.w).all()):
            return
        for slot, piece in zip(self.slots, self.own_pieces(), strict=True):
            if not bool(torch.isfinite(piece).all()):
                bad = int((~torch.isfinite(piece)).sum())
                raise UserError(
                    f"parameter '{slot.name}' has {bad} non-finite value(s)",
                    "the checkpoint is damaged or its training diverged",
                )

    @property
    def recurrent(self) -> bool:
        """Whether it has recurrent layers of torch."""
        return bool(self.recurrent_layers)

    @property
    def hooked(self) -> bool:
        """Whether something listens to the model's forward passes, and so expects one for each point."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.modules)

    def padding_rows(self) -> list[tuple[int, int]]:
        """Return (slot, row) of each embedding's padding, which has no gradient by torch's definition."""
        rows = {id(module._parameters): getattr(module, "padding_idx", None) for module in self.modules}
        return [
            (i, row)
            for i, slot in enumerate(self.slots)
            for table, name, view in slot.places
            if name == "weight" and view is None and isinstance(row := rows.get(id(table)), int)
        ]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of its parameters."""
        return self.parameters.slots

    def own_pieces(self) -> Sequence[Tensor]:
        """Return the model's own weights as one flat piece for every slot: views of ``w``."""
        return self.parameters.split(self.w)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def cast_inputs(self, inputs: Any) -> Any:
        """Return inputs on the device, floating-point ones in the dtype; keeps dicts and tuples, reads nothing."""
        if isinstance(inputs, Tensor):
            with conditions(self):
                return self._cast(trackable(inputs.detach()))
        if isinstance(inputs, Lazy):
            return inputs.then(self.cast_inputs)
        if isinstance(inputs, Mapping):
            return {key: self.cast_inputs(value) for key, value in inputs.items()}
        if isinstance(inputs, tuple | list):
            return tuple(self.cast_inputs(value) for value in inputs)
        return inputs

    def __call__(self, pieces: Sequence[Tensor], inputs: Any) -> Tensor:
        """Return the model's logits with one piece for every slot in order, flat or in its shape."""
        if pieces is self.held:
            self.restore_attributes()
            return self._logits_of(inputs)
        with self.holding(pieces):
            return self._logits_of(inputs)

    def restore_attributes(self) -> None:
        """Take off the modules what an earlier pass left there (a counter, a buffer, a cache): no pass is to see it."""
        assert self.snapshot is not None
        self.attributes.restore(self.snapshot)

    def fill_with_nan(self) -> list[str]:
        """Replace the numbers that passes have left on the modules by NaN, and return their names."""
        assert self.snapshot is not None
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
        return output if isinstance(output, Tensor) else self._select_logits(output)

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
