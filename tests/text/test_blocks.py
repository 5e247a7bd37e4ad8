"""Blocks of tokens of one's own texts, byte by byte and by tokenizers on disk, and the loss of the next token on them."""

import gzip
import json
import math
import subprocess
import sys

import pytest
import torch
import transformers
from published_text import tiny_gpt2, write_ratings
from tokenizers import Tokenizer, models, pre_tokenizers

from acutance import LossSurface, UserError
from acutance.empirical import Error, TargetSpec
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.testing.core import examine
from acutance.workflows.named import member
from acutance_text import streams
from acutance_text.next_token import next_token, refuse_targets, wrong_next_token


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ACUTANCE_DATA", raising=False)


def tokens(**settings):
    made = catalog().get("datasets", "tokens")
    return made(made.Spec(**settings))


def language_model(vocabulary=257, positions=16, seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=8, n_layer=1, n_head=2, n_positions=positions,
        bos_token_id=vocabulary - 1, eos_token_id=vocabulary - 1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def words(end="</s>"):
    """A tokenizer of four words."""
    backend = Tokenizer(models.WordLevel({"a": 0, "good": 1, "film": 2, "?": 3, end: 4}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


# -- from files to blocks -----------------------------------------------------------------------------------


def test_bytes_of_a_plain_text_are_cut_into_blocks(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first\r\n")
    (tmp_path / "b.md").write_text("grün", encoding="utf-8-sig")
    for place in (f"{tmp_path}/[ab].*", (str(tmp_path / "a.txt"), str(tmp_path / "b.md"))):
        split = tokens(files={"train": place}, block=4).open("train")
        stream = [*b"first\r\n", 256, *"grün".encode(), 256]  # 14 tokens: two are left over
        assert split.inputs["input_ids"].tolist() == [stream[:4], stream[4:8], stream[8:12]]
        assert torch.equal(split.targets, split.inputs["input_ids"]) and split.targets.dtype == torch.long
        assert split.description == "3 blocks of 4 tokens, train" and split.score is wrong_next_token


def in_json_lines(path, texts):
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"id": i, "body": text}) + "\n" for i, text in enumerate(texts)))
    return path


def in_packed_json_lines(path, texts):
    packed = path.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(in_json_lines(path, texts).read_bytes()))
    return packed


def in_parquet(path, texts):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    pq.write_table(pa.table({"body": texts, "id": range(len(texts))}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [in_json_lines, in_packed_json_lines, in_parquet])
def test_rows_of_tables_are_texts(write, tmp_path):
    path = write(tmp_path / "texts", ["ab", "", "c"])
    split = tokens(files={"train": str(path)}, field="body", block=5).open("train")
    assert split.targets.tolist() == [[97, 98, 256, 99, 256]]  # an empty text is none
    with pytest.raises(UserError, match="has no column text"):
        tokens(files={"train": str(path)}, block=2).open("train")


def test_a_packed_plain_text(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"abc"))
    assert tokens(files={"train": str(tmp_path / "a.txt.gz")}, block=2).open("train").targets.tolist() == [
        [97, 98], [99, 256],
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["file", "folder"])
def test_tokenizers_of_both_libraries(form, tmp_path):
    path = tmp_path / "tokenizer.json"
    words().save(str(path))
    if form == "folder":
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="</s>").save_pretrained(tmp_path / "t")
        path = tmp_path / "t"
    (tmp_path / "a.jsonl").write_text('{"text": "a good film"}\n{"text": "good book"}\n')
    data = tokens(files={"train": str(tmp_path / "a.jsonl")}, tokenizer=str(path), block=7)
    assert data.open("train").targets.tolist() == [[0, 1, 2, 4, 1, 3, 4]]
    other = tokens(files={"train": str(tmp_path / "a.jsonl")}, tokenizer=str(path), block=7, end_token="film")
    assert other.open("train").targets.tolist() == [[0, 1, 2, 2, 1, 3, 2]]


