"""What a reader of the results should know of a model's weights and its mode, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from acutance.errors import some
from acutance.model.parameters import Slot

LIBRARIES = ("torch.", "torchvision.", "timm.", "transformers.")  # whose train() does what that of modules does


def notes_on(model: nn.Module) -> list[str]:
    """Return what a reader should know of weights that stay as they are, and of a mode that is not the user's."""
    notes = []
    named = list(model.named_parameters())
    whole = [f"{name} ({p.numel()} of {_dtype(p)})" for name, p in named if not p.is_floating_point() and p.numel()]
    if whole:
        notes.append(f"parameters of whole numbers stay as they are: {some(whole)}")
    overriding = [name or type(module).__name__ for name, module in model.named_modules() if _has_own_train(module)]
    if overriding:
        notes.append(
            f"the model is measured in evaluation mode without asking train() of its own, which may differ: "
            f"{some(overriding)}"
        )
    training = [name for name, module in model.named_modules() if module.training and not model.training]
    if training:
        notes.append(
            f"the model is measured in evaluation mode in all of its parts, though some are left in training: "
            f"{some(training)}"
        )
    quantized = [name for name, module in model.named_modules() if _is_quantized(module)]
    if quantized:
        notes.append(f"the weights of quantized layers stay as they are: {some(quantized)}")
    return notes


def _has_own_train(module: nn.Module) -> bool:
    """Whether it has a say in its mode, which passes set by the flag alone: asking it might merge or change weights."""
    train = type(module).train
    return train is not nn.Module.train and not train.__module__.startswith(LIBRARIES)


def no_weights(model: nn.Module) -> str:
    """Return what to do about a model without floating-point parameters."""
    if any(_is_quantized(module) for module in model.modules()) or any(True for _ in model.parameters()):
        return "its weights are quantized, so none can move: measure the model in floating point that it was made from"
    return "give a model with weights"


def remarks_on(model: nn.Module, slots: Sequence[Slot]) -> list[str]:
    """Return what is as documented and worth saying all the same: that frozen parameters move like the others."""
    named = list(model.named_parameters())
    free = {name for slot in slots for name in slot.names}
    frozen = [name for name, p in named if name in free and not p.requires_grad]
    if frozen and len(frozen) < sum(name in free for name, _ in named):
        count = sum(p.numel() for name, p in named if name in frozen)
        return [
            f"{count} parameters have requires_grad=False and move like the others: {some(frozen)}; 'parameters' can "
            "leave them out"
        ]
    return []


def _is_quantized(module: nn.Module) -> bool:
    return ".quantized" in type(module).__module__ and callable(getattr(module, "weight", None))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
