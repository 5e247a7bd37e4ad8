"""Reading and changing images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acutance_vision.images.reading import open_rgb

__all__ = ["open_rgb"]


def __getattr__(name: str) -> Any:
    """Return what reads images, loaded with its libraries when it is used."""
    if name not in __all__:
        raise AttributeError(f"module 'acutance_vision.images' has no attribute '{name}'")
    from acutance_vision.images import reading

    return getattr(reading, name)
