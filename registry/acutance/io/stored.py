"""Checkpoints opened without reading them: what each tensor is, and the tensor itself when it is asked for.

Of safetensors only the headers are read (8 bytes with the length of a JSON text, the text, then the numbers;
https://huggingface.co/docs/safetensors/index): they say the kind, shape and place of every tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, some
from acutance.io.checkpoint_files import INDEX, parts_of, refuse_what_is_none, states_in

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_AGAIN = "get the file again"
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
          "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64"}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, or one that was read already.

    Attributes:
        name: in the file.
        shape: of the tensor.
        kind: its type as the file says it, ``BF16``; or torch's name of it.
        nbytes: its size in memory.
        file: where it lies.
        tensor: where the format has no lazy reading.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    nbytes: int
    file: Path
    tensor: Tensor | None = None

    @property
    def is_nested(self) -> bool:
        """Whether its rows have several lengths."""
        return self.tensor is not None and self.tensor.is_nested

    @property
    def dtype(self) -> torch.dtype | None:
        """Its type; None for one that torch does not compute in."""
        import torch

        return getattr(torch, _NAMES.get(self.kind, self.kind), None)

    def size_in(self, kind: torch.dtype | None) -> int:
        """Return its size in memory where floating-point numbers have a type; nothing for what is there already."""
        if self.tensor is not None:
            return 0
        own = self.dtype
        floating = kind is not None and own is not None and own.is_floating_point
        return prod(self.shape) * kind.itemsize if floating and kind is not None else self.nbytes

    def read(self) -> Tensor:
        """Return its values, in memory that may be a file's: copy them.

        Raises:
            UserError: for a file that is gone or damaged.
        """
        if self.tensor is not None:
            return self.tensor
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt", device="cpu") as file:
                found: Tensor = file.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{self.file}: '{self.name}' cannot be read: {said}", _AGAIN) from None
        return found


def stored_in(path: Path) -> dict[str, Stored]:
    """Return the tensors of a checkpoint by name; of safetensors, also in parts, nothing but headers is read.

    Args:
        path: as ``read_state`` takes it.

    Raises:
        UserError: for a file, or a part, that is missing, damaged, or lacks a tensor that the index places there.
    """
    if path.name.lower().endswith(f".safetensors{INDEX}"):
        places = parts_of(path)
        headers = {part: headers_of(path.with_name(part)) for part in dict.fromkeys(places.values())}
        for part, header in headers.items():
            if lacking := [name for name, place in places.items() if place == part and name not in header]:
                where = f"{path.with_name(part)}: has no {some(lacking)}"
                raise UserError(f"{where}, which {path.name} places there", _AGAIN)
        return {name: headers[part][name] for name, part in places.items()}
    if path.suffix.lower() == ".safetensors" and path.is_file():
        return headers_of(path)
    state = next(iter(states_in(path).values()))
    return {
        name: Stored(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), t.nbytes, path, t)
        for name, t in state.items()
    }


def headers_of(path: Path) -> dict[str, Stored]:
    """Return what a file of safetensors says of its tensors.

    Raises:
        UserError: for a file that is truncated, or none of safetensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            refuse_what_is_none(path, head)
            length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
            file.seek(8)
            text = file.read(length) if length < size else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", "give a file that you may read") from None
    try:
        entries: Mapping[str, Any] = json.loads(text)
        found = {
            name: Stored(name, tuple(entry["shape"]), entry["dtype"], _length(entry), path)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
        end = max((entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"{path}: is damaged, or no file of safetensors: its header cannot be read", _AGAIN) from None
    if not found:
        raise UserError(f"{path}: holds no tensors", "give a file with weights")
    if size != 8 + length + end:
        raise UserError(f"{path}: has {size} bytes, its header says {8 + length + end}: it is truncated", _AGAIN)
    return found


def _length(entry: Mapping[str, Any]) -> int:
    start, end = entry["data_offsets"]
    if prod(entry["shape"]) and not end > start >= 0:
        raise ValueError
    return int(end - start)


def floating_kind(tensors: Iterable[Stored]) -> torch.dtype | None:
    """Return the type in which all floating-point tensors are exact: theirs where they have one; None for none."""
    import torch

    kinds = {kind for stored in tensors if (kind := stored.dtype) is not None and kind.is_floating_point}
    # Eight bits are codes of a quantized model, which is refused elsewhere.
    kinds = {kind for kind in kinds if kind.itemsize > 1}
    return reduce(torch.promote_types, sorted(kinds, key=str)) if kinds else None
