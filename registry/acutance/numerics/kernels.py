"""Compiled code, where numba can be had: everything that it does, torch does too."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def kernels() -> Any:
    """Return the module of compiled functions, or None; each is compiled when it is first called, and kept on disk."""
    try:
        from acutance.numerics import compiled
    except ImportError:
        return None
    return compiled
