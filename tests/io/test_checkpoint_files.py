"""Checkpoints as people have them: what is no checkpoint, damaged ones, names with prefixes, averages, odd tensors."""

import argparse
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from acutance import LossSurface, UserError
from acutance.errors import AcutanceWarning
from acutance.io.checkpoint_files import known_suffix, read_content, states_in
from acutance.io.checkpoints import load_file, load_state, make_model, read_state


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


class Child(nn.Module):
    """A child really called ``module``."""

    def __init__(self):
        super().__init__()
        self.module, self.head = nn.Linear(4, 5), nn.Linear(5, 3)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = net()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


def other(model):
    """The same architecture with other values: what loading must bring back."""
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def saved(tmp_path, content, name="f.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def same(model, state):
    return all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


STATE = net().state_dict()
AVERAGED = {name: tensor + 1 for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        prefixed("_orig_mod.", STATE),
        prefixed("module._orig_mod.", STATE),
        torch.optim.swa_utils.AveragedModel(net()).state_dict(),
        {"state_dict": prefixed("model.", STATE), "epoch": 3, "optimizer_states": [{"state": {0: {"e": torch.ones(1)}}}]},
        {"model": {"state_dict": STATE}, "optimizer": {"m": torch.ones(3)}},
        {"ema": STATE, "step": torch.tensor(3)},
        {"whatever": STATE, "args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float64(0.5)},
        {f"{name.replace('.', '._orig_mod.', 1)}": tensor for name, tensor in STATE.items()},
        {"callbacks": {"swa": {k: v + 1 for k, v in STATE.items()}}, "net": STATE},
    ],
    ids=["plain", "compiled", "ddp of compiled", "swa", "lightning", "nested", "ema alone", "options", "parts compiled", "callback"],
)  # fmt: skip
def test_names_that_fit_when_a_shared_prefix_is_taken_off(tmp_path, content):
    assert same(load_file(other(net()), saved(tmp_path, content)), STATE)


@pytest.mark.parametrize("make", [Child, Wrapped])
def test_a_prefix_that_the_model_has_itself_stays(tmp_path, make):
    model = make()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert same(load_file(other(make()), saved(tmp_path, state)), state)
    assert same(load_file(other(make()), saved(tmp_path, prefixed("module.", state))), state)
    assert read_state(saved(tmp_path, prefixed("module.", state))).keys() == prefixed("module.", state).keys()


def test_names_that_do_not_fit_name_the_prefix_under_which_they_would(tmp_path):
    path = saved(tmp_path, prefixed("encoder.", STATE) | {"decoder.weight": torch.ones(2)})
    with pytest.raises(UserError, match=r"unexpected: encoder.0.weight.*9 names fit without 'encoder.'"):
        load_file(net(), path)
    assert same(load_file(other(net()), path, prefix="encoder."), STATE)
    with pytest.raises(UserError, match=r"no name begins with 'decode\.'.*encoder.0.weight"):
        load_file(net(), path, prefix="decode.")


def test_an_average_that_is_passed_over_is_told(tmp_path):
    model = load_file(other(net()), saved(tmp_path, {"state_dict": STATE, "state_dict_ema": AVERAGED}))
    assert same(model, STATE)
    data = torch.randn(8, 4), torch.randint(0, 3, (8,))
    with pytest.warns(AcutanceWarning, match=r"under 'state_dict'; it also holds state_dict_ema"):
        surface = LossSurface(model, data)
    assert any("state_dict_ema" in note for note in surface.notes)
    chosen = load_file(other(net()), tmp_path / "f.pt", key="state_dict_ema")
    assert same(chosen, AVERAGED) and not vars(chosen).get("load_notes")
    alone = load_file(other(net()), saved(tmp_path, {"ema": STATE, "step": torch.tensor(3)}))
    assert "the average under 'ema'" in vars(alone)["load_notes"][0]
    # An average that equals the weights says nothing.
    quiet = load_file(other(net()), saved(tmp_path, {"state_dict": STATE, "ema": dict(STATE)}))
    assert not vars(quiet).get("load_notes")


def test_the_state_that_fits_is_taken_whatever_its_name(tmp_path):
    path = saved(tmp_path, {"net": {"d.w": torch.ones(2)}, "generator": STATE, "step": torch.tensor(1)})
    assert same(load_file(other(net()), path), STATE)
    with pytest.raises(UserError, match=r"'net': does not fit.*unexpected: d.w.*also holds generator"):
        load_file(nn.Linear(2, 2), path)
    assert list(states_in(saved(tmp_path, {"ema": AVERAGED, "model": STATE, "x": STATE}))) == ["model", "x", "ema"]
    assert same(load_file(other(net()), saved(tmp_path, {"a": {"model": STATE}, "b": AVERAGED}), key="a"), STATE)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: (t * 100).round().to(torch.int8), r"0.weight holds whole numbers \(int8\), codes perhaps"),
        (lambda t: torch.complex(t, t), r"0.weight is complex"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"0.weight is quantized \(qint8\)"),
        (lambda t: t.to_sparse(), r"0.weight is stored as sparse_coo"),
        (lambda t: t.to("meta"), r"0.weight has no values"),
        (lambda t: t.to(torch.float8_e4m3fn), r"0.weight is quantized \(float8_e4m3fn\)"),
        (lambda t: t.bool(), r"0.weight holds whole numbers \(bool\)"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_no_weights_are_refused(tmp_path, change, message):
    path = saved(tmp_path, STATE | {"0.weight": change(STATE["0.weight"])})
    with pytest.raises(UserError, match=message):
        load_file(net(), path)


def test_whole_numbers_stay_whole():
    counter = "1.num_batches_tracked"
    assert load_state(net(), STATE | {counter: torch.tensor(3.0)}, "x").state_dict()[counter] == 3
    with pytest.raises(UserError, match=r"num_batches_tracked is float32 with values that int64"):
        load_state(net(), STATE | {counter: torch.tensor(3.5)}, "x")


def test_digits_that_are_lost_are_told():
    fine = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    assert not vars(load_state(net(), fine, "x")).get("load_notes")
    lost = load_state(net(), fine | {"0.bias": torch.full((5,), 0.1, dtype=torch.float64)}, "x")
    assert vars(lost)["load_notes"] == ["weights are rounded as they are loaded (float64 to float32): 0.bias"]
    half = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    assert not vars(load_state(net(), half, "x")).get("load_notes")


def test_of_tied_weights_one_is_enough():
    weight = torch.randn(6, 4)
    for name in ("embed.weight", "head.weight"):
        model = load_state(Tied(), {name: weight}, "x")
        assert torch.equal(model.embed.weight, weight) and model.head.weight is model.embed.weight


@pytest.mark.parametrize(
    "head,message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", r"pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>quota exceeded</html>", "is a web page"),
        (b"<HTML>", "is a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>", r"answer of a server \(XML\)"),
        (b"", "is empty"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"no checkpoint at all", "is no checkpoint|cannot be read as a checkpoint"),
        (b"PK\x03\x04 the first half", "is truncated"),
        (b"\x80\x02half a pickle", "cannot be read as a checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.npz"])
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, head, message, name):
    (tmp_path / name).write_bytes(head)
    with pytest.raises(UserError, match=message) as found:
        read_content(tmp_path / name)
    assert "could run code" not in str(found.value)


