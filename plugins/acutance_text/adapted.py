"""A base with an adapter: the modules beside which low-rank changes run, or the base with the changes added to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.errors import UserError, some
from acutance_text.lora import Adapter, LowRank


class Beside(nn.Module):
    r"""A layer with its low-rank change, :math:`f(x) + s\,(B A x + b)`; A and B are parameters.

    Args:
        base: a linear layer, of torch or of GPT-2 (whose matrix is transposed), or an embedding.
        change: of it.
    """

    def __init__(self, base: nn.Module, change: LowRank) -> None:
        super().__init__()
        self.base, self.scale, self.embeds = base, change.scale, change.embeds
        self.lora_A, self.lora_B = nn.Parameter(change.a.clone()), nn.Parameter(change.b.clone())
        self.lora_bias = None if change.bias is None else nn.Parameter(change.bias.clone())

    @property
    def weight(self) -> Any:
        """The layer's own matrix, for those that ask how large it is."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the change."""
        low = F.embedding(x, self.lora_A.T) if self.embeds else F.linear(x, self.lora_A)
        own: Tensor = self.base(x)
        return own + F.linear(low, self.lora_B, self.lora_bias) * self.scale


def beside(base: nn.Module, adapter: Adapter) -> nn.Module:
    """Return the base with the adapter's tensors as its only parameters; its own weights are buffers.

    Raises:
        UserError: for an adapter that does not fit.
    """
    _same_type(base, adapter)
    _require_fit(base, adapter)
    saved = _saved(base, adapter)
    frozen = [name for name, _ in base.named_parameters(remove_duplicate=False)]
    for name in frozen:
        owner, last = _place(base, name)
        tensor = owner.get_parameter(last).detach()
        delattr(owner, last)
        owner.register_buffer(last, tensor)
    for name, tensor in saved.items():
        owner, last = _place(base, name)
        delattr(owner, last)
        owner.register_parameter(last, nn.Parameter(tensor))
    for name, change in adapter.changes.items():
        owner, last = _place(base, name)
        setattr(owner, last, Beside(base.get_submodule(name), change))
    return base.eval()


def merged(base: nn.Module, adapter: Adapter) -> nn.Module:
    r"""Return the base with the adapter in its weights, :math:`W + s\, B A`, all of them parameters.

    Raises:
        UserError: for an adapter that does not fit.
    """
    _same_type(base, adapter)
    _require_fit(base, adapter)
    for name, tensor in _saved(base, adapter).items():
        owner, last = _place(base, name)
        owner.register_parameter(last, nn.Parameter(tensor))  # of tied weights only this one is another
    users = _users(base)
    with torch.no_grad():
        for name, change in adapter.changes.items():
            module = base.get_submodule(name)
            weight: Any = module.weight
            if len(users[id(weight)]) > 1:
                raise UserError(
                    f"{adapter.folder}: '{name}' shares its matrix with {some(users[id(weight)])}, so that its change "
                    "cannot be added to it", "write surface: adapter",
                )  # fmt: skip
            delta = change.b @ change.a * change.scale
            weight.add_(delta.T if change.embeds or _transposed(module) else delta)
            if change.bias is not None:
                bias: Any = module.bias
                bias.add_(change.bias * change.scale)
    return base.eval()


def _same_type(base: nn.Module, adapter: Adapter) -> None:
    """Make base and adapter of one floating-point type, the wider one, in which both are exact."""
    tensors = [p for p in base.parameters() if p.is_floating_point()]
    changes = [t for c in adapter.changes.values() for t in (c.a, c.b, c.bias) if t is not None]
    kind = torch.float32
    for tensor in (*tensors, *changes, *adapter.whole.values()):
        kind = torch.promote_types(kind, tensor.dtype)
    base.to(kind)
    for change in adapter.changes.values():
        change.a, change.b = change.a.to(kind), change.b.to(kind)
        change.bias = None if change.bias is None else change.bias.to(kind)
    adapter.whole = {name: tensor.to(kind) for name, tensor in adapter.whole.items()}


def _require_fit(base: nn.Module, adapter: Adapter) -> None:
    """Refuse changes of modules that the base does not have, or has in another size, or that are no plain layers."""
    modules = dict(base.named_modules())
    absent = [name for name in adapter.changes if name not in modules]
    if absent:
        raise UserError(f"{adapter.folder}: its base has no {some(absent)}", "give the base that it was trained on")
    for name, change in adapter.changes.items():
        module = modules[name]
        if not isinstance(module, nn.Linear) and not _transposed(module) and type(module) is not nn.Embedding:
            kind = type(module).__name__
            raise UserError(
                f"{adapter.folder}: '{name}' is a {kind}", "only linear layers and embeddings are understood"
            )
        weight: Any = module.weight
        plain = change.b.shape[0], change.a.shape[1]
        wanted = plain[::-1] if _transposed(module) or change.embeds else plain
        if tuple(weight.shape) != wanted or change.embeds != (type(module) is nn.Embedding):
            raise UserError(
                f"{adapter.folder}: '{name}' is {tuple(weight.shape)} in its base, its change {wanted}",
                "give the base that it was trained on",
            )
        if change.bias is not None and getattr(module, "bias", None) is None:
            raise UserError(f"{adapter.folder}: '{name}' has no bias that could change", "give the right base")


def _saved(base: nn.Module, adapter: Adapter) -> Mapping[str, Tensor]:
    """Return the tensors that take the place of the base's."""
    own = dict(base.named_parameters(remove_duplicate=False))
    wrong = [name for name, t in adapter.whole.items() if name not in own or own[name].shape != t.shape]
    if wrong:
        raise UserError(f"{adapter.folder}: its base has no {some(wrong)} of that shape", "give the right base")
    return {name: tensor.clone() for name, tensor in adapter.whole.items()}


def _users(base: nn.Module) -> dict[int, list[str]]:
    """Return the names of each parameter, by its identity."""
    users: dict[int, list[str]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name)
    return users


def _place(base: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that has a parameter or a module, and how it calls it."""
    owner, _, last = name.rpartition(".")
    return base.get_submodule(owner), last


def _transposed(module: nn.Module) -> bool:
    """Return whether a layer is GPT-2's linear one, whose matrix is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")
