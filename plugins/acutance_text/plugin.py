"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl
from acutance_text.causal import Causal
from acutance_text.feather import BertFeather
from acutance_text.transformers_pool import Transformers


@hookimpl
def register_datasets() -> list[type]:
    """Return the text datasets."""
    return []


@hookimpl
def register_pools() -> list[type]:
    """Return the pools of transformers."""
    return [Transformers, Causal, BertFeather]
