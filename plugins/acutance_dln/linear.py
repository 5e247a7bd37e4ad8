"""A linear classifier without training error, at any scale of its weights (Andriushchenko et al. 2023, Figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec, digest

if TYPE_CHECKING:
    from torch import Tensor, nn


class TaskSpec(Spec):
    """A task that a linear classifier solves: the pool and the dataset need the same one."""

    d: PositiveInt = 20
    """Input dimension."""
    classes: int = Field(default=10, ge=2)
    """Number of classes, K."""
    data_seed: NonNegativeInt = 0
    """Names the classifier and the points."""


class LinearSeparableSpec(TaskSpec):
    """Settings of linear_separable."""

    train_points: PositiveInt = 1024
    """Training points."""
    test_points: PositiveInt = 4096
    """Test points."""
    margin: NonNegativeFloat = 0.5
    """The least difference between the largest and the second logit of the classifier that labels the points."""


def classifier(spec: TaskSpec) -> Tensor:
    r"""Return W, (K, d) in float64, whose entries are Gaussian with variance 1/d: logits of unit variance."""
    import torch

    generator = torch.Generator().manual_seed(_seed(spec, "classifier"))
    weights: Tensor = torch.randn(spec.classes, spec.d, generator=generator, dtype=torch.float64) / spec.d**0.5
    return weights


def _seed(spec: TaskSpec, purpose: str) -> int:
    name = {"d": spec.d, "classes": spec.classes, "data_seed": spec.data_seed, "what": purpose}
    return int(digest(name)[:15], 16)


class LinearSeparable(Dataset[LinearSeparableSpec]):
    r"""Gaussian points, labelled by a linear classifier W, which has no error on them.

    .. math:: x \sim N(0, I_d), \qquad y = \arg\max_k (W x)_k

    Points whose two largest logits differ by less than ``margin`` are drawn again. Splits: ``train`` and ``test``.
    """

    name = "linear_separable"
    splits = ("train", "test")

    def open(self, split: str) -> Split:
        """Return a split: inputs (n, d) in float64, labels (n,).

        Raises:
            UserError: for an unknown split, or a margin that hardly any point has.
        """
        import torch

        if split not in self.splits:
            raise UserError(f"linear_separable has no split '{split}'", did_you_mean(split, self.splits))
        spec = self.spec
        n = spec.train_points if split == "train" else spec.test_points
        weights, generator = classifier(spec), torch.Generator().manual_seed(_seed(spec, split))
        accepted: list[Tensor] = []
        for _ in range(100):
            x = torch.randn(max(n, 1024), spec.d, generator=generator, dtype=torch.float64)
            top = (x @ weights.T).topk(2, dim=1).values
            accepted.append(x[top[:, 0] - top[:, 1] >= spec.margin])
            if sum(map(len, accepted)) >= n:
                inputs = torch.cat(accepted)[:n]
                return Split(inputs, (inputs @ weights.T).argmax(dim=1), description=f"{n} separable points, {split}")
        raise UserError(f"dataset.margin: fewer than 1% of the points have a margin of {spec.margin:g}", "lower it")


class LinearScaleSpec(TaskSpec):
    """Settings of linear_scale."""

    size: PositiveInt = 11
    """Number of models, whose scales are consecutive powers of two."""
    smallest: int = Field(default=-5, ge=-40, le=40)
    """Binary exponent of the smallest scale."""


class LinearScale(ModelPool[LinearScaleSpec]):
    r"""The classifier that labels linear_separable, its weights multiplied by :math:`\alpha = 2^k`.

    Every model makes the same predictions, without error. A power of two multiplies without rounding, so what does not
    depend on the scale is the same for all of them to the last bit.
    """

    name = "linear_scale"

    def entries(self, spec: LinearScaleSpec) -> Sequence[ModelEntry]:
        """Return the models, smallest scale first."""
        exponents = range(spec.smallest, spec.smallest + spec.size)
        return [
            ModelEntry(
                id=f"scale_{2.0**k:g}",
                attributes={"scale": 2.0**k},
                architecture=f"linear(d={spec.d},classes={spec.classes})",
                train_set="linear_separable",
            )
            for k in exponents
        ]

    def load(self, entry: ModelEntry, spec: LinearScaleSpec) -> nn.Module:
        """Return the scaled classifier, without bias, in float64."""
        import torch
        from torch import nn

        model = nn.Linear(spec.d, spec.classes, bias=False, dtype=torch.float64)
        scale = entry.attributes["scale"]
        assert isinstance(scale, float)
        with torch.no_grad():
            model.weight.copy_(classifier(spec) * scale)
        return model.eval()
