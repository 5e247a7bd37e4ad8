"""What this plugin registers."""

from __future__ import annotations

from acutance import hookimpl
from acutance_text.causal import Causal
from acutance_text.feather import BertFeather
from acutance_text.finetuned import FineTuned
from acutance_text.mnli import Hans, Mnli
from acutance_text.sentiment import Sentiment4
from acutance_text.text_sets import OwnText
from acutance_text.transformers_pool import Transformers


@hookimpl
def register_datasets() -> list[type]:
    """Return the text datasets."""
    return [Mnli, Hans, Sentiment4, OwnText]


@hookimpl
def register_pools() -> list[type]:
    """Return the pools of transformers."""
    return [Transformers, Causal, BertFeather, FineTuned]
