"""Models filled tensor by tensor from files that are opened without being read."""

import json
import struct
import threading

import pytest
import torch
from safetensors.torch import save_file
from tests.live_memory import LiveBytes
from torch import nn

from acutance.errors import UserError
from acutance.io.stored import floating_kind, headers_of, stored_in
from acutance.io.streaming import load_stored, without_values

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


class Tied(nn.Module):
    """Two names of one matrix, a buffer of numbers and one of a count."""

    def __init__(self):
        super().__init__()
        one = nn.Parameter(torch.randn(4, 6))
        self.read, self.mix = nn.Embedding(4, 6), nn.Linear(6, 6)
        self.read.weight = one
        self.write = nn.Linear(6, 4, bias=False)
        self.write.weight = one
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("fixed", torch.arange(6.0), persistent=False)


def shards(folder, state, parts=2):
    """Write a state in parts, and return the index."""
    folder.mkdir(exist_ok=True)
    names, places = list(state), {}
    for k in range(parts):
        file = f"model-{k + 1:05}-of-{parts:05}.safetensors"
        save_file({name: state[name].contiguous() for name in names[k::parts]}, folder / file)
        places |= dict.fromkeys(names[k::parts], file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "write.weight"}


def test_headers_say_what_is_in_a_file(tmp_path):
    state = {str(kind): torch.ones(3, 2).to(kind) for kind in KINDS} | {
        "none": torch.empty(0, 4),
        "one": torch.tensor(2.0),
    }
    save_file(state, tmp_path / "a.safetensors")
    found = headers_of(tmp_path / "a.safetensors")
    assert {name: (one.shape, one.dtype, one.nbytes) for name, one in found.items()} == {
        name: (tuple(t.shape), t.dtype, t.nbytes) for name, t in state.items()
    }
    assert all(torch.equal(one.read(), state[name]) for name, one in found.items())


def test_the_type_is_that_of_the_file_or_the_one_that_holds_all_exactly(tmp_path):
    def kind(*kinds):
        save_file({str(i): torch.ones(2).to(k) for i, k in enumerate(kinds)}, tmp_path / "a.safetensors")
        return floating_kind(headers_of(tmp_path / "a.safetensors").values())

    assert kind(torch.bfloat16, torch.int64) is torch.bfloat16 and kind(torch.float16) is torch.float16
    assert kind(torch.bfloat16, torch.float16) is torch.float32 and kind(torch.bfloat16, torch.float32) is torch.float32
    assert kind(torch.int64) is None and kind(torch.float32, torch.float64) is torch.float64
    assert kind(torch.float8_e4m3fn, torch.bfloat16) is torch.bfloat16


@pytest.mark.parametrize("way", ["parts", "one file", "pickled"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_model_has_the_weights_and_its_ties(way, empty, tmp_path):
    torch.manual_seed(0)
    state = state_of(Tied())
    if way == "parts":
        path = shards(tmp_path, state)
    else:
        path = tmp_path / ("model.safetensors" if way == "one file" else "model.bin")
        save_file(state, path) if way == "one file" else torch.save(state, path)
    if empty:
        with without_values():
            model = Tied()
        assert all(p.is_meta for p in model.parameters()) and not any(b.is_meta for b in model.buffers())
    else:
        model = Tied()
    model.mix.bias.requires_grad_(False)
    load_stored(model, stored := stored_in(path), "here")
    assert not stored and not model.training and not vars(model).get("load_notes")
    assert model.read.weight is model.write.weight and isinstance(model.read.weight, nn.Parameter)
    assert [p.requires_grad for p in model.parameters()] == [True, True, False]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())
    assert torch.equal(model.fixed, torch.arange(6.0))


def test_the_weights_are_a_copy_of_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(3, 3), "bias": torch.ones(3)}, path)
    model = load_stored(nn.Linear(3, 3), stored_in(path), "here")
    with path.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\x00" * 8)
    assert torch.equal(model.weight, torch.ones(3, 3)) and torch.equal(model.bias, torch.ones(3))


