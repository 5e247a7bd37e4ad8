"""Reading a checkpoint of any format into a model, those of JAX's vision transformers too."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.io import checkpoints
from acutance_vision.networks.jax_vit import jax_prefix, load_jax

if TYPE_CHECKING:
    from torch import nn


def load_file(model: nn.Module, path: Path, key: str = "", prefix: str = "") -> nn.Module:
    """Copy a file's weights into a model, as ``acutance.io.checkpoints.load_file``; JAX's ViTs have names of their own.

    Raises:
        UserError: for a file that cannot be read, or the first names that do not fit.
    """
    if path.suffix.lower() == ".npz" and _is_jax(path):
        return load_jax(model, path)
    return checkpoints.load_file(model, path, key, prefix)


def _is_jax(path: Path) -> bool:
    """Whether an .npz file holds a vision transformer of the JAX code; what cannot be read is left to its reader."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return jax_prefix([name.removesuffix(".npy") for name in archive.namelist()]) is not None


def described(architecture: str, arguments: Mapping[str, Any]) -> str:
    """Return an architecture with its arguments as text: another argument is another architecture."""
    shown = ",".join(f"{name}={value}" for name, value in sorted(arguments.items()))
    return f"{architecture}({shown})" if shown else architecture
