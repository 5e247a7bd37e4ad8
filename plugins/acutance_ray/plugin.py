"""What this plugin registers: names and where their classes are, so that nothing is imported for a list."""

from __future__ import annotations

from acutance import hookimpl


@hookimpl
def register_executors() -> dict[str, str]:
    """Return the executor, which imports ray only when it runs."""
    return {
        "ray": "acutance_ray.executor:Ray",
    }
