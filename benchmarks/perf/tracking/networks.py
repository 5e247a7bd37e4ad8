"""The networks that measures are timed on, from 10 thousand to 11 million parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """A network and one batch for it.

    Attributes:
        name: as in ``--models`` and in the names of the cases.
        build: returns (module, inputs, targets).
        size: which of the bounds holds: tiny (Python steps count), small (they count beside convolutions),
            embedding (many weights a pass hardly uses, so elementwise work counts) or large.
        effort: largest number of steps, draws, probes or iterations here; None for the measure's own.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Any, Tensor]]
    size: Literal["tiny", "small", "embedding", "large"]
    effort: int | None = None


def _images(model: nn.Module, *shape: int) -> tuple[nn.Module, Tensor, Tensor]:
    return model, torch.randn(128, *shape), torch.randint(0, 10, (128,))


def _mlp() -> tuple[nn.Module, Tensor, Tensor]:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10))
    return _images(layers, 1, 28, 28)


def _cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """6 thousand parameters."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
        nn.Linear(128, 10),
    )  # fmt: skip
    return _images(layers, 3, 32, 32)


def _resnet(width: int) -> Callable[[], tuple[nn.Module, Tensor, Tensor]]:
    def build() -> tuple[nn.Module, Tensor, Tensor]:
        from acutance_vision.networks.small import ResNet

        return _images(ResNet(width), 3, 32, 32)

    return build


def _vit() -> tuple[nn.Module, Tensor, Tensor]:
    from acutance_vision.networks.small import SimpleViT

    return _images(SimpleViT(32, 4, 128, 6, 4, 256), 3, 32, 32)


def _bert() -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """4.3 million parameters, 2.6 million of them word embeddings; inputs are a dict."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=10000, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=128, num_labels=3,
    )  # fmt: skip
    words = torch.randint(0, 10000, (32, 16))
    mask = torch.ones_like(words)
    mask[::2, 12:] = 0
    inputs = {"input_ids": words, "attention_mask": mask}
    return BertForSequenceClassification(config), inputs, torch.randint(0, 3, (32,))


NETWORKS = {
    network.name: network
    for network in (
        Network("mlp", _mlp, "tiny"),
        Network("cnn", _cnn, "small"),
        Network("resnet18_w16", _resnet(16), "large", 4),
        Network("resnet18_w64", _resnet(64), "large", 2),
        Network("vit", _vit, "large", 3),
        Network("bert", _bert, "embedding", 10),
    )
}


def make(network: Network, device: str) -> tuple[nn.Module, Any, Tensor]:
    """Return (module in evaluation mode, inputs, targets) on the device, the same numbers every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs, targets = network.build()
    inputs = {k: v.to(device) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)
    return model.eval().to(device), inputs, targets.to(device)
