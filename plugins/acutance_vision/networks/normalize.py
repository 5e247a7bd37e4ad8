"""Normalization of images as a function that equals another of the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acutance.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Channels = tuple[float, ...]


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std for each channel of (n, channels, height, width); one number serves all channels.

    Equal for equal numbers, so models that share it share the prepared points.
    """

    mean: Channels
    std: Channels

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the normalized images."""
        mean, std = (inputs.new_tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return (inputs - mean) / std


def normalization(
    architecture: str, config: str, mean: Channels | None, std: Channels | None, where: str
) -> Normalize | None:
    """Return the normalization that a pool's spec asks for, None where it asks for none.

    Args:
        architecture: ``timm:NAME`` gives the numbers where config is ``timm``.
        config: ``none`` or ``timm``.
        mean: takes the place of the config's.
        std: takes the place of the config's.
        where: the pool, for messages.

    Raises:
        UserError: for ``timm`` with an architecture of another library.
    """
    if config == "timm":
        library, _, name = architecture.partition(":")
        if library != "timm":
            raise UserError(f"{where}: preprocess: timm needs an architecture timm:NAME", "or write mean and std")
        from timm.data.config import resolve_data_config
        from timm.models import get_pretrained_cfg

        config_of_name = get_pretrained_cfg(name)
        data = resolve_data_config(pretrained_cfg=config_of_name.to_dict() if config_of_name else {})
        mean, std = mean or tuple(data["mean"]), std or tuple(data["std"])
    if mean is None and std is None:
        return None
    return Normalize(mean or (0.0,), std or (1.0,))
