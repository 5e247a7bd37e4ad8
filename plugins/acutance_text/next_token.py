"""The loss of the next token and its error: a file by itself, since keys of values hold the digest of a loss's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.own_code import in_own_type, refusing

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # a target that is no token to predict, as in transformers


def refuse_targets(logits: Tensor, targets: Tensor) -> None:
    """Refuse targets of which none is to be predicted, or that are no tokens of the vocabulary.

    Args:
        logits: (n, L, V) or (n, C, L, V).
        targets: (N, L) or (N, C, L), of more rows perhaps.

    Raises:
        UserError: saying which.
    """
    known = (targets[:, 0] if targets.dim() == 3 else targets)[:, 1:]
    known = known[known != IGNORED]
    if not known.numel():
        short = targets.shape[-1] < 2
        why = "rows of one token have no next one" if short else f"behind the first of each row all are {IGNORED}"
        raise UserError(f"loss: no token is to be predicted in the targets: {why}", "give rows with tokens to predict")
    low, high, size = int(known.min()), int(known.max()), logits.shape[-1]
    if low < 0 or high >= size:
        raise UserError(
            f"loss: targets run from {low} to {high}, but the model has logits of {size} tokens (0 to {size - 1})",
            f"take the model's own tokenizer, and {IGNORED} for what is not to be predicted",
        )


def refuse_padding(inputs: Any, targets: Tensor) -> None:
    """Refuse targets that are padding, or are to be predicted from padding.

    Args:
        inputs: of a model; asked for an ``attention_mask`` of the targets' shape.
        targets: (n, L) or (n, C, L).

    Raises:
        UserError: saying how many.
    """
    mask = inputs.get("attention_mask") if hasattr(inputs, "get") else None
    if mask is None or mask.shape != targets.shape:
        return
    wanted = targets[..., 1:] != IGNORED
    padding, behind = (int((wanted & (part == 0)).sum()) for part in (mask[..., 1:], mask[..., :-1]))
    if padding:
        raise UserError(
            f"loss: {padding} targets are padding (their attention_mask is 0) and would count as tokens",
            f"leave them out: targets.masked_fill(attention_mask == 0, {IGNORED})",
        )
    if behind:
        raise UserError(
            f"loss: the first tokens of {behind} rows would be predicted from the padding before them",
            f"pad on the right, or write {IGNORED} for the first token of each row as well",
        )


def refuse_shifted(inputs: Any, targets: Tensor) -> None:
    """Refuse targets that are the next tokens already: the loss makes the shift, and would take the ones behind them.

    Args:
        inputs: of a model; ids, or asked for ``input_ids``, of the targets' shape.
        targets: (n, L) or (n, C, L).

    Raises:
        UserError: where they are the inputs moved by one place, and not the inputs themselves.
    """
    ids = inputs.get("input_ids") if hasattr(inputs, "get") else inputs
    if getattr(ids, "shape", None) != targets.shape or ids.is_floating_point():
        return
    ids = ids.to(targets.device)
    known, following = targets != IGNORED, targets[..., :-1] != IGNORED
    same = (targets == ids)[known].all()
    if following.any() and not same and (targets[..., :-1] == ids[..., 1:])[following].all():
        raise UserError(
            "loss: the targets are the next tokens already, and next_token takes the one behind each",
            f"give the tokens themselves, targets = input_ids, with {IGNORED} for what is not to be predicted",
        )


def refuse_inputs(inputs: Any, targets: Tensor) -> None:
    """Refuse targets that do not belong to their inputs, as ``refuse_padding`` and ``refuse_shifted`` say."""
    refuse_padding(inputs, targets)
    refuse_shifted(inputs, targets)


@refusing(refuse_targets, refuse_inputs)
@in_own_type
def next_token(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the mean loss of the next token in each block, and how many tokens it is of, both (n,).

    Give it as ``surface.loss: acutance_text.causal:next_token``. The loss of several blocks is the mean over their
    tokens, however they are divided into passes: with :math:`T_i = \{t < L : x_{i,t+1} \ne -100\}`

    .. math:: \frac{1}{\sum_i |T_i|} \sum_{i=1}^n \sum_{t \in T_i} -\log \mathrm{softmax}(f_{i,t})_{x_{i,t+1}}

    Args:
        logits: (n, L, V); of questions with C choices (n, C, L, V), where it is the loss of the right one, the first.
        targets: (n, L) or (n, C, L), the tokens themselves, -100 for those that are not to be predicted; the loss does
            the shift.
    """
    if logits.dim() == 4:
        logits, targets = logits[:, 0], targets[:, 0]
    sums, counts = token_losses(logits, targets)
    return sums / counts.clamp_min(1), counts.double()


def token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of each row's next tokens, (n,) float64, and how many there are, (n,).

    Args:
        logits: (n, L, V).
        targets: (n, L) the tokens themselves, -100 for those that are not to be predicted.
    """
    from acutance.model.losses import cross_entropy, worthwhile

    wanted = targets[:, 1:]
    counts = wanted != IGNORED
    rows = logits.flatten(0, 1)
    if worthwhile(rows):
        # All rows as they lie: without those of the last tokens they would be copied, and so would their derivatives.
        following = targets.roll(-1, dims=1)
        following[:, -1] = IGNORED
        return cross_entropy(rows, following.flatten()).view(following.shape).sum(dim=1), counts.sum(dim=1)
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), wanted.clamp_min(0).flatten()).view(wanted.shape)
    return losses.masked_fill(~counts, 0.0).sum(dim=1), counts.sum(dim=1)


def wrong_next_token(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of wrong next tokens of each block, (n,): the ``score`` of a Split of blocks."""
    wanted = targets[:, 1:]
    counts = wanted != IGNORED
    wrong = (logits[:, :-1].argmax(dim=-1) != wanted) & counts
    return wrong.sum(dim=1).double() / counts.sum(dim=1).clamp_min(1)
