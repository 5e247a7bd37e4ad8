"""The loss surfaces on which measures are tried: each can be made again, in another dtype or microbatch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from acutance.data.batch import take_rows
from acutance.errors import UserError
from acutance.io.training_log import TrainingLog
from acutance.model.functional import FunctionalModel
from acutance.model.losses import LossFunction
from acutance.surface.beside import VALIDATION
from acutance.surface.loss_surface import LossSurface
from acutance.testing.models import (
    MLP,
    Attention,
    ConvBN,
    DictInput,
    Weights,
    conv_data,
    mlp_data,
    others_like,
    seeded,
    text_data,
    token_data,
)

Points = tuple[Any, Tensor]


@dataclass(frozen=True)
class Problem:
    """A model and its points, made anew at every use.

    Attributes:
        name: how messages call it.
        model: returns the model, float64 where ``dtype`` says so.
        data: returns (inputs, targets).
        loss: name or function of the loss.
        dtype: what it is evaluated in unless told otherwise.
        exact: whether the surface is simple enough for closed forms: a quadratic, or a convex softmax model.
        initial: returns the model at its initial weights, for measures of the distance to them.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Points]
    loss: str | LossFunction = "cross_entropy"
    dtype: str = "float64"
    exact: bool = False
    initial: Callable[[], nn.Module] | None = None

    def surface(
        self,
        *,
        with_data: bool = True,
        dtype: str | None = None,
        microbatch: int | None = None,
        device: str = "cpu",
        points: Points | None = None,
        kind: type[LossSurface] = LossSurface,
        functional: type[FunctionalModel] = FunctionalModel,
    ) -> LossSurface:
        """Return a fresh surface of a fresh model.

        Args:
            with_data: False for measures of the weights alone.
            dtype: float32 or float64; the problem's own by default.
            microbatch: examples in one pass.
            device: where to compute.
            points: other points than the problem's own.
            kind: class of the surface, to watch what a measure calls.
            functional: class of the model's functional form, to count or fail passes.
        """
        opened = functional(self.model(), device, getattr(torch, dtype or self.dtype))
        chosen = (points or self.data()) if with_data else None
        initial = self.initial() if self.initial is not None else None
        opened.log = lambda: TrainingLog(
            {
                "step": (0.0, 1.0, 2.0), "train_loss": (2.0, 1.0, 0.5), "learning_rate": (0.1,) * 3,
                "gradient_norm": (3.0, 2.0, 1.0),
            }
        )  # fmt: skip
        surface = kind(opened, chosen, self.loss, microbatch=microbatch if with_data else None, initial=initial)
        if chosen is not None:
            inputs, targets = self.part(slice(0, None, 2))
            others = others_like(inputs), targets
            beside = cache(lambda: LossSurface(opened, others, self.loss, microbatch=microbatch))
            surface.core.companions[VALIDATION] = beside
        return surface

    def part(self, rows: slice | Tensor) -> Points:
        """Return some of the points."""
        inputs, targets = self.data()
        return take_rows(inputs, rows), targets[rows]


# -- closed forms ------------------------------------------------------------------------------------------


def quadratic_parts(p: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a positive definite A, (p, p), and a minimiser w*, (p,)."""
    g = seeded(seed)
    m = torch.randn(p, p, generator=g, dtype=torch.float64)
    return m @ m.T / p, torch.randn(p, generator=g, dtype=torch.float64)


@dataclass(frozen=True)
class QuadraticLoss:
    r"""The mean over examples of :math:`\frac12 (f - w^*)^\top A (f - w^*)`, f the weights themselves."""

    p: int = 8

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the 0-d loss of logits that are the weights, (n, p)."""
        a, w = (part.to(logits) for part in quadratic_parts(self.p))
        d = logits - w
        return 0.5 * ((d @ a) * d).sum(1).mean()


def quadratic_data(p: int = 8, n: int = 4) -> Points:
    """Return points that say nothing: the loss looks only at the weights."""
    return torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, p, dtype=torch.float64)


def quadratic_model(offset: float = 0.0, p: int = 8) -> nn.Module:
    """Return the model at its minimiser, or away from it by this much in every coordinate."""
    return Weights(quadratic_parts(p)[1] + offset)


# -- degenerate surfaces -----------------------------------------------------------------------------------


@torch.no_grad()
def scaled(model: Callable[[], nn.Module], factor: float) -> nn.Module:
    """Return a model with all its weights times a factor."""
    network = model()
    for p in network.parameters():
        p.mul_(factor)
    return network


