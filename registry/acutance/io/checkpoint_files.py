"""Reading checkpoint files safely: what a file is, whether it is whole, and which states of a model lie in it.

A file is told by what is in it, not by its suffix, and nothing in it is ever executed.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, did_you_mean, some
from acutance.spec import shown

if TYPE_CHECKING:
    from torch import Tensor

# Checkpoints go by these names; capitals do not matter.
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".th", ".tar", ".npz")
# Under these names a training script keeps the weights beside what else it saves, the usual ones first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "last", "net", "weights", "params", "module")
# What training keeps beside the weights; its tensors are those of an optimizer or a callback.
ELSEWHERE = re.compile(
    r"^(optim|lr_?sched|sched|(grad_?)?scaler|callback|loops?$|hyper_?param|hparams|config|args$|rng|amp$|datamodule)",
    re.IGNORECASE,
)
AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|avg)($|[._\d])", re.IGNORECASE)
INDEX = ".index.json"  # of a checkpoint in parts: which of them holds which tensor, as Hugging Face writes it
_PART = re.compile(r"^(.+)-(\d+)-of-(\d+)(\.[a-z]+)$", re.IGNORECASE)  # model-00001-of-00002.safetensors
_DEPTH = 4  # wrappers inside wrappers

States = dict[str, dict[str, "Tensor"]]


def is_checkpoint(path: str) -> bool:
    """Whether a name is a checkpoint's."""
    return os.path.splitext(path)[1].lower() in SUFFIXES or path.lower().endswith(INDEX)


def known_suffix(path: str) -> None:
    """Refuse a file whose name is not a checkpoint's, before anything is opened.

    Raises:
        UserError: naming the formats.
    """
    if not is_checkpoint(path):
        suffix = os.path.splitext(path)[1]
        raise UserError(f"{path}: is of no known format", did_you_mean(suffix or "?", SUFFIXES))


def states_in(path: Path, key: str = "") -> States:
    """Return every state of a model that a file holds, by its key in there, the likeliest first.

    Likeliest are the usual names (``state_dict``, ``model`` ...), then what lies at the top, then other names, and last
    averages of the weights (``ema``). What an optimizer or a callback keeps is no state of a model.

    Args:
        path: .safetensors, .npz, or anything that ``torch.save`` wrote; of a checkpoint in parts the ``.index.json``.
        key: the one that is meant, as ``ema.model``; nothing else is then returned.

    Raises:
        UserError: for a missing, damaged or hostile file, one that is no checkpoint, or one without tensors.
    """
    content = _joined(path) if path.name.lower().endswith(INDEX) else _whole(path)
    if key:
        inside = _followed(content, key, path)
        named = {key: inside} if _holds_tensors(inside) else {}
        # A key may name what wraps the state: the likeliest state inside is meant.
        named = named or {f"{key}.{name}": state for name, state in list(_nested(inside))[:1]}
    else:
        named = dict(sorted(_nested(content), key=lambda pair: _unlikely(pair[0])))
    if not named:
        kind = "" if isinstance(content, Mapping) else f": it is a {type(content).__name__}"
        raise UserError(f"{path}: holds no tensors{kind}", "give a state dict: names, each with its tensor")
    return {name: _tensors(state, path, name) for name, state in named.items()}


def _whole(path: Path) -> Any:
    """Return the content of a file that is no part of a larger checkpoint.

    Raises:
        UserError: for a part, or a folder, with what to give in its place; else as ``read_content``.
    """
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if is_checkpoint(p.name))
        indices = [name for name in names if name.lower().endswith(INDEX)]
        told = f"give the file in it: {some(indices or names)}" if names else "there is no checkpoint in it"
        raise UserError(f"{path}: is a folder", told)
    part = _PART.match(path.name)
    if part and int(part[3]) > 1 and path.suffix.lower() in SUFFIXES and path.exists():
        index = path.with_name(f"{part[1]}{part[4]}{INDEX}")
        raise UserError(
            f"{path}: is part {int(part[2])} of the {int(part[3])} of a checkpoint",
            f"give {index}, which names them all" if index.exists() else f"get {index.name} too and give that",
        )
    return read_content(path)


