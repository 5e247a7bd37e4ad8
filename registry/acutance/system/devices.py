"""Whether a device is there, asked before a run changes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance.errors import UserError

if TYPE_CHECKING:
    import torch

HINT = "use device 'cpu'"


def require_device(name: str | torch.device) -> torch.device:
    """Return a device, and refuse one that this machine does not have.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1`` ..., as torch writes them.

    Raises:
        UserError: for something else, and for one that is not there.
    """
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"device '{name}': there is no such kind", "write cpu, cuda, cuda:1 ...") from None
    if device.type == "meta":
        raise UserError(f"device '{name}': nothing is computed there", HINT)
    if device.type == "cuda":
        # Asked without opening the device: workers are to have its memory.
        if not torch.cuda.is_available():
            raise UserError(f"device '{name}' is not available: torch finds no GPU", HINT)
        if (device.index or 0) >= (count := torch.cuda.device_count()):
            raise UserError(f"device '{name}' is not available: the GPUs are cuda:0 to cuda:{count - 1}", HINT)
        return device
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise UserError(f"device '{name}' is not available: {str(error).splitlines()[0]}", HINT) from None
    return device