def test_tokens_are_made_once_and_belong_to_texts_and_tokenizer(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("abcdef")
    data = {"files": {"train": str(tmp_path / "a.txt")}}
    first = tokens(**data, block=3).open("train")
    calls = []
    real = streams.joined
    monkeypatch.setattr(streams, "joined", lambda *given: calls.append(given) or real(*given))
    again = tokens(**data, block=2).open("train")  # another cut of the same stream
    assert not calls and again.targets.flatten()[:6].tolist() == first.targets.flatten().tolist()
    (tmp_path / "a.txt").write_text("abcdeg")
    assert tokens(**data, block=3).open("train").targets[1].tolist() == [*b"deg"] and len(calls) == 1
    words().save(str(tmp_path / "tokenizer.json"))
    tokens(**data, block=2, tokenizer=str(tmp_path / "tokenizer.json")).open("train")
    assert len(calls) == 2


def test_a_smaller_set_begins_a_larger_one(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefgh" * 5)
    data = {"files": {"train": str(tmp_path / "a.txt"), "other": str(tmp_path / "a.txt")}, "block": 8}
    whole = tokens(**data).open("train").targets
    made = tokens(**data, train_points=2, limit=3)
    assert torch.equal(made.open("train").targets, whole[:2]) and torch.equal(made.open("other").targets, whole[:3])
    assert len(tokens(**data, limit=99).open("other")) == 5
    with pytest.raises(UserError, match=r"dataset\.train_points: 6 blocks, but there are 5"):
        tokens(**data, train_points=6).open("train")


def test_what_is_wrong_is_told(tmp_path):
    plain, empty = tmp_path / "a.txt", tmp_path / "empty.txt"
    plain.write_text("abc")
    empty.write_text("")
    (tmp_path / "latin.txt").write_bytes(b"gr\xfcn")
    (tmp_path / "null.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    (tmp_path / "number.jsonl").write_text('{"text": 3}\n')
    words("end").save(str(tmp_path / "tokenizer.json"))

    def refused(match, split="train", file=plain, **settings):
        with pytest.raises(UserError, match=match):
            tokens(**{"files": {"train": str(file)}, "block": 2, **settings}).open(split)

    refused("nothing says where the texts are", files=None)
    refused("tokens has no split 'trial'", split="trial")
    refused("dataset.files.train: .*none.txt: no such file", file=tmp_path / "none.txt")
    refused("split 'train': its text is empty", file=empty)
    refused(r"its 4 tokens fill no block of 9 \(lower dataset.block", block=9)
    refused("latin.txt: cannot be read", file=tmp_path / "latin.txt")
    refused("null.jsonl: row 2 has no text in 'text'", file=tmp_path / "null.jsonl")
    refused("number.jsonl: row 1 has no text", file=tmp_path / "number.jsonl")
    refused("dataset.tokenizer: .*gone: no such file or folder", tokenizer=str(tmp_path / "gone"))
    refused("a.txt: is no tokenizer", tokenizer=str(plain))
    (tmp_path / "folder").mkdir()
    refused("folder: is no tokenizer", tokenizer=str(tmp_path / "folder"))
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "gpt2"}')  # a model's, of which words are not made
    refused("folder: is no tokenizer: it has no words", tokenizer=str(tmp_path / "folder"), end_token="<|endoftext|>")
    refused("has no token for the end of a text.*dataset.end_token", tokenizer=str(tmp_path / "tokenizer.json"))
    refused("vocabulary has no 'x'", tokenizer=str(tmp_path / "tokenizer.json"), end_token="x")
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        tokens(files={"train": str(plain)}, block=1)


def test_splits_are_known_without_torch(tmp_path):
    code = (
        "import sys; from acutance.plugins import catalog; d = catalog().get('datasets', 'tokens');"
        "assert d(d.Spec(files={'train': 'a', 'b': 'c'})).splits == ('train', 'b');"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["tokens", "sentiment4_tokens"])
def test_the_datasets_conform(name, tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 9)
    write_ratings(tmp_path)
    own = {"files": {"train": str(tmp_path / "a.txt"), "other": str(tmp_path / "a.txt")}}
    spec = {"tokens": own, "sentiment4_tokens": {"root": str(tmp_path)}}[name]
    outcomes = list(examine(catalog().find("datasets", name), spec={**spec, "block": 16}).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 9


def test_sentences_of_four_domains(tmp_path):
    write_ratings(tmp_path)
    made = catalog().get("datasets", "sentiment4_tokens")
    data = made(made.Spec(root=str(tmp_path), block=2))
    # Mean ratings near 0 are no opinion, but they are sentences.
    assert data.documents("train") == [f"Sentence {i}'s\ttab." for i in range(100) if i % 10 < 7]
    assert data.documents("test") == [f"Sentence {i}'s\ttab." for i in range(100) if i % 10 >= 7]
    assert data.documents("nyt") == [f"Sentence {i}'s\ttab." for i in range(40)]


# -- the loss -----------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_tokens_that_count_in_any_passes(tmp_path):
    model, ids = language_model().double(), torch.randint(257, (5, 9), generator=torch.Generator().manual_seed(1))
    targets = ids.clone()
    targets[0, 3:] = -100
    targets[1, 1:8] = -100
    targets[2] = -100  # nothing of this one counts
    expected = model(input_ids=ids, labels=targets).loss
    logits = model(input_ids=ids).logits.detach()
    kept = [(i, t) for i in range(5) for t in range(8) if targets[i, t + 1] != -100]
    by_hand = [math.log(float(logits[i, t].exp().sum())) - float(logits[i, t, targets[i, t + 1]]) for i, t in kept]
    wrong = [float(logits[i, t].argmax() != targets[i, t + 1]) for i, t in kept]
    for microbatch in (None, 1, 2):
        surface = LossSurface(
            model, ({"input_ids": ids}, targets), loss=next_token, score=wrong_next_token, microbatch=microbatch
        )
        assert float(surface.loss()) == pytest.approx(float(expected.detach()), rel=1e-6)
        assert float(surface.loss()) == pytest.approx(sum(by_hand) / len(kept), rel=1e-12)
        assert float(surface.losses().mean()) == pytest.approx(sum(by_hand) / len(kept), rel=1e-12)
        assert float(surface.losses()[2]) == 0
    of_first = [w for (i, _), w in zip(kept, wrong, strict=True) if i == 0]
    assert float(surface.errors()[0]) == pytest.approx(sum(of_first) / 2) and float(surface.errors()[2]) == 0
    gradients = [
        LossSurface(model, ({"input_ids": ids}, targets), loss=next_token, microbatch=size).gradient()[1]
        for size in (None, 2)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_shares_of_wrong_tokens_are_no_counts_of_which_a_ceiling_could_be_made():
    ids = torch.randint(257, (4, 9), generator=torch.Generator().manual_seed(1))
    known = torch.eye(257)[ids.roll(-1, 1)]  # right but for one token of the first block
    known[0, 2] = known[0, 2].roll(1)
    shares = wrong_next_token(known, ids)
    assert shares.tolist() == [1 / 8, 0, 0, 0]
    for errors, extras in ((shares, {}), (torch.tensor([1.0, 0.0, 0.0, 1.0]), {"points": 4})):
        surface = LossSurface(
            language_model(), ({"input_ids": ids}, ids), loss=next_token, score=lambda f, y, errors=errors: errors
        )
        found = Error().evaluate(surface, TargetSpec(), None)
        assert found.value == float(errors.mean()) and found.extras == extras


def test_tokens_that_a_model_does_not_have_are_refused():
    ids = torch.full((20, 6), 5)
    ids[-1, -1] = 13  # far behind the few that are tried first
    model = tiny_gpt2()
    refused = r"token ids run from 5 to 13, but the model's vocabulary has 13 \(0 to 12\)"
    with pytest.raises(UserError, match=refused):
        LossSurface(model, ({"input_ids": ids}, ids), loss=next_token).loss()
    ids = torch.full((3, 9), 5)
    with pytest.raises(UserError, match="rows of 9 tokens are longer than the model's 8 positions"):
        LossSurface(model, ({"input_ids": ids}, ids), loss=next_token).loss()


# -- a study ------------------------------------------------------------------------------------------------


def study(tmp_path, **dataset):
    for seed in range(3):
        language_model(seed=seed).save_pretrained(tmp_path / "models" / f"gpt_seed={seed}")
    (tmp_path / "train.txt").write_text("the quick brown fox " * 20)
    (tmp_path / "shift.txt").write_text("pack my box with five " * 9)
    files = {name: str(tmp_path / f"{name}.txt") for name in ("train", "shift")}
    settings = {
        "format": 1, "within": ["architecture"], "pools": [{"name": "causal", "path": str(tmp_path / "models")}],
        "dataset": {"name": "tokens", "files": files, "block": 16, **dataset},
        "surface": {"points": 8, "m": 4, "select": "first", "loss": "acutance_text.causal:next_token"},
        "measures": [{"name": "gradient_norm"}], "targets": ["shift.loss", "shift.error", "shift.perplexity", "train.loss"],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(settings))
    return load_config(tmp_path / "study.yaml")


def test_named_sets_are_shifts_with_loss_and_error(tmp_path):
    run = run_study(study(tmp_path), tmp_path / "run", report=False)
    found = run.models.set_index("model")
    data = tokens(files={"shift": str(tmp_path / "shift.txt")}, block=16).open("shift")
    assert found["admitted"].all()
    for seed in range(3):
        out = language_model(seed=seed)(**data.inputs, labels=data.targets)
        row = found.loc[f"gpt_seed={seed}"]
        assert row["target.shift.loss"] == pytest.approx(float(out.loss.detach()), rel=1e-5)
        assert row["target.shift.perplexity"] == pytest.approx(math.exp(row["target.shift.loss"]), rel=1e-12)
        wrong = (out.logits[:, :-1].argmax(-1) != data.targets[:, 1:]).double().mean()
        assert row["target.shift.error"] == pytest.approx(float(wrong))


def test_a_study_with_blocks_or_tokens_that_do_not_fit_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"dataset 'tokens', split '\w+': rows of 17 tokens are longer than .* 16 pos"):
        run_study(study(tmp_path, block=17), tmp_path / "run", report=False)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ([[5], [6]], "no token is to be predicted in the targets: rows of one token have no next one"),
        (
            [[5, -100, -100], [6, -100, -100]],
            "no token is to be predicted in the targets: behind the first of each row",
        ),
        ([[5, 13, 2], [1, 2, 3]], r"targets run from 2 to 13, but the model has logits of 13 tokens \(0 to 12\)"),
        ([[5, -1, 2], [1, 2, 3]], "targets run from -1 to 3"),
    ],
)
def test_targets_that_no_next_token_can_be_are_refused(targets, match):
    targets = torch.tensor(targets)
    ids = {"input_ids": targets.clamp(0, 12)}
    with pytest.raises(UserError, match=match):
        LossSurface(tiny_gpt2(), (ids, targets), loss=next_token).loss()
    choices = targets[:, None].expand(-1, 2, -1)
    with pytest.raises(UserError, match=match):
        refuse_targets(torch.zeros(2, 2, targets.shape[1], 13), choices)


def test_what_is_not_to_be_predicted_may_be_any_part_and_a_first_token_anything():
    targets = torch.tensor([[99, -100, 12], [-1, -100, -100]])
    refuse_targets(torch.zeros(1, 3, 13), targets)
    refuse_targets(torch.zeros(1, 2, 3, 13), torch.stack([targets, targets + 50], 1))


def test_blocks_have_no_classes_to_balance(tmp_path):
    (tmp_path / "a.txt").write_text("words " * 100)
    files = {split: str(tmp_path / "a.txt") for split in ("train", "test")}
    config = {
        "format": 1, "pools": [{"name": "causal", "path": str(tmp_path)}], "dataset": {"name": "tokens", "files": files},
        "targets": ["test.loss"], "measures": [{"name": "parameter_norm"}], "within": [], "surface": {"points": 8, "m": 8},
    }  # fmt: skip
    with pytest.raises(UserError, match=r"surface\.select: 'tokens' has no classes to balance.*select: first"):
        load_config(config)
    load_config(config | {"surface": {"points": 8, "m": 8, "select": "first"}})


def test_a_folder_of_a_language_model_is_measured_in_a_study(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path / "model")
    with pytest.raises(
        UserError, match=r"GPT2LMHeadModel is no sequence classifier \(a language model is measured in a s"
    ):
        member(str(tmp_path / "model"))
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["OtherModel"]}')
    with pytest.raises(UserError, match="OtherModel is no sequence classifier"):
        member(str(tmp_path / "model"))
