import pytest
import torch
from torch import nn

import acutance
from acutance.dataset import argmax_error
from acutance.errors import Unsupported


@pytest.mark.parametrize("n", [1, 5, 8])
def test_outputs_at_several_places_have_no_error_of_their_own(n):
    """Also where the numbers of examples and places are the same, or one: then shapes alone would let it pass."""
    with pytest.raises(Unsupported, match="score="):
        argmax_error(torch.randn(n, 5, 7), torch.zeros(n, 5, dtype=torch.long))


def test_it_is_unsupported_and_no_number_of_a_language_model():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    tokens = torch.randint(0, 7, (5, 5))

    def loss(logits, targets):
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    for name, fields in (("error", {}), ("basin_size", {"of": "error"}), ("local_energy", {})):
        found = acutance.measure(name, model, (tokens, tokens), loss=loss, **fields)
        assert found.status.value == "unsupported" and "score=" in found.message, name
