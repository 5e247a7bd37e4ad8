r"""Function-preserving twins: pairs of models with different weights and the same function.

A measure that is invariant under a family of such changes gives both the same value; the letters are those by which
the families are known in the documentation:

======  ============  ===========================================================================
letter  invariance    change
======  ============  ===========================================================================
a       rescaling     BN gain and bias times a, next convolution divided by a
b       rescaling     convolution before BN times a, with the running statistics
c       rescaling     LN gain and bias times a, next linear map divided by a
d       rescaling     query map times a, key map divided by a
e       rescaling     value map times a, output map divided by a
f       rescaling     linear map before ReLU times a, the next one divided by a
g       output_scale  last layer times a: the same function up to the scale of its logits
h       head_mixing   query and key, or value and output, of each head mixed by an invertible matrix
i       permutation   neurons, channels or heads in another order
j       translation   a constant added to the key bias, or to all logits by the last bias
======  ============  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from acutance.measure import Invariance
from acutance.testing.models import seeded
from acutance.testing.problems import PROBLEMS, Problem

Change = Callable[[Any], None]
FACTOR = 3.7


@torch.no_grad()
def _changed(model: Callable[[], nn.Module], change: Change) -> nn.Module:
    network = model()
    change(network)
    return network


@dataclass(frozen=True)
class Twin:
    """One change of the weights of one problem's model that leaves the function alone.

    Attributes:
        name: for messages.
        letter: see the module.
        invariance: the word that ``Traits.invariant_to`` uses.
        original: the problem it starts from.
        change: changes a model in place.
        preserves: the logits themselves, the probabilities (logits up to a constant), or the normalized logits.
    """

    name: str
    letter: str
    invariance: Invariance
    original: Problem
    change: Change
    preserves: Literal["logits", "probabilities", "normalized"] = "logits"

    @property
    def changed(self) -> Problem:
        """The problem with the changed model; initial weights change alike."""
        start = self.original
        initial = partial(_changed, start.initial, self.change) if start.initial is not None else None
        return replace(
            start, name=f"{start.name}, {self.name}", model=partial(_changed, start.model, self.change), initial=initial
        )

    def difference(self) -> float:
        """Return how much of the function changed: the largest relative difference of what is preserved."""
        a, b = (self._preserved(problem) for problem in (self.original, self.changed))
        return float((a - b).abs().max() / a.abs().max())

    def moved(self) -> float:
        """Return how far the weights are apart, relative to their norm."""
        a, b = (problem.surface(with_data=False).w for problem in (self.original, self.changed))
        return float((a - b).norm() / a.norm())

    def _preserved(self, problem: Problem) -> Tensor:
        surface = problem.surface()
        if self.preserves == "normalized":
            return surface.transformed(True).logits()
        logits = surface.logits()
        return logits.log_softmax(dim=1) if self.preserves == "probabilities" else logits


def times(module: nn.Module, factor: float, bias: bool = True) -> None:
    """Multiply a layer's weight, and its bias unless told otherwise."""
    module.weight.mul_(factor)  # type: ignore[operator]
    if bias and module.bias is not None:
        module.bias.mul_(factor)  # type: ignore[operator]


def batch_norm_after(m: Any) -> None:
    """Letter a."""
    times(m.bn1, FACTOR)
    times(m.conv2, 1 / FACTOR, bias=False)


def batch_norm_before(m: Any) -> None:
    """Letter b; the buffers are part of the change."""
    times(m.conv1, FACTOR)
    m.bn1.running_mean.mul_(FACTOR)
    m.bn1.running_var.mul_(FACTOR**2)


def layer_norm(m: Any) -> None:
    """Letter c."""
    times(m.norm2, FACTOR)
    times(m.up, 1 / FACTOR, bias=False)


def query_key(m: Any) -> None:
    """Letter d."""
    times(m.q, FACTOR)
    times(m.k, 1 / FACTOR)


def value_output(m: Any) -> None:
    """Letter e."""
    times(m.v, FACTOR)
    times(m.o, 1 / FACTOR, bias=False)


def relu_of_block(m: Any) -> None:
    """Letter f, in a transformer block."""
    times(m.up, FACTOR)
    times(m.down, 1 / FACTOR, bias=False)


def relu_of_mlp(m: Any) -> None:
    """Letter f, in a perceptron."""
    times(m.layers[0], FACTOR)
    times(m.layers[1], 1 / FACTOR, bias=False)


def last_layer(m: Any) -> None:
    """Letter g."""
    times(m.layers[-1], FACTOR)


def _heads(m: Any) -> list[slice]:
    size = m.q.out_features // m.heads
    return [slice(i * size, (i + 1) * size) for i in range(m.heads)]


def _mixer(size: int, seed: int) -> Tensor:
    """Return a well-conditioned invertible matrix that is neither diagonal nor orthogonal, (h, h)."""
    return torch.eye(size, dtype=torch.float64) + 0.3 * torch.randn(
        size, size, generator=seeded(seed), dtype=torch.float64
    )


