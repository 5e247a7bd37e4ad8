"""Pools of transformers in the Hugging Face layout, and language models as loss surfaces."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers
from published_text import tiny_bert, tiny_gpt2, write_ratings
from tests.live_memory import LiveBytes

from acutance import LossSurface, UserError
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance_text.causal import Causal
from acutance_text.making import class_names
from acutance_text.next_token import next_token, wrong_next_token
from acutance_text.transformers_pool import FolderSpec, Transformers, settings_of


def batch(length=9, padded=9):
    ids = torch.randint(1, 40, (4, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    pad = (0, padded - length)
    inputs = {"input_ids": torch.nn.functional.pad(ids, pad), "attention_mask": torch.nn.functional.pad(mask, pad)}
    return inputs, torch.tensor([0, 1, 2, 1])


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return tmp_path / "hub"


def kept(hub, name="someone/bert-MNLI", commit="5f" * 20):
    """Put a model into the hub's cache in its own layout: blobs, and a snapshot of links to them."""
    root = hub / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    tiny_bert(3).save_pretrained(root / "blobs")
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in (root / "blobs").iterdir():
        (snapshot / file.name).symlink_to(os.path.relpath(file, snapshot))
    return snapshot


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        tiny_bert(seed).save_pretrained(tmp_path / f"bert_learning_rate=2e-5_seed={seed}")
    return tmp_path


def test_folders_are_models_with_the_settings_of_their_names(folder):
    spec = FolderSpec(path=str(folder), train_set="mnli")
    entries = Transformers().entries(spec)
    assert [e.attributes["seed"] for e in entries] == [0, 1] and entries[0].architecture == "bert-2-32-48-40"
    assert entries == Transformers().entries(FolderSpec(path=f"{folder}/bert*", train_set="mnli"))
    state = torch.random.get_rng_state()
    for seed, entry in enumerate(entries):
        model = Transformers().load(entry, spec)
        assert not any(module.training for module in model.modules())
        expected = tiny_bert(seed).state_dict() if seed else tiny_bert(0).state_dict()
        assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())
    torch.random.set_rng_state(state)


def test_loading_leaves_the_global_generator_as_it_was(folder):
    spec = FolderSpec(path=str(folder))
    state = torch.random.get_rng_state()
    Transformers().load(Transformers().entries(spec)[0], spec)
    assert torch.equal(state, torch.random.get_rng_state())


def test_settings_of_names():
    assert settings_of("learning_rate=2e-5_seed=3") == {"learning_rate": 2e-5, "seed": 3}
    assert settings_of("plain-name") == {}
    assert settings_of("m,a=1;b=x-y-c=false") == {"a": 1, "b": "x-y", "c": False}


def test_attributes_come_from_a_csv(folder):
    names = [e.id for e in Transformers().entries(FolderSpec(path=str(folder)))]
    table = folder / "a.csv"
    table.write_text("model,epochs\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names)))
    entries = Transformers().entries(FolderSpec(path=str(folder), attributes=str(table)))
    assert [e.attributes["epochs"] for e in entries] == [0, 1]
    table.write_text("model,seed\n" + "".join(f"{name},{7 + i}\n" for i, name in enumerate(names)))
    entries = Transformers().entries(FolderSpec(path=str(folder), attributes=str(table)))
    assert [e.attributes["seed"] for e in entries] == [7, 8]  # the table says more than a name
    table.write_text(f"model,epochs\n{names[0]},1\n")
    with pytest.raises(UserError, match="no row"):
        Transformers().entries(FolderSpec(path=str(folder), attributes=str(table)))


def test_old_names_and_pickled_weights_are_read(tmp_path):
    model = tiny_bert()
    model.config.save_pretrained(tmp_path / "old")
    state = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in model.state_dict().items()}
    torch.save({**state, "bert.embeddings.position_ids": torch.arange(24)}, tmp_path / "old" / "pytorch_model.bin")
    spec = FolderSpec(path=str(tmp_path / "old"))
    loaded = Transformers().load(Transformers().entries(spec)[0], spec)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())


