"""Data sets and loaders of torch as rows in one fixed order, whatever they draw at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from acutance.system.kept import preserved_rng

SHUFFLED = "the loader shuffles: its points are taken in the order of its dataset"
DRAWN = "the loader draws points more than once: they are drawn with seed 0, and taken in the order of its dataset"
MOVING = "the dataset gives other values at each reading (a random transform?): it is read once, with seed 0"


def batches_of(loader: DataLoader[Any], note: Callable[[str], None]) -> Iterator[Any]:
    """Yield the batches of a loader, the same ones at every call.

    An order that is the same twice is kept. Any other is replaced by that of the dataset: which points a measure sees,
    and in which batches, must not depend on when it is called.

    Args:
        loader: left as it is, with its generators.
        note: called with a sentence on what was fixed.
    """
    generators = _generators(loader)
    if isinstance(loader.dataset, IterableDataset):
        with seeded(1, generators):
            other = next(iter(loader), None)
        with seeded(0, generators):
            yield from _compared(loader, other, note)
        return
    orders = []
    for seed in (0, 1):
        with seeded(seed, generators):
            orders.append(list(_rows(loader)))
    rows = orders[0]
    if rows:
        _note_if_random(loader.dataset, rows[0], note)
    if rows == orders[1]:
        with seeded(0, generators):
            yield from loader
        return
    note(SHUFFLED if len(set(rows)) == len(rows) else DRAWN)
    with seeded(0, generators):
        yield from _in_order(loader, sorted(rows))


def examples_of(dataset: Any, note: Callable[[str], None]) -> Iterator[Any]:
    """Yield the examples of a map-style dataset in its order."""
    n = len(dataset)
    if n:
        _note_if_random(dataset, 0, note)
    with seeded(0):
        yield from (dataset[i] for i in range(n))


@contextmanager
def seeded(seed: int, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Set all random generators to a seed, and put them back afterwards."""
    states = [(generator, generator.get_state()) for generator in generators]
    with preserved_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        for generator, _ in states:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers hold, each once."""
    places = [loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    generators = [getattr(place, "generator", None) for place in places]
    return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())


def _rows(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the rows that a loader visits, in its order; a remainder that it drops is among them."""
    sampler = loader.batch_sampler
    if sampler is None or type(sampler) is BatchSampler:
        return iter(loader.sampler)
    return itertools.chain.from_iterable(sampler)


def _in_order(loader: DataLoader[Any], rows: list[Any]) -> Iterable[Any]:
    """Return the batches of these rows, as the loader would make them."""
    options: dict[str, Any] = {
        "collate_fn": loader.collate_fn, "num_workers": loader.num_workers, "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }  # fmt: skip
    if loader.batch_sampler is None:
        return DataLoader(loader.dataset, batch_size=None, sampler=rows, **options)
    size = loader.batch_size or len(next(iter(loader.batch_sampler)))
    whole = len(rows) - len(rows) % size if loader.drop_last else len(rows)
    cut = [rows[start : start + size] for start in range(0, whole, size)]
    return DataLoader(loader.dataset, batch_sampler=cut, **options)


def _note_if_random(dataset: Any, row: Any, note: Callable[[str], None]) -> None:
    """Note it when a second reading of an example gives other values."""
    readings = []
    for seed in (0, 1):
        with seeded(seed):
            readings.append(dataset[row])
    if not _same(*readings):
        note(MOVING)


def _compared(loader: DataLoader[Any], other: Any, note: Callable[[str], None]) -> Iterator[Any]:
    """Yield the batches; note it when the first is another one than at an earlier reading."""
    for i, batch in enumerate(loader):
        if i == 0 and not _same(batch, other):
            note(MOVING)
        yield batch


def _same(a: Any, b: Any) -> bool:
    """Whether two examples are equal as far as their tensors and arrays go."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
    if hasattr(a, "keys") and hasattr(b, "keys"):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if hasattr(a, "tobytes") and hasattr(b, "tobytes"):
        return bool(a.tobytes() == b.tobytes())
    return True