def mixed_query_key(m: Any) -> None:
    """Letter h: Q A and K A^-T have the same product."""
    for seed, head in enumerate(_heads(m)):
        a = _mixer(head.stop - head.start, seed)
        for linear, left in ((m.q, a.T), (m.k, torch.linalg.inv(a))):
            linear.weight[head] = left @ linear.weight[head]
            linear.bias[head] = left @ linear.bias[head]


def mixed_value_output(m: Any) -> None:
    """Letter h: V B and W_O B^-T have the same product."""
    for seed, head in enumerate(_heads(m)):
        b = _mixer(head.stop - head.start, 10 + seed)
        m.v.weight[head] = b.T @ m.v.weight[head]
        m.v.bias[head] = b.T @ m.v.bias[head]
        m.o.weight[:, head] = m.o.weight[:, head] @ torch.linalg.inv(b).T


def permuted_neurons(m: Any) -> None:
    """Letter i, in a perceptron."""
    order = torch.randperm(m.layers[0].out_features, generator=seeded(4))
    m.layers[0].weight.copy_(m.layers[0].weight[order])
    m.layers[0].bias.copy_(m.layers[0].bias[order])
    m.layers[1].weight.copy_(m.layers[1].weight[:, order])


def permuted_channels(m: Any) -> None:
    """Letter i, in a convolutional network."""
    order = torch.tensor([2, 0, 3, 1])
    for tensor in (m.conv1.weight, m.conv1.bias, m.bn1.weight, m.bn1.bias, m.bn1.running_mean, m.bn1.running_var):
        tensor.copy_(tensor[order])
    m.conv2.weight.copy_(m.conv2.weight[:, order])


def permuted_heads(m: Any) -> None:
    """Letter i, in attention: the heads the other way round."""
    order = torch.cat([torch.arange(head.start, head.stop) for head in reversed(_heads(m))])
    for linear in (m.q, m.k, m.v):
        linear.weight.copy_(linear.weight[order])
        linear.bias.copy_(linear.bias[order])
    m.o.weight.copy_(m.o.weight[:, order])


def shifted_keys(m: Any) -> None:
    """Letter j: the softmax over keys does not see what all keys share."""
    m.k.bias.add_(torch.linspace(-1, 2, m.k.out_features, dtype=m.k.bias.dtype))


def shifted_logits(m: Any) -> None:
    """Letter j: the softmax over classes does not see what all classes share."""
    m.layers[-1].bias.add_(0.8)


TWINS: tuple[Twin, ...] = (
    Twin("BN and the next convolution", "a", "rescaling", PROBLEMS["conv_bn"], batch_norm_after),
    Twin("convolution and the BN behind it", "b", "rescaling", PROBLEMS["conv_bn"], batch_norm_before),
    Twin("LN and the next linear map", "c", "rescaling", PROBLEMS["attention"], layer_norm),
    Twin("query and key", "d", "rescaling", PROBLEMS["attention"], query_key),
    Twin("value and output", "e", "rescaling", PROBLEMS["attention"], value_output),
    Twin("two maps around a ReLU", "f", "rescaling", PROBLEMS["attention"], relu_of_block),
    Twin("two layers around a ReLU", "f", "rescaling", PROBLEMS["relu_mlp"], relu_of_mlp),
    Twin("last layer scaled", "g", "output_scale", PROBLEMS["tanh_mlp"], last_layer, "normalized"),
    Twin("query and key of each head mixed", "h", "head_mixing", PROBLEMS["attention"], mixed_query_key),
    Twin("value and output of each head mixed", "h", "head_mixing", PROBLEMS["attention"], mixed_value_output),
    Twin("hidden neurons permuted", "i", "permutation", PROBLEMS["tanh_mlp"], permuted_neurons),
    Twin("channels permuted", "i", "permutation", PROBLEMS["conv_bn"], permuted_channels),
    Twin("heads permuted", "i", "permutation", PROBLEMS["attention"], permuted_heads),
    Twin("a constant added to the key bias", "j", "translation", PROBLEMS["attention"], shifted_keys),
    Twin("a constant added to all logits", "j", "translation", PROBLEMS["tanh_mlp"], shifted_logits, "probabilities"),
)


def split_twins(surfaces: Any) -> tuple[Any, list[Twin]]:
    """Return what an author gave as surfaces without the twins among them, and the twins."""
    if isinstance(surfaces, Twin):
        return None, [surfaces]
    if isinstance(surfaces, Mapping):
        twins = [value for value in surfaces.values() if isinstance(value, Twin)]
        return {name: value for name, value in surfaces.items() if not isinstance(value, Twin)}, twins
    if isinstance(surfaces, list | tuple) and any(isinstance(value, Twin) for value in surfaces):
        twins = [value for value in surfaces if isinstance(value, Twin)]
        return [value for value in surfaces if not isinstance(value, Twin)], twins
    return surfaces, []
