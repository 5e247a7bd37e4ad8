"""The module inside what people wrap around one, and in one sentence what cannot be measured."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from acutance.errors import UserError
from acutance.model.ties import GATHER

PARALLEL = {"DataParallel", "DistributedDataParallel"}
SHARDED = {"FullyShardedDataParallel", "XlaFullyShardedDataParallel"}


def unwrapped(model: Any) -> nn.Module:
    """Return the module that holds the weights: that of ``torch.compile``, ``DataParallel`` and the like at the top.

    Where accelerate has put mixed precision over its forward, it is a module that shares all with it but that.

    Raises:
        UserError: for what is no module, or one whose weights cannot be exchanged for others.
    """
    while True:
        if _is_compiled(model):
            model = model._orig_mod
        elif type(model).__name__ in PARALLEL and isinstance(model, nn.Module):
            model = model.module
        else:
            break
    if not isinstance(model, nn.Module):
        raise UserError(
            f"the model is a {type(model).__name__}, no torch.nn.Module",
            "give the Python module itself, with its weights loaded",
        )
    for name, module in model.named_modules():
        where = f"module '{name}' is" if name else "the model is"
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{where} TorchScript (scripted or traced), which holds its weights where no other can be put",
                "load them into the Python module that it was made from",
            )
        if kind in SHARDED or (kind in PARALLEL and name):
            cure = GATHER if kind in SHARDED else "give the module inside, without it"
            raise UserError(f"{where} wrapped in {kind}", cure)
    return _without_mixed_precision(model)


def _without_mixed_precision(model: nn.Module) -> nn.Module:
    """Return a module without the autocast that ``accelerator.prepare`` puts over a forward; others as they are.

    It writes the autocast, and a conversion of the outputs, over ``forward`` of the very module. A second module with
    the same parameters, buffers, parts and hooks has the forward from before; the one that trains stays as it is.

    Raises:
        UserError: where something else had replaced the forward before.
    """
    original = vars(model).get("_original_forward")
    if original is None or "forward" not in vars(model):
        return model
    if getattr(original, "__self__", None) is not model:
        raise UserError(
            "the model's forward was replaced by a function of its own, and accelerate put mixed precision over that",
            "measure the module as it was before accelerator.prepare",
        )
    kind: type[nn.Module] = type(model)
    bare: nn.Module = object.__new__(kind)
    vars(bare).update(vars(model))
    for name in ("forward", "_original_forward"):
        del vars(bare)[name]
    if original.__func__ is not type(model).forward:
        vars(bare)["forward"] = MethodType(original.__func__, bare)
    return bare


def calls_compiled_code(model: nn.Module) -> bool:
    """Return whether some part of a model was given to ``torch.compile``, so that calling it runs compiled code."""
    return any(
        _is_compiled(module)
        or getattr(module, "_compiled_call_impl", None) is not None
        or any(_is_compiled_function(value) for value in (*vars(module).values(), type(module).forward))
        for module in model.modules()
    )


def _is_compiled(module: Any) -> bool:
    return type(module).__name__ == "OptimizedModule" and isinstance(module, nn.Module)


def _is_compiled_function(value: Any) -> bool:
    return callable(value) and hasattr(value, "_torchdynamo_orig_callable")
