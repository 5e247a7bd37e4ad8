"""What one figure is called."""

from __future__ import annotations

import re
from typing import NamedTuple


class FigureKey(NamedTuple):
    """Names one figure: the recipe, the level of ``within`` (empty: of the whole run), the definition."""

    recipe: str
    level: str
    what: str = ""

    @property
    def stem(self) -> str:
        """What its file is called, unless another figure's is too: letters, digits, ``_``, ``.`` and ``-``."""
        parts = (self.recipe, self.level.replace("architecture=", ""), self.what)
        return "-".join(slug(part) for part in parts if part)


def slug(text: str) -> str:
    """Return a text as part of a file's name: without ``-``, which stands between the parts."""
    plain = text.replace("ℓ∞", "linf").replace("ℓ", "l").replace("ρ", "rho")
    return re.sub(r"[^A-Za-z0-9_.]+", "_", plain).strip("_.") or "x"
