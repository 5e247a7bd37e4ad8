"""What a run knows of a model: what it is, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """Where a model stands in a run."""

    COMPARED = "compared"  # as far as is known
    REFUSED = "refused"  # a target of its is out of the study's bounds
    EXCLUDED = "excluded"  # its pool leaves it out, which is no failure
    BROKEN = "broken"  # it could not be made, loaded or given the points


@dataclass(frozen=True)
class Identity:
    """What a model is, known once it has been loaded.

    Attributes:
        key: of its architecture and tensors.
        parameters: how many it has.
        initial: digest of its initial weights, empty where its pool has none; None while that is not known.
        update: digest of the optimizer's next step, likewise.
    """

    key: str
    parameters: int
    initial: str | None = None
    update: str | None = None

    def knows(self, asked: frozenset[str]) -> bool:
        """Return whether it has the digest of all that is asked for of its pool."""
        known = {"initial_weights": self.initial, "update": self.update}
        return all(known[need] is not None for need in asked)


# What a pool is asked for only where a measure needs it, and what enters keys of it.
OF_POOLS = frozenset({"initial_weights", "update"})
