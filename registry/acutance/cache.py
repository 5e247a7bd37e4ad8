"""Where pools keep what they train: a folder of the user's, or ``ACUTANCE_CACHE``."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder; it need not exist yet."""
    own = os.environ.get("ACUTANCE_CACHE")
    if own:
        return Path(own).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("acutance")
