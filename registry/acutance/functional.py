"""A model as a function of its weights: evaluated at any point without ever writing to the model.

Parameters and buffers are exchanged for other tensors during a call and put back afterwards, whatever
happens in between. So the model's own tensors, flags and gradients are bitwise untouched.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.conditions import Conditions, own
from acutance.devices import require_device
from acutance.errors import AcutanceWarning, UserError, did_you_mean
from acutance.initial import initial_vector
from acutance.lazy import Lazy, realised
from acutance.model_state import Attributes, Moving, Taken, looked_at, put_back
from acutance.parameters import no_weights, notes_on, remarks_on, slots_of
from acutance.wrappers import calls_compiled_code, unwrapped

if TYPE_CHECKING:
    from acutance.tracking import Tracking


class FunctionalModel:
    """Holds what is needed to call ``model`` with other weights.

    Args:
        model: any module; evaluated in evaluation mode. Compiled and data-parallel ones stand for the module inside.
        device: where to evaluate; where the model is by default.
        dtype: float32 or float64; the model's by default (bf16 and fp16 are evaluated in float32).

    Attributes:
        slots: the floating-point parameters, tied ones once, in the model's order.
        w: (p,) flat copy of the weights.
        originals: the model's own tensors, those of each slot.
        notes: sentences a reader of the results should see; a surface warns of them.
        remarks: more of them, of what is as documented.
        convolves: whether it convolves images.
        compiled: whether some part of it was given to ``torch.compile``.
        recurrent: whether it has recurrent layers of torch.
        initial: opens the model at its initial weights, or its state dict; None where they are not known.
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
        self.slots, self._own = slots_of(model)
        if not self.slots:
            raise UserError("the model has no floating-point parameters", no_weights(model))
        self.notes += notes_on(model)
        self.remarks = remarks_on(model, self.slots)
        self.originals = [list({id(t[n]): t[n] for t, n, _ in slot.places}.values()) for slot in self.slots]
        self._tied = [
            (i, table, name, seen)
            for i, slot in enumerate(self.slots)
            for table, name, seen in slot.places
            if seen is not None
        ]
        self.device = require_device(device) if device is not None else self._own[0].device
        self.dtype = dtype or self._own_dtype()
        if self.dtype not in (torch.float32, torch.float64):
            raise UserError(f"dtype {self.dtype} is not supported", "choose float32 or float64")
        self.w = self._read()
        self._refuse_nonfinite()
        self.initial: Callable[[], nn.Module | Mapping[str, Tensor] | None] = lambda: None
        with self._apart_from_caller():
            self._buffers = [
                (module._buffers, name, self._cast(buffer.detach().clone()))
                for module in model.modules()
                for name, buffer in module._buffers.items()
                if buffer is not None
            ]
        self._recurrent: list[Any] = [m for m in model.modules() if hasattr(m, "_flat_weights_names")]
        self.recurrent = bool(self._recurrent)
        self._modules = list(model.modules())
        self._attributes = Attributes(self._modules)
        self._taken: Taken | None = None  # what was there before the model held what it holds
        # Their gradients are divided by how often a row occurs in a batch, or sparse: settings of training.
        self._switches = [
            (vars(module), name)
            for module in self._modules
            for name in ("scale_grad_by_freq", "sparse")
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and getattr(module, name)
        ]
        self.moving: Moving | None = None
        self.refused: UserError | None = None
        self.convolves = any(isinstance(module, nn.Conv2d) for module in self._modules)
        self._held: Sequence[Tensor] | None = None
        self.elsewhere: list[str] | None = None  # parameters that a forward pass does not take from modules
        self.jumps: frozenset[int] | None = None  # parameters whose parametrization jumps
        self.tracking: dict[int, Tracking] = {}  # what automatic differentiation misses, by size of batch
        self.wrong_products: frozenset[int] | None = None  # parameters in which double backward is no derivative

    def _read(self) -> Tensor:
        """Return the model's own weights, (P,)."""
        with self._apart_from_caller():
            return torch.cat([p.detach().to(self.device, self.dtype).reshape(-1) for p in self._own]).contiguous()

    def in_double(self) -> FunctionalModel:
        """Return the same model for passes in float64: its buffers are cast, its weights are those of each call."""
        other = copy(self)
        other.dtype, other.moving, other._held = torch.float64, None, None
        with other._apart_from_caller():
            other._buffers = [(table, name, other._cast(buffer)) for table, name, buffer in self._buffers]
        return other

    def reread(self) -> None:
        """Put the model's own weights back into ``w``, which a pass has written to; the model itself never holds it."""
        with self._apart_from_caller():
            self.w.copy_(self._read())

    def refuse(self, message: str, hint: str) -> UserError:
        """Return the reason why the model cannot be measured, to be raised; nobody else is to blame for it."""
        self.refused = UserError(message, hint)
        return self.refused

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """Return the buffers that passes see, with their names in the model."""
        paths = {id(module._buffers): path for path, module in self.model.named_modules()}
        return [(f"{paths[id(table)]}.{name}".strip("."), buffer) for table, name, buffer in self._buffers]

    def _apart_from_caller(self) -> Conditions:
        """Return a context in which tensors are made that outlive the caller's inference mode."""
        return Conditions(self.device, self.dtype, grad=False)

    def _own_dtype(self) -> torch.dtype:
        dtypes = {p.dtype for p in self._own}
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

    def note(self, sentence: str) -> None:
        """Add a sentence to the notes, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def told(self) -> list[str]:
        """What a reader of the results should know: notes, which are warned of, and remarks, which are not."""
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
        if bool(torch.isfinite(self.w).all()):
            return
        for slot, piece in zip(self.slots, self.split(self.w), strict=True):
            if not bool(torch.isfinite(piece).all()):
                bad = int((~torch.isfinite(piece)).sum())
                raise UserError(
                    f"parameter '{slot.name}' has {bad} non-finite value(s)",
                    "the checkpoint is damaged or its training diverged",
                )

    @property
    def hooked(self) -> bool:
        """Whether something listens to the model's forward passes, and so expects one for each point."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self._modules)

    def padding_rows(self) -> list[tuple[int, int]]:
        """Return (slot, row) of each embedding's padding, which has no gradient by torch's definition."""
        rows = {id(module._parameters): getattr(module, "padding_idx", None) for module in self._modules}
        return [
            (i, row)
            for i, slot in enumerate(self.slots)
            for table, name, seen in slot.places
            if name == "weight" and seen is None and isinstance(row := rows.get(id(table)), int)
        ]

    def split(self, v: Tensor) -> Sequence[Tensor]:
        """Return a vector over all parameters, (P,), as one flat piece for every slot: views of it."""
        return v.split_with_sizes([slot.numel for slot in self.slots])

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def cast_inputs(self, inputs: Any) -> Any:
        """Return inputs on the device, floating-point ones in the dtype; keeps dicts and tuples, reads nothing."""
        if isinstance(inputs, Tensor):
            with self._apart_from_caller():
                return self._cast(own(inputs.detach()))
        if isinstance(inputs, Lazy):
            return inputs.then(self.cast_inputs)
        if isinstance(inputs, Mapping):
            return {key: self.cast_inputs(value) for key, value in inputs.items()}
        if isinstance(inputs, tuple | list):
            return tuple(self.cast_inputs(value) for value in inputs)
        return inputs

    def __call__(self, pieces: Sequence[Tensor], inputs: Any) -> Tensor:
        """Return the model's logits with one piece for every slot in order, flat or in its shape."""
        if pieces is self._held:
            self.as_taken()
            return self._logits_of(inputs)
        with self.holding(pieces):
            return self._logits_of(inputs)

    def as_taken(self) -> None:
        """Take off the modules what an earlier pass left there (a counter, a buffer, a cache): no pass is to see it."""
        assert self._taken is not None
        self._attributes.put_back(self._taken)

    def _logits_of(self, inputs: Any) -> Tensor:
        inputs = realised(inputs)
        assert self._held is not None
        for i, table, name, seen in self._tied:
            # Made anew for every pass, in its grad mode: a view does not follow a point that moves.
            table[name] = seen(self._held[i])
        if self.moving is None:
            return looked_at(self, self._held, inputs)
        if self.moving:
            put_back(self.moving)
        return self._forward(inputs)

    def _forward(self, inputs: Any) -> Tensor:
        """Call the model as it stands."""
        if isinstance(inputs, Tensor):
            output = self.model(inputs)
        else:
            output = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(*inputs)
        return output if isinstance(output, Tensor) else self._chosen(output)

    def _chosen(self, output: Any) -> Tensor:
        """Return the logits among several things that a model returned, and note what is left out."""
        found = _logits(output)
        others = [] if hasattr(output, "logits") or isinstance(output, Mapping) else output[1:]
        if any(isinstance(value, Tensor) for value in others):
            shape = tuple(found.shape[1:])
            self.note(f"the model returns {len(output)} outputs: the first, of shape {shape} an example, is measured")
        return found

    def holding(self, pieces: Sequence[Tensor]) -> Exchange:
        """Return a context in which the model holds these pieces, so that calls with them need not exchange them.

        Calls with others exchange theirs meanwhile, and contexts nest. A backward pass may call parts of the model
        again (activation checkpointing): derivatives are taken while the model holds what its forward pass saw.
        """
        return Exchange(self, pieces)

    def select(self, pattern: str) -> list[int]:
        """Return the indices of the slots that a pattern names.

        Args:
            pattern: ``all``, or comma-separated shell patterns of parameter names, ``!`` in front to leave out;
                a tied parameter goes by any of its names.

        Raises:
            UserError: for a pattern that matches nothing.
        """
        parts = [part.strip() for part in pattern.split(",") if part.strip()]
        primary = {name: slot.name for slot in self.slots for name in slot.names}
        names = list(primary)
        wanted = [part for part in parts if not part.startswith("!")]
        chosen: set[str] = set() if wanted else set(primary.values())
        for part in wanted:
            found = names if part == "all" else fnmatch.filter(names, part)
            if not found:
                raise UserError(f"parameters: '{part}' matches no parameter", did_you_mean(part, names))
            chosen.update(primary[name] for name in found)
        for part in parts:
            if part.startswith("!"):
                found = fnmatch.filter(names, part[1:])
                if not found:
                    raise UserError(f"parameters: '{part}' leaves out no parameter", did_you_mean(part[1:], names))
                chosen.difference_update(primary[name] for name in found)
        if not chosen:
            raise UserError(f"parameters: '{pattern}' leaves no parameter free")
        return [i for i, slot in enumerate(self.slots) if slot.name in chosen]


