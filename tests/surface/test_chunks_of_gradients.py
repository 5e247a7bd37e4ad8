"""Chunks of example gradients use their memory again, and only when nobody holds it."""

import torch
from models import MLP, mlp_data

from acutance import LossSurface


def chunks(size):
    return LossSurface(MLP(), mlp_data()).example_gradients(chunk=size)


def test_chunks_that_are_kept_stay_as_they_are():
    whole = torch.cat(list(chunks(100)))
    kept, views = list(chunks(4)), [g[:, 3:7] for g in chunks(4)]
    assert torch.equal(torch.cat(kept), whole) and torch.equal(torch.cat(views), whole[:, 3:7])


def test_two_chunks_lie_in_memory_at_a_time():
    places = []
    for gradients in chunks(4):
        places.append(gradients.data_ptr())
        assert gradients.is_contiguous()
    assert len(places) > 4 and len(set(places)) == 2
