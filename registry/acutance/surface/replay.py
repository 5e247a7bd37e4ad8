"""Passes that are recorded once on a GPU and replayed: for models whose kernels take longer to launch than to run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# Passes made one by one before one is recorded: libraries set themselves up, and the device shows whether it waits.
WARM_UP = 3

Work = Callable[[], tuple[Tensor, ...]]


class Replay:
    """A pass that reads and writes the same memory each time, made as one CUDA graph once that is worth it.

    What it returned is overwritten by the next call. A graph runs the kernels that were launched while it was
    recorded, in their order: values are those of the pass made one by one.

    Args:
        work: makes the pass; launches kernels only, without reading what they compute.
        device: a GPU.
        note: called with a sentence where the pass cannot be recorded, and so is made anew each time.
    """

    def __init__(self, work: Work, device: torch.device, note: Callable[[str], None]) -> None:
        self._work, self._device, self._note = work, device, note
        self._recording: Work | None = None
        self._passes = 0
        self._one_by_one = False
        self._marks: list[torch.cuda.Event] = []

    def forget(self) -> None:
        """Free what was recorded; the next pass is made by itself, and may be recorded again."""
        self._recording, self._passes = None, 0
        self._marks.clear()

    def __call__(self) -> tuple[Tensor, ...]:
        """Make the pass."""
        if self._recording is not None:
            return self._recording()
        if self._passes == WARM_UP and not self._one_by_one:
            self._record()
            return self() if self._recording is not None else self._work()
        result = self._work()
        if self._passes < WARM_UP:
            self._passes += 1
            self._one_by_one = not self._launch_bound()
        return result

    def _launch_bound(self) -> bool:
        """Return whether the device had ended the pass before, when the host was through launching this one.

        Asking does not wait. A device with more to do falls behind by a part of every pass.
        """
        mark = mark_of(self._device)
        self._marks.append(mark)
        return len(self._marks) == 1 or bool(self._marks.pop(0).query())

    def _record(self) -> None:
        """Record the pass as a CUDA graph; where that fails, say so and go on making it anew."""
        try:
            self._recording = recorded(self._work, self._device)
        except torch.OutOfMemoryError:
            raise  # whoever evaluates the surface makes smaller passes
        except RuntimeError as error:
            # What the model itself raises, it raises again in a pass of its own.
            self._one_by_one = True
            self._note(f"passes are made one by one: not recordable as a CUDA graph ({str(error).splitlines()[0]})")


def mark_of(device: torch.device) -> torch.cuda.Event:
    """Return an event after all work launched on a device so far."""
    mark = torch.cuda.Event()
    mark.record(torch.cuda.current_stream(device))
    return mark


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream in which passes are recorded: each new one would keep a workspace of cuBLAS, tens of MiB."""
    return torch.cuda.Stream(device)


def recorded(work: Work, device: torch.device) -> Work:
    """Return work as one CUDA graph; it is not made meanwhile.

    Raises:
        RuntimeError: where the work waits for the device, or asks for memory that there is not.
    """
    graph, stream = torch.cuda.CUDAGraph(), _recording_stream(device)
    # The outer context leaves the stream also where the inner one fails to. Other threads (the next model is being
    # loaded) may use the device meanwhile.
    with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        outputs = work()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay
