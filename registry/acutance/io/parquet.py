"""Tables as the Hugging Face hub stores them: Parquet files, in one piece or in shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acutance.errors import UserError
from acutance.io.delimited import column_named

FOLDERS = (".", "data", "plain_text", "default", "cifar10", "cifar100")


def parquet_files(root: Path, part: str) -> list[Path]:
    """Return the files of a part: ``part.parquet``, or every shard ``part-00000-of-00003.parquet``; empty where none.

    Raises:
        UserError: when some shards are missing.
    """
    for folder in (root / name for name in FOLDERS):
        if (folder / f"{part}.parquet").is_file():
            return [folder / f"{part}.parquet"]
        shards = sorted(folder.glob(f"{part}-*-of-*.parquet"))
        if shards:
            counts = {re.sub(r".*-of-0*(\d+).*", r"\1", shard.name) for shard in shards}
            if counts != {str(len(shards))}:
                raise UserError(f"{folder}: has {len(shards)} of {' or '.join(sorted(counts))} files {part}-*.parquet")
            return shards
    return []


def read_columns(files: Sequence[Path], wanted: Sequence[Sequence[str]]) -> list[Any]:
    """Return one Arrow array for each wanted column, over all files.

    Args:
        files: Parquet files, or Arrow streams (``.arrow``), of one table.
        wanted: for each column the names it may have, the first present is taken.

    Raises:
        UserError: when pyarrow is not installed, a file is damaged, or a column is missing.
    """
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet files need the package pyarrow", "pip install 'pyarrow>=15'") from None
    chunks: list[list[Any]] = [[] for _ in wanted]
    for path in files:
        try:
            # A handle of our own: Arrow keeps files open, and on Windows they could then not be deleted.
            with path.open("rb") as handle:
                if path.suffix == ".arrow":
                    table = pyarrow.ipc.open_stream(handle).read_all()
                    names = [column_named(known, table.column_names, str(path)) for known in wanted]
                else:
                    file = pyarrow.parquet.ParquetFile(handle)
                    names = [column_named(known, file.schema_arrow.names, str(path)) for known in wanted]
                    table = file.read(columns=names)
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: cannot be read as Parquet or Arrow: {error}", "get the file again") from None
        for column, name in zip(chunks, names, strict=True):
            column += table.column(name).chunks
    try:
        return [pyarrow.chunked_array(column) for column in chunks]
    except pyarrow.ArrowException as error:
        raise UserError(f"{files[0].parent}: its files have columns of different types: {error}") from None