def tanh_mlp() -> nn.Module:
    """Return a smooth perceptron."""
    return MLP(torch.tanh)


def saturated() -> nn.Module:
    """Return a perceptron so large that float64 takes its probabilities for 0 and 1."""
    return scaled(tanh_mlp, 1e4)


@torch.no_grad()
def fitted_data() -> Points:
    """Return points with the labels that the saturated perceptron predicts: loss and gradient are exactly 0."""
    inputs, _ = mlp_data()
    return inputs, saturated()(inputs).argmax(1)


def relu_mlp() -> nn.Module:
    """Return a perceptron with ReLU."""
    return MLP(torch.relu)


def softmax_model() -> nn.Module:
    """Return a linear softmax classifier: its loss is convex."""
    return MLP(dims=(6, 4))


def exploding() -> nn.Module:
    """Return a perceptron whose logits leave the range of float32."""
    return scaled(partial(MLP, torch.exp), 200.0)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("quadratic", quadratic_model, quadratic_data, QuadraticLoss(), exact=True,
                initial=partial(quadratic_model, 0.5)),
        Problem("slope", partial(quadratic_model, 0.3), quadratic_data, QuadraticLoss(), exact=True,
                initial=partial(quadratic_model, 0.5)),
        Problem("softmax", softmax_model, mlp_data, exact=True, initial=partial(scaled, softmax_model, 0.5)),
        Problem("tanh_mlp", tanh_mlp, mlp_data, initial=partial(scaled, tanh_mlp, 0.5)),
        Problem("relu_mlp", relu_mlp, mlp_data, initial=partial(scaled, relu_mlp, 0.5)),
        Problem("conv_bn", ConvBN, conv_data, initial=partial(scaled, ConvBN, 0.5)),
        Problem("attention", Attention, token_data, initial=partial(scaled, Attention, 0.5)),
        Problem("dict_input", DictInput, text_data, initial=partial(scaled, DictInput, 0.5)),
    )
}  # fmt: skip

# Nothing here needs a finite value; everything needs an honest status.
DEGENERATE: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("constant", partial(scaled, tanh_mlp, 0.0), mlp_data, initial=tanh_mlp),
        Problem("saturated", saturated, fitted_data, initial=tanh_mlp),
        Problem("overflow", exploding, mlp_data, dtype="float32", initial=partial(MLP, torch.exp)),
    )
}


def additional(surfaces: Any) -> list[Problem]:
    """Return problems of what an author gave: Problems, surfaces, or (model, data) pairs; named by a mapping or not.

    Raises:
        UserError: for anything else.
    """
    if surfaces is None:
        return []
    if isinstance(surfaces, Problem | LossSurface) or (isinstance(surfaces, tuple) and _is_pair(surfaces)):
        surfaces = [surfaces]
    if isinstance(surfaces, Mapping):
        return [replace(_problem(value, str(name)), name=str(name)) for name, value in surfaces.items()]
    if not isinstance(surfaces, Iterable):
        raise UserError(f"surfaces: {type(surfaces).__name__} is not understood", "give a list of Problem objects")
    return [_problem(value, f"surfaces.{i}") for i, value in enumerate(surfaces)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], nn.Module)


def _problem(value: Any, name: str) -> Problem:
    """Return the problem of what an author gave: itself, or one made of a surface or a pair (model, data)."""
    if isinstance(value, Problem):
        return value
    if isinstance(value, LossSurface):
        core = value.core
        if core.n == 0:
            raise UserError(f"{name}: the surface has no data", "give a surface with a batch, or a Problem")
        dtype = str(value.w.dtype).removeprefix("torch.")
        return Problem(
            name,
            partial(copy.deepcopy, value.model),
            partial(_same, (value.inputs, value.targets)),
            core.head.loss,
            dtype,
        )
    if _is_pair(value):
        model, data = value
        if isinstance(data, tuple) and len(data) == 2 and getattr(data[1], "is_floating_point", bool)():
            raise UserError(
                f"{name}: the targets are numbers, cross-entropy needs classes",
                "give Problem(..., loss='mse') or LossSurface(model, data, loss='mse')",
            )
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        dtype = "float64" if first is not None and first.dtype == torch.float64 else "float32"
        return Problem(name, partial(copy.deepcopy, model), partial(_same, data), dtype=dtype)
    raise UserError(
        f"{name}: {type(value).__name__} is not understood", "give a Problem, a LossSurface or a pair (model, (x, y))"
    )


def _same(points: Points) -> Points:
    return points