def parts_of(path: Path) -> dict[str, str]:
    """Return the part that each tensor lies in, as an index says.

    Raises:
        UserError: for an index that is none, and parts that are missing or elsewhere.
    """
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        parts = dict.fromkeys(places.values())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is no index of a checkpoint", "it has a 'weight_map' from names to files") from None
    if strange := [part for part in parts if not isinstance(part, str) or Path(part).name != part]:
        raise UserError(f"{path}: names a part that is no file beside it: {shown(strange[0])}", "get the index again")
    if missing := [part for part in parts if not path.with_name(part).is_file()]:
        raise UserError(f"{path}: parts are missing beside it: {some(missing)}", "get them too")
    return {str(name): part for name, part in places.items()}


def _joined(path: Path) -> dict[str, Any]:
    """Return the tensors of all parts that an index names.

    Raises:
        UserError: as ``parts_of``, and for parts that lack a tensor.
    """
    places = parts_of(path)
    found: dict[str, Any] = {}
    for part in dict.fromkeys(places.values()):
        content = read_content(path.with_name(part))
        found |= {name: content.get(name) for name, place in places.items() if place == part}
    if lacking := [name for name, tensor in found.items() if tensor is None]:
        raise UserError(f"{path}: its parts lack {some(lacking)}", "get the files again")
    return found


def read_content(path: Path) -> Any:
    """Return what a checkpoint file holds, tensors on the CPU.

    Raises:
        UserError: for a missing, damaged or hostile file, or one that is no checkpoint.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", "give a file that you may read") from None
    refuse_what_is_none(path, head)
    if zipfile.is_zipfile(path):
        return _zipped(path)
    if head[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and not head.startswith((b"\x80", b"PK"))):
        return _read(path, _safetensors)
    if head.startswith(b"\x80"):  # a pickle, as torch wrote before its zipped files
        return _read(path, _pickled)
    whole = "is truncated: the end of the zip archive is missing" if head.startswith(b"PK") else "is no checkpoint"
    raise UserError(
        f"{path}: {whole}", _AGAIN if head.startswith(b"PK") else "give .safetensors, .npz or a file of torch"
    )


def refuse_what_is_none(path: Path, head: bytes) -> None:
    """Refuse what lies there in place of a checkpoint, by its first bytes.

    Raises:
        UserError: for an empty file, a pointer of Git LFS, a web page, an archive.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = next((known for known in _PLACEHOLDERS if text.startswith(known[0])), None)
    if not head:
        raise UserError(f"{path}: is empty", "its download or its writing was interrupted: get it again")
    if found is not None:
        raise UserError(f"{path}: {found[1]}", found[2])


_PLACEHOLDERS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself", "get the file with 'git lfs pull'"),
    (b"<!doctype html", "is a web page, not a checkpoint", "the address may ask for a login, or its quota is spent"),
    (b"<html", "is a web page, not a checkpoint", "the address may ask for a login, or its quota is spent"),
    (b"<?xml", "is an answer of a server (XML), not a checkpoint", "open it as text to read what the server said"),
    (b"\x1f\x8b", "is compressed by gzip", "unpack it: gunzip, or tar -xzf where it is an archive"),
    (b"7z\xbc\xaf", "is an archive of 7-Zip", "unpack it"),
    (b"\x89hdf", "is an HDF5 file, of Keras perhaps", "convert it to safetensors"),
)  # fmt: skip


