"""A study as its store remembers it: models and points without their files, to make tables of what is stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ConfigDict

from acutance.dataset import Dataset, Split
from acutance.errors import UserError
from acutance.plugins import Item
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from acutance.study.surface_config import Scope


class AnySpec(Spec):
    """Settings of a pool or dataset that need not be installed here."""

    model_config = ConfigDict(extra="allow")


class RecordedPoints:
    """Answers like ``PointSets`` what the points were, from the digests in a store.

    Args:
        digests: by ``split/scope``, as ``Store.points`` gives them.
        validation: the study's ``surface.validation``.
    """

    def __init__(self, digests: Mapping[str, Sequence[str]], validation: str = "") -> None:
        self._digests = digests
        self._validation = validation or ("validation" if "validation/points" in digests else "")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the study touched."""
        return tuple(dict.fromkeys(name.rpartition("/")[0] for name in self._digests))

    @property
    def validation(self) -> str:
        """The split of validation points, as far as some were needed."""
        return self._validation

    def require(self, split: str, scope: Scope) -> None:
        """Refuse nothing: what was measured had its points."""

    def digests(self, split: str, scope: Scope) -> list[str]:
        """Return a digest for each set of points; one of nothing for the weights alone."""
        return [""] if scope == "weights" else list(self._digests[f"{split}/{scope}"])


def pool_items(models: Iterable[Mapping[str, Any]], descriptions: Mapping[tuple[str, str], Any]) -> list[Item]:
    """Return one pool for each that a store's models are of.

    Args:
        models: rows of the table ``model``.
        descriptions: {(pool, entry): the entry as JSON values}.
    """
    by_pool: dict[str, list[ModelEntry]] = {}
    for row in models:
        entry = ModelEntry.model_validate(descriptions[row["pool"], row["entry"]])
        by_pool.setdefault(row["pool"], []).append(entry)
    return [_pool_item(pool, sorted(entries, key=_natural)) for pool, entries in by_pool.items()]


def _natural(entry: ModelEntry) -> list[tuple[bool, int, str]]:
    """Sort toy2 before toy10."""
    parts = re.split(r"(\d+)", entry.id)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _pool_item(pool: str, recorded_entries: list[ModelEntry]) -> Item:
    """Return a pool of recorded entries, whose models cannot be loaded."""
    dist, _, short = pool.rpartition("/")

    class Recorded(ModelPool[AnySpec]):
        """Models that a store knows."""

        name = short

        def entries(self, spec: AnySpec) -> Sequence[ModelEntry]:
            return recorded_entries

        def load(self, entry: ModelEntry, spec: AnySpec) -> nn.Module:
            _refuse()

    return Item("pools", short, dist, "", Recorded)


def dataset_item(dataset: str, touched: tuple[str, ...]) -> Item:
    """Return the dataset of a store, by its id."""
    dist, _, short = dataset.rpartition("/")

    class Recorded(Dataset[AnySpec]):
        """Points that a store knows the digests of."""

        name = short
        splits = touched

        def open(self, split: str) -> Split:
            _refuse()

        def augment(self, inputs: Any, generator: torch.Generator) -> Any:
            _refuse()

    return Item("datasets", short, dist, "", Recorded)


def _refuse() -> NoReturn:
    raise UserError("a store knows values, not models or points", "run the study to compute more")
