"""Recording what a measure calls, how many passes it makes, and what it leaves changed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from acutance.data.batch import length_of
from acutance.model.functional import FunctionalModel
from acutance.numerics.draws import Streams
from acutance.surface.loss_surface import LossSurface
from acutance.surface.moving_point import MovingPoint

SLOPE = "moving_point().gradient"  # of a point, not of the surface itself
# Which declared needs allow a call; data is implied by whatever looks at it.
READS_DATA = frozenset({"data", "gradient", "example_gradients", "hvp", "activations"})
READS_INPUTS = READS_DATA | {"unlabeled"}  # what asks for no targets
ALLOWED_BY: dict[str, frozenset[str]] = {
    **dict.fromkeys(("loss", "losses", "errors", "clean", "clean_together", "targets"), READS_DATA),
    **dict.fromkeys(
        ("logits", "raw_logits", "clean_logits", "inputs", "moving_point", "many_points", "still_point"), READS_INPUTS
    ),
    **dict.fromkeys(("at_inputs", "with_buffers", "recalibrated", "example_digests"), READS_INPUTS),
    "evaluate": READS_DATA,
    "evaluate(gradient=True)": frozenset({"gradient"}),
    **dict.fromkeys(("gradient", "clean_gradient", "perturbed", SLOPE), frozenset({"gradient"})),
    **dict.fromkeys(("hvp", "jvp", "vjp", "ggnvp"), frozenset({"hvp"})),
    "example_gradients": frozenset({"example_gradients"}),
    **dict.fromkeys(("activations", "last_layer"), frozenset({"activations"})),
    "w0": frozenset({"initial_weights"}),
    "companion": frozenset({"validation"}),
    "training_log": frozenset({"trajectory"}),
    "update": frozenset({"update"}),
    "input_gradient": frozenset({"input_gradient"}),
}


class Log:
    """Calls made from outside a surface; what the surface calls of itself does not count."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.depth = 0

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Note a call unless it is made by another one."""
        if self.depth == 0:
            self.calls[name] += 1
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


class WatchedSurface(LossSurface):
    """A surface that notes which of its oracles are called, on itself and on its views."""

    @property
    def log(self) -> Log:
        """The calls so far."""
        log: Log = vars(self).setdefault("_log", Log())
        return log

    def _view(self, *arguments: Any, **named: Any) -> LossSurface:
        view = super()._view(*arguments, **named)
        view.__class__ = type(self)
        vars(view)["_log"] = self.log
        return view


class WatchedPoint(MovingPoint):
    """A moving point that notes when its gradient is asked for."""

    log: Log

    def slope(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Note the call, and return loss, logits and gradient."""
        with self.log.call(SLOPE):
            return super().slope()


def _watch(name: str) -> Any:
    """Return a method or property of LossSurface that notes its calls in the surface's log."""
    original = getattr(LossSurface, name)
    if isinstance(original, property):

        def read(self: WatchedSurface) -> Any:
            with self.log.call(name):
                return original.fget(self)  # type: ignore[misc]

        return property(read)

    def call(self: WatchedSurface, *arguments: Any, **named: Any) -> Any:
        gradient = name == "evaluate" and (named.get("gradient") or len(arguments) > 1)
        with self.log.call("evaluate(gradient=True)" if gradient else name):
            result = original(self, *arguments, **named)
        if isinstance(result, MovingPoint):
            result.__class__ = WatchedPoint
            vars(result)["log"] = self.log
        return result

    return call


for _name in ALLOWED_BY:
    if hasattr(LossSurface, _name):
        setattr(WatchedSurface, _name, _watch(_name))


class WatchedStreams(Streams):
    """Noise that notes what of it is drawn."""

    def __init__(self, *context: Any, drawn: list[str] | None = None) -> None:
        super().__init__(*context)
        self.drawn = [] if drawn is None else drawn

    def child(self, *context: Any) -> Streams:
        """Return a family named by more context, whose draws are noted here too."""
        return WatchedStreams(*self.context, *context, drawn=self.drawn)

    def generator(self, stream: str, k: int) -> torch.Generator:
        """Note the draw."""
        self.drawn.append(stream)
        return super().generator(stream, k)


class Interrupted(RuntimeError):
    """The failure that the kit makes happen."""


class FailingModel(FunctionalModel):
    """A model whose passes are counted, and fail once there were as many as allowed.

    Attributes:
        passes: so far.
        allowed: how many succeed; None for all.
    """

    passes = 0
    allowed: int | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Tensor:
        """Return the logits, or fail."""
        self.passes += 1
        if self.allowed is not None and self.passes > self.allowed:
            raise Interrupted("a pass was made to fail")
        return super().__call__(*arguments, **named)


@contextmanager
def counted_examples(model: nn.Module) -> Iterator[Counter[str]]:
    """Count the examples that go through a model's forward, whoever calls it."""
    counts: Counter[str] = Counter()

    def note(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], __: Any) -> None:
        inputs = arguments or named
        # Inside vmap the first axis is not the example's; there the ledger is believed.
        if torch._C._functorch.maybe_current_level() is None:
            counts["examples"] += length_of(inputs) or 0

    handle = model.register_forward_hook(note, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


T = TypeVar("T")


def generator_states() -> dict[str, Any]:
    """Return the states of the global random generators."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
    }


def seed_generators(seed: int) -> None:
    """Seed the global random generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def snapshot(surface: LossSurface, points: Any) -> dict[str, Any]:
    """Return everything a measure must leave alone, by name; tensors are copied.

    Args:
        surface: with its model, whose flags and gradients may be anything.
        points: the (inputs, targets) that the surface was made of, or None.
    """
    model = surface.model
    state: dict[str, Any] = {"the surface's w": surface.w.clone()}
    for name, p in model.named_parameters():
        state[f"parameter '{name}'"] = p.detach().clone()
        state[f"identity of parameter '{name}'"] = (id(p), p.data_ptr())
        state[f"requires_grad of '{name}'"] = p.requires_grad
        state[f"grad of '{name}'"] = None if p.grad is None else p.grad.clone()
    for name, b in model.named_buffers():
        state[f"buffer '{name}'"] = b.clone()
    for name, module in model.named_modules():
        state[f"training flag of '{name or 'the model'}'"] = module.training
        state[f"hooks of '{name or 'the model'}'"] = (
            len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks),
        )  # fmt: skip
    for i, (_, name, buffer) in enumerate(surface.core.functional.buffers):
        state[f"the surface's buffer {i} '{name}'"] = buffer.clone()
    if points is not None:
        state |= {f"the {name}": value for name, value in _tensors("inputs", points[0])}
        state["the targets"] = points[1].clone()
    state["grad mode"] = torch.is_grad_enabled()
    state["default dtype"] = torch.get_default_dtype()
    state["number of threads"] = torch.get_num_threads()
    state["deterministic algorithms"] = torch.are_deterministic_algorithms_enabled()
    return state


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, copy) of every tensor in a value."""
    if isinstance(value, Tensor):
        yield name, value.clone()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(f"{name}.{key}", item)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _tensors(f"{name}.{i}", item)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of what is no longer bitwise the same."""
    changed = [name for name in before if name not in after or not _same(before[name], after[name])]
    return changed + [name for name in after if name not in before]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and _bits(a) == _bits(b)
    return type(a) is type(b) and bool(a == b)


def _bits(a: Tensor) -> bytes:
    return a.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def raises(function: Callable[[], T]) -> T | BaseException:
    """Return what a function returns, or what it raises."""
    try:
        return function()
    except Exception as error:
        return error
