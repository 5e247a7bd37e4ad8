"""Checks of a user's own loss: a deterministic function of pairs of outputs and targets. The model makes no pass."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.errors import UserError, lacks_memory, some

if TYPE_CHECKING:
    from acutance.model.losses import LossHead

SAME = 16  # units of rounding by which a sum may differ from itself: kernels may add in another order
SPREAD = 1e-2  # of the largest output, that outputs must differ by for their order to matter
RANDOM = ("Dropout", "BatchNorm", "InstanceNorm")
STRETCHED = re.compile(r"Using a target size \((torch\S+\[.*?\]\))\) that is different to the input size \((.*?\]\))\)")


def refuse_unfit(head: LossHead, logits: Tensor, targets: Tensor) -> None:
    """Refuse a user's function that fails, is random or keeps state, or compares each output with each target.

    Args:
        head: of a function of the user's.
        logits: (k, ...) outputs of some examples, which stand for all.
        targets: all targets, (n, ...).

    Raises:
        UserError: in one sentence, with the function's own error as its cause where it fails.
    """
    rows = torch.arange(len(targets), device=logits.device) % len(logits)
    outputs = logits[rows]
    with torch.no_grad():
        first, stretched = _first(head, outputs, targets)
        if stretched or _compares_each_with_each(head, outputs, targets, first):
            raise UserError(
                f"loss: {name_of(head.loss)} stretches outputs of shape {tuple(outputs.shape)} and targets of shape "
                f"{tuple(targets.shape)} to each other, so that outputs meet targets of other examples or outputs",
                "give targets of the shape of the outputs, or let the loss reshape one of them",
            )
        second = head.value(outputs, targets)
    if not _same(first, second, torch.finfo(logits.dtype).eps):
        raise UserError(
            f"loss: {name_of(head.loss)} gives different values for the same outputs and targets ({float(first):.6g}, "
            f"then {float(second):.6g}): it is random, or keeps something from call to call",
            _hint_at_state(head.loss),
        )


def doubt(head: LossHead, logits: Tensor) -> str:
    """Return what makes outputs of some examples unlikely to be what the loss takes; empty where nothing does.

    ``cross_entropy`` takes logits f and ``nll_loss`` log-probabilities; each computes a number from anything.

    Args:
        head: with the loss.
        logits: (k, K, ...) outputs of some examples.
    """
    if logits.dim() < 2 or logits.shape[1] < 2 or not bool(logits.isfinite().all()):
        return ""
    f = logits.double()
    near = 1e3 * torch.finfo(logits.dtype).eps
    if takes(head.loss, "cross_entropy", nn.CrossEntropyLoss):
        if bool((f >= 0).all()) and bool(((f.sum(1) - 1).abs() <= near).all()):
            return (
                "the model's outputs are probabilities (none is negative, those of an example sum to 1), and "
                "cross-entropy takes the softmax of them again: let the model return logits, or their logarithms"
            )
    elif takes(head.loss, "nll_loss", nn.NLLLoss) and bool((f.logsumexp(1).abs() > 1e-2).any()):
        return (
            "nll_loss takes log-probabilities, and the exponentials of the model's outputs do not sum to 1: give loss "
            "'cross_entropy' for logits, or let the model end with log_softmax"
        )
    return ""


def ends_in_sigmoid(head: LossHead, raw: Tensor) -> str:
    """Return what to think of outputs that come out of a sigmoid, for losses that apply one, or a softmax, themselves.

    Args:
        head: with the loss.
        raw: outputs with their graph.
    """
    if type(raw.grad_fn).__name__ != "SigmoidBackward0":
        return ""
    binary = takes(head.loss, "binary_cross_entropy_with_logits", nn.BCEWithLogitsLoss)
    if not binary and not takes(head.loss, "cross_entropy", nn.CrossEntropyLoss):
        return ""
    function = "a sigmoid again" if binary else "the softmax of them"
    return (
        f"the model ends in a sigmoid, and its loss takes {function}: let the model return what goes into the sigmoid, "
        "or give a loss of probabilities (binary_cross_entropy)"
    )


def refuse_parts(head: LossHead, returned: Any, logits: Tensor, targets: Tensor) -> None:
    """Refuse a user's function of all that the model returns: a surface gives it the logits, or the first, alone.

    Indexed as if it were all, the first output gives other numbers without a word: ``o[0]`` is its first example.

    Args:
        head: of a function of the user's.
        returned: what the model returns for some examples.
        logits: what is taken of it.
        targets: of these examples.

    Raises:
        UserError: where the function takes all of it, and gives another value than of what is taken of it.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            whole = head.value(returned, targets)
        except Exception:  # as a function of tensors does with what is none: it takes the logits
            return
        try:
            alone = head.value(logits, targets)
            same = _same(whole, alone, torch.finfo(logits.dtype).eps)
        except Exception:  # whatever a user's function raises, it does not take the logits
            same = False
    if not same:
        raise UserError(
            f"loss: {name_of(head.loss)} takes all that the model returns ({type(returned).__name__}), and is given "
            f"one tensor of it, of shape {tuple(logits.shape)}",
            "let it take that tensor, or wrap the model so that it returns one (torch.cat(outputs, 1)) and let the "
            "loss take it apart",
        )


