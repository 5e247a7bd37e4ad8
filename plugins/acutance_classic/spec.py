"""What the settings of these measures have in common."""

from __future__ import annotations

from typing import Annotated

from acutance.spec import Spec, labelled


class PartSpec(Spec):
    """Settings of a measure of some of the parameters."""

    parameters: Annotated[str, labelled(adds=" [{parameters}]")] = "all"
    """Which parameters it is about: "all", or comma-separated patterns of names; a leading "!" takes some out."""
