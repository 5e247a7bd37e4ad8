"""Causal language models as loss surfaces: blocks of tokens, the loss of the next one, pools of such models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acutance_text.making import CAUSAL
from acutance_text.next_token import next_token, wrong_next_token
from acutance_text.transformers_pool import Folders, PlacedSpec

if TYPE_CHECKING:
    from acutance.pool import ModelEntry

__all__ = ["Causal", "next_token", "wrong_next_token"]  # studies name the loss as one of this file


class Causal(Folders[PlacedSpec]):
    """Transformers that continue a text, in the Hugging Face layout: folders on disk, never a download."""

    name = "causal"
    auto = CAUSAL

    def data_settings(self, entry: ModelEntry, spec: PlacedSpec) -> dict[str, Any]:
        """Return the folder's tokenizer."""
        return {"tokenizer": str(dict(self.folders(spec))[entry.id])}
