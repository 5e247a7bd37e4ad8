"""How much memory is free, in one sentence what a model takes that does not fit into it, and what a process keeps."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from acutance.errors import NoRoom

if TYPE_CHECKING:
    import torch

SMALL = 1 << 26  # bytes, below which nobody asks
ELSEWHERE = "open it in Python with device_map and an offload_folder (docs/text.md, Models larger than one device)"


KEPT = 1 << 28  # bytes that a process of ours keeps of what it has freed
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc


def keep_freed() -> bool:
    """Let this process keep up to 256 MB of what it frees, and return whether that could be said: with glibc it can.

    An evaluation makes its vectors anew. What was given back to the system in between is cleared page by page when it
    is written to again, which takes some per cent of a search. For processes of our own alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another system, or another library
        return False
    # A threshold that was given is not moved any more, so that of blocks of their own is given where it would go.
    return bool(mallopt(_TRIM_THRESHOLD, KEPT)) and bool(mallopt(_MMAP_THRESHOLD, KEPT // 8))


def require_room(what: str, nbytes: float, device: torch.device | None = None, cures: Sequence[str] = ()) -> None:
    """Refuse to take more memory than is free, before it is taken.

    Args:
        what: the weights, for the message, which says what they take.
        nbytes: how much they take.
        device: where; the machine's own memory by default.
        cures: what would fit, in words.

    Raises:
        NoRoom: with what they take, what is free, and what to do.
    """
    if nbytes < SMALL:
        return
    free = free_bytes(device)
    if free is None or nbytes <= free:
        return
    where = f"on {device}" if device is not None and device.type != "cpu" else "in memory"
    raise NoRoom(
        f"{what} take {nbytes / 1e9:.3g} GB {where}, and {max(free, 0) / 1e9:.3g} GB are free",
        ", or ".join([*cures, ELSEWHERE]),
    )


def free_bytes(device: torch.device | None = None) -> float | None:
    """Return the memory that is free on a device, or that this process may still take; None where nothing says."""
    if device is not None and device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    limits = [value for value in (_system_available(), _cgroup_available()) if value is not None]
    return min(limits) if limits else None


def _system_available() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    return float(named["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in named else None


def _cgroup_available() -> float | None:
    """Return what the control group of a container or a cluster's job still allows."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return float(Path(limit).read_text()) - float(Path(used).read_text())
        except (OSError, ValueError):  # no such group, or the word "max"
            continue
    return None
