"""The published CIFAR batches are pickles; read them without letting a pickle run anything."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from acutance.errors import UserError


class _Dtype:
    """Stands for ``numpy.dtype`` in a pickle: remembers what it would have been."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment, which single bytes do not have


class _Array:
    """Stands for ``numpy.ndarray`` in a pickle: keeps shape, type and bytes until ``array`` is asked for."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray[Any, Any]:
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _Dtype) or dtype.code != "u1" or fortran:
            raise ValueError("an array that is not of bytes in C order")
        if isinstance(data, str):
            data = data.encode("latin1")
        return np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> _Array:
    """What protocol 5 writes."""
    array = _Array()
    array.state = (1, shape, dtype, order != "C", bytes(data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Python 3 writes bytes in protocol 2 as Latin-1 text with this call."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("a call of _codecs.encode that makes no bytes")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Knows the few names that a pickled array of bytes needs, and gives stand-ins for them."""

    KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _frombuffer,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise UserError(
                f"it asks for {module}.{name}, which no published batch does, and was not read further",
                "the file could run code: delete it and get the data from the official site",
            )
        return self.KNOWN[module, name]


def read_batch(path: Path) -> dict[str, Any]:
    """Return a pickled dictionary whose arrays are of bytes, without running anything that the file asks for.

    Raises:
        UserError: for a file that asks for anything but arrays, is no pickle, or holds no dictionary.
    """
    try:
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        if not isinstance(batch, dict):
            raise ValueError(f"it holds a {type(batch).__name__}, not a dictionary")
        return {
            str(key): value.array() if isinstance(value, _Array) else value for key, value in _text_keys(batch).items()
        }
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from None
    except Exception as error:
        message = f"{path}: is not a CIFAR batch: {type(error).__name__}: {error}"
        raise UserError(message, "get the file again from the official site") from None


def _text_keys(batch: dict[Any, Any]) -> dict[Any, Any]:
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
