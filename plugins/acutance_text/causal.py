"""Causal language models as loss surfaces: blocks of tokens, the loss of the next one, pools of such models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acutance_text.transformers_pool import Folders, FolderSpec

if TYPE_CHECKING:
    from torch import Tensor


class Causal(Folders[FolderSpec]):
    """Transformers that continue a text, in the Hugging Face layout: folders on disk, never a download."""

    name = "causal"
    auto = "AutoModelForCausalLM"


def next_token(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return the mean loss of the next token, 0-d: give it as ``surface.loss: acutance_text.causal:next_token``.

    .. math:: \frac{1}{n (L - 1)} \sum_{i=1}^n \sum_{t=1}^{L-1} -\log \mathrm{softmax}(f_{i,t})_{x_{i,t+1}}

    Args:
        logits: (n, L, V).
        targets: (n, L) the tokens themselves; the loss does the shift.
    """
    from acutance.model.losses import cross_entropy

    return cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()).mean()


def wrong_next_token(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of wrong next tokens of each block, (n,): the ``score`` of a Split of blocks."""
    return (logits[:, :-1].argmax(dim=-1) != targets[:, 1:]).double().mean(dim=1)
