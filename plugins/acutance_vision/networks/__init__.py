"""Networks of the pools of image classifiers, and how published weights are put into them."""

from __future__ import annotations

from acutance_vision.networks.small import ResNet, SimpleViT, sine_cosine

__all__ = ["ResNet", "SimpleViT", "sine_cosine"]