def test_what_is_no_model_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="no model"):
        Transformers().entries(FolderSpec(path="bert-base-uncased"))
    spec = FolderSpec(path=str(folder))
    entry = Transformers().entries(spec)[0]
    config = folder / entry.id / "config.json"
    text = json.loads(config.read_text())
    config.write_text(json.dumps({**text, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match="does not fit"):
        Transformers().load(entry, spec)
    (folder / entry.id / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        Transformers().entries(spec)


def test_a_config_that_asks_for_more_than_there_is_is_refused(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path / "lm")
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps({**config, "vocab_size": 2**42}))
    pool, spec = Causal(), Causal.Spec(path=str(tmp_path / "lm"))
    with pytest.raises(UserError, match=r"its config asks for a tensor that memory does not hold.*belongs to the"):
        pool.load(pool.entries(spec)[0], spec)


def test_a_model_of_the_hub_is_read_from_its_cache(hub):
    spec = FolderSpec(path="someone/bert-MNLI")
    with pytest.raises(UserError, match=r"someone/bert-MNLI has no model.*hf download NAME"):
        Transformers().entries(spec)
    snapshot = kept(hub)
    (entry,) = Transformers().entries(spec)
    assert entry.id == "bert-MNLI" and entry.path == str(snapshot / "model.safetensors")
    expected = tiny_bert(3).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in Transformers().load(entry, spec).state_dict().items())
    (snapshot / "config.json").unlink()  # only a tokenizer was downloaded, say
    with pytest.raises(UserError, match="has no model"):
        Transformers().entries(spec)


def test_the_cache_is_where_the_environment_says_and_needs_no_torch(hub):
    kept(hub)
    code = (
        "import sys; from acutance_text.transformers_pool import FolderSpec, Transformers;"
        "(entry,) = Transformers().entries(FolderSpec(path='someone/bert-MNLI')); assert entry.id == 'bert-MNLI';"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_HUB_CACHE": str(hub)}, check=True, timeout=120)


def test_what_lies_on_disk_comes_before_the_hub(hub, tmp_path, monkeypatch):
    kept(hub)
    monkeypatch.chdir(tmp_path)
    tiny_bert(1).save_pretrained("someone/bert-MNLI")
    (entry,) = Transformers().entries(FolderSpec(path="someone/bert-MNLI"))
    assert not entry.path.startswith(str(hub))


def test_words_for_outputs_are_those_of_the_config(tmp_path):
    model = tiny_bert()
    for folder, words in (("a", None), ("b", ("x", "y", "z")), ("c", ("x", "LABEL_1", "z"))):
        if words:
            model.config.id2label = dict(enumerate(words))
        model.save_pretrained(tmp_path / folder)
    spec = FolderSpec(path=str(tmp_path / "[abc]"))
    models = [Transformers().load(entry, spec) for entry in Transformers().entries(spec)]
    assert [getattr(model, "class_names", ()) for model in models] == [(), ("x", "y", "z"), ()]
    assert class_names(SimpleNamespace(id2label={2: "z", 0: "x", 1: "y"})) == ("x", "y", "z")


def test_a_run_leaves_out_models_whose_classes_are_in_another_order(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    write_ratings(tmp_path / "data")
    for words in (("NEGATIVE", "POSITIVE"), ("POSITIVE", "NEGATIVE")):
        model = tiny_bert(classes=2)
        model.config.id2label = dict(enumerate(words))
        model.save_pretrained(tmp_path / "models" / f"first_{words[0]}")
    settings = {
        "format": 1, "within": ["architecture"],
        "pools": [{"name": "transformers", "path": str(tmp_path / "models")}],
        "dataset": {"name": "sentiment4", "root": str(tmp_path / "data"), "max_length": 8, "vocabulary": 20},
        "surface": {"points": 4, "m": 2}, "measures": [{"name": "gradient_norm"}], "targets": ["test.error"],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(settings))
    run = run_study(load_config(tmp_path / "study.yaml"), tmp_path / "run", report=False)
    found = run.models.set_index("model")
    assert not found.loc["first_POSITIVE", "admitted"] and found.loc["first_NEGATIVE", "admitted"]
    assert "model first_POSITIVE gives (POSITIVE, NEGATIVE)" in found.loc["first_POSITIVE", "reason"]


def test_weights_in_several_files_are_hashed_every_time(tmp_path):
    """The date of an index does not tell whether the files that it lists are the same."""
    tiny_bert(1).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    assert (tmp_path / "model" / "model.safetensors.index.json").is_file()
    spec = FolderSpec(path=str(tmp_path))
    (entry,) = Transformers().entries(spec)
    assert entry.path is None
    expected = tiny_bert(1).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in Transformers().load(entry, spec).state_dict().items())
    (tmp_path / "model").rename(tmp_path / "other")
    with pytest.raises(UserError, match="no longer has 'model'"):
        Transformers().load(entry, spec)


def test_padding_changes_no_value_and_embeddings_can_be_left_out():
    model = tiny_bert()
    short = LossSurface(model, batch(9, 9), dtype="float64")
    long = LossSurface(model, batch(9, 14), dtype="float64")
    v = torch.randn(short.w.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(short.loss(), long.loss(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(short.hvp(v), long.hvp(v), rtol=1e-9, atol=1e-11)
    free = short.restricted("all,!bert.embeddings.*")
    assert free.layers and not any(name.startswith("bert.embeddings") for name, *_ in free.layers)
    head = short.restricted("classifier.*")
    assert head.w.numel() == 3 * 32 + 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_language_model_is_a_loss_surface(tmp_path, attention):
    model = tiny_gpt2()
    model.save_pretrained(tmp_path / "gpt2")  # the tied head is saved once
    spec = FolderSpec(path=str(tmp_path / "gpt2"), attention=attention)
    loaded = Causal().load(Causal().entries(spec)[0], spec)
    assert loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in loaded.state_dict().items())
    ids = torch.randint(13, (3, 8), generator=torch.Generator().manual_seed(0))
    surface = LossSurface(loaded, ({"input_ids": ids}, ids), loss=next_token, dtype="float64", score=wrong_next_token)
    reference = loaded.double()
    expected = reference(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(surface.loss(), expected.detach().double(), rtol=1e-6, atol=0)
    names = dict(reference.named_parameters())

    def loss(w):
        pieces = w.split([p.numel() for p in names.values()])
        weights = {n: piece.view(p.shape) for (n, p), piece in zip(names.items(), pieces, strict=True)}
        logits = torch.func.functional_call(reference, weights, (), {"input_ids": ids}).logits
        losses, weights = next_token(logits, ids)
        return (losses * weights).sum() / weights.sum()

    v = torch.randn(surface.w.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]):
        _, dense = torch.autograd.functional.hvp(loss, surface.w.clone(), v)
    torch.testing.assert_close(surface.hvp(v), dense, rtol=1e-8, atol=1e-10)
    raw = surface.raw_logits()
    share = (raw[:, :-1].argmax(-1) != ids[:, 1:]).double().mean(dim=1)
    assert torch.equal(surface.errors(), share)


def test_a_folder_is_measured_on_a_table_of_texts(tmp_path, monkeypatch):
    from click.testing import CliRunner

    import acutance
    from acutance.cli import cli

    folder, table = tmp_path / "bert", tmp_path / "reviews.csv"
    tiny_bert(0).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokens = {"a good film": [5, 7], "bad": [6], "a film": [7]}
    table.write_text("review,stars\n" + "".join(f"{text},{i}\n" for i, text in enumerate(tokens)) * 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def measure(*others):
        arguments = ["measure", str(folder), "--data", str(table), "--measure", "loss", "-m", "6", *others]
        return CliRunner().invoke(cli, arguments)

    given = ("--data-arg", "text=review", "--data-arg", "label=stars", "--data-arg", f"tokenizer={folder}/vocab.txt")
    found = measure(*given, "--json")
    assert found.exit_code == 0, found.output
    target = acutance.plugins.catalog().get("datasets", "text")
    spec = target.Spec(files={"train": str(table)}, text="review", label="stars", tokenizer=f"{folder}/vocab.txt")
    split = target(spec).open("train")
    direct = acutance.measure("loss", tiny_bert(0), (split.inputs, split.targets))
    assert json.loads(found.stdout)["loss"]["value"] == pytest.approx(direct.value)
    wrong = measure("--data-arg", "text=review", "--data-arg", "label=star", *given[-2:])
    assert wrong.exit_code and "has no column star" in str(wrong.exception or wrong.output) + wrong.output


def test_a_folder_brings_its_tokenizer_and_others_are_not_its_pool_s(tmp_path):
    tiny_bert(0).save_pretrained(tmp_path / "bert")
    tiny_gpt2().save_pretrained(tmp_path / "gpt")
    settings = Transformers.settings_for(tmp_path / "bert")
    spec = FolderSpec(**settings)
    entry = Transformers().entries(spec)[0]
    assert Transformers().data_settings(entry, spec) == {"tokenizer": str(tmp_path / "bert")}
    assert Transformers.settings_for(tmp_path) is None
    assert Transformers.settings_for(tmp_path / "gpt") is None
    assert Causal.settings_for(tmp_path / "gpt") is None


def test_a_table_or_a_setting_names_where_training_began(folder):
    pool, first = Transformers(), sorted(f for f in folder.iterdir() if f.is_dir())
    table = folder / "began.csv"
    table.write_text(f"model,epochs,initial,log\n{first[0].name},1,{first[1].name},a.csv\n{first[1].name},2,,\n")
    spec = FolderSpec(path=str(folder), attributes=str(table))
    one, two = pool.entries(spec)
    assert "initial" not in one.attributes and one.attributes["epochs"] == 1
    assert one.log == str(folder / "a.csv") and two.log is None
    began, other = pool.initial(one, spec).state_dict(), pool.load(two, spec).state_dict()
    assert pool.initial(two, spec) is None and all(torch.equal(began[name], other[name]) for name in other)
    spec = FolderSpec(path=str(folder), initial=str(first[0]))
    again, own = pool.initial(pool.entries(spec)[1], spec).state_dict(), pool.load(one, spec).state_dict()
    assert all(torch.equal(again[name], own[name]) for name in own)


@pytest.mark.parametrize("said", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_weights_keep_the_type_of_the_file_whatever_the_config_says(said, kind, tmp_path):
    expected = tiny_gpt2().to(kind)
    expected.save_pretrained(tmp_path / "model", max_shard_size="1KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {("dtype" if "dtype" in config else "torch_dtype"): said}))
    spec = FolderSpec(path=str(tmp_path / "model"))
    model = Causal().load(Causal().entries(spec)[0], spec)
    assert {p.dtype for p in model.parameters()} == {kind} and not vars(model).get("load_notes")
    assert model.lm_head.weight is model.transformer.wte.weight
    buffers = dict(expected.named_buffers())
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    ids = torch.randint(0, 13, (4, 8))
    surfaces = [LossSurface(m, ({"input_ids": ids}, ids), loss=next_token, dtype="native") for m in (model, expected)]
    assert torch.equal(*[surface.raw_logits() for surface in surfaces])


def test_loading_holds_the_weights_once(tmp_path):
    size = {"n_layer": 6, "n_embd": 64, "n_head": 2, "vocab_size": 500, "n_positions": 16}
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    made.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    spec = FolderSpec(path=str(tmp_path / "model"))
    entry = Causal().entries(spec)[0]
    whole, largest = made.num_parameters() * 4, made.lm_head.weight.nbytes
    with LiveBytes() as memory:
        Causal().load(entry, spec)
    assert whole <= memory.peak <= whole + 2.1 * largest < 1.3 * whole
