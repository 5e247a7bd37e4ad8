"""Data in the forms that people have them: the value of plain (x, y), or one sentence."""

import itertools
import warnings
from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import acutance
from acutance.data.forms import CheckedPoints, understand
from acutance.surface import LossSurface

G = torch.Generator().manual_seed(1)
X, Y = torch.randn(8, 4, generator=G), torch.randint(0, 3, (8,), generator=G)
IDS, MASK = torch.randint(1, 20, (8, 6), generator=G), torch.ones(8, 6, dtype=torch.long)
INDEX = torch.arange(8)


class Map(torch.utils.data.Dataset):
    """Examples by their place."""

    def __init__(self, one):
        self.one = one

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return self.one(i)


class Stream(IterableDataset):
    """Items one after the other."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Counted:
    """What only has a length and items, as a data set of the hub."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"x": X[i].tolist(), "label": int(Y[i]), "text": "so"}


class Text(nn.Module):
    """Reads ids under a mask."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, input_ids, attention_mask=None):
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = seen.to(self.words.weight.dtype).unsqueeze(-1)
        return self.head((self.words(input_ids) * weights).sum(1) / weights.sum(1))


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def text():
    torch.manual_seed(0)
    return Text()


def value(model, data, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", acutance.AcutanceWarning)
        return acutance.measure("average_case", model, data, rho=0.1, draws=2, **settings).per_batch


def loader(**settings):
    return DataLoader(TensorDataset(X, Y), **({"batch_size": 3} | settings))


FORMS = {
    "pair": (X, Y),
    "list": [X, Y],
    "numpy": (X.numpy(), Y.numpy()),
    "numpy that may not be written": (np.flip(np.flip(X.numpy(), 0), 0), np.broadcast_to(Y.numpy(), (8,))),
    "float64 and int32": (X.double(), Y.int()),
    "lists of numbers": (X.tolist(), Y.tolist()),
    "list of examples": (list(X), list(Y)),
    "tables": (pd.DataFrame(X.numpy()), pd.Series(Y.numpy())),
    "triple": (X, Y, INDEX),
    "dict": {"x": X, "label": Y},
    "UserDict": UserDict(inputs=X, targets=Y),
    "dict with what is no input": {"x": X, "label": Y, "index": INDEX, "text": ["so"] * 8},
    "TensorDataset": TensorDataset(X, Y),
    "dataset": Map(lambda i: (X[i], int(Y[i]))),
    "dataset of lists": Map(lambda i: [X[i].numpy(), Y[i].numpy()]),
    "dataset of triples": Map(lambda i: (X[i], Y[i], i)),
    "dataset of dicts": Map(lambda i: {"x": X[i], "y": Y[i]}),
    "like a hub's": Counted(),
    "stream of examples": Stream([(x, int(y)) for x, y in zip(X, Y)]),
    "list of pairs": [(x.tolist(), int(y)) for x, y in zip(X, Y)],
    "split": acutance.Split(X, Y),
}
BATCHES = {
    "loader": lambda: loader(),
    "batches": lambda: [(X[:3], Y[:3]), (X[3:6], Y[3:6]), (X[6:], Y[6:])],
    "generator of triples": lambda: iter([(X[:3], Y[:3], INDEX[:3]), (X[3:], Y[3:], INDEX[3:])]),
    "dicts": lambda: [{"x": X[:3], "label": Y[:3]}, {"x": X[3:], "label": Y[3:]}],
    "stream in a loader": lambda: DataLoader(Stream([(x, int(y)) for x, y in zip(X, Y)]), batch_size=3),
    "stream of batches": lambda: DataLoader(Stream([(X[:3], Y[:3]), (X[3:], Y[3:])]), batch_size=None),
    "shuffled": lambda: loader(shuffle=True),
    "shuffled by its own generator": lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(5)),
    "shuffled and dropped": lambda: loader(shuffle=True, drop_last=True),
    "all of a random subset": lambda: loader(sampler=SubsetRandomSampler(range(8))),
    "own batch sampler": lambda: loader(
        batch_size=1, batch_sampler=type("Mine", (BatchSampler,), {})(RandomSampler(range(8)), 3, False)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_value_of_the_plain_one(form):
    assert value(net(), FORMS[form]) == value(net(), (X, Y))


@pytest.mark.parametrize("form", BATCHES)
def test_batches_have_the_value_of_m_batches_in_the_order_of_the_data(form):
    plain = value(net(), (X, Y), m=3)
    assert len(plain) == 2
    assert value(net(), BATCHES[form]()) == plain == value(net(), BATCHES[form](), m=3)


NAMED = {"input_ids": IDS, "attention_mask": MASK}
TEXTS = [
    (UserDict(NAMED), Y),
    NAMED | {"labels": Y},
    [UserDict(**NAMED, labels=Y, idx=INDEX)],
    Map(lambda i: {"input_ids": IDS[i].tolist(), "attention_mask": [1] * 6, "label": int(Y[i])}),
]
PLACED = [([IDS, MASK], Y), TensorDataset(IDS, MASK, Y), DataLoader(TensorDataset(IDS, MASK, Y), batch_size=8)]


@pytest.mark.parametrize(
    ("data", "plain"), [*((data, NAMED) for data in TEXTS), *((data, (IDS, MASK)) for data in PLACED)]
)
def test_texts_keep_their_names_and_integers(data, plain):
    assert value(text(), data, m=4) == value(text(), (plain, Y), m=4)


def ragged():
    short = MASK.clone()
    short[4:, 5:] = 0
    whole = ({"input_ids": IDS * short, "attention_mask": short}, Y)
    parts = [
        {"input_ids": IDS[:4], "attention_mask": MASK[:4], "labels": Y[:4]},
        {"input_ids": IDS[4:, :5], "attention_mask": MASK[4:, :5], "labels": Y[4:]},
    ]
    return whole, parts


def test_texts_of_other_lengths_are_filled_up_and_masked():
    whole, parts = ragged()
    with pytest.warns(acutance.AcutanceWarning, match="data: texts of other lengths are filled up with 0 on the right"):
        found = understand(parts)
    assert torch.equal(found.inputs["input_ids"], whole[0]["input_ids"])
    assert torch.equal(found.inputs["attention_mask"], whole[0]["attention_mask"])
    assert value(text(), parts) == value(text(), whole, m=4)
    one_by_one = [{key: tensor[i] for key, tensor in part.items()} for part in parts for i in range(4)]
    assert value(text(), one_by_one, m=4) == value(text(), whole, m=4)


def test_they_are_filled_up_with_the_token_that_fills_them_already():
    parts = ragged()[1]
    parts[1]["input_ids"][:, 4], parts[1]["attention_mask"] = 7, MASK[4:, :5] * torch.tensor([1, 1, 1, 1, 0])
    with pytest.warns(acutance.AcutanceWarning, match="filled up with 7"):
        assert understand(parts).inputs["input_ids"][4:, 4:].unique().tolist() == [7]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (lambda: loader(shuffle=True), "the loader shuffles: its points are taken in the order of its dataset"),
        (lambda: loader(sampler=WeightedRandomSampler([1.0] * 8, 8)), "draws points more than once: .* seed 0"),
        (lambda: Map(lambda i: (X[i] + torch.rand(4), Y[i])), "other values at each reading .* read once, with seed 0"),
        (lambda: DataLoader(Map(lambda i: (X[i] + np.random.rand(), Y[i]))), "other values at each reading"),
        (lambda: (X, Y, INDEX), "3 parts: the first are the inputs, the second the targets"),
        (lambda: (IDS, MASK, Y), "3 parts: the last are the targets, the others the inputs"),
        (lambda: {"x": X, "y": Y, "idx": INDEX}, "left out of a batch: idx"),
    ],
)
def test_what_was_settled_is_said_and_is_the_same_at_each_call(data, note):
    held, state = data(), torch.get_rng_state()
    with pytest.warns(acutance.AcutanceWarning, match=note):
        first = understand(held)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    with pytest.warns(acutance.AcutanceWarning, match=note):
        again = understand(held)
    assert torch.equal(torch.as_tensor(first.targets), again.targets)
    assert all(
        map(
            torch.equal,
            *(itertools.chain([x.inputs] if torch.is_tensor(x.inputs) else x.inputs) for x in (first, again)),
        )
    )


def test_an_order_that_is_fixed_is_kept_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert understand(loader(sampler=[5, 2, 7])).targets.tolist() == Y[[5, 2, 7]].tolist()
        assert understand(loader(batch_sampler=[[1, 0], [3]], batch_size=1)).size == 2


def test_a_generator_of_the_loader_is_left_as_it_was():
    own = torch.Generator().manual_seed(5)
    state = own.get_state()
    with pytest.warns(acutance.AcutanceWarning, match="shuffles"):
        understand(loader(shuffle=True, generator=own))
    assert torch.equal(own.get_state(), state)


NAN = X.clone()
NAN[3, 1] = float("nan")
SENTENCES = {
    "lengths": ((X, Y[:5]), "there are 8 inputs but 5 targets"),
    "lengths of slices": ((X[:6], Y[:4]), "there are 6 inputs but 4 targets"),
    "lengths of a batch": ([(X[:4], Y[:3]), (X[4:], Y[3:])], "there are 4 inputs but 3 targets"),
    "lengths of a dict": ({"x": X, "labels": Y[:4]}, "there are 8 inputs but 4 targets"),
    "lengths of parts": (([X, X[:4]], Y), "different numbers of examples: 4, 8"),
    "no targets": (X, "there are no targets"),
    "a dataset without": (TensorDataset(X), "there are no targets"),
    "a loader without": (DataLoader(Map(lambda i: X[i])), "there are no targets"),
    "dict without": ({"x": X, "z": Y}, "a batch has the keys x, z, none of them for targets"),
    "two kinds of labels": ({"x": X, "y": Y, "label": Y}, "several keys for targets: label, y"),
    "labels alone": ({"label": Y}, "none of them for inputs"),
    "ragged": ([(IDS[:4], Y[:4]), (IDS[4:, :5], Y[4:])], r"its batches differ: \(5,\) and \(6,\).*attention_mask"),
    "ragged lists": (([[1.0, 2.0], [3.0]], [0, 1]), "the inputs are lists of different lengths"),
    "PIL": (Map(lambda i: (Image.new("RGB", (4, 4)), 0)), "images of PIL .*ToTensor"),
    "PIL in dicts": (Map(lambda i: {"image": Image.new("L", (4, 4)), "label": 0}), "images of PIL"),
    "texts": ((["a", "b"], [0, 1]), "the inputs are texts .*tokenizer"),
    "words as labels": ((X, ["cat"] * 8), "the targets are text"),
    "an array of words": ((X, np.array(["cat"] * 8)), "the targets are text, not numbers"),
    "objects": ((np.array([None] * 8), Y), "the inputs are an array of object"),
    "three floats": ((X, X, X), "3 parts, and it cannot be told which are the targets"),
    "a scalar target": ((X, 3), "the targets are one number"),
    "a path": ("data.npz", "got str"),
    "a number": (3, "got int"),
    "nothing": ([], "there are no batches"),
    "NaN": ((NAN, Y), r"the inputs have a non-finite value \(row 3\)"),
    "infinity in a loader": (DataLoader(TensorDataset(NAN.nan_to_num(float("inf")), Y)), r"non-finite value \(row 3\)"),
    "NaN in a dict": (({"x": X, "z": NAN}, Y), r"the inputs 'z' have a non-finite value \(row 3\)"),
    "NaN in targets": ((X, NAN), r"the targets have a non-finite value \(row 3\)"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_anything_else_is_one_sentence(case):
    data, message = SENTENCES[case]
    with pytest.raises(acutance.UserError, match=f"^data: .*{message}"):
        acutance.measure("average_case", net(), data, rho=0.1)
    with pytest.raises(acutance.UserError, match=message):
        LossSurface(net(), data)


def test_large_values_and_masks_are_finite_enough():
    big = torch.full((8, 4), 3e38)
    hidden = torch.zeros(8, 6).index_fill(1, torch.tensor([5]), -torch.inf)
    assert understand((big, Y)).inputs is big
    assert understand(({"x": X, "attention_mask": hidden}, Y)).size == 8


CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
IMAGES = torch.randint(0, 255, (8, 3, 8, 8), dtype=torch.uint8, generator=G)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (CONV, (IMAGES, Y), r"shape \(8, 3, 8, 8\), uint8.*give x\.float\(\) / 255"),
        (CONV, (IMAGES.numpy().astype("uint16"), Y), r"uint16.*give x\.float\(\) / 65535"),
        (CONV, (IMAGES[:, :1].float(), Y), r"inputs of shape \(8, 1, 8, 8\), float32: .*check shape, channels"),
        (nn.Linear(5, 3), (X, Y), r"inputs of shape \(8, 4\), float32"),
        (nn.Linear(4, 2), (X, Y.clamp(min=2)), r"labels run from 2 to 2 but the model has 2 classes"),
        (Text(), (IDS + 100, Y), r"ids run from 1\d\d to 1\d\d: do they belong to this model"),
        (Text(), ({"input_ids": IDS, "extra": IDS}, Y), r"input_ids \(8, 6\) int64, extra .*by their names"),
    ],
)
def test_what_a_model_does_not_take_is_said_in_our_words(model, data, message):
    with pytest.raises(acutance.UserError, match=message):
        acutance.measure("average_case", model, data, rho=0.1)


def test_a_model_that_scales_bytes_itself_may():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = CONV

        def forward(self, x):
            return self.net(x.to(self.net[0].weight.dtype) / 255)

    plain = LossSurface(CONV, (IMAGES.float() / 255, Y)).loss()
    assert float(LossSurface(Scales(), (IMAGES, Y)).loss()) == pytest.approx(float(plain))


def test_what_was_understood_is_not_looked_at_again():
    assert LossSurface(net(), CheckedPoints(NAN, Y)).n == 8
    with pytest.raises(acutance.UserError, match="there are 8 inputs but 7 targets"):
        LossSurface(net(), CheckedPoints(X, Y[:7]))


@pytest.mark.parametrize("how", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors_are_one_sentence(how):
    x, y = torch.eye(6), torch.arange(6) % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such tensors are new
        sparse = getattr(x, how)()
    for data in ((sparse, y), {"x": sparse, "labels": y}, [(sparse, y)]):
        with pytest.raises(
            acutance.UserError, match=r"inputs are stored as sparse_\w+ \(make them dense: inputs.to_dense"
        ):
            understand(data)
    with pytest.raises(acutance.UserError, match="targets are stored as sparse_coo"):
        understand((x, y.to_sparse()))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_told_to_be_made_dense(layout):
    ragged = torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(3, 6)], layout=layout)
    with pytest.raises(acutance.UserError, match="the inputs are stored as nested") as told:
        acutance.measure("loss", nn.Linear(6, 4), (ragged, torch.zeros(2, dtype=torch.long)))
    assert "to_padded_tensor(0)" in told.value.hint
