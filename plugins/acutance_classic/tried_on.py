"""Models for the conformance kit that some measures ask for: all points right, or no bias and a degree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from acutance.testing.problems import PROBLEMS, Problem
from acutance.testing.twins import TWINS, Twin


@dataclass(frozen=True)
class OwnLabels:
    """The points of a problem, with the classes that its model predicts for labels.

    Attributes:
        of: name of the problem.
    """

    of: str

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return inputs and labels."""
        problem = PROBLEMS[self.of]
        with torch.no_grad():
            return problem.data()[0], problem.surface().raw_logits().argmax(1)


class BiasFree(nn.Sequential):
    """A perceptron with ReLU and without biases: positively homogeneous of a degree, its number of layers.

    Args:
        dims: numbers of units, from the inputs to the classes.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        maps = [nn.utils.skip_init(nn.Linear, a, b, bias=False) for a, b in itertools.pairwise(dims)]
        super().__init__(*itertools.chain(*((linear, nn.ReLU()) for linear in maps[:-1])), maps[-1])
        generator = torch.Generator().manual_seed(3)
        self.double()
        for p in self.parameters():
            nn.init.normal_(p, std=p.shape[1] ** -0.5, generator=generator)


def permuted(model: nn.Sequential) -> None:
    """Put the neurons of the first layer in another order."""
    first, second = model[0].weight, model[2].weight
    first.copy_(first.flip(0))  # type: ignore[operator]
    second.copy_(second.flip(1))  # type: ignore[operator]


FITTED_PROBLEMS = {
    name: replace(PROBLEMS[name], name=f"fitted {name}", data=OwnLabels(name)) for name in ("relu_mlp", "attention")
}
FITTED = [
    replace(twin, original=FITTED_PROBLEMS[twin.original.name])
    for twin in TWINS
    if twin.original.name in FITTED_PROBLEMS
]
DEEP = Problem("bias_free", partial(BiasFree, (6, 9, 7, 4)), PROBLEMS["relu_mlp"].data)
BIAS_FREE = [
    Problem("bias_free_shallow", partial(BiasFree, (6, 8, 4)), PROBLEMS["relu_mlp"].data),
    Twin("neurons permuted", "i", "permutation", DEEP, permuted),
]
