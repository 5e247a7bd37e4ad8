"""The two CIFAR-10 networks of the paper under the parameter names of its released files, so that these load.

The code published with the paper calls its pre-activation ResNet-18 ``resnet18`` and takes SimpleViT from vit-pytorch
0.40.2, which had no normalization around the patch embedding yet. Inputs are normalized outside, by CIFAR-10's
mean and the standard deviation of the published code (the defaults of the dataset ``cifar10``). Logit normalization is
a setting of the measures and no part of these networks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from acutance_vision.networks import sine_cosine


class PreActivationBlock(nn.Module):
    """Two 3 x 3 convolutions, each after normalization and ReLU; the shortcut starts after the first ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c, h / stride, w / stride)."""
        active = F.relu(self.bn1(x))
        kept = self.shortcut(active) if hasattr(self, "shortcut") else x
        out: Tensor = kept + self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out


class PreActivationResNet18(nn.Module):
    """ResNet-18 with pre-activation blocks (He et al. 2016b) for 32 x 32 images."""

    def __init__(self, width: int = 64, classes: int = 10, stem_stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stem_stride, 1, bias=False)
        before = width
        for i in range(4):
            after = width * 2**i
            blocks = PreActivationBlock(before, after, 1 if i == 0 else 2), PreActivationBlock(after, after, 1)
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            before = after
        self.bn = nn.BatchNorm2d(before)
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) -> (n, classes) logits."""
        x = self.conv1(x)
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
        logits: Tensor = self.linear(F.relu(self.bn(x)).mean((2, 3)))
        return logits


class Attention(nn.Module):
    """Pre-norm self-attention whose heads have a size of their own."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, t, d)."""
        n, t, _ = x.shape
        q, k, v = self.to_qkv(self.norm(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out: Tensor = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1))
        return out


class FeedForward(nn.Module):
    """LayerNorm, Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, t, d)."""
        out: Tensor = self.net(x)
        return out


class Transformer(nn.Module):
    """Blocks of attention and feed-forward, each with a residual connection."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head), FeedForward(dim, hidden)]) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, t, d)."""
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for part in layer:
                x = x + part(x)
        return x


class SimpleViT(nn.Module):
    """SimpleViT (Beyer et al. 2022) as vit-pytorch 0.40.2 has it: a linear patch embedding without normalization."""

    def __init__(
        self, image: int, patch: int, dim: int, depth: int, heads: int, dim_head: int, hidden: int, classes: int
    ) -> None:
        super().__init__()
        self.patch = patch
        # The first entry of the published module cuts images into patches and has no parameters.
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(3 * patch**2, dim))
        self.register_buffer("positions", sine_cosine(image // patch, dim), persistent=False)
        self.transformer = Transformer(dim, depth, heads, dim_head, hidden)
        self.linear_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, classes) logits."""
        n, p = len(x), self.patch
        # A patch is written row by row, the channels of a pixel together.
        patches = F.unfold(x, p, stride=p).view(n, 3, p * p, -1).permute(0, 3, 2, 1).reshape(n, -1, 3 * p * p)
        tokens = self.transformer(self.to_patch_embedding(patches) + self.positions)
        logits: Tensor = self.linear_head(tokens.mean(1))
        return logits


def resnet18(width: int = 64, classes: int = 10, stem_stride: int = 1) -> nn.Module:
    """Return the paper's ResNet-18, untrained (11.2 million parameters at width 64); stem_stride 2 halves images."""
    return PreActivationResNet18(width, classes, stem_stride)


def simple_vit(
    dim: int = 512, depth: int = 6, heads: int = 16, dim_head: int = 64, patch: int = 4, image: int = 32,
    classes: int = 10,
) -> nn.Module:  # fmt: skip
    """Return the paper's vision transformer, untrained: 4 x 4 patches, MLP of twice the embedding size."""
    return SimpleViT(image, patch, dim, depth, heads, dim_head, 2 * dim, classes)
