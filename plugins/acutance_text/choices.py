"""Questions with several answers, judged by their losses: the tokens of each, and the error."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acutance.errors import UserError
from acutance_text.next_token import IGNORED, token_losses

if TYPE_CHECKING:
    from torch import Tensor

    from acutance_text.streams import Encoder


@dataclass(frozen=True)
class Question:
    """A context and what may follow it.

    Attributes:
        context: text, which may be empty.
        choices: texts, the right one first.
    """

    context: str
    choices: tuple[str, ...]


def question(context: object, choices: object, answer: object, where: str) -> Question:
    """Return the question that a row of a table says.

    Args:
        context: a text.
        choices: a list of texts.
        answer: which one is right: its index from 0; or a text, that of the choice, else its index or letter.
        where: file and row, for messages.

    Raises:
        UserError: for another kind of row.
    """
    if not isinstance(context, str):
        raise UserError(f"{where}: its context is no text", "write an empty text where there is none")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise UserError(f"{where}: its choices are no list of two or more texts", "take the row out")
    right = _index(answer, choices)
    if right is None or not 0 <= right < len(choices):
        hint = f"write 0 to {len(choices) - 1}, or the choice's text or letter"
        raise UserError(f"{where}: its answer {answer!r} is none of its {len(choices)} choices", hint)
    return Question(context, (choices[right], *choices[:right], *choices[right + 1 :]))


def _index(answer: object, choices: Sequence[str]) -> int | None:
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    if not isinstance(answer, str):
        return None
    if answer in choices:
        return list(choices).index(answer)
    if answer.isdecimal():
        return int(answer)
    return string.ascii_uppercase.index(answer.upper()) if len(answer) == 1 and answer.isalpha() else None


def tokens_of(questions: Sequence[Question], encoder: Encoder) -> tuple[Tensor, Tensor]:
    """Return what a model sees and what it is to predict, both (n, C, L), -100 where nothing is to be predicted.

    A row is the token of a beginning, the context and a choice, tokenized together. To be predicted are its tokens from
    the first one on that the context alone does not have. Where a question has fewer choices than others the last rows
    predict nothing.
    """
    import torch

    most = max(len(q.choices) for q in questions)
    contexts = encoder([q.context for q in questions])
    whole = encoder([q.context + choice for q in questions for choice in q.choices])
    longest = 1 + max(len(ids) for ids in whole)
    inputs = torch.full((len(questions), most, longest), encoder.end)
    targets = torch.full_like(inputs, IGNORED)
    rows = iter(whole)
    for i, q in enumerate(questions):
        for j in range(len(q.choices)):
            ids = next(rows)
            known = next((k for k, pair in enumerate(zip(ids, contexts[i], strict=False)) if pair[0] != pair[1]), None)
            first = min(len(ids), len(contexts[i])) if known is None else known
            if first == len(ids):
                hint = "take the question out"
                raise UserError(f"the choice {q.choices[j]!r} behind {q.context[-20:]!r} has no token of its own", hint)
            inputs[i, j, : len(ids) + 1] = torch.tensor([encoder.begin, *ids])
            targets[i, j, first + 1 : len(ids) + 1] = torch.tensor(ids[first:], dtype=targets.dtype)
    return inputs, targets


@dataclass(frozen=True)
class WrongChoice:
    r"""The ``score`` of questions: 1 where another choice than the right one, the first, has the lowest loss.

    .. math:: 1\Big[\arg\min_c \sum_{t \in T_c} -\log \mathrm{softmax}(f_{c,t})_{x_{c,t+1}} \ne 0\Big]

    Of k choices with the lowest loss, the right one among them, one at random would be wrong :math:`1 - 1/k` of the
    times.

    Attributes:
        normalized: whether the loss of a choice is the mean over its tokens, not their sum.
    """

    normalized: bool = False

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (n,) errors of logits (n, C, L, V) and targets (n, C, L)."""
        import torch

        sums, counts = token_losses(logits.flatten(0, 1), targets.flatten(0, 1))
        losses = (sums / counts.clamp_min(1) if self.normalized else sums).masked_fill(counts == 0, torch.inf)
        losses = losses.view(targets.shape[:2])
        lowest = losses == losses.amin(dim=1, keepdim=True)
        return 1 - lowest[:, 0].double() / lowest.sum(dim=1)
