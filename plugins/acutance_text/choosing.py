"""Language models that take the choices of a question at once."""

from __future__ import annotations

from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def taking_choices(model: nn.Module) -> nn.Module:
    """Let a language model take ids of shape (n, C, L): its logits are then (n, C, L, V), and all else is as it was.

    Its class becomes a subclass of the same name, so that its weights keep their names and copies of it do the same.
    """
    kind: Any = type(model)
    if getattr(kind, "takes_choices", False):
        return model

    @wraps(kind.forward)
    def forward(self: Any, *given: Any, **named: Any) -> Any:
        ids = named.get("input_ids", given[0] if given else None)
        if ids is None or ids.dim() != 3:
            return kind.forward(self, *given, **named)
        rows = {name: t.flatten(0, 1) if _of_rows(t, ids) else t for name, t in named.items()}
        found = kind.forward(self, *(t.flatten(0, 1) if _of_rows(t, ids) else t for t in given), **rows)
        found.logits = found.logits.unflatten(0, ids.shape[:2])
        return found

    own = {"forward": forward, "takes_choices": True, "__doc__": kind.__doc__, "__module__": kind.__module__}
    model.__class__ = type(kind.__name__, (kind,), own)
    if "_old_forward" in vars(model):  # what a hook of accelerate calls
        vars(model)["_old_forward"] = MethodType(forward, model)
    return model


def _of_rows(value: Any, ids: Tensor) -> bool:
    return getattr(value, "shape", None) == ids.shape
