"""Counting what would make the host wait for an accelerator, on a machine that has none.

On the CPU nothing waits, so each operation that would is counted: a value read from a tensor (``float(x)``,
``if x:``, indexing by a mask) and a Python number turned into a tensor on the device (``torch.tensor(0.5)``,
``torch.where(flag, 0.0, x)``), which is a transfer.
"""

import sys
from collections import Counter
from contextlib import ExitStack

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from acutance.model import losses
from acutance.numerics import scalars, walks
from acutance.numerics.slopes import Slope

READS = {
    torch.ops.aten._local_scalar_dense.default: "value read",
    torch.ops.aten.nonzero.default: "nonzero",
    torch.ops.aten.masked_select.default: "masked_select",
    torch.ops.aten.equal.default: "equal",
    torch.ops.aten._unique2.default: "unique",
}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
UPLOADS = {torch.tensor, torch.as_tensor, torch.asarray}


class _Reads(TorchDispatchMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS:
            self.found[READS[func]] += 1
        if func in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.found["index by a mask"] += 1
        return func(*args, **(kwargs or {}))


class _Uploads(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        where = func is torch.where and any(isinstance(a, int | float) for a in args[1:])
        made = func in UPLOADS and not isinstance(args[0], torch.Tensor)
        if where or made:
            self.found[f"{func.__name__} of a Python number"] += 1
        return func(*args, **(kwargs or {}))


class HostWaits:
    """Context: counts, in ``found``, what would make the host wait for an accelerator."""

    def __enter__(self):
        self.found = Counter()
        self._stack = ExitStack()
        self._stack.enter_context(_Uploads(self.found))
        self._stack.enter_context(_Reads(self.found))
        return self

    def __exit__(self, *error):
        self._stack.close()

    @property
    def count(self):
        return sum(self.found.values())


def as_on_an_accelerator(monkeypatch):
    """Let every module keep the numbers that steer an algorithm as tensors, as on an accelerator."""
    ordinary = scalars.scalar

    def scalar(x):
        return x.double()

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("acutance") and vars(module).get("scalar") is ordinary:
            monkeypatch.setattr(module, "scalar", scalar)
    # What is compiled is for the CPU.
    monkeypatch.setattr(walks, "compiled", lambda dtype: None)
    monkeypatch.setattr(losses, "few", lambda logits, targets: False)


class Quadratic:
    """F(x) = x.A x / 2 on a device, with values that stay tensors: something for Auto-PGD to climb."""

    def __init__(self, p=12, device="cpu"):
        g = torch.Generator().manual_seed(0)
        m = torch.randn(p, p, generator=g, dtype=torch.float64)
        self.a = (m @ m.T).to(device)

    def gradient(self, x):
        g = self.a @ x
        return x @ g / 2, x[:1], Slope([g])

    def value(self, x):
        return x @ (self.a @ x) / 2, x[:1]
