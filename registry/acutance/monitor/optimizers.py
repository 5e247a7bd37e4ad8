"""What an optimizer says of itself: its learning rate, and the step that it takes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from acutance.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


def bare(optimizer: Any) -> torch.optim.Optimizer | None:
    """Return the optimizer of torch inside what Lightning and accelerate wrap around one; None for None.

    Raises:
        UserError: for something else.
    """
    inside: Any = optimizer
    while inside is not None and not isinstance(inside, torch.optim.Optimizer):
        inside = vars(inside).get("_optimizer", vars(inside).get("optimizer")) if hasattr(inside, "__dict__") else None
    while isinstance(inside, torch.optim.Optimizer) and isinstance(
        wrapped := vars(inside).get("optimizer"), torch.optim.Optimizer
    ):
        inside = wrapped  # accelerate's is an optimizer itself, whose hooks nobody calls
    if inside is None and optimizer is not None:
        raise UserError(f"optimizer: got {type(optimizer).__name__}", "give the torch.optim.Optimizer that trains")
    found: torch.optim.Optimizer | None = inside
    return found


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the learning rate, the largest where groups of parameters have several."""
    return max(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)


def stability_threshold(optimizer: torch.optim.Optimizer) -> float | None:
    r"""Return the largest curvature at which gradient descent with these settings does not diverge on a quadratic.

    .. math:: \frac{2}{\eta}, \qquad \frac{2 + 2 \beta}{\eta} \text{ (momentum)}, \qquad
       \frac{2 + 2 \beta}{\eta (1 + 2 \beta)} \text{ (Nesterov)}

    with learning rate eta and momentum beta (Cohen et al. 2021, Appendix B), less the weight decay, which curves what
    is descended and is no part of the loss. Full batches train until the largest eigenvalue of the Hessian is there:
    the edge of stability.

    Returns:
        None where it is not known: another optimizer than ``SGD``, dampening, groups of parameters with other settings.
    """
    if type(optimizer) is not torch.optim.SGD:
        return None
    settings = {
        tuple(float(group[name]) for name in ("lr", "momentum", "nesterov", "weight_decay", "dampening", "maximize"))
        for group in optimizer.param_groups
    }
    rate, momentum, nesterov, decay, dampening, maximize = settings.pop()
    if settings or rate <= 0 or dampening or maximize:
        return None
    return (2 + 2 * momentum) / (rate * (1 + 2 * momentum * nesterov)) - decay


class NextStep:
    r"""Waits for the next step of an optimizer, and tells what it was: :math:`w_{t+1} - w_t` by parameter.

    It is the real one, with momentum, weight decay and clipped gradients; a step that a gradient scaler skips is none.
    Nothing of the optimizer is changed: it calls a hook after its step, once.

    Args:
        model: whose parameters it moves; they are copied.
        optimizer: of torch.
        tell: called with {parameter name: change}, on the devices of the parameters, within the optimizer's step.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, tell: Callable[[dict[str, Tensor]], None]
    ) -> None:
        self._model, self._tell = model, tell
        with torch.inference_mode(False), torch.no_grad():
            self._before = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._hook = optimizer.register_step_post_hook(self._stepped)

    def _stepped(self, *_: Any) -> None:
        self.forget()
        with torch.inference_mode(False), torch.no_grad():
            now = dict(self._model.named_parameters())
            changes = {name: now[name].detach() - before for name, before in self._before.items()}
        self._before.clear()
        self._tell(changes)

    def forget(self) -> None:
        """Wait no longer."""
        self._hook.remove()
