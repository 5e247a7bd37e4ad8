"""Any points, as arrays in files."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.io.checkpoints import all_arrays
from acutance.io.data_files import chosen
from acutance.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.data.lazy import Lazy


class ArraysSpec(Spec):
    """Settings of arrays."""

    files: dict[str, str] | None = None
    """{split: FILE} or {split: "FILE:INPUTS,TARGETS"}: .npz or .safetensors, and the names of its arrays."""
    mean: tuple[float, ...] | None = None
    """Subtracted along the second axis (channels), one number or one for each."""
    std: tuple[PositiveFloat, ...] | None = None
    """Divides along the second axis, in the same way."""
    channels_last: bool = False
    """Whether images lie as (n, h, w, c) and are to be turned into (n, c, h, w)."""


class Arrays(Dataset[ArraysSpec]):
    """Points in .npz or .safetensors files: inputs (n, ...) and targets (n,), an array each.

    Splits: those of ``files``. Bytes (uint8) are taken for images: they become numbers from 0 to 1, and (n, h, w) gets
    an axis of one channel.
    """

    name = "arrays"

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The splits that the settings name."""
        return tuple(self.spec.files or ("train", "test"))

    def open(self, split: str) -> Split:
        """Return a split.

        Raises:
            UserError: for an unknown split, a file that is missing or damaged, or arrays that do not belong together.
        """
        if split not in self.splits:
            raise UserError(f"arrays has no split '{split}'", did_you_mean(split, self.splits))
        if self.spec.files is None:
            raise UserError(
                "arrays: nothing says where the points are", "write dataset.files: {train: FILE, test: FILE}"
            )
        text = self.spec.files[split]
        where = f"dataset.files.{split}: {text}"
        inputs, targets = _chosen(text, split, where)
        if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets):
            shapes = f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
            raise UserError(f"{where}: inputs and targets have shapes {shapes}", "one target for each input")
        if targets.is_floating_point():
            targets = targets.float()
        elif targets.dim() == 2 and targets.shape[1] == 1:
            targets = targets[:, 0].long()
        elif targets.dim() == 1:
            targets = targets.long()
        else:
            raise UserError(f"{where}: class labels have shape {tuple(targets.shape)}", "give (n,) class numbers")
        self._prepared(inputs[:1], where)  # a mistake in the settings is told here, not at the first reading
        lazily = _lazy(inputs).then(lambda x: self._prepared(x, where))
        return Split(lazily, targets, description=f"{len(targets)} points of {text}")

    def _prepared(self, x: Tensor, where: str) -> Tensor:
        """Return what models see of inputs (k, ...)."""
        import torch

        if self.spec.channels_last:
            if x.dim() != 4:
                raise UserError(f"{where}: channels_last, but inputs have shape {tuple(x.shape)}", "leave it out")
            x = x.movedim(-1, 1)
        if x.dtype == torch.uint8:
            x = (x.unsqueeze(1) if x.dim() == 3 else x).float() / 255
        x = x.float() if x.is_floating_point() else x.long()
        for field, values in (("mean", self.spec.mean), ("std", self.spec.std)):
            if values is None:
                continue
            if not x.is_floating_point() or x.dim() < 2 or len(values) not in (1, x.shape[1]):
                message = f"dataset.{field}: {len(values)} numbers, but inputs are {x.dtype} of shape {tuple(x.shape)}"
                raise UserError(f"{where}: {message}", "one number, or one for each entry of the second axis")
            each = torch.tensor(values).view(-1, *[1] * (x.dim() - 2))
            x = x - each if field == "mean" else x / each
        return x.contiguous()


def _lazy(inputs: Tensor) -> Lazy:
    from acutance.data.lazy import every_row

    return every_row(lambda rows: inputs[rows], len(inputs))


@lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> dict[str, Tensor]:
    return all_arrays(path)


def _chosen(text: str, split: str, where: str) -> tuple[Tensor, Tensor]:
    """Return the two arrays that a text names."""
    written = re.fullmatch(r"(.+\.(?:npz|safetensors))(?::([^:,]+),([^:,]+))?", text)
    if not written:
        raise UserError(f"{where}: is not understood", 'write FILE.npz, FILE.safetensors or "FILE.npz:INPUTS,TARGETS"')
    path = Path(written[1]).expanduser()
    if not path.is_file():
        raise UserError(f"{where}: no such file", "paths are taken from the working directory")
    arrays = _read(path, path.stat().st_mtime_ns)
    if written[2]:
        for name in (written[2], written[3]):
            if name not in arrays:
                raise UserError(f"{where}: has no array '{name}'", did_you_mean(name, list(arrays)))
        return arrays[written[2]], arrays[written[3]]
    usual = 'write "FILE:INPUTS,TARGETS" with two of them, or name them inputs and targets'
    return chosen(arrays, split, where, usual)
