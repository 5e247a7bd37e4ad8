"""What a model makes of its inputs on the way to the logits, as a surface gives it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from acutance.errors import Unsupported
from acutance.model.conditions import conditions
from acutance.surface.activations import activations
from acutance.surface.core import Core

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

T = TypeVar("T")


@dataclass(frozen=True)
class LastLayer:
    r"""The linear map that gives the logits, :math:`f(x_i) = W \phi_i + b`, and what goes into it.

    Attributes:
        name: of the module.
        features: (n, d), the penultimate representations :math:`\phi_i`.
        weight: (K, d).
        bias: (K,), or None.
    """

    name: str
    features: Tensor
    weight: Tensor
    bias: Tensor | None


class Representations:
    """The part of a surface that looks inside of the model."""

    core: Core
    _pieces: Sequence[Tensor]
    check: Callable[..., None]
    pieces: Callable[[Tensor], list[Tensor]]
    memo: Callable[[Hashable, Callable[[], Any]], Any]

    def activations(self, names: str | Sequence[str], w: Tensor | None = None) -> dict[str, Tensor]:
        """Return {module name: (n, ...) output} at w, or at w*, copied; cost: n forwards.

        Of a module that returns several tensors (a tuple, a transformers' output) the first is taken. The second
        call of a module in one pass is found under ``name#2``. Containers that are not called, and modules whose
        output does not have one row an example, are left out.

        Args:
            names: shell patterns of module names, as a sequence or separated by commas.
            w: (p,) point.

        Raises:
            UserError: for a pattern that matches no module, or none with an output to return.
        """
        self.check()
        return activations(self.core, self._pieces if w is None else self.pieces(w), names)

    def last_layer(self, w: Tensor | None = None) -> LastLayer:
        """Return the model's last linear layer and the penultimate representations at w, or at w*.

        Cost: n forwards; at w* once for the surface and all its views, and they give the logits of ``clean`` as well.

        Args:
            w: (p,) point.

        Raises:
            Unsupported: when the logits are not the output of a linear layer.
        """
        if w is not None:
            self.check()
            return _last_layer_at(cast("LossSurface", self), w)[0]
        if self.core.known.last_layer is None:
            if self.core.known.features is None:
                self.check()
            self.core.known.last_layer = _last_layer(cast("LossSurface", self))
        return self.core.known.last_layer

    def shared(self, key: Hashable, fn: Callable[[], T]) -> T:
        """Return ``fn()``, computed once for the surface and all its views, those without targets too.

        For what follows from logits or representations at w* alone (probabilities, a spectrum), where several measures
        ask for it; what depends on targets or free parameters is for ``memo``.
        """
        shared = self.core.known.shared
        if key not in shared:
            shared[key] = fn()
        value: T = shared[key]
        return value


def _last_layer(surface: LossSurface) -> LastLayer:
    core = surface.core
    if core.known.features is not None:
        return _known_layer(core, *core.known.features)
    last, core.known.clean_logits = _last_layer_at(surface, None)
    return last


def _last_layer_at(surface: LossSurface, w: Tensor | None) -> tuple[LastLayer, Tensor]:
    """Return the last layer and the logits, (n, K), of a pass at w, or at w*."""
    surface.core.functional.refuse_inner("the weights of its last layer")
    with _last_calls(surface.core.functional.model) as calls:
        raw = surface.raw_logits(w)
    made = [call for call in calls if call is not None]
    names = {layer.name for layer, _ in made}
    if len(names) != 1 or len(made) < len(calls):
        raise Unsupported("the model has no linear layer that gives its logits, whose inputs could be looked at")
    (name,) = names
    outputs = torch.cat([output for _, output in made])
    outputs = outputs.to(raw.device)
    if outputs.shape != raw.shape or not torch.equal(outputs.to(raw.dtype).nan_to_num(), raw.nan_to_num()):
        raise Unsupported(f"the logits are not what the last linear layer ('{name}') gives: something comes after it")
    last = made[0][0]
    features = torch.cat([layer.features for layer, _ in made])
    # A model that one device does not hold has its last layer wherever that was put.
    bias = None if last.bias is None else last.bias.to(raw.device)
    return replace(last, features=features.to(raw.device), weight=last.weight.to(raw.device), bias=bias), raw


def _layer(name: str, features: Tensor, layer: nn.Linear) -> LastLayer:
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return LastLayer(name, features, layer.weight.detach().clone(), bias)


def _known_layer(core: Core, name: str, features: Tensor) -> LastLayer:
    functional = core.functional
    functional.refuse_inner("the weights of its last layer")
    layer = functional.model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    # A weight may be computed when it is read, and spectral normalization in training mode then takes a step.
    with conditions(functional), functional.holding(functional.own_pieces()):
        return _layer(name, features, layer)


@contextmanager
def _last_calls(model: nn.Module) -> Iterator[list[tuple[LastLayer, Tensor] | None]]:
    """Yield a list that gets, for every pass of the model, the linear layer called last, as it was, and its output."""
    calls: list[tuple[LastLayer, Tensor] | None] = []
    latest: list[tuple[str, nn.Linear, Tensor, Tensor]] = []

    def record(name: str) -> Callable[[nn.Linear, Any, Any], None]:
        def keep(module: nn.Linear, arguments: Any, output: Any) -> None:
            # One at a time is kept: it is copied once the pass is over.
            latest[:] = [(name, module, arguments[0], output)]

        return keep

    def end(module: nn.Module, arguments: Any, output: Any) -> None:
        calls.append(None)
        for name, layer, given, result in latest:
            calls[-1] = _layer(name, given.detach().clone(), layer), result.detach().clone()
        latest.clear()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(record(name)).remove)
        stack.callback(model.register_forward_hook(end).remove)
        yield calls