def flipped(path, state):
    data = bytearray(path.read_bytes())
    data[bytes(data).index(state["0.weight"].numpy().tobytes()) + 7] ^= 4
    path.write_bytes(data)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    path = saved(tmp_path, STATE, "a.pt")
    flipped(path, STATE)
    with pytest.raises(UserError, match=r"a.pt: is damaged: the checksum of its part 'a/data/\d' does not fit"):
        read_content(path)
    np.savez(tmp_path / "b.npz", **{name: tensor.numpy() for name, tensor in STATE.items()})
    assert same(load_file(other(net()), tmp_path / "b.npz"), STATE)
    flipped(tmp_path / "b.npz", STATE)
    with pytest.raises(UserError, match=r"b.npz: is damaged: .*0.weight.npy"):
        read_content(tmp_path / "b.npz")


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_file(other(net()), path), STATE)


def test_training_is_not_resumed_from_a_damaged_file(tmp_path):
    from acutance.training.loop import Progress, _load_progress, _save_progress
    from acutance.training.recipe import Recipe

    recipe, model = Recipe(epochs=1, learning_rate=0.1), net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    _save_progress(tmp_path / "r.pt", recipe, model, optimizer, done := Progress(1, 0.5, 2.0, ({"step": 3.0},)))
    assert _load_progress(tmp_path / "r.pt", recipe, model, optimizer) == done
    with pytest.raises(UserError, match=r"r.pt: is the training of another recipe \(delete it"):
        _load_progress(tmp_path / "r.pt", Recipe(epochs=2, learning_rate=0.1), model, optimizer)
    flipped(tmp_path / "r.pt", model.state_dict())
    with pytest.raises(UserError, match=r"r.pt: is damaged: .*delete it to train from the start"):
        _load_progress(tmp_path / "r.pt", recipe, model, optimizer)


