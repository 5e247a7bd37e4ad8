"""The study's published worst-case search with everything that it spends, to be timed beside ours.

``mode="released"`` of the measure gives the published values for the fewest passes. This file gives the same values for the
published price. It is written anew, from what ``sharpness.py`` and ``utils.py`` of github.com/tml-epfl/sharpness-vs-generalization
(commit 4a953d3) do with the weights, and spends what they spend:

* passes: a forward and backward for the gradient of each iterate, and one more forward, without gradient, for the loss and error
  of each new one; with the one at w* that makes 2N + 1 forwards and N backwards (the least is N + 1 and N);
* vectors are dicts from parameter to tensor, walked in Python, with a new tensor for every operation and |w| taken anew each time;
  the perturbation is copied before each step, gradients are set to zero before and after it;
* the projection of adaptive l2 finds its multiplier by bisection from 0.1 in [0, 10], an upper end that doubles while it
  is needed, until the norm is within 1e-5 of rho, an absolute tolerance; each round walks over all parameters twice and
  compares two numbers on the host; what it gives is copied;
* loss, error and the norm of the perturbation, put together to one vector, are read by the host in every step;
* each record copies the model's whole state, parameters and buffers; cutting the step loads that state back.

Left out, as they cost nothing worth timing: the log line of each step, averages over batches, restarts (which the published
code cannot run). A bisection that would never end is an error here. The loss is taken in the precision of the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHA = 0.75
TOLERANCE = 1e-5
LONGEST_BISECTION = 1000

Vector = dict[Tensor, Tensor]  # by parameter


@dataclass
class Found:
    """What a search says, and how much it did.

    Attributes:
        rise: L(w + delta) - L(w) at the best iterate.
        error_rise: the same of the error.
        records: how often the state of the model was copied.
        cuts: how often the step was halved.
        rounds: rounds of bisection in all.
    """

    rise: float
    error_rise: float
    records: int = 0
    cuts: int = 0
    rounds: int = 0


class PublishedSearch:
    """Worst-case search on a module that is written to, and restored at the end.

    Args:
        model: in evaluation mode; every parameter is perturbed and must get a gradient.
        inputs: a tensor or a dict of tensors.
        targets: (n,) classes.
        norm: ``l2`` or ``linf``.
        rho: radius.
        adaptive: whether c = |w|, without exact zeros: there the published code divides 0 by 0; otherwise c = 1.
        loss: of (logits, targets).
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Tensor,
        norm: str,
        rho: float,
        adaptive: bool = True,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        self.model, self.inputs, self.targets = model, inputs, targets
        self.norm, self.rho, self.adaptive, self.loss = norm, rho, adaptive, loss
        self.rounds = 0

    def run(self, steps: int) -> Found:
        """Return what ``steps`` iterations from w* find."""
        restored = copy.deepcopy(self.model.state_dict())
        self.w = {p: p.detach().clone() for p in self.model.parameters()}
        clean_loss, clean_error = self._loss_and_error()
        delta = {p: torch.zeros_like(p) for p in self.model.parameters()}
        before = {p: d.clone() for p, d in delta.items()}
        best_state = copy.deepcopy(self.model.state_dict())
        best_loss, best_error = clean_loss, clean_error
        eta = last_eta = 2 * self.rho
        last_best, last_judged, recent = clean_loss, 0, 0
        judged = schedule(steps)
        found = Found(0.0, 0.0)
        for k in range(steps):
            delta, before = self._step(delta, before, eta)
            loss, error = self._loss_and_error()
            torch.cat([d.flatten() for d in delta.values()]).norm().item()
            if loss > best_loss:
                best_loss, best_error = loss, error
                best_state = copy.deepcopy(self.model.state_dict())
                found.records, recent = found.records + 1, recent + 1
            if k in judged:
                few = recent < ALPHA * (k - last_judged)
                idle = eta == last_eta and best_loss == last_best
                last_eta, last_best, last_judged, recent = eta, best_loss, k, 0
                if few or idle:
                    eta /= 2
                    self.model.load_state_dict(best_state)
                    found.cuts += 1
        self.model.load_state_dict(restored)
        found.rise, found.error_rise, found.rounds = best_loss - clean_loss, best_error - clean_error, self.rounds
        return found

    def _logits(self) -> Tensor:
        output = self.model(**self.inputs) if isinstance(self.inputs, dict) else self.model(self.inputs)
        return output if isinstance(output, Tensor) else output.logits

    @torch.no_grad()
    def _loss_and_error(self) -> tuple[float, float]:
        logits = self._logits()
        loss = self.loss(logits, self.targets)
        error = (logits.max(1)[1] != self.targets).float().mean()
        return loss.cpu().item(), error.cpu().item()

    def _unit(self, p: Tensor) -> Tensor | int:
        return self.w[p].abs() if self.adaptive else 1

    def _step(self, delta: Vector, before: Vector, eta: float) -> tuple[Vector, Vector]:
        """Move the model to the next iterate; return its perturbation and the one before it."""
        kept = {p: d.clone() for p, d in delta.items()}
        self._zero_gradients()
        self.loss(self._logits(), self.targets).backward()
        with torch.no_grad():
            self._ascend(delta, eta)
        self._zero_gradients()
        with torch.no_grad():
            delta = self._in_box(delta) if self.norm == "linf" else self._in_ellipsoid(delta)
            for p in self.model.parameters():
                delta[p] = ALPHA * delta[p] + (1 - ALPHA) * before[p]
            for p in self.model.parameters():
                p.data = self.w[p] + delta[p]
            for p in self.model.parameters():
                before[p] = kept[p]
        return delta, before

    def _zero_gradients(self) -> None:
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad.zero_()

    def _ascend(self, delta: Vector, eta: float) -> None:
        """Add eta c sign(g), or eta c g / ||g||."""
        if self.norm == "linf":
            for p in self.model.parameters():
                delta[p] += eta * p.grad.sign() * self._unit(p)
            return
        length = sum(p.grad.norm() ** 2 for p in self.model.parameters()) ** 0.5
        for p in self.model.parameters():
            delta[p] += eta / (length + 1e-12) * p.grad * self._unit(p)

    def _in_box(self, delta: Vector) -> Vector:
        for p in delta:
            unit = self.w[p].abs() if self.adaptive else torch.ones_like(self.w[p])
            delta[p] = torch.max(torch.min(delta[p], unit * self.rho), -1.0 * unit * self.rho)
        return delta

    def _length(self, delta: Vector) -> Tensor:
        return sum(((delta[p] / self._unit(p)) ** 2).sum() for p in delta) ** 0.5

    def _in_ellipsoid(self, delta: Vector) -> Vector:
        """Project on the ball by shrinking, on the ellipsoid by bisection."""
        if not self.adaptive:
            length = self._length(delta)
            if length > self.rho:
                for p in delta:
                    delta[p] *= self.rho / length
            return delta
        moved = {p: d.clone() for p, d in delta.items()}
        length = self._length(moved)
        if length > self.rho:
            multiplier, low, high, limit = 0.1, 0.0, 10.0, 10.0
            for _ in range(LONGEST_BISECTION):
                if not (length - self.rho).abs() > TOLERANCE:
                    break
                self.rounds += 1
                for p in delta:
                    inverse = 1 / self.w[p].abs()
                    moved[p] = delta[p] / (1 + 2 * multiplier * inverse**2)
                length = self._length(moved)
                if length > self.rho:
                    multiplier, low = (multiplier + high) / 2, multiplier
                else:
                    multiplier, high = (low + multiplier) / 2, multiplier
                if limit - high < 1e-2:
                    limit, high = 2 * limit, 2 * high
            else:
                raise RuntimeError(f"the published bisection does not end here: norm {float(length)}, rho {self.rho}")
        return {p: d.clone() for p, d in moved.items()}


def schedule(steps: int) -> set[int]:
    """Return the iterations at which progress is judged, from shares of the steps added up in floating point."""
    shares, found = [0.0, 0.22], [0, math.ceil(0.22 * steps)]
    while found[-1] < steps and found[-1] != found[-2]:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
        found.append(math.ceil(shares[-1] * steps))
    return set(found[1:])
