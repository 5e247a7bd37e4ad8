"""What a landscape is asked for, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acutance.errors import UserError, did_you_mean
from acutance.measure import Measure
from acutance.own_code import is_own
from acutance.plugins import catalog

LOCAL = ("random", "gradient", "eigenvectors")  # kinds of directions from w*, besides those that measures give
BETWEEN = {"segment": 1, "plane": 2, "pca": 2}  # kinds that lie among checkpoints -> how many others they need
BATCH_NORM = ("eval", "recalibrated")
MOST = 10_001  # points of an axis


@dataclass(frozen=True)
class Asked:
    """What a landscape is asked for.

    Attributes:
        kinds: of the directions; two for a plane of two kinds.
        dimensions: 1 or 2.
        grid: points of each axis.
        extent: how far the axes go: from -extent to extent in units of a direction; of a segment, a plane and a
            trajectory the part of it that is seen, 1 for all.
        normalize: scaling of directions; ``none`` leaves them as they are.
        draws: lines along other random directions.
        fixed_vectors: whether biases and other parameters with one axis stay in random directions by filter and layer.
        settings: of the measure that gives a direction.
        parameters: which of them move.
        batch_norm: eval or recalibrated; empty for what suits the kind.
        seed: names random directions.
        curvature: whether the share of the Hessian's trace in the plane is estimated.
        probes: of that estimate, at most.
    """

    kinds: tuple[str, ...]
    dimensions: int
    grid: int
    extent: float
    normalize: str
    draws: int = 1
    fixed_vectors: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: str = "all"
    batch_norm: str = ""
    seed: int = 0
    curvature: bool = True
    probes: int = 32

    @property
    def is_local(self) -> bool:
        """Whether the directions go out from w*."""
        return self.kinds[0] not in BETWEEN


def asked(
    directions: str | Sequence[str],
    dimensions: int | None,
    grid: int,
    extent: float,
    normalize: str | None,
    draws: int,
    checkpoints: int,
    **others: Any,
) -> Asked:
    """Return what is asked for.

    Args:
        directions: one kind, or two.
        dimensions: 1 or 2; None for what suits the kind.
        grid: points of each axis.
        extent: as for ``Asked``.
        normalize: a scaling; None for filter where directions are random, else none.
        draws: lines along other random directions.
        checkpoints: how many others are given.
        others: further attributes of ``Asked``.

    Raises:
        UserError: for the first mistake, in one sentence.
    """
    kinds = (directions,) if isinstance(directions, str) else tuple(directions)
    _require_kinds(kinds)
    _require_numbers(grid, extent, draws, others)
    between = next((kind for kind in kinds if kind in BETWEEN), None)
    dims = _dimensions(kinds, dimensions, draws)
    if between is not None:
        _require_checkpoints(between, checkpoints)
        if normalize not in (None, "none"):
            raise UserError(
                f"normalize: {normalize}: a {between} lies where its checkpoints are, so nothing is normalized",
                "leave it out",
            )
        if others.get("parameters", "all") != "all":
            raise UserError(f"parameters: all of them differ between checkpoints of a {between}", "leave it out")
    elif checkpoints:
        raise UserError(
            f"checkpoints: directions '{', '.join(kinds)}' go out from one model", "take segment, plane or pca"
        )
    if draws > 1 and (kinds != ("random",) or dims != 1):
        raise UserError(
            "draws: several lines are drawn along random directions", "take directions random, dimensions 1"
        )
    if others.get("settings") and not any(kind not in (*LOCAL, *BETWEEN) for kind in kinds):
        raise UserError(f"settings: directions '{', '.join(kinds)}' have none", "they are those of a measure")
    if between is None and len(kinds) < dims and kinds != ("eigenvectors",) and kinds != ("random",):
        kinds = (*kinds, "random")
    normalize = normalize or ("filter" if "random" in kinds else "none")
    _require_scaling(normalize)
    whole: dict[str, Any] = {
        name: int(others[name]) for name in ("seed", "probes") if name in others
    }  # numbers of numpy too
    return Asked(kinds, dims, int(grid), float(extent), normalize, int(draws), **(others | whole))


def _require_kinds(kinds: Sequence[Any]) -> None:
    if len(kinds) not in (1, 2) or not all(isinstance(kind, str) for kind in kinds):
        raise UserError(f"directions: one or two names are expected, got {list(kinds)!r}", "random, or gradient,random")
    for kind in kinds:
        if kind not in (*LOCAL, *BETWEEN) and kind not in {i.name for i in givers()} | {i.id for i in givers()}:
            known = [*LOCAL, *BETWEEN, *(item.name for item in givers())]
            raise UserError(f"directions: '{kind}' is none", did_you_mean(kind, known))
    if len(kinds) == 2 and any(kind in BETWEEN for kind in kinds):
        raise UserError(f"directions: '{kinds[0]}' and '{kinds[1]}' do not make one plane", "name one of them")
    if len(kinds) == 2 and kinds[0] == kinds[1] and kinds[0] not in ("random", "eigenvectors"):
        raise UserError(f"directions: '{kinds[0]}' twice is one direction", "name another one beside it")


def givers() -> list[Any]:
    """Return the measures that find a point, and so give a direction."""
    items = catalog().usable("measures")
    return [item for item in items if item.target.displacement is not Measure.displacement]


def _require_numbers(grid: Any, extent: Any, draws: Any, others: Mapping[str, Any]) -> None:
    """Refuse numbers that make no grid."""
    whole = {"grid": (grid, 2, MOST), "draws": (draws, 1, 1000), "probes": (others.get("probes", 1), 1, 10**6)}
    for name, (value, least, most) in whole.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
            hint = ("a grid of one point has no extent" if value == 1 else "e.g. 41") if name == "grid" else ""
            raise UserError(f"{name}: should be a whole number from {least} to {most}, got {value!r}", hint)
    seed = others.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UserError(f"seed: should be a whole number of at least 0, got {seed!r}")
    number = isinstance(extent, int | float | np.integer | np.floating) and not isinstance(extent, bool)
    if not number or not math.isfinite(extent) or extent <= 0:
        raise UserError(f"extent: should be a finite number above 0, got {extent!r}", "e.g. 1")
    norm = others.get("batch_norm", "")
    if norm not in ("", *BATCH_NORM):
        raise UserError(f"batch_norm: '{norm}' is unknown", did_you_mean(str(norm), BATCH_NORM))


def _dimensions(kinds: Sequence[str], given: int | None, draws: int) -> int:
    """Return 1 or 2."""
    if given not in (None, 1, 2) or isinstance(given, bool):
        raise UserError(f"dimensions: should be 1 or 2, got {given!r}")
    fixed = BETWEEN.get(kinds[0]) if len(kinds) == 1 else 2
    if fixed is not None:
        if given not in (None, fixed):
            raise UserError(f"dimensions: '{', '.join(kinds)}' has {fixed}, not {given}", "leave it out")
        return fixed
    if given is not None:
        return given
    return 2 if kinds[0] in ("random", "eigenvectors") and draws == 1 else 1


def _require_checkpoints(kind: str, count: int) -> None:
    """Refuse another number of checkpoints than a kind needs."""
    least = {"segment": 1, "plane": 2, "pca": 2}[kind]
    if count < least or (kind != "pca" and count > least):
        wanted = "at least 2" if kind == "pca" else str(least)
        what = "earlier checkpoints of the training, in order" if kind == "pca" else "checkpoints beside the model"
        raise UserError(f"checkpoints: a {kind} needs {wanted} {what}, got {count}", "give --checkpoint FILE for each")


def _require_scaling(name: str) -> None:
    """Refuse a scaling that is not there."""
    if not is_own(name):
        catalog().get("scalings", name)