@pytest.mark.parametrize(
    "content,message",
    [
        (STATE | {5: torch.zeros(2)}, "holds tensors under what is no name: 5"),
        ({b"a": torch.zeros(2)}, "holds tensors under what is no name: b'a'"),
        ({"w": [torch.zeros(2)]} | STATE, r"holds tensors in lists: w \(list\)"),
        ({"epoch": 3}, "holds no tensors"),
        ([torch.zeros(2)], "holds no tensors: it is a list"),
        (torch.zeros(2), "holds no tensors: it is a Tensor"),
        ({"optimizer": {"state": torch.zeros(2)}}, "holds no tensors"),
    ],
)
def test_what_is_no_tensor_under_a_name_is_one_sentence(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        states_in(saved(tmp_path, content))


def test_what_brings_code_is_not_opened(tmp_path):
    torch.save(net(), tmp_path / "whole.pt")
    with pytest.raises(UserError, match=r"holds more than tensors \(an object of torch.nn.modules\S+Sequential\)"):
        read_content(tmp_path / "whole.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(UserError, match="is a scripted model"):
        read_content(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "folder.pt", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(UserError, match="zip archive that holds no checkpoint"):
        read_content(tmp_path / "folder.pt")


def test_files_are_told_by_what_is_in_them(tmp_path):
    from safetensors.torch import save_file

    save_file(STATE, tmp_path / "x.bin")
    assert same(load_file(other(net()), tmp_path / "x.bin"), STATE)
    torch.save(STATE, tmp_path / "x.safetensors")
    assert same(load_file(other(net()), tmp_path / "x.safetensors"), STATE)
    torch.save(STATE, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    assert same(load_file(other(net()), tmp_path / "old.th"), STATE)
    for name in ("a.pth.tar", "a.th", "a.PTH", "a.ckpt", "a.Safetensors"):
        known_suffix(name)
    with pytest.raises(UserError, match=r"a.txt: is of no known format"):
        known_suffix("a.txt")


# -- checkpoints in parts -------------------------------------------------------------------------------------


@pytest.fixture(params=["safetensors", "bin"])
def parts(request, tmp_path):
    """A checkpoint in two parts, as Hugging Face writes one, and its index."""
    stem, ending = ("model", "safetensors") if request.param == "safetensors" else ("pytorch_model", "bin")
    names, files = list(STATE), [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    for file, mine in zip(files, (names[:2], names[2:]), strict=True):
        state = {name: STATE[name].clone() for name in mine}
        save_file(state, tmp_path / file) if ending == "safetensors" else torch.save(state, tmp_path / file)
    places = {name: files[i >= 2] for i, name in enumerate(names)}
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, [tmp_path / file for file in files]


def test_all_parts_of_a_checkpoint_are_read_by_their_index(parts):
    index, _ = parts
    known_suffix(str(index))
    model = load_file(other(net()), index)
    assert same(model, STATE)


def test_one_part_says_to_give_the_index(parts):
    index, (first, second) = parts
    for path, number in ((first, 1), (second, 2)):
        with pytest.raises(UserError, match=f"is part {number} of the 2 of a checkpoint .give {index}, which names"):
            load_file(net(), path)
    index.unlink()
    with pytest.raises(UserError, match=f"is part 1 of the 2 of a checkpoint .get {index.name} too and give that"):
        load_file(net(), first)
    with pytest.raises(UserError, match="no such file"):
        load_file(net(), index)


def test_parts_that_are_missing_or_lack_a_tensor_are_named(parts):
    index, (first, second) = parts
    second.rename(second.with_name("away"))
    with pytest.raises(UserError, match=f"parts are missing beside it: {second.name}"):
        load_file(net(), index)
    first.with_name("away").rename(second)
    text = json.loads(index.read_text())
    for places, told in (
        (text["weight_map"] | {"more": first.name}, "its parts lack more"),
        (text["weight_map"] | {"more": "../x.bin"}, "names a part that is no file beside it: '../x.bin'"),
        (["a"], "is no index of a checkpoint"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(UserError, match=told):
            load_file(net(), index)
    index.write_text("{")
    with pytest.raises(UserError, match="is no index of a checkpoint"):
        load_file(net(), index)


def test_a_folder_in_place_of_a_file_names_the_file(parts):
    index, (first, second) = parts
    with pytest.raises(UserError, match=f"is a folder .give the file in it: {index.name}"):
        load_file(net(), index.parent)
    index.unlink()
    with pytest.raises(UserError, match=f"give the file in it: {first.name}, {second.name}"):
        load_file(net(), index.parent)
    torch.save(STATE, index.with_name("whole-00001-of-00001.bin"))  # the only part is the whole
    assert same(load_file(other(net()), index.with_name("whole-00001-of-00001.bin")), STATE)


@pytest.mark.parametrize("name", ["model.pt", "runs/model.safetensors", "model.safetensors.index.json"])
def test_a_file_of_weights_in_place_of_a_network_says_what_is_missing(name):
    with pytest.raises(UserError, match=f"'{name}' is a file of weights.*and --weights {name}"):
        make_model(name, {})