def test_a_type_may_be_asked_for_and_rounding_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.full((2, 2), 0.1), "bias": torch.ones(2)}, path)
    model = load_stored(nn.Linear(2, 2), stored_in(path), "here", torch.bfloat16)
    assert model.weight.dtype is torch.bfloat16
    assert vars(model)["load_notes"] == ["weights are rounded as they are loaded: weight (F32 to bfloat16)"]
    model = load_stored(nn.Linear(2, 2), stored_in(path), "here", torch.float64)
    assert model.weight.dtype is torch.float64 and "load_notes" not in vars(model)


def test_no_more_is_held_than_the_model_and_one_tensor(tmp_path):
    def net():
        return nn.Sequential(*[nn.Linear(200, 200, bias=False) for _ in range(8)])

    path = shards(tmp_path, net().state_dict(), parts=4)
    one = 200 * 200 * 4
    with LiveBytes() as memory:
        with without_values():
            model = net()
        load_stored(model, stored_in(path), "here")
    assert 8 * one <= memory.peak <= 10 * one
    with LiveBytes() as memory:
        whole = net()
        whole.load_state_dict({name: stored.read().clone() for name, stored in stored_in(path).items()})
    assert memory.peak >= 16 * one
    torch.save(net().state_dict(), tmp_path / "a.bin")
    stored = stored_in(tmp_path / "a.bin")
    with LiveBytes() as memory:
        load_stored(net(), stored, "here")
    assert memory.peak <= 17 * one


def test_other_threads_make_modules_as_always():
    made = []
    with without_values():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
    assert not made[0].weight.is_meta and not nn.Linear(2, 2).weight.is_meta
    with pytest.raises(ZeroDivisionError), without_values():
        raise ZeroDivisionError
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("change, said", [
    (lambda s: s.pop("mix.weight"), r"missing: mix.weight"),
    (lambda s: s.update(other=torch.ones(2)), r"unexpected: other"),
    (lambda s: s.update({"mix.bias": torch.ones(5)}), r"mix.bias is \(5,\), the model has \(6,\)"),
    (lambda s: s.update({"mix.bias": torch.ones(6, dtype=torch.int64)}), r"mix.bias holds whole numbers \(I64\)"),
    (lambda s: s.update({"mix.bias": torch.ones(6).to(torch.float8_e4m3fn)}), r"mix.bias is quantized \(F8_E4M3\)"),
    (lambda s: s.update({"write.weight": torch.zeros(4, 6)}), r"'write.weight' has other values.*tie_word_embeddings"),
])  # fmt: skip
def test_what_does_not_fit_is_named(change, said, tmp_path):
    state = state_of(Tied())
    change(state)
    with pytest.raises(UserError, match=rf"here: .*{said}"):
        load_stored(Tied(), stored_in(shards(tmp_path, state)), "here")


def test_parts_that_are_missing_or_lack_a_tensor_are_named(tmp_path):
    index = shards(tmp_path, state_of(Tied()))
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {"absent": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors: has no absent, which model.*index.json"):
        stored_in(index)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"index.json: parts are missing beside it: model-00002-of-00002.safetensors"):
        stored_in(index)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(3, 3)}, path)
    whole = path.read_bytes()
    for content, said in {
        whole[:-4]: r"has \d+ bytes, its header says \d+: it is truncated",
        whole + b"\0": "its header says",
        struct.pack("<Q", 1 << 60) + whole[8:]: "header cannot be read",
        struct.pack("<Q", 2) + b"[]": "header cannot be read",
        struct.pack("<Q", 2) + b"{}": "holds no tensors",
        whole.replace(b'"data_offsets":[0,36]', b'"data_offsets":[9,0] '): "header cannot be read",
        b"": "is empty",
        b"version https://git-lfs.github.com/spec/v1": "pointer of Git LFS",
    }.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a.safetensors: .*{said}"):
            stored_in(path)
    path.write_bytes(whole)
    stored = stored_in(path)
    path.unlink()
    with pytest.raises(UserError, match=r"a.safetensors: 'weight' cannot be read"):
        stored["weight"].read()
