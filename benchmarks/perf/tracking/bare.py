"""Bare torch: exactly the passes that a measure's ledger counts, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from acutance.data.batch import take_rows
from acutance.measure import Cost


class Bare:
    """Plain passes of one network over one batch.

    Args:
        model: in evaluation mode.
        inputs: a tensor or a dict of tensors.
        targets: (n,) classes.
    """

    def __init__(self, model: nn.Module, inputs: Any, targets: Tensor) -> None:
        self.model, self.inputs, self.targets = model, inputs, targets
        self.n = len(targets)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.p = sum(p.numel() for p in self.parameters)

    def loss(self, rows: int) -> Tensor:
        """Return the mean loss of the first rows."""
        inputs = self.inputs if rows == self.n else take_rows(self.inputs, slice(0, rows))
        output = self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)
        logits = output if isinstance(output, Tensor) else output.logits
        return F.cross_entropy(logits, self.targets[:rows])

    def forward(self, rows: int) -> None:
        """One forward."""
        with torch.no_grad():
            self.loss(rows)

    def backward(self, rows: int) -> None:
        """One forward with its backward."""
        torch.autograd.grad(self.loss(rows), self.parameters)

    def products(self, rows: Iterator[int]) -> None:
        """One forward with a backward that can be differentiated, and Hessian-vector products through it."""
        with sdpa_kernel([SDPBackend.MATH]):
            gradients = torch.autograd.grad(self.loss(self.n), self.parameters, create_graph=True)
        vectors = [torch.ones_like(p) for p in self.parameters]
        for _ in rows:
            torch.autograd.grad(gradients, self.parameters, vectors, retain_graph=True)

    def noise(self) -> None:
        """One draw of noise on all parameters."""
        torch.randn(self.p, device=self.targets.device)

    def kinds(self, cost: Cost) -> dict[str, Callable[[], None]]:
        """Return one pass of each kind that the work is made of: the memory that any implementation needs."""
        found: dict[str, Callable[[], None]] = {"forward": lambda: self.forward(self.n)}
        if cost.backwards:
            found["backward"] = lambda: self.backward(self.n)
        if cost.hvps:
            found["hvp"] = lambda: self.products(iter((self.n,)))
        return found

    def passes(self, cost: Cost, noises: int = 0) -> Callable[[], None]:
        """Return a function that makes as many passes as the ledger counts.

        A backward comes with its forward, the graph of the products is one of these pairs, and what is left are
        plain forwards. Passes over a part of the batch are made over as many rows. Work without any pass is
        compared with one forward, so that its ratio says whether it is worth a thought.

        Args:
            cost: forwards, backwards and products, in examples.
            noises: how many times noise on all parameters is drawn.
        """
        pairs, products = cost.backwards, cost.hvps
        forwards = cost.forwards - pairs
        if products:
            pairs -= self.n
        if not (cost.forwards or cost.backwards or cost.hvps):
            forwards = self.n
        plans = [list(self._rows(examples)) for examples in (pairs, forwards, products)]

        def run() -> None:
            for rows in plans[0]:
                self.backward(rows)
            if plans[2]:
                self.products(iter(plans[2]))
            for rows in plans[1]:
                self.forward(rows)
            for _ in range(noises):
                self.noise()

        return run

    def _rows(self, examples: float) -> Iterator[int]:
        """Whole passes, and one over the rest."""
        left = round(examples)
        while left > 0:
            yield min(left, self.n)
            left -= self.n
