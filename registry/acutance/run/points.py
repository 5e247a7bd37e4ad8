"""The points and pools that jobs name, opened in this process: points once, for their digests by the driver as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from acutance.plugins import catalog
from acutance.pool import ModelEntry
from acutance.run.jobs import Choice, Model
from acutance.spec import validate
from acutance.study.config import Study
from acutance.study.surface_config import SurfaceConfig

if TYPE_CHECKING:
    from acutance.data.pointsets import PointSets


@lru_cache(maxsize=4)
def open_points(dataset: Choice, surface: SurfaceConfig, seed: int) -> PointSets:
    """Return the point sets of a study; the same ones until they are closed.

    Args:
        dataset: one that is installed here.
        surface: how its splits are cut.
        seed: study seed.
    """
    from acutance.data.pointsets import PointSets

    target = catalog().find("datasets", dataset.name).target
    return PointSets(target(validate(target.Spec, dataset.spec, dataset.name)), surface, seed)


@contextmanager
def points_of(study: Study) -> Iterator[PointSets]:
    """Open the points of a study for what is done with them here, and let go of them."""
    try:
        yield open_points(Choice.of(study.dataset), study.surface, study.seed)
    finally:
        close_points()


def close_points() -> None:
    """Let go of all points that are open."""
    open_points.cache_clear()


def opened_pool(model: Model) -> tuple[Any, Any, ModelEntry]:
    """Return the pool of a model, its settings, and the model's entry."""
    target = catalog().find("pools", model.pool.name).target
    return target(), validate(target.Spec, model.pool.spec, model.pool.name), model.entry
