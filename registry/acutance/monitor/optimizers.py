"""What an optimizer says of itself: its learning rate, and the step that it takes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from acutance.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


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
    r"""What the next step of an optimizer changes: :math:`w_{t+1} - w_t` by parameter.

    Args:
        model: whose parameters it moves; they are copied.
        optimizer: of torch.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self._model = optimizer, model
        with torch.inference_mode(False), torch.no_grad():
            self._before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def changes(self) -> dict[str, Tensor] | None:
        """Return {parameter name: change}, on the devices of the parameters; None while all are what they were."""
        with torch.inference_mode(False), torch.no_grad():
            now = dict(self._model.named_parameters())
            found = {name: now[name].detach() - before for name, before in self._before.items()}
            return found if any(bool(change.any()) for change in found.values()) else None

    def sums(self) -> list[Tensor]:
        """Return the sum of each parameter as it is now."""
        with torch.inference_mode(False), torch.no_grad():
            return [p.detach().sum(dtype=torch.float64) for p in self._model.parameters()]


class Left:
    """Parameters as the step of an optimizer left them, by their sums.

    Args:
        made: the step.
        step: its number.
    """

    def __init__(self, made: NextStep, step: int) -> None:
        self.optimizer, self.step = made.optimizer, step
        self._made, self._sums = made, made.sums()

    def moved(self) -> bool:
        """Return whether they have changed since."""
        return any(not torch.equal(a, b) for a, b in zip(self._sums, self._made.sums(), strict=True) if a.isfinite())


class Steps:
    """Tells when optimizers have made a step.

    Nothing of an optimizer is changed: it calls hooks before and after its step. They stay until the end, since one
    that goes, or comes, while an optimizer calls its hooks would end the training.

    Args:
        tell: called with the optimizer, within its step.
        begins: called with it before.
    """

    def __init__(
        self, tell: Callable[[torch.optim.Optimizer], None], begins: Callable[[torch.optim.Optimizer], None]
    ) -> None:
        self._tell, self._begins = tell, begins
        self._known: list[torch.optim.Optimizer] = []
        self._hooks: list[RemovableHandle] = []
        self._inside: torch.optim.Optimizer | None = None

    def of(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell of this one too."""
        if not any(known is optimizer for known in self._known):
            self._known.append(optimizer)
            self._hooks += [
                optimizer.register_step_pre_hook(lambda *_: self._begun(optimizer)),
                optimizer.register_step_post_hook(lambda *_: self._made(optimizer)),
            ]

    def made(self) -> None:
        """Tell now of a step that we are within, by another's hook that is called before ours."""
        if self._inside is not None:
            self._made(self._inside)

    def end(self) -> None:
        """Tell of none any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._known.clear()

    def _begun(self, optimizer: torch.optim.Optimizer) -> None:
        self._inside = optimizer
        self._begins(optimizer)

    def _made(self, optimizer: torch.optim.Optimizer) -> None:
        self._inside = None
        self._tell(optimizer)
