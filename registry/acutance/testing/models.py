"""Small float64 networks with every part that measures meet: convolutions, normalization, attention, dict inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own, so that the global one is left alone."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Draw from the CPU's global generator seeded so, within the block only.

    ``torch.manual_seed`` would import torch's compiler first, which takes seconds in every new process.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Weights(nn.Module):
    """A model that is its weights: the loss can be any function of them."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights, (n, p), whatever the input."""
        return self.w.expand(len(x), -1)


class MLP(nn.Module):
    """A perceptron: linear maps with an activation in between; with two dims it is a softmax model."""

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        dims: Sequence[int] = (6, 10, 4),
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        with global_seed(0):
            self.layers = nn.ModuleList(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(dims))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (n, K)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


class ConvBN(nn.Module):
    """conv -> BN -> ReLU -> conv -> BN -> ReLU -> pool -> linear, with running statistics that are not trivial."""

    def __init__(self) -> None:
        super().__init__()
        with global_seed(1), torch.no_grad():
            self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.conv2, self.bn2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.fc = nn.Linear(5, 3)
            for bn in (self.bn1, self.bn2):
                bn.weight.uniform_(0.5, 1.5)
                bn.bias.normal_()
                bn.running_mean.normal_()  # type: ignore[union-attr]
                bn.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                # With eps = 0 a rescaling before the normalization preserves the function exactly.
                bn.eps = 0.0
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (n, 3), of images (n, 2, h, w)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """One pre-norm transformer block with separate query, key, value and output maps, and a ReLU MLP."""

    def __init__(self, dim: int = 8, heads: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.heads = heads
        with global_seed(2), torch.no_grad():
            self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
            self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
            self.head = nn.Linear(dim, classes)
            for norm in (self.norm1, self.norm2):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(std=0.3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (n, K), of token vectors (n, t, d)."""
        n, t, d = x.shape

        def split(z: Tensor) -> Tensor:
            return z.view(n, t, self.heads, d // self.heads).transpose(1, 2)

        y = self.norm1(x)
        a = F.scaled_dot_product_attention(split(self.q(y)), split(self.k(y)), split(self.v(y)))
        x = x + self.o(a.transpose(1, 2).reshape(n, t, d))
        x = x + self.down(F.relu(self.up(self.norm2(x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


class DictInput(nn.Module):
    """A text classifier in the manner of transformers: named inputs, an output with ``.logits``."""

    def __init__(self, vocabulary: int = 11, dim: int = 6, classes: int = 3) -> None:
        super().__init__()
        with global_seed(3):
            self.embed = nn.Embedding(vocabulary, dim)
            self.mix, self.head = nn.Linear(dim, dim), nn.Linear(dim, classes)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Return an object with logits, (n, K), of token ids and their mask, both (n, t)."""
        mask = attention_mask.unsqueeze(-1).to(self.embed.weight.dtype)
        mean = (self.embed(input_ids) * mask).sum(1) / mask.sum(1)
        return Output(self.head(torch.tanh(self.mix(mean))))


class Output:
    """What a transformers model returns, as far as a surface looks."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def mlp_data(n: int = 24, classes: int = 4, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Return points for MLP: inputs (n, 6) and labels."""
    g = seeded(seed)
    return torch.randn(n, 6, generator=g, dtype=torch.float64), torch.randint(0, classes, (n,), generator=g)


def conv_data(n: int = 12, seed: int = 6) -> tuple[Tensor, Tensor]:
    """Return points for ConvBN: inputs (n, 2, 5, 5) and labels."""
    g = seeded(seed)
    return torch.randn(n, 2, 5, 5, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


def token_data(n: int = 10, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Return points for Attention: inputs (n, 4, 8) and labels."""
    g = seeded(seed)
    return torch.randn(n, 4, 8, generator=g, dtype=torch.float64), torch.randint(0, 3, (n,), generator=g)


def text_data(n: int = 10, seed: int = 8) -> tuple[dict[str, Tensor], Tensor]:
    """Return points for DictInput: token ids with a mask that pads some, and labels."""
    g = seeded(seed)
    ids = torch.randint(0, 11, (n, 5), generator=g)
    mask = torch.arange(5) < torch.randint(2, 6, (n, 1), generator=g)
    return {"input_ids": ids, "attention_mask": mask.long()}, torch.randint(0, 3, (n,), generator=g)


def others_like(inputs: Any) -> Any:
    """Return other inputs that a model takes: numbers mixed with the next example's, whole ones read backwards."""
    if isinstance(inputs, Mapping):
        return {key: others_like(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(others_like(value) for value in inputs)
    if not isinstance(inputs, Tensor):
        return inputs
    if inputs.is_floating_point():
        return 0.75 * inputs + 0.25 * inputs.roll(1, 0)
    return inputs.flip(-1) if inputs.dim() > 1 else inputs
