"""The conditions of a pass, made in one place: the surface's own, whatever those of the caller are.

Torch keeps a good part of what decides a number in global state: whether gradients are recorded, what autocast
does, which kernels may be taken. A value must not depend on who asks for it, so every pass states all of it, and
puts it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint
from torch.utils._device import DeviceContext

from acutance.errors import UserError

if TYPE_CHECKING:
    from types import TracebackType

    from acutance.model.functional import FunctionalModel
    from acutance.surface.core import Core


class HasCore(Protocol):
    """What holds a model."""

    core: Core


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=HasCore)

Arithmetic = Literal["exact", "tf32", "bf16"]
ARITHMETICS = get_args(Arithmetic)


class Conditions:
    """Context of a computation that belongs to a surface: inference mode, autocast, anomaly mode and the like are off.

    Afterwards all is the caller's again, also after an exception. Entering it costs a few microseconds where the caller
    has changed nothing. Contexts nest, and one may be entered again after it was left.

    Args:
        device: where passes run.
        dtype: of the weights.
        grad: whether automatic differentiation records.
        arithmetic: of float32: its own, or a coarser one that was asked for.
        reentrant: whether checkpoints of torch may be reentrant ones, whose derivatives cannot be taken by given
            inputs, or twice; otherwise they are made as others: the same values, recomputed in the same places.
        needs: makes further contexts, entered last.

    Raises:
        UserError: on entering, inside a transform of ``torch.func``.
    """

    __slots__ = (
        "_arithmetic", "_checkpoints", "_device", "_dtype", "_grad", "_needs", "_on_gpu", "_reentrant", "_stack",
        "_was",
    )  # fmt: skip

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        grad: bool,
        arithmetic: Arithmetic = "exact",
        reentrant: bool = True,
        needs: tuple[Callable[[], AbstractContextManager[Any]], ...] = (),
    ) -> None:
        self._device, self._dtype, self._grad, self._needs = device, dtype, grad, needs
        self._arithmetic, self._reentrant = arithmetic, reentrant
        self._on_gpu = device.type == "cuda"
        self._stack: ExitStack | None = None

    def __enter__(self) -> None:
        arithmetic = _arithmetic_contexts(self._device, self._on_gpu, self._arithmetic)
        contexts = [*_undone(self._device, self._dtype), *arithmetic, *self._needs]
        if contexts:
            stack = ExitStack()
            with stack:
                for context in contexts:
                    stack.enter_context(context())
                self._stack = stack.pop_all()
        self._was, self._checkpoints = torch.is_grad_enabled(), checkpoint.CheckpointFunction
        torch._C._set_grad_enabled(self._grad)
        if not self._reentrant:
            checkpoint.CheckpointFunction = _NotReentrant  # type: ignore[misc, assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch._C._set_grad_enabled(self._was)
        if not self._reentrant:
            checkpoint.CheckpointFunction = self._checkpoints  # type: ignore[misc]
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.__exit__(kind, error, trace)
        if isinstance(error, RuntimeError) and "Inference tensors cannot be saved" in str(error):
            raise UserError(
                "the model holds a tensor made inside torch.inference_mode that is no parameter or buffer of it",
                "register it as a buffer, or make the model outside",
            ) from error


def conditions(
    functional: FunctionalModel,
    order: Literal[0, 1, 2] = 0,
    arithmetic: Arithmetic = "exact",
    recomputed: bool = False,
) -> Conditions:
    """Return the context of a pass of a model.

    Args:
        functional: the model.
        order: how often it is differentiated.
        arithmetic: of float32, see ``Conditions``.
        recomputed: whether layers are made again in the backward pass, where that was asked for.
    """
    needs: list[Callable[[], AbstractContextManager[Any]]] = []
    if functional.compiled:
        # Compiled code holds the parameters it was compiled for, and cannot be differentiated twice.
        needs.append(partial(torch.compiler.set_stance, "force_eager"))
    if order and functional.computing.type == "cuda" and functional.recurrent:
        # cuDNN has no backward of recurrent layers in evaluation mode, and no second derivative of them.
        needs.append(partial(_switched, *_attribute(torch.backends.cudnn, "enabled"), False))
    if recomputed and functional.recomputation is not None:
        needs.append(functional.recomputation.switched_on)
    if order == 2:
        # Flash and memory-efficient attention have no second derivative.
        needs.append(partial(sdpa_kernel, [SDPBackend.MATH]))
    return Conditions(
        functional.computing, functional.dtype, grad=order > 0, arithmetic=arithmetic, reentrant=not order,
        needs=tuple(needs),
    )  # fmt: skip


def in_own_conditions(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Decorate a method of a surface: what it makes outlives the caller's modes, and does not depend on them."""

    @wraps(method)
    def wrapped(surface: S, /, *arguments: P.args, **named: P.kwargs) -> R:
        with conditions(surface.core.functional):
            return method(surface, *arguments, **named)

    return wrapped


def outside_inference_mode(steps: Iterator[R]) -> Iterator[R]:
    """Yield what an iterator yields, whose work is done outside the caller's inference mode: it may train models."""
    while True:
        with torch.inference_mode(False), torch.enable_grad():
            try:
                item = next(steps)
            except StopIteration:
                return
        yield item


