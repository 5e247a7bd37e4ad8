"""Tokens are held against the embeddings of a model, where it has some."""

import pytest
import torch
from published_text import tiny_bert, tiny_gpt2
from torch import nn

from acutance.errors import Misfit
from acutance.model.token_ids import require_tokens


def rows(*ids):
    return {"input_ids": torch.tensor([ids])}


def test_what_fits_passes():
    require_tokens(tiny_gpt2(), rows(*[0] * 7, 12))
    require_tokens(tiny_bert(), rows(39))
    require_tokens(tiny_gpt2(), {"input_ids": torch.zeros(0, 3, dtype=torch.long)})


@pytest.mark.parametrize(("ids", "said"), [((13,), "from 13 to 13"), ((2, -1), "from -1 to 2"), ((0,) * 9, "9 tokens")])
def test_what_does_not_is_refused(ids, said):
    with pytest.raises(Misfit, match=said):
        require_tokens(tiny_gpt2(), rows(*ids))


def test_models_and_inputs_of_another_kind_go_unseen():
    class Own(nn.Module):
        def get_input_embeddings(self):
            raise NotImplementedError

    for model, inputs in (
        (nn.Linear(2, 2), rows(99)), (Own(), rows(99)), (tiny_gpt2(), torch.ones(2, 3)),
        (tiny_gpt2(), {"input_ids": torch.ones(2, 3)}), (tiny_gpt2(), {"pixel_values": torch.ones(2, 3)}),
    ):  # fmt: skip
        require_tokens(model, inputs)