def _zipped(path: Path) -> Any:
    """Return the content of a zipped file whose members have the checksums that were written with them.

    Torch reads members without comparing: a flipped bit would be another weight.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # Torch can be told to write no checksums; then all are zero.
            damaged = archive.testzip() if any(member.CRC for member in archive.infolist()) else None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read as a checkpoint: {error}", _AGAIN) from None
    if damaged is not None:
        raise UserError(f"{path}: is damaged: the checksum of its part '{damaged}' does not fit", _AGAIN)
    if any(name.endswith("data.pkl") for name in names):
        if any("/code/" in name or name.endswith("constants.pkl") for name in names):
            raise UserError(
                f"{path}: is a scripted model (TorchScript), which brings its own code and was not opened",
                "save its state_dict() alone",
            )
        return _read(path, _pickled)
    if names and all(name.endswith(".npy") for name in names):
        return _read(path, _arrays)
    raise UserError(f"{path}: is a zip archive that holds no checkpoint", "unpack it and name the file inside")


_AGAIN = "the file is damaged or truncated: get it again"


def _read(path: Path, reader: Any) -> Any:
    try:
        return reader(path)
    except Exception as error:
        # Readers raise what they like for what is damaged; each becomes one sentence with their first line.
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in str(error) or "Unsupported" in text:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" (an object of {found[1]})" if found else ""
            raise UserError(
                f"{path}: holds more than tensors{what} and was not opened",
                "it could run code; save a plain state dict or safetensors",
            ) from None
        raise UserError(f"{path}: cannot be read as a checkpoint: {text}", _AGAIN) from None


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _pickled(path: Path) -> Any:
    import torch

    with torch.serialization.safe_globals(_harmless()):
        # Torch reads a path by its suffix, an open file by what is in it.
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def _harmless() -> list[Any]:
    """Return what training scripts put beside the weights that cannot run anything: options, numbers and paths."""
    import numpy as np

    scalar, data = np.float64(0).__reduce__()[0], type(np.dtype(np.float64))
    kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float16, np.int64, np.int32, np.bool_)]
    return [argparse.Namespace, pathlib.PosixPath, pathlib.WindowsPath, scalar, np.dtype, data, *kinds]


def _arrays(path: Path) -> Any:
    import numpy as np
    import torch

    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def _followed(content: Any, key: str, path: Path) -> Any:
    for part in key.split("."):
        known = [str(name) for name in content] if isinstance(content, Mapping) else []
        if part not in known:
            raise UserError(f"{path}: has no '{part}' of key '{key}'", did_you_mean(part, known))
        content = content[part]
    return content


def _nested(content: Any, at: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield every mapping that holds tensors itself, with its key; what training keeps elsewhere is passed over."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    if _holds_tensors(content):
        yield at, content
    for name, inside in content.items():
        if isinstance(name, str) and isinstance(inside, Mapping) and not ELSEWHERE.search(name):
            yield from _nested(inside, f"{at}.{name}".lstrip("."), depth + 1)


def _holds_tensors(content: Any) -> bool:
    import torch

    return isinstance(content, Mapping) and any(isinstance(value, torch.Tensor) for value in content.values())


def _unlikely(key: str) -> tuple[bool, int]:
    """Return what sorts keys: usual names, the top, others; averages after all of them."""
    first = key.split(".")[0]
    usual = WRAPPERS.index(first) if first in WRAPPERS else len(WRAPPERS) + (key != "")
    return AVERAGE.search(key) is not None, usual


def _tensors(state: Mapping[Any, Any], path: Path, key: str) -> dict[str, Tensor]:
    """Return the tensors of a state by name, passing over counters and the like.

    Raises:
        UserError: for a tensor under what is no text, or tensors inside a list.
    """
    import torch

    where = f"{path}: " + (f"'{key}' " if key else "")
    unnamed = [repr(name) for name, value in state.items() if isinstance(value, torch.Tensor) and type(name) is not str]
    if unnamed:
        raise UserError(f"{where}holds tensors under what is no name: {some(unnamed)}", "name each weight by a text")
    lists = [
        f"{name} ({type(value).__name__})"
        for name, value in state.items()
        if isinstance(value, list | tuple) and any(isinstance(item, torch.Tensor) for item in value)
    ]
    if lists:
        raise UserError(f"{where}holds tensors in lists: {some(lists)}", "a state dict has one tensor under each name")
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
