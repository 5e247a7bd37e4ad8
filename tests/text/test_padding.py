"""Rows of tokens that are filled up: padding is no target of a language model's loss."""

import pytest
import torch
from published_text import tiny_gpt2

from acutance import LossSurface, UserError
from acutance_text.next_token import IGNORED, next_token


def rows(left):
    """Return (ids, mask): a row of six tokens and one of four with two places of padding."""
    ids = torch.arange(12).view(2, 6)
    mask = torch.ones_like(ids)
    mask[1, :] = torch.tensor([0, 0, 1, 1, 1, 1] if left else [1, 1, 1, 1, 0, 0])
    return ids, mask


def own(logits, targets):
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).double(), targets[:, 1:], reduction="none", ignore_index=IGNORED
    )
    counts = (targets[:, 1:] != IGNORED).sum(1)
    return losses.sum(1) / counts, counts.double()


def test_padding_on_the_right_is_left_out_and_changes_nothing():
    ids, mask = rows(left=False)
    model = tiny_gpt2()
    with pytest.raises(UserError, match=r"2 targets are padding .* would count.*masked_fill"):
        LossSurface(model, ({"input_ids": ids, "attention_mask": mask}, ids), loss=next_token).loss()
    targets = ids.masked_fill(mask == 0, IGNORED)
    inputs = {"input_ids": ids, "attention_mask": mask}
    filled = LossSurface(model, (inputs, targets), loss=next_token)
    parts = [LossSurface(model, (row, row), loss=next_token).loss() for row in (ids[:1], ids[1:, :4])]
    expected = (5 * parts[0] + 3 * parts[1]) / 8
    assert float(filled.loss()) == pytest.approx(float(expected), rel=1e-6)
    assert not filled.notes


def test_the_first_token_behind_padding_on_the_left_is_predicted_from_nothing():
    ids, mask = rows(left=True)
    inputs = {"input_ids": ids, "attention_mask": mask}
    targets = ids.masked_fill(mask == 0, IGNORED)
    with pytest.raises(UserError, match=r"first tokens of 1 rows would be predicted from the padding"):
        LossSurface(tiny_gpt2(), (inputs, targets), loss=next_token).loss()
    targets[1, 2] = IGNORED
    LossSurface(tiny_gpt2(), (inputs, targets), loss=next_token).loss()


def test_a_loss_of_ones_own_is_doubted():
    ids, mask = rows(left=False)
    inputs = {"input_ids": ids, "attention_mask": mask}
    counted = LossSurface(tiny_gpt2(), (inputs, ids), loss=own)
    counted.loss()
    assert any("2 targets stand where attention_mask is 0" in note for note in counted.notes)
    left_out = LossSurface(tiny_gpt2(), (inputs, ids.masked_fill(mask == 0, IGNORED)), loss=own)
    left_out.loss()
    assert not left_out.notes


@pytest.mark.parametrize("named", [True, False])
def test_targets_that_are_shifted_already_are_refused(named):
    tokens = torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(0))
    ids, following = tokens[:, :-1], tokens[:, 1:].clone()
    model = tiny_gpt2()
    inputs = {"input_ids": ids} if named else ids
    with pytest.raises(UserError, match=r"the targets are the next tokens already.*targets = input_ids"):
        LossSurface(model, (inputs, following), loss=next_token).loss()
    following[1, 2:] = IGNORED
    with pytest.raises(UserError, match="the targets are the next tokens already"):
        LossSurface(model, (inputs, following), loss=next_token).loss()
    following[0, 1] = (following[0, 1] + 1) % 13  # of another text: whatever it is, it is no shift
    LossSurface(model, (inputs, following), loss=next_token).loss()
    LossSurface(model, (inputs, ids), loss=next_token).loss()
    same = torch.full_like(ids, 4)  # shifted or not, these are the same
    LossSurface(model, ({"input_ids": same} if named else same, same), loss=next_token).loss()


def rotary(kind=torch.float32):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 13,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, max_position_embeddings=8, **sizes)).to(kind)


@pytest.mark.parametrize(
    ("model", "moved"), [(tiny_gpt2, True), (rotary, False), (lambda: rotary(torch.bfloat16), False)]
)
def test_positions_that_count_padding_on_the_left_are_told(model, moved):
    ids, mask = rows(left=True)
    targets = ids.masked_fill(mask == 0, IGNORED)
    targets[1, 2] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": mask}
    counted = {**inputs, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)}

    def noted(given):
        surface = LossSurface(model(), (given, targets), loss=next_token, dtype="native")
        loss = float(surface.loss())
        return any("1 rows are padded on the left" in note for note in surface.notes), loss

    (told, loss), (silent, by_mask) = noted(inputs), noted(counted)
    assert told == moved and not silent
    parts = [LossSurface(model(), (r, r), loss=next_token, dtype="native").loss() for r in (ids[:1], ids[1:, 2:])]
    expected = (5 * float(parts[0]) + 3 * float(parts[1])) / 8
    close = {"rel": 1e-6 if model is not rotary else 1e-5} if moved or model is rotary else {"rel": 2e-2}
    assert by_mask == pytest.approx(expected, **close)
    assert (loss == pytest.approx(expected, **close)) != moved
