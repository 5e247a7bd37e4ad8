"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_executors() -> list[str]:
    """Return the executor, which imports ray only when it runs."""
    return ["acutance_ray.executor:Ray"]
