"""Networks of the pools of image classifiers, and how published weights are put into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acutance_vision.networks.small import ResNet, SimpleViT, sine_cosine

__all__ = ["ResNet", "SimpleViT", "sine_cosine"]


def __getattr__(name: str) -> Any:
    """Return a network, loaded with torch when it is used: pools list their models without."""
    if name not in __all__:
        raise AttributeError(f"module 'acutance_vision.networks' has no attribute '{name}'")
    from acutance_vision.networks import small

    return getattr(small, name)