def takes(loss: object, name: str, module: type[nn.Module]) -> bool:
    """Return whether a loss is torch's of this name: as text, as function or as module."""
    return loss == name or isinstance(loss, module) or loss is getattr(nn.functional, name)


def name_of(loss: object) -> str:
    """Return what a message calls a loss of the user's."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return "your function" if name == "<lambda>" else f"your function '{name}'"


def _first(head: LossHead, outputs: Tensor, targets: Tensor) -> tuple[Tensor, bool]:
    """Return the first value, and whether torch warns that it stretches outputs and targets to each other."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = head.value(outputs, targets)
    except UserError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        # Anything can go wrong in a user's function; what did is told, and is the cause.
        text = str(error).strip().splitlines()
        complaint = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
        raise UserError(
            f"loss: {name_of(head.loss)} raised {complaint}", _hint_at_call(head.loss, outputs, targets)
        ) from error
    sizes = {str(outputs.shape), str(targets.shape)}
    stretched = False
    for one in caught:
        match = STRETCHED.match(str(one.message))
        if match and set(match.groups()) == sizes:
            stretched = len(targets) > 1
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return value, stretched


def _compares_each_with_each(head: LossHead, outputs: Tensor, targets: Tensor, value: Tensor) -> bool:
    """Whether the loss of one number an example depends on the targets, and not on which output each belongs to."""
    n = len(targets)
    if n < 3 or outputs.dim() == targets.dim() or not outputs.numel() == targets.numel() == n:
        return False
    few = outputs[: min(n, len(outputs))].double()
    if float(few.amax() - few.amin()) <= SPREAD * float(few.abs().amax()) or bool((targets == targets[0]).all()):
        return False
    eps = 1e3 * torch.finfo(outputs.dtype).eps
    try:
        moved = [head.value(outputs.roll(k, 0), targets) for k in (1, 2)]
        flat = head.value(outputs, targets[:1].expand(targets.shape))
    except (RuntimeError, ValueError, LookupError):
        # A loss that takes these targets in this order alone, as one of sequences.
        return False
    return all(_same(value, other, eps) for other in moved) and not _same(value, flat, eps)


def _same(a: Tensor, b: Tensor, eps: float) -> bool:
    return torch.allclose(a, b, rtol=SAME * eps, atol=0.0, equal_nan=True)


def _hint_at_call(loss: object, outputs: Tensor, targets: Tensor) -> str:
    """Return how the function was called, or what is wrong with tensors of its own."""
    tensors = [*loss.parameters(), *loss.buffers()] if isinstance(loss, nn.Module) else []
    if any(t.device != outputs.device for t in tensors):
        return f"move its own tensors to where the model is: loss.to('{outputs.device}')"
    if any(t.is_floating_point() and t.dtype != outputs.dtype for t in tensors):
        kind = str(outputs.dtype).removeprefix("torch.")
        return f"the outputs are {kind} and its own tensors are not: give loss.to(torch.{kind}), or another dtype"
    return (
        f"it is called as loss(outputs, targets), with outputs of shape {tuple(outputs.shape)}, {outputs.dtype}, and "
        f"targets of shape {tuple(targets.shape)}, {targets.dtype}"
    ).replace("torch.", "")


def _hint_at_state(loss: object) -> str:
    modules = loss.modules() if isinstance(loss, nn.Module) else ()
    names = dict.fromkeys(type(m).__name__ for m in modules if m.training and type(m).__name__.startswith(RANDOM))
    if names:
        return f"it is in training mode and has {some(list(names))}: call its eval() first"
    return "let it follow from outputs and targets alone: differences of its values would be noise"
