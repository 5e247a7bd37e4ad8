"""The next model, loaded and hashed by a thread while the present one is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from acutance.data.fingerprint import model_key
from acutance.errors import NoRoom
from acutance.pool import ModelEntry, ModelPool

if TYPE_CHECKING:
    from torch import nn

Loaded = tuple["nn.Module", str]


class Prefetch:
    """Holds at most one model that is being loaded ahead."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._wanted: tuple[Any, ModelEntry] | None = None
        self._future: Future[Loaded] | None = None

    def begin(self, pool: ModelPool[Any], spec: Any, entry: ModelEntry) -> None:
        """Start loading a model; one that was loaded ahead and not asked for is dropped."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="acutance-prefetch")
        self._wanted = (spec, entry)
        self._future = self._thread.submit(_load_privately, pool, spec, entry)

    def get(self, pool: ModelPool[Any], spec: Any, entry: ModelEntry) -> Loaded:
        """Return a model and its key: the one that was loaded ahead, if it is this one, else loaded now.

        Raises:
            Exception: whatever loading raises, also where it happened ahead.
        """
        wanted, future = self._wanted, self._future
        self._wanted = self._future = None
        if future is not None and wanted == (spec, entry):
            try:
                return future.result()
            except NoRoom:  # beside the model before it, which has gone
                pass
        return loaded(pool, spec, entry)


def loaded(pool: ModelPool[Any], spec: Any, entry: ModelEntry) -> Loaded:
    """Return a model and its key."""
    model = pool.load(entry, spec)
    return model, model_key(entry.architecture, model)


def _load_privately(pool: ModelPool[Any], spec: Any, entry: ModelEntry) -> Loaded:
    """Load without touching the global random numbers, which the measure at work may be drawing from."""
    with torch.enable_grad(), PrivateRandomness():
        return loaded(pool, spec, entry)


class PrivateRandomness(TorchDispatchMode):
    """Random operations of this thread on the CPU draw from a generator of its own.

    Networks are built with random weights before those of the file are copied into them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler at the first operation, which takes seconds; no model is compiled in here.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Give an operation that draws without a generator this one."""
        arguments = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags and arguments.get("generator") is None:
            if any(argument.name == "generator" for argument in func._schema.arguments):
                arguments["generator"] = self._generator
            else:
                name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
                if name in func.overloadpacket.overloads():
                    func, arguments["generator"] = getattr(func.overloadpacket, name), self._generator
        return func(*args, **arguments)
