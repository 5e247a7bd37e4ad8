"""Selecting and cutting points: which examples a surface is built on, in which batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acutance.data.batch import take_rows, whole
from acutance.errors import UserError


def concatenate(pairs: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """Join (inputs, targets) pairs along the example axis; inputs may be dicts or tuples of tensors."""
    if len(pairs) == 1:
        return pairs[0]
    return _join([inputs for inputs, _ in pairs]), torch.cat([targets for _, targets in pairs])


def _join(parts: Sequence[Any]) -> Any:
    """Return parts of one structure (tensors, or dicts or tuples of them) joined along the example axis."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        return tuple(_join(column) for column in zip(*parts, strict=True))
    return first


def m_batches(inputs: Any, targets: Tensor, m: int) -> list[tuple[Any, Tensor]]:
    """Cut points into batches of exactly m, in their order; a remainder is dropped, since E_S needs equal m.

    Raises:
        UserError: when there are fewer than m points, or m is no number of examples.
    """
    n, m = len(targets), whole(m, "m")
    if m > n:
        raise UserError(f"m: {m} examples in a batch, but there are {n} points", "lower m or give more points")
    starts = range(0, n - m + 1, m)
    return [(take_rows(inputs, slice(i, i + m)), targets[i : i + m]) for i in starts]


def select(targets: Tensor, count: int, rule: str, asked: str = "surface.points", where: str = "the split") -> Tensor:
    """Return the indices of ``count`` points, (count,).

    Args:
        targets: (n,) labels of the split.
        count: how many.
        rule: ``first``, in file order; or ``balanced``: classes in turn, each in file order, so that every
            batch of consecutive points is as balanced as the split allows.
        asked: what messages call the setting that says how many.
        where: what they call the split.

    Raises:
        UserError: when the split has fewer points, or balanced selection has no classes to balance.
    """
    n = len(targets)
    if count > n:
        raise UserError(f"{asked}: {count} points, but {where} has {n}", f"lower {asked}")
    if rule == "first":
        return torch.arange(count)
    if targets.is_floating_point() or targets.dim() != 1:
        raise UserError("surface.select: balanced needs class labels", "write select: first")
    # Rank of each example within its class; sorting by (rank, class) deals the classes out in turn.
    order = torch.argsort(targets, stable=True)
    sizes = torch.bincount(targets[order] - targets.min())
    first = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n) - first
    return torch.argsort(rank * (int(targets.max()) + 1) + targets, stable=True)[:count]


def read_indices(path: str | Path, count: int, n: int) -> Tensor:
    """Return the first ``count`` row numbers listed in a file, (count,).

    Args:
        path: ``.txt`` (one number a line), ``.json`` (a list) or ``.npy``; rows are counted from 0.
        count: how many are wanted.
        n: rows of the split.

    Raises:
        UserError: for a file that is unreadable or too short, or rows that repeat or do not exist.
    """
    where, path = f"surface.select.indices: {path}", Path(path)
    try:
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        else:
            text = path.read_text()
            rows = np.array(json.loads(text) if path.suffix == ".json" else [int(word) for word in text.split()])
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read: {error}", "give .txt, .json or .npy with row numbers") from None
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise UserError(f"{where}: holds {rows.dtype} of shape {rows.shape}, not a list of row numbers")
    if len(rows) < count:
        raise UserError(f"{where}: lists {len(rows)} rows, surface.points asks for {count}", "lower surface.points")
    wrong = rows[(rows < 0) | (rows >= n)]
    if len(wrong):
        raise UserError(f"{where}: row {wrong[0]} does not exist, the split has {n}", "rows are counted from 0")
    repeated, times = np.unique(rows[:count], return_counts=True)
    if (times > 1).any():
        raise UserError(f"{where}: row {repeated[times > 1][0]} is listed more than once")
    return torch.from_numpy(rows[:count].astype(np.int64))