class Exchange:
    """Context in which a model holds other tensors, in evaluation mode; afterwards all is back, whatever happened."""

    def __init__(self, functional: FunctionalModel, pieces: Sequence[Tensor]) -> None:
        self._functional, self._pieces = functional, pieces

    def __enter__(self) -> None:
        f = self._functional
        self._held, self._outer = f._held, f._taken
        if self._held is self._pieces:
            return
        self._saved: list[tuple[dict[str, Any], str, Any]] = []
        self._attributes: Taken | None = None
        self._training = [module for module in f._modules if module.training]
        self._flat_weights = [(module, module._flat_weights) for module in f._recurrent]
        self._fast_path = torch.backends.mha.get_fastpath_enabled()
        try:
            # The fused inference path of TransformerEncoderLayer rounds differently from the one with gradients.
            torch.backends.mha.set_fastpath_enabled(False)
            for module in self._training:
                # Past nn.Module's own __setattr__, which costs as much as a small layer.
                vars(module)["training"] = False
            for table, name in f._switches:
                self._put(table, name, False)
            for slot, piece in zip(f.slots, self._pieces, strict=True):
                tensor = piece if piece.shape == slot.shape else piece.view(slot.shape)
                for table, name, seen in slot.places:
                    self._put(table, name, tensor if seen is None else seen(tensor))
            for table, name, buffer in f._buffers:
                self._put(table, name, buffer)
            for module in f._recurrent:
                module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
            self._attributes = f._taken = f._attributes.taken()
            f._held = self._pieces
        except BaseException:
            self.__exit__()
            raise

    def _put(self, table: dict[str, Any], name: str, value: Tensor | bool) -> None:
        self._saved.append((table, name, table[name]))
        table[name] = value

    def __exit__(self, *error: object) -> None:
        """Put everything back; a Ctrl-C that arrives meanwhile is raised only when all of it is back."""
        if self._held is self._pieces:
            return
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._functional._held, self._functional._taken = self._held, self._outer
                if self._attributes is not None:
                    self._functional._attributes.put_back(self._attributes)
                for table, name, tensor in reversed(self._saved):
                    table[name] = tensor
                for module in self._training:
                    vars(module)["training"] = True
                for recurrent, weights in self._flat_weights:
                    recurrent._flat_weights = weights
                torch.backends.mha.set_fastpath_enabled(self._fast_path)
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


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
