"""What the modules of a model put out, recorded by hooks that never stay."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from acutance.data.batch import take_rows
from acutance.errors import UserError, did_you_mean, some
from acutance.model.conditions import conditions
from acutance.surface.core import Core


def activations(core: Core, pieces: Sequence[Tensor], names: str | Sequence[str]) -> dict[str, Tensor]:
    """Return {module name: (n, ...) output}; see ``LossSurface.activations``."""
    matched = _matched(core.functional.model, names)
    modules = {name: core.functional.model.get_submodule(name) for group in matched.values() for name in group}
    with conditions(core.functional):
        parts = [
            (len(targets), _record(core, pieces, modules, inputs)) for inputs, targets in core.chunks(as_given=True)
        ]
        core.book(forwards=core.n)
        checks = list(parts)
        if core.n > 1:
            # A first axis is the examples if it follows their number: a pass of another size, booked as a check.
            size = 1 if parts[0][0] > 1 else 2
            core.book(checks=size)
            checks.append((size, _record(core, pieces, modules, take_rows(core.inputs, slice(0, size)))))
    keys = [key for key in parts[0][1] if all(_is_per_example(outputs.get(key), n) for n, outputs in checks)]
    for pattern, group in matched.items():
        if not any(key.partition("#")[0] in group for key in keys):
            raise UserError(
                f"activations: '{pattern}' matches {some(group)}: no call of these gives one row an example",
                "name modules that the forward pass calls, not containers",
            )
    return {
        key: parts[0][1][key] if len(parts) == 1 else torch.cat([outputs[key] for _, outputs in parts]) for key in keys
    }


def _matched(model: nn.Module, names: str | Sequence[str]) -> dict[str, list[str]]:
    """Return {pattern: module names}."""
    patterns = names.split(",") if isinstance(names, str) else list(names)
    patterns = [pattern.strip() for pattern in patterns if pattern.strip()]
    modules = [name for name, _ in model.named_modules() if name]
    if not patterns:
        raise UserError("activations: no module is named", _known("", modules))
    matched = {}
    for pattern in patterns:
        matched[pattern] = fnmatch.filter(modules, pattern)
        if not matched[pattern]:
            raise UserError(f"activations: '{pattern}' matches no module", _known(pattern, modules))
    return matched


def _record(core: Core, pieces: Sequence[Tensor], modules: Mapping[str, nn.Module], inputs: Any) -> dict[str, Tensor]:
    """Return {module name: copy of its output} of one pass; its second call is named ``name#2``."""
    outputs: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            tensor = _first_tensor(output)
            calls[name] += 1
            if tensor is not None:
                # A copy: an in-place ReLU would change it after the fact.
                outputs[name if calls[name] == 1 else f"{name}#{calls[name]}"] = tensor.detach().clone()

        return keep

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        core.functional(pieces, inputs)
    return outputs


def _first_tensor(output: Any) -> Tensor | None:
    """Return the tensor itself, or the first one in a tuple, a dict or a transformers' output."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((tensor for value in values if (tensor := _first_tensor(value)) is not None), None)


def _is_per_example(tensor: Tensor | None, n: int) -> bool:
    return tensor is not None and tensor.dim() > 0 and len(tensor) == n


def _known(pattern: str, modules: list[str]) -> str:
    """Return what could have been meant by a pattern of modules."""
    return did_you_mean(pattern, modules) if modules else "the model is one layer: put it into a torch.nn.Sequential"
