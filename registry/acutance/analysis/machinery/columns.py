"""Columns over models: what is missing, what is infinite, what cannot be ranked."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acutance.errors import UserError

MIN_MODELS = 3  # below this a rank correlation says nothing
Array = NDArray[np.float64]
Infinite = Literal["rank", "drop", "refuse"]


def joined(*notes: str) -> str:
    """Return the notes there are in one line."""
    return "; ".join(filter(None, notes))


def complete(*columns: ArrayLike, infinite: Infinite = "rank") -> tuple[list[Array], NDArray[np.bool_], str]:
    """Return the columns of the models that have all of them, which models these are, and what was left out.

    NaN is a missing value: the model is left out and counted. An infinite value has a rank (a diverged
    sharpness is the sharpest), unless the policy says otherwise.

    Args:
        columns: vectors over the same models, (M,) each.
        infinite: ``rank`` as extreme, ``drop`` the model, or ``refuse``.

    Raises:
        UserError: for columns that are not numbers or differ in length, and for infinities that are refused.
    """
    try:
        vectors = [np.asarray(column, np.float64) for column in columns]
    except (TypeError, ValueError):
        raise UserError("the columns must be numbers", "encode categories as levels of their own") from None
    if any(v.ndim != 1 or v.shape != vectors[0].shape for v in vectors):
        raise UserError(f"the columns must be vectors of one length, got shapes {[v.shape for v in vectors]}")
    if infinite not in ("rank", "drop", "refuse"):
        raise UserError(f"infinite: '{infinite}' is not known", "choose rank, drop or refuse")
    table = np.stack(vectors)
    missing, unbounded = np.isnan(table).any(0), np.isinf(table).any(0)
    unbounded &= ~missing
    keep: NDArray[np.bool_] = np.asarray(~missing)
    notes = [f"{missing.sum()} models have no value" if missing.any() else ""]
    if unbounded.any():
        if infinite == "refuse":
            raise UserError(f"{unbounded.sum()} models have an infinite value", "choose infinite='rank' or 'drop'")
        if infinite == "drop":
            keep = np.asarray(keep & ~unbounded)
        treatment = "ranked as extreme" if infinite == "rank" else "dropped"
        notes.append(f"{unbounded.sum()} infinite values {treatment}")
    return list(table[:, keep]), keep, joined(*notes)


def codes(labels: ArrayLike) -> NDArray[np.int64]:
    """Return the group of each model as a number from 0, in the order of the sorted labels; None and NaN are labels."""
    texts = np.array([str(label) for label in np.asarray(labels, dtype=object)], dtype=object)
    return (
        np.unique(texts, return_inverse=True)[1].reshape(-1).astype(np.int64) if len(texts) else np.empty(0, np.int64)
    )


def ranks(x: Array) -> Array:
    """Return mid-ranks from 1; ties share the mean of their ranks, infinities are extreme."""
    _, place, tied = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(tied)
    return np.asarray((last - (tied - 1) / 2)[place.reshape(-1)], np.float64)


def constant(x: Array) -> bool:
    """Whether a column cannot be ranked: all models have one value, or there are none."""
    return len(x) == 0 or bool((x == x[0]).all())
