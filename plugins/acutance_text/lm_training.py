"""Training a language model on blocks of tokens with AdamW and SAM, deterministically."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acutance.training import Trained, sam_gradient
from acutance_text.epochs import descend

if TYPE_CHECKING:
    from acutance_text.trained_lm import LanguageRecipe


def train_on_blocks(model: nn.Module, ids: Tensor, recipe: LanguageRecipe) -> Trained:
    r"""Train a language model in place; the same recipe gives bitwise the same weights on the same machine.

    Each step descends the gradient :math:`\nabla L(w + \rho g / \|g\|)` of SAM (Foret et al. 2021, Eq. 2 to 4), the
    plain one for :math:`\rho = 0`, cut at a norm of 1, by AdamW; matrices decay, vectors (biases, gains) do not.

    Args:
        model: of transformers, in evaluation mode and without dropout.
        ids: (n, L) blocks of tokens on the model's device.
        recipe: settings.

    Returns:
        What came of it; its log has a row an epoch, whose gradient is that of the last step, before it was cut.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def order(seed: int) -> Tensor:
        return torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))

    def gradient(chosen: Tensor) -> Tensor:
        return sam_gradient(model, parameters, loss_of(model, ids[chosen.to(ids.device)]), recipe.sam_rho)

    return descend(parameters, len(ids), recipe, order, gradient)


def loss_of(model: nn.Module, blocks: Tensor) -> Callable[[], Tensor]:
    """Return the function giving the mean loss of the next tokens of a few blocks."""

    def loss() -> Tensor:
        logits = model(input_ids=blocks).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), blocks[:, 1:].flatten())

    return loss
