"""Reader of TensorFlow's checkpoint format: tensors by name, with their checksums, and no TensorFlow.

``PREFIX.index`` is a sorted table in the layout of LevelDB that says of every tensor its type, shape and place in
``PREFIX.data-00000-of-0000N``. Sources: tensor_bundle.proto and table_format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acutance.errors import UserError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 10: "?", 19: "<f2"}  # of types.proto
LANES = 4096  # parts of a tensor whose checksums are made at once


class Place(NamedTuple):
    """Where a tensor lies and what it is."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


def read_checkpoint(prefix: Path) -> dict[str, NDArray[Any]]:
    """Return {name: array} of a checkpoint, ``model.ckpt`` for ``model.ckpt.index`` and its data.

    Raises:
        UserError: for a file that is missing, damaged or of a kind that is not read (sliced variables, text).
    """
    index = Path(f"{prefix}.index")
    try:
        shards, places = read_index(index.read_bytes())
        data = [np.memmap(f"{prefix}.data-{i:05d}-of-{shards:05d}", np.uint8, "r") for i in range(shards)]
        return {name: _array(data[place.shard], place, name) for name, place in places.items()}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file", "a checkpoint is .index and .data-* files") from None
    except (ValueError, IndexError, struct.error, OSError) as error:
        raise UserError(f"{index}: cannot be read as a checkpoint of TensorFlow: {error}", "is it whole?") from None


def read_index(table: bytes) -> tuple[int, dict[str, Place]]:
    """Return (number of data files, {name: where the tensor lies}) of the bytes of an index.

    Raises:
        ValueError: when they are no such index, or damaged.
    """
    if len(table) < FOOTER or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise ValueError("it does not end as an index does")
    start = len(table) - FOOTER
    _, start = _handle(table, start)
    handle, _ = _handle(table, start)
    shards, places = 0, {}
    for _, value in _pairs(_block(table, *handle)):
        for key, entry in _pairs(_block(table, *_handle(value, 0)[0])):
            fields = list(_fields(entry))
            if not key:
                header = dict(fields)
                shards = header.get(1, 1)
                if header.get(2, 0):
                    raise ValueError("it was written by a big-endian machine")
            else:
                places[key.decode()] = _place(key.decode(), fields)
    return shards, places


def _place(name: str, fields: list[tuple[int, Any]]) -> Place:
    values = dict(fields)
    if 7 in values:
        raise ValueError(f"'{name}' is saved in slices")
    dims = [dict(_fields(dim)).get(1, 0) for number, dim in _fields(values.get(2, b"")) if number == 2]
    return Place(values.get(1, 0), tuple(dims), values.get(3, 0), values.get(4, 0), values.get(5, 0), values.get(6, 0))


def _array(data: NDArray[np.uint8], place: Place, name: str) -> NDArray[Any]:
    if place.dtype not in TYPES:
        raise ValueError(f"'{name}' has type {place.dtype}, which is not read")
    raw = np.array(data[place.offset : place.offset + place.size])
    if len(raw) != place.size or masked(crc32c(raw)) != place.crc:
        raise ValueError(f"'{name}' does not have its checksum")
    return raw.view(TYPES[place.dtype]).reshape(place.shape)


def _block(table: bytes, offset: int, size: int) -> bytes:
    """Return a block's content; a byte for its compression and a checksum stand behind it."""
    kind, crc = struct.unpack_from("<BI", table, offset + size)
    if kind:
        raise ValueError("its index is compressed")
    if masked(crc32c(np.frombuffer(table, np.uint8, size + 1, offset))) != crc:
        raise ValueError("a block of its index does not have its checksum")
    return table[offset : offset + size]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value); a key gives only what differs from the one before."""
    end = len(block) - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        size, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + size]
        at += rest + size


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of a protocol buffer's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: Any
        if tag & 7 == 0:
            value, at = _varint(message, at)
        elif tag & 7 == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif tag & 7 == 5:
            value, at = struct.unpack_from("<I", message, at)[0], at + 4
        else:
            raise ValueError("an entry of its index is not understood")
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def masked(crc: int) -> int:
    """Return a checksum as the format stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    rows: NDArray[Any] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rows = rows >> 1 ^ np.where(rows & 1, np.uint32(0x82F63B78), np.uint32(0))
    return rows


def _apply(operator: NDArray[np.uint32], registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return a linear map over GF(2), given by its 32 columns, of each register."""
    out = np.zeros_like(registers)
    for bit in range(32):
        out ^= np.where(registers >> np.uint32(bit) & 1, operator[bit], np.uint32(0))
    return out


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the CRC-32C of some bytes, of ``LANES`` parts at once: it is linear in them but for its initial value."""
    table = _table()
    if len(data) < 4:
        register = 0xFFFFFFFF
        for byte in data.tolist():
            register = register >> 8 ^ int(table[(register ^ byte) & 255])
        return register ^ 0xFFFFFFFF
    lanes = LANES if len(data) >= 16 * LANES else 1
    step = -(-len(data) // lanes)
    padded = np.zeros(lanes * step, np.uint8)  # zeros in front leave a register of zero as it is
    padded[-len(data) :] = data
    padded[lanes * step - len(data) :][:4] ^= 255  # the initial value of all ones
    registers = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, step).T):
        registers = registers >> 8 ^ table[(registers ^ column) & 255]
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    square, advance, count = bits >> 8 ^ table[bits & 255], bits, step
    while count:  # the map of ``step`` zero bytes, by squaring that of one
        advance = _apply(square, advance) if count & 1 else advance
        square, count = _apply(square, square), count >> 1
    while len(registers) > 1:
        registers = _apply(advance, registers[::2]) ^ registers[1::2]
        advance = _apply(advance, advance)
    return int(registers[0]) ^ 0xFFFFFFFF
