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
    """

    key: str
    parameters: int
    initial: str | None = None
