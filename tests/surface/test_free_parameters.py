"""One flat vector, some of it free: split, put together, and put in its place among what is fixed."""

import pytest
import torch
from torch import nn

from acutance import LossSurface, UserError
from acutance.model.ties import parameters_of

V = torch.arange(23.0)  # two layers: (4, 2) + 4, (2, 4) + 2, and a number


class Scaled(nn.Module):
    """Two layers and a parameter without axes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(2, 4), nn.Linear(4, 2), nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * self.b(self.a(x).tanh())


@pytest.fixture
def parameters():
    return parameters_of(Scaled())[0]


def test_pieces_lie_in_the_models_order_and_are_views(parameters):
    assert parameters.are_all_free and parameters.names(parameters.free) == [
        "scale", "a.weight", "a.bias", "b.weight", "b.bias",
    ]  # fmt: skip
    flat, shaped = parameters.split(V), parameters.shaped(V)
    assert [tuple(p.shape) for p in flat] == [(1,), (8,), (4,), (8,), (2,)]
    assert [tuple(p.shape) for p in shaped] == [(), (4, 2), (4,), (2, 4), (2,)]
    assert flat[1][0] == 1.0 and shaped[3][1, 3] == 20.0
    assert all(p.untyped_storage().data_ptr() == V.untyped_storage().data_ptr() for p in (*flat, *shaped))
    rows = parameters.split(torch.stack([V, -V]))
    assert [tuple(p.shape) for p in rows] == [(2, 1), (2, 8), (2, 4), (2, 8), (2, 2)] and rows[4][1, 0] == -21.0


def test_only_some_are_free_and_keep_their_order(parameters):
    some = parameters.only("b.*,a.bias,scale").only("!scale")
    assert some.names(some.free) == ["a.bias", "b.weight", "b.bias"] and not some.are_all_free
    assert some.sizes == [4, 8, 2] and some.slots == parameters.slots
    assert some.free_part(V).tolist() == [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
    assert parameters.free_part(V) is V
    assert some.layers[1] == ("b.weight", "Linear", (2, 4), slice(4, 12))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("c.*", "'c.\\*' matches no parameter"),
        ("!c.*", "'!c.\\*' leaves out no parameter"),
        ("a.*,!a.*", "leaves no parameter free"),
        ("b.*", "matches none of the free parameters"),
    ],
)
def test_a_pattern_without_parameters_is_refused(parameters, pattern, message):
    with pytest.raises(UserError, match=message):
        parameters.only("a.*").only(pattern)


def test_what_moves_takes_its_place_among_what_is_fixed(parameters):
    some, fixed = parameters.only("*.bias"), parameters.split(torch.zeros(23))
    moved = some.merged(fixed, some.split(torch.arange(1.0, 7.0)))
    assert torch.cat(moved).tolist() == [0] * 9 + [1, 2, 3, 4] + [0] * 8 + [5, 6]
    assert [a is b for a, b in zip(moved, fixed, strict=True)] == [True, True, False, True, False]
    with pytest.raises(ValueError, match="shorter"):
        some.merged(fixed, [torch.zeros(4)])


def test_flatten_is_the_inverse_of_unflatten_and_broadcasts(parameters):
    some = parameters.only("a.*,scale")
    v = torch.randn(13, generator=torch.Generator().manual_seed(0))
    assert torch.equal(some.flatten(some.unflatten(v)), v)
    rows = {
        "scale": torch.tensor(5.0),
        "a.weight": torch.tensor([[1.0], [2.0], [3.0], [4.0]]),
        "a.bias": torch.tensor(7.0),
    }
    assert some.flatten(rows).tolist() == [5, 1, 1, 2, 2, 3, 3, 4, 4, 7, 7, 7, 7]
    with pytest.raises(UserError, match=r"no tensor for parameter 'a.bias' .did you mean 'a.bia'"):
        some.flatten({**{n: t for n, t in rows.items() if n != "a.bias"}, "a.bia": torch.zeros(4)})
    with pytest.raises(UserError, match=r"'a.bias' is \(3,\), the parameter has \(4,\)"):
        some.flatten(rows | {"a.bias": torch.zeros(3)})


def test_a_surface_hands_its_vectors_to_them():
    surface = LossSurface(Scaled(), (torch.randn(6, 2), torch.arange(6) % 2), parameters="b.*")
    assert surface.w.shape == (10,) and surface.layers == surface.parameters.layers
    assert torch.equal(surface.flatten(surface.unflatten(surface.w)), surface.w)
    pieces = surface.pieces(torch.zeros(10))
    assert torch.equal(pieces[1].view(4, 2), surface.model.a.weight) and pieces[3].abs().max() == 0
    with pytest.raises(UserError, match="w has shape"):
        surface.pieces(torch.zeros(23))