def trackable(tensor: Tensor) -> Tensor:
    """Return a tensor, copied if it was made in inference mode: such a tensor cannot be differentiated through."""
    return tensor.clone() if tensor.is_inference() else tensor


# -- the caller's state -----------------------------------------------------------------------------------------


def _undone(device: torch.device, dtype: torch.dtype) -> list[Callable[[], AbstractContextManager[Any]]]:
    """Return contexts that undo the caller's global state where it would change a pass; mostly none."""
    if torch._C._functorch.maybe_current_level() is not None:
        raise UserError(
            "a surface cannot be evaluated inside a transform of torch.func (grad, vmap, jvp ...)",
            "ask the surface for derivatives: gradient, hvp, jvp, example_gradients",
        )
    contexts: list[Callable[[], AbstractContextManager[Any]]] = []
    if torch.is_inference_mode_enabled():
        contexts.append(partial(torch.inference_mode, False))
    if torch._C._is_any_autocast_enabled():
        contexts.append(partial(_without_autocast, device))
    if torch.is_anomaly_enabled():
        contexts.append(partial(torch.autograd.set_detect_anomaly, False))
    if torch.are_deterministic_algorithms_enabled():
        contexts.append(_free_algorithms)
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        contexts.append(_without_hooks)
    default = torch.get_default_dtype()
    if default != torch.float32 and not default == dtype == torch.float64:
        # What a forward pass makes by itself is no finer than the weights, and no coarser than float32.
        contexts.append(partial(_switched, torch.get_default_dtype, torch.set_default_dtype, torch.float32))
    if torch._C._len_torch_function_stack() and _default_device() not in (None, device):
        contexts.append(partial(torch.device, device))
    return contexts


@contextmanager
def _without_hooks() -> Iterator[None]:
    """Take the caller's hooks of saved tensors off: they may round them, and vectorised gradients do not take them."""
    stack: Any = torch._C._autograd
    popped = []
    while (hooks := stack._top_saved_tensors_default_hooks(True)) is not None:
        popped.append(hooks)
        stack._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for hooks in reversed(popped):
            stack._push_saved_tensors_default_hooks(*hooks)


def _default_device() -> torch.device | None:
    """Return the device that the caller has made the default one, None where none was."""
    modes = torch.overrides._get_current_function_mode_stack()
    return next((mode.device for mode in reversed(modes) if isinstance(mode, DeviceContext)), None)


@contextmanager
def _without_autocast(device: torch.device) -> Iterator[None]:
    # Autocast keeps casts of the weights until its outermost context ends, and would take those of an earlier point.
    torch.clear_autocast_cache()
    with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
        yield
    torch.clear_autocast_cache()


@contextmanager
def _free_algorithms() -> Iterator[None]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch._C._set_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(True, warn_only=warn_only)


class _NotReentrant:
    """Stands for ``CheckpointFunction`` of torch, whose derivatives cannot be taken by given inputs, or twice."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *arguments: Any) -> Any:
        return checkpoint.checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=preserve_rng_state)


# -- arithmetic -------------------------------------------------------------------------------------------------


def _arithmetic_contexts(
    device: torch.device, on_gpu: bool, arithmetic: Arithmetic
) -> list[Callable[[], AbstractContextManager[Any]]]:
    """Return contexts of the dtype's own arithmetic, or of a coarser one that was asked for.

    TF32 and its like would turn small differences of losses into rounding.
    """
    if arithmetic == "bf16":
        return [partial(torch.autocast, device.type, torch.bfloat16)]
    return [partial(_tf32, arithmetic == "tf32")] if on_gpu or _coarse_products() else []


def _coarse_products() -> bool:
    """Return whether the caller lets a CPU multiply matrices of float32 in bfloat16, or may do so."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # the newer interface was used
        return True


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    """Keep float32 at float32, or let it go: convolutions on a GPU use 10 bits of its mantissa by default."""
    with ExitStack() as stack:
        for read, write, *values in _tf32_switches():
            stack.enter_context(_switched(read, write, values[on]))
        yield


def _tf32_switches() -> list[tuple[Callable[[], Any], Callable[[Any], None], Any, Any]]:
    """Return (read, write, value that means off, value that means on) for each kind of operation.

    Torch has two interfaces and refuses to read the old one after the new one was used: the user's is taken.
    """
    backends: Any = torch.backends
    try:
        _ = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        gpu = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
        cpu = (backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul)
        switches = [(*_attribute(place, "fp32_precision"), "ieee", "tf32") for place in gpu]
        return switches + [(*_attribute(place, "fp32_precision"), "ieee", "ieee") for place in cpu]
    products = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest", "high"
    return [(*_attribute(backends.cudnn, "allow_tf32"), False, True), products]


def _attribute(place: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return partial(getattr, place, name), partial(setattr, place, name)


@contextmanager
def _switched(read: Callable[[], Any], write: Callable[[Any], None], wanted: Any) -> Iterator[None]:
    """Context in which a global setting has the wanted value."""
    before = read()
    if before == wanted:
        yield
        return
    write(wanted)
    try:
        yield
    finally:
        write(before)
