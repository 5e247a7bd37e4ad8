"""The peak of memory that some work allocates, from torch's own allocators: exact, the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from acutance.measure import Cost
from acutance.surface.core import Core

MARK = "acutance pass "


@dataclass(frozen=True)
class Stretch:
    """What happens up to the end of one pass, or after the last one.

    Attributes:
        kind: of the pass: forward, backward or hvp; of the last one for what comes after it.
        peak: largest number of bytes held at one time, beyond what was there before the work.
    """

    kind: str
    peak: int


def kind(cost: Cost) -> str:
    """Return the heaviest kind of pass in the work."""
    return "hvp" if cost.hvps else "backward" if cost.backwards else "forward"


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Run work once and return the largest number of bytes it held at one time, beyond what was there before."""
    return max(stretch.peak for stretch in stretches(work, device))


def stretches(work: Callable[[], object], device: str, core: Core | None = None) -> list[Stretch]:
    """Run work once and return its peak of memory pass by pass.

    Args:
        work: what to run.
        device: where it runs.
        core: whose ledger tells where a pass ends; without it the work is one stretch.
    """
    return (_on_gpu if torch.device(device).type == "cuda" else _on_cpu)(work, core)


def vectors(found: Sequence[Stretch], bare: Mapping[str, int], vector: int) -> float:
    """Return how many vectors of so many bytes are held besides what the passes themselves need.

    Every stretch is held against the bare pass of its kind: the peak of a single backward, with all that it keeps for
    each layer, would hide the vectors that are alive while plain forwards are made. A graph that was built for products
    is kept, so from the first of these on it is theirs.

    Args:
        found: the work, pass by pass.
        bare: peak bytes of a bare pass by kind.
        vector: bytes of one vector.
    """
    kinds = [stretch.kind for stretch in found]
    graph = kinds.index("hvp") if "hvp" in kinds else len(kinds)
    heaviest = [stretch.peak - bare["hvp" if i >= graph else stretch.kind] for i, stretch in enumerate(found)]
    return max(heaviest) / vector


@contextmanager
def _told(core: Core | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Call ``tell`` with the kind of every pass that is entered into the ledger."""
    if core is None:
        yield
        return
    book = core.book

    def booked(**passes: float) -> None:
        book(**passes)
        tell(kind(Cost(**passes)))

    core.book = booked  # type: ignore[method-assign]
    try:
        yield
    finally:
        del core.book


def _on_gpu(work: Callable[[], object], core: Core | None) -> list[Stretch]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found: list[Stretch] = []

    def tell(of: str) -> None:
        torch.cuda.synchronize()
        found.append(Stretch(of, torch.cuda.max_memory_allocated() - before))
        torch.cuda.reset_peak_memory_stats()

    with _told(core, tell):
        work()
    tell(found[-1].kind if found else "forward")
    return found


def _on_cpu(work: Callable[[], object], core: Core | None) -> list[Stretch]:
    def tell(of: str) -> None:
        with record_function(MARK + of):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run, _told(core, tell):
        work()
    recorder: Any = run.profiler
    assert recorder is not None and recorder.kineto_results is not None
    events = sorted(recorder.kineto_results.events(), key=lambda event: event.start_ns())
    found: list[Stretch] = []
    held = peak = 0
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
        elif event.name().startswith(MARK):
            found.append(Stretch(event.name().removeprefix(MARK), peak))
            peak = held
    return [*found, Stretch(found[-1].kind if found else "forward", peak)]
