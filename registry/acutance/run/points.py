"""The points and pools that jobs name, opened once in this process, and what models see of points.

Where a pool preprocesses, the digests of what its models see enter their keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from acutance.errors import caught
from acutance.plugins import catalog
from acutance.pool import ModelEntry, ModelPool
from acutance.run.jobs import Choice, Model
from acutance.run.standing import Standing
from acutance.spec import digest, validate
from acutance.study.config import Study
from acutance.study.surface_config import SurfaceConfig

if TYPE_CHECKING:
    from acutance.data.pointsets import PointSets
    from acutance.run.members import Member

MARK = "@"  # between the name of a set of points and that of its preprocessing, in a store's record


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


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """The points of a study after one preprocessing.

    Attributes:
        digests: by ``split/scope``, one for each set of points, as ``PointSets.record``.
    """

    digests: Mapping[str, Sequence[str]]

    @cached_property
    def name(self) -> str:
        """Names the preprocessing by what it makes of these points."""
        return digest({name: list(digests) for name, digests in self.digests.items()})[:16]

    @property
    def record(self) -> dict[str, list[str]]:
        """The digests as a store keeps them beside those of the points themselves."""
        return {f"{name}{MARK}{self.name}": list(digests) for name, digests in self.digests.items()}

    @classmethod
    def recorded(cls, name: str, record: Mapping[str, Sequence[str]]) -> Preprocessed:
        """Return the preprocessing of a name from a store's record."""
        end = MARK + name
        return cls({entry.removesuffix(end): digests for entry, digests in record.items() if entry.endswith(end)})


def preprocess(members: Sequence[Member], sets: PointSets) -> list[Preprocessed]:
    """Set ``Member.points`` of every model, what it sees of the points, and return each preprocessing once.

    A pool that does not override ``ModelPool.preprocess`` costs nothing. Functions that are equal are applied once, so
    a pool whose models share a preprocessing returns one object for all of them. A model whose preprocessing fails
    is broken.

    Args:
        members: models that are usable.
        sets: the points, whose digests have been asked for: these sets are the ones that matter.
    """
    applied: list[tuple[Any, Preprocessed]] = []
    for member in members:
        target = member.pool.item.target
        if target.preprocess is ModelPool.preprocess:
            continue
        with caught() as errors:
            function = target().preprocess(member.entry, member.pool.spec)
            if function is None:
                continue
            preprocessed = next((points for other, points in applied if other is function or other == function), None)
            if preprocessed is None:
                preprocessed = Preprocessed(sets.digests_after(function))
                applied.append((function, preprocessed))
            member.set_points(preprocessed)
        for error in errors:
            member.leave_out(Standing.BROKEN, f"its preprocessing failed: {type(error).__name__}: {error}")
    return [preprocessed for _, preprocessed in applied]
