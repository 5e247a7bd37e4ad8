"""Reading a checkpoint of any format into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.checkpoints import load_state, read_state
from acutance.errors import UserError, did_you_mean, some

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")


def load_file(model: nn.Module, path: Path, key: str = "", prefix: str = "") -> nn.Module:
    """Copy a file's weights into a model; every name and shape must fit.

    Args:
        model: of the right architecture.
        path: .safetensors, .pt, .pth, .bin, .ckpt, or .npz (arrays by the state's names, or those of JAX's ViTs).
        key: where in the file the state lies, as ``ema.model``; usual wrappers are found without it.
        prefix: taken off the names that begin with it; others are left out.

    Raises:
        UserError: for a file that cannot be read, or the first names that do not fit.
    """
    if path.suffix == ".npz":
        state = _arrays(path)
        if state is None:
            from acutance_vision.jax_vit import load_jax

            return load_jax(model, path)
    else:
        state = read_state(path, key)
    if prefix:
        kept = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not kept:
            raise UserError(f"{path}: no name begins with '{prefix}'", f"its names are: {some(list(state))}")
        state = kept
    return load_state(model, state, str(path))


def _arrays(path: Path) -> Mapping[str, Tensor] | None:
    """Return the arrays of an .npz file; None for a vision transformer of the JAX code."""
    import numpy as np
    import torch

    from acutance_vision.jax_vit import jax_prefix

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            if jax_prefix(file.files) is not None:
                return None
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read as a checkpoint: {error}", "the file is damaged or truncated"
        ) from None


def described(architecture: str, arguments: Mapping[str, Any]) -> str:
    """Return an architecture with its arguments as text: another argument is another architecture."""
    shown = ",".join(f"{name}={value}" for name, value in sorted(arguments.items()))
    return f"{architecture}({shown})" if shown else architecture


def known_suffix(path: str) -> None:
    """Refuse a file of another format, before anything is opened.

    Raises:
        UserError: naming the formats.
    """
    suffix = os.path.splitext(path)[1]
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: is of no known format", did_you_mean(suffix or "?", SUFFIXES))
