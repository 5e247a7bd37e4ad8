"""Vision transformers in the .npz files of their JAX training code, through timm's loader.

timm's loader leaves a head of another size and surplus blocks out without a word, so every name and shape is
compared first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.io.checkpoints import mismatch

if TYPE_CHECKING:
    from torch import nn

PREFIXES = ("", "opt/target/", "params/")
POSITIONS = "Transformer/posembed_input/pos_embedding"


def jax_prefix(names: Mapping[str, Any] | list[str]) -> str | None:
    """Return what stands before the names of such a file; None when it is none."""
    return next((prefix for prefix in PREFIXES if f"{prefix}embedding/kernel" in names), None)


def load_jax(model: nn.Module, path: Path) -> nn.Module:
    """Copy the file's weights into a timm vision transformer; every name and shape must fit.

    Position embeddings of another resolution are resampled by timm. A ``pre_logits`` layer, which published
    models no longer have, is refused.

    Raises:
        UserError: for a damaged file, one of another kind, or the first names that do not fit.
    """
    shapes = _shapes(path)
    prefix = jax_prefix(list(shapes))
    if prefix is None:
        raise UserError(f"{path}: has no array embedding/kernel", "it is no vision transformer of the JAX code")
    wanted = _wanted(model, path)
    arrays = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    different = [
        f"{name} is {arrays[name]}, the model has {shape}"
        for name, shape in wanted.items()
        if name in arrays and arrays[name] != shape and not _resampled(name, arrays[name], shape)
    ]
    missing = [name for name in wanted if name not in arrays]
    if problem := mismatch(missing, [name for name in arrays if name not in wanted], different):
        raise UserError(
            f"{path}: does not fit the architecture: {problem}",
            "it was saved from another architecture, or with another number of classes",
        )
    try:
        model.load_pretrained(str(path))  # type: ignore[operator]
    except Exception as error:
        raise UserError(f"{path}: timm could not load it: {error}", "the file is damaged") from None
    return model.eval()


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a file, by name.

    Raises:
        UserError: for a file that is missing or damaged.
    """
    import numpy as np

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: tuple(file[name].shape) for name in file.files}
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read as a checkpoint: {error}", "the file is damaged or truncated"
        ) from None


def _resampled(name: str, saved: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return name == POSITIONS and len(saved) == 3 and saved[0] == 1 and saved[2] == shape[2]


def _wanted(model: Any, path: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a file for this model has."""
    try:
        classes, dim = model.head.weight.shape
        _, channels, *patch = model.patch_embed.proj.weight.shape
        blocks, positions = list(model.blocks), tuple(model.pos_embed.shape)
        heads, hidden = blocks[0].attn.num_heads, blocks[0].mlp.fc1.weight.shape[0]
    except AttributeError:
        raise UserError(f"{path}: the architecture is no plain timm vision transformer", "give timm:vit_...") from None
    wanted = {
        "embedding/kernel": (*patch, channels, dim), "embedding/bias": (dim,), "cls": (1, 1, dim), POSITIONS: positions,
        "Transformer/encoder_norm/scale": (dim,), "Transformer/encoder_norm/bias": (dim,),
        "head/kernel": (dim, classes), "head/bias": (classes,),
    }  # fmt: skip
    each = dim // heads
    for i in range(len(blocks)):
        block = f"Transformer/encoderblock_{i}/"
        for norm in (0, 2):
            wanted |= {f"{block}LayerNorm_{norm}/{part}": (dim,) for part in ("scale", "bias")}
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            wanted |= {f"{attention}{part}/kernel": (dim, heads, each), f"{attention}{part}/bias": (heads, each)}
        wanted |= {f"{attention}out/kernel": (heads, each, dim), f"{attention}out/bias": (dim,)}
        mlp = f"{block}MlpBlock_3/"
        wanted |= {f"{mlp}Dense_0/kernel": (dim, hidden), f"{mlp}Dense_0/bias": (hidden,)}
        wanted |= {f"{mlp}Dense_1/kernel": (hidden, dim), f"{mlp}Dense_1/bias": (dim,)}
    return wanted
