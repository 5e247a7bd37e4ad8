"""The two architectures of the paper's CIFAR-10 study, at any size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization and a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for small images: a 3x3 stem, four stages of basic blocks, channels width x (1, 2, 4, 8).

    Args:
        width: channels of the first stage; 64 in the paper.
        blocks: blocks in a stage; 2 is ResNet-18.
        channels: of the images.
        classes: number of classes.
        stem_stride: 1 keeps the resolution (CIFAR), 2 halves it.
    """

    def __init__(
        self, width: int = 64, blocks: int = 2, channels: int = 3, classes: int = 10, stem_stride: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, before = [], width
        for i in range(4):
            after = width * 2**i
            first = BasicBlock(before, after, 1 if i == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(after, after, 1) for _ in range(blocks - 1))))
            before = after
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stages(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """Pre-norm multi-head self-attention without biases on the projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, t, d)."""
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(n, t, d))
        return out


class FeedForward(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Block(nn.Module):
    """Attention and feed-forward, each with a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(dim, heads), FeedForward(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, t, d)."""
        x = x + self.attention(x)
        out: Tensor = x + self.feed_forward(x)
        return out


class SimpleViT(nn.Module):
    """Vision transformer with fixed sine-cosine positions and global average pooling (Beyer et al. 2022).

    Args:
        image: side of the square images.
        patch: side of a patch.
        dim: embedding size, divisible by 4 and by ``heads``.
        depth: number of blocks.
        heads: attention heads.
        hidden: size of the feed-forward layer.
        channels: of the images.
        classes: number of classes.
    """

    def __init__(
        self,
        image: int = 32,
        patch: int = 4,
        dim: int = 512,
        depth: int = 6,
        heads: int = 16,
        hidden: int = 1024,
        channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Sequential(
            nn.LayerNorm(channels * patch**2), nn.Linear(channels * patch**2, dim), nn.LayerNorm(dim)
        )
        self.register_buffer("positions", sine_cosine(image // patch, dim), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes) logits."""
        x = self.embed(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x.mean(1)))
        return logits


def sine_cosine(side: int, dim: int, temperature: float = 10000.0) -> Tensor:
    """Return the fixed two-dimensional positions of a side x side grid, (side^2, dim)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    omega = torch.exp(-math.log(temperature) * torch.arange(dim // 4) / (dim // 4 - 1))
    parts = [f(axis.flatten()[:, None] * omega) for axis in (x, y) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1)


def mnist_resnet(width: int, blocks: int) -> nn.Module:
    """ResNet of this size for 28 x 28 grey images, with a stem of stride 2."""
    return ResNet(width, blocks, channels=1, stem_stride=2)


def mnist_vit(depth: int, dim: int) -> nn.Module:
    """SimpleViT of this size for 28 x 28 grey images in 16 patches."""
    return SimpleViT(image=28, patch=7, dim=dim, depth=depth, heads=4, hidden=2 * dim, channels=1)
