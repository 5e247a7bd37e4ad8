"""How long a study will take: its passes, each timed on one model a pool on the device at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acutance.measure import Cost
from acutance.run.executors import cores
from acutance.run.members import Member, members
from acutance.run.points import points_of
from acutance.study.config import Study
from acutance.study.targets import terms_of
from acutance.system.devices import require_device

if TYPE_CHECKING:
    from torch import nn

    from acutance.data.pointsets import PointSets

ROUNDS = 5


@dataclass(frozen=True)
class PoolTime:
    """What the models of a pool cost.

    Attributes:
        pool: its name.
        models: how many of it the study has.
        model: the one that was timed; empty where none is there and the pool cannot make an untrained one.
        note: why nothing was timed, or what the timing leaves out.
        forward: seconds of a forward over one m-batch.
        gradient: seconds of a forward and a backward.
        product: seconds of a Hessian-vector product after the first; zero where the study needs none.
        seconds: of all models, one after the other.
        parameters: how many weights it has.
        weights: bytes that they take.
        vector: bytes of a vector of their size, as measures hold them.
    """

    pool: str
    models: int
    model: str = ""
    note: str = ""
    forward: float = 0.0
    gradient: float = 0.0
    product: float = 0.0
    seconds: float = 0.0
    parameters: int = 0
    weights: int = 0
    vector: int = 0


def time_study(
    study: Study, passes: Cost, workers: int = 1, limit: int | None = None, device: str | None = None
) -> list[PoolTime]:
    r"""Return the time that each pool's models need for the measures and targets of a study.

    It is :math:`n\,(F t_F + B (t_{FB} - t_F) + H t_H)` with n models, F, B and H passes over one m-batch, and
    t the shortest time of a few such passes with the threads that a worker of the executor has. Where models are still
    to be trained the network is timed at its initial weights, and their training is not counted.

    Args:
        study: from ``load_config``.
        passes: of one model, over one m-batch.
        workers: processes that share the cores.
        limit: at most this many models of each pool.
        device: where models are evaluated; the GPU when there is one.
    """
    from acutance.model.functional import default_device

    device = str(require_device(device or default_device()))
    with points_of(study) as sets:
        return _time_pools(study, sets, passes, workers, limit, device)


def _time_pools(
    study: Study, sets: PointSets, passes: Cost, workers: int, limit: int | None, device: str
) -> list[PoolTime]:
    """Time the models of every pool and architecture, with the threads that a worker has."""
    import torch

    # Targets: one forward over each split that is not known beforehand.
    splits = {split for _, _, split in terms_of([*study.targets, *(target for target, _ in study.admit)])}
    passes += Cost(forwards=sum(len(sets.split(split)) for split in splits) / study.surface.m)
    pools: dict[str, list[Member]] = {}
    for member in members(study, limit):
        pools.setdefault(f"{member.pool.item.id} {member.entry.architecture}", []).append(member)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(min(cores() // workers, threads), 1))
    try:
        return [_time_pool(study, sets, pool_members, passes, device, workers) for pool_members in pools.values()]
    finally:
        torch.set_num_threads(threads)


def _time_pool(
    study: Study, sets: PointSets, pool_members: Sequence[Member], passes: Cost, device: str, workers: int
) -> PoolTime:
    """Time the passes of one model, and return what all models of its pool take."""
    from acutance.surface.open_model import OpenModel, Surfaces

    name = pool_members[0].entry.architecture or pool_members[0].pool.item.name
    member, model, note = _example(pool_members)
    if model is None:
        return PoolTime(name, len(pool_members), note=note)
    pool, spec = member.pool.item.target(), member.pool.spec
    opened = OpenModel.entry(pool, spec, member.entry, sets.dataset, device, study.surface.dtype, model)
    surface = Surfaces(opened, sets, study.surface, workers).on(study.surface.split, "batch", 0)
    # Each pass at a point of its own, so that nothing is remembered from the one before.
    near = (surface.w.detach() * (1 + 1e-6 * i) for i in range(10**6))
    forward = _seconds(lambda: float(surface.loss(next(near))))
    gradient = _seconds(lambda: float(surface.gradient(next(near))[1].norm())) if passes.backwards else forward
    product = _seconds(lambda: float(surface.hvp(surface.w.detach()).norm())) if passes.hvps else 0.0
    one = passes.forwards * forward + passes.backwards * max(gradient - forward, 0) + passes.hvps * product
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return PoolTime(
        name, len(pool_members), member.label, note, forward, gradient, product, len(pool_members) * one,
        surface.size, held, held if study.surface.dtype == "native" else surface.w.nbytes,
    )  # fmt: skip


def _example(pool_members: Sequence[Member]) -> tuple[Member, nn.Module | None, str]:
    """Return a model of a pool: one that is there, else an untrained one."""
    first = pool_members[0]
    pool, spec = first.pool.item.target(), first.pool.spec
    missing = {entry.id for entry in pool.missing([m.entry for m in pool_members], spec)}
    untrained = f"{len(missing)} still to be trained, which is not counted" if missing else ""
    for member in pool_members:
        if member.entry.id not in missing:
            return member, pool.load(member.entry, spec), untrained
    return first, pool.initial(first.entry, spec), untrained


def _seconds(work: Callable[[], object]) -> float:
    """Return the shortest time of a few rounds, after one that is not counted; the work waits for the device."""
    times = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def in_words(seconds: float) -> str:
    """Return a duration as people say it, to two digits: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for unit, size, limit in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 200_000)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.2g} days"
