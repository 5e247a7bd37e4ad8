"""A network of positively homogeneous parts, traced: what it computes at its weights, and at their squares."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.utils.parametrize import is_parametrized

from acutance.errors import Unsupported
from acutance_classic.weights.homogeneous import HOMOGENEOUS, IDLE, LINEAR, NORMALIZATIONS, applied, operated, tensor
from acutance_classic.weights.weight_matrices import TRANSPOSED

NO_PATHS = "the path norm is not defined: '{}' ({}) is not positively homogeneous"
LEAVES = {kind.forward for kind in (*LINEAR, *NORMALIZATIONS)}


class Tracer(fx.Tracer):
    """A tracer that does not look into layers, also where their classes were derived from torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is taken as a whole."""
        return type(m).forward in LEAVES or super().is_leaf_module(m, module_qualified_name)


def apart(model: nn.Module) -> nn.Module:
    """Return a copy of a model in evaluation mode that shares its parameters and hooks.

    Tracing runs the Python of the forward pass, which may count its calls or write to buffers.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):  # one that has a graph cannot be copied deeply
                memo[id(value)] = value.detach().clone()
            elif name.endswith("_hooks"):
                memo[id(value)] = value
    return copy.deepcopy(model, memo).eval()


def refuse_foreign(model: nn.Module) -> None:
    """Refuse a model by the first of torch's layers in it that is not positively homogeneous, as an embedding."""
    known = (*LINEAR, *NORMALIZATIONS, *IDLE, *HOMOGENEOUS)
    for name, module in model.named_modules():
        of_torch = type(module).__module__.startswith("torch.nn.modules") and not list(module.children())
        if of_torch and not isinstance(module, known):
            raise Unsupported(NO_PATHS.format(name, type(module).__name__)) from None


class Network:
    """The graph of a model, with batch normalization folded into the layers before it; in float64.

    Args:
        model: in any mode; a copy of all but its parameters is traced, and it is never called.

    Raises:
        Unsupported: naming the part for which path norms have no meaning.
    """

    def __init__(self, model: nn.Module) -> None:
        if (
            len(devices := {parameter.device for parameter in model.parameters()}) > 1
            or torch.device("meta") in devices
        ):
            raise Unsupported(
                "path norms are made of all weights, and here these lie on several devices or are offloaded: open the "
                "model on one device, without device_map or offloading"
            )
        # A layer by itself is not looked into either.
        model = nn.Sequential(model) if type(model).forward in LEAVES else model
        try:
            model = apart(model)
            self._graph = Tracer().trace(model)
        except Exception as error:
            refuse_foreign(model)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Unsupported(f"the model cannot be traced, so that its paths are not known: {reason}") from None
        self._modules = dict(model.named_modules(remove_duplicate=False))
        # A surface computes where it is told to; the model's own tensors stay where they are.
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self._folded = {node: self._fold(node) for node in self._graph.nodes if self._is(node, LINEAR)}
        for node in self._graph.nodes:
            self._refuse(node)

    def _is(self, node: Any, kinds: tuple[type[nn.Module], ...]) -> bool:
        return isinstance(node, fx.Node) and node.op == "call_module" and isinstance(self._modules[node.target], kinds)

    def _fold(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of a layer, with the batch normalization that alone follows it."""
        layer: Any = self._modules[str(node.target)]
        if is_parametrized(layer) or "weight" not in dict(layer.named_parameters()):
            raise Unsupported(f"the weight of '{node.target}' is computed from other parameters: fold it first")
        weight = layer.weight.detach().double()
        bias = None if layer.bias is None else layer.bias.detach().double()
        users = list(node.users)
        if len(users) != 1 or not self._is(users[0], NORMALIZATIONS):
            return weight, bias
        norm: Any = self._modules[str(users[0].target)]
        if norm.running_var is None:
            raise Unsupported(f"'{users[0].target}' normalizes by the statistics of the batch: it has none to fold")
        ones = torch.ones_like(norm.running_var, dtype=torch.float64)
        gain, shift = (ones if p is None else p.detach().double() for p in (norm.weight, norm.bias))
        scale = gain / (norm.running_var.double() + norm.eps).sqrt()
        if len(scale) != getattr(layer, "out_channels", None) and len(scale) != getattr(layer, "out_features", None):
            raise Unsupported(f"'{users[0].target}' normalizes another axis than the outputs of '{node.target}'")
        centred = (0 if bias is None else bias) - norm.running_mean.double()
        shifted = centred * scale + (0 if norm.bias is None else shift)
        if isinstance(layer, TRANSPOSED):
            rows = weight.unflatten(0, (layer.groups, -1)) * scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
            return rows.flatten(0, 1), shifted
        return weight * scale.view(-1, *[1] * (weight.dim() - 1)), shifted

    def _refuse(self, node: fx.Node) -> None:
        """Refuse what is not positively homogeneous, or has no place on a path."""
        if node.op == "get_attr":
            raise Unsupported(f"the path norm is not defined: '{node.target}' is used outside of a linear layer")
        if self._is(node, NORMALIZATIONS):
            if not self._is(node.args[0], LINEAR) or len(node.args[0].users) > 1:  # type: ignore[union-attr]
                raise Unsupported(f"the path norm is not defined: '{node.target}' follows no linear layer of its own")
        elif node.op == "call_module" and not self._is(node, (*LINEAR, *IDLE, *HOMOGENEOUS)):
            kind = type(self._modules[str(node.target)]).__name__
            raise Unsupported(NO_PATHS.format(node.target, kind))

    def compare(self, x: Tensor, logits: Tensor) -> None:
        """Make sure that the graph gives the model's own logits of some inputs.

        Raises:
            Unsupported: where it does not.
        """
        found = self(x, squared=False)
        expected = logits.to(found)
        if found.shape != expected.shape or not bool((found - expected).abs().max() <= 1e-3 * expected.abs().max()):
            raise Unsupported("the traced model does not give the model's logits: what it computes is not known")

    @torch.no_grad()
    def __call__(self, x: Tensor, squared: bool) -> Tensor:
        """Return the logits of inputs, (n, ...), at the folded weights or at their squares, where these are."""
        values: dict[fx.Node, Any] = {}
        # A copy: operations in place are made in place.
        inputs = iter((x.to(self._device, torch.float64, copy=True),))
        for node in self._graph.nodes:
            args, kwargs = (map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
            if node.op == "placeholder":
                values[node] = next(inputs, args[0] if args else None)
            elif node.op == "output":
                return tensor(args[0])
            elif node in self._folded:
                weight, bias = self._folded[node]
                if squared:
                    weight, bias = weight.square(), None if bias is None else bias.square()
                values[node] = applied(self._modules[node.target], weight, bias, args[0])
            elif node.op == "call_module":
                passes_on = self._is(node, (*IDLE, *NORMALIZATIONS))
                values[node] = args[0] if passes_on else self._modules[node.target].forward(*args, **kwargs)
            else:
                values[node] = operated(node, args, kwargs)
        raise Unsupported("the model returns nothing")
