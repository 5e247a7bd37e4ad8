"""Datasets of texts on small files in the published layouts: mnli, hans, sentiment4, and tables of one's own."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from published_text import rated_files, tiny_bert, write_ratings

from acutance import LossSurface, UserError
from acutance.data.fingerprint import digest_points
from acutance.data.lazy import every_row
from acutance.data.pointsets import PointSets
from acutance.plugins import catalog
from acutance.study.surface_config import SurfaceConfig
from acutance.surface.open_model import require_order
from acutance.testing.core import examine
from acutance_text import mnli, sentiment, tokens
from acutance_text.tables import find_table, read_columns
from acutance_text.text_sets import Examples

PAIRS = [
    ("The cat sat.", "A cat sat.", "entailment"),
    ('He said "no" to it.', "He agreed.", "contradiction"),
    ("It rained.", "It was cold.", "neutral"),
    ("No one agrees.", "Nobody.", "-"),
    ("Two men talk.", "People talk.", "entailment"),
    ("A dog barks.", "A dog sleeps.", "contradiction"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ACUTANCE_DATA", raising=False)


def dataset(name, **settings):
    made = catalog().get("datasets", name)
    return made(made.Spec(**settings))


# -- layouts of MNLI ----------------------------------------------------------------------------------------


def glue(folder):
    (folder / "MNLI").mkdir()
    for name, extra in (
        ("train", ["label1"]),
        ("dev_matched", ["label1", "label2"]),
        ("dev_mismatched", ["label1", "label2"]),
    ):
        header = ["index", "promptID", "sentence1_parse", "sentence1", "sentence2", *extra, "gold_label"]
        rows = [[str(i), "p", "(x)", a, b, *["neutral"] * len(extra), g] for i, (a, b, g) in enumerate(PAIRS)]
        (folder / "MNLI" / f"{name}.tsv").write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")


def original(folder):
    for name in ("train", "dev_matched", "dev_mismatched"):
        rows = [{"annotator_labels": [g], "gold_label": g, "sentence1": a, "sentence2": b} for a, b, g in PAIRS]
        (folder / f"multinli_1.0_{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def hugging_face(folder):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    numbers = {"entailment": 0, "neutral": 1, "contradiction": 2, "-": -1}
    (folder / "data").mkdir()
    for name in ("train-00000-of-00001", "validation_matched-00000-of-00001", "validation_mismatched-00000-of-00001"):
        a, b, g = zip(*PAIRS, strict=True)
        table = pa.table({"premise": a, "hypothesis": b, "label": [numbers[x] for x in g], "idx": range(len(a))})
        pq.write_table(table, folder / "data" / f"{name}.parquet")


@pytest.mark.parametrize("layout", [glue, original, hugging_face])
def test_mnli_in_every_layout(layout, tmp_path):
    layout(tmp_path)
    found = dataset("mnli", root=str(tmp_path))
    assert found.splits == ("train", "test", "mismatched")
    for split in found.splits:
        examples = found.examples(split)
        assert examples.texts == [a for a, _, g in PAIRS if g != "-"] and examples.labels == [1, 0, 2, 1, 0]
        opened = found.open(split)
        assert len(opened) == 5 and set(opened.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    turned = dataset("mnli", root=str(tmp_path), labels=("entailment", "neutral", "contradiction"))
    assert turned.open("train").targets.tolist() == [0, 2, 1, 0, 2]


def test_a_part_of_the_development_set_stands_for_the_training_set(tmp_path):
    glue(tmp_path)
    (tmp_path / "MNLI" / "train.tsv").unlink()
    found = dataset("mnli", root=str(tmp_path), train_from_dev=3)
    assert [found.examples(s).texts[0] for s in ("train", "test", "mismatched")] == [
        PAIRS[0][0],
        PAIRS[4][0],
        PAIRS[0][0],
    ]
    with pytest.raises(UserError, match=r"train_from_dev: 5 of 5 pairs leave none"):
        dataset("mnli", root=str(tmp_path), train_from_dev=5).open("train")
    with pytest.raises(UserError, match=r"has no train.tsv, .jsonl, .parquet"):
        dataset("mnli", root=str(tmp_path)).open("train")


def test_what_is_wrong_with_mnli_is_told(tmp_path):
    with pytest.raises(UserError, match=r"mnli: nothing says where its files are.*dataset.root"):
        dataset("mnli").open("train")
    glue(tmp_path)
    with pytest.raises(UserError, match=r"no split 'tset'.*did you mean 'test'"):
        dataset("mnli", root=str(tmp_path)).open("tset")
    with pytest.raises(UserError, match=r"dataset.labels: a, b, c are not the labels of MNLI"):
        dataset("mnli", root=str(tmp_path), labels=("a", "b", "c")).open("train")
    (tmp_path / "MNLI" / "train.tsv").write_text("sentence1\tsentence2\tgold_label\na\tb\tyes\n")
    with pytest.raises(UserError, match=r"train.tsv: the label 'yes' is unknown"):
        dataset("mnli", root=str(tmp_path)).open("train")
    (tmp_path / "MNLI" / "train.tsv").write_text("sentence1\tsentence2\tgold_label\na\tb\n")
    with pytest.raises(UserError, match=r"train.tsv: line 2 has 2 fields, the header 3"):
        dataset("mnli", root=str(tmp_path)).open("train")


# -- HANS ---------------------------------------------------------------------------------------------------


def hans_file(folder, compressed=False):
    header = (
        "gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2 "
        "pairID heuristic subcase template"
    ).split()
    rows = []
    for heuristic, names in mnli.SUBCASES.items():
        for name in names.split():
            gold = "entailment" if name[1] == "e" else "non-entailment"
            published = name.replace("-", "/")
            rows.append([gold, "b", "b", "p", "p", f"Premise of {name} .", "Hypothesis .", "ex0", heuristic, published, "t"])  # fmt: skip
    text = "\n".join("\t".join(row) for row in [header, *rows]) + "\n"
    if compressed:
        (folder / "heuristics_evaluation_set.txt.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "heuristics_evaluation_set.txt").write_text(text)


@pytest.mark.parametrize("compressed", [False, True])
def test_hans_has_the_categories_of_the_paper_and_thirty_subcases(tmp_path, compressed):
    glue(tmp_path)
    hans_file(tmp_path, compressed)
    found = dataset("hans", root=str(tmp_path), hans_root=str(tmp_path))
    assert len(mnli.ALL_SUBCASES) == 30 == len(set(mnli.ALL_SUBCASES)) and len(found.splits) == 40
    assert all(len(found.open(split)) == 5 for split in (*mnli.HEURISTICS, "lexical_overlap_entailed"))
    assert all(len(found.open(split)) == 1 for split in mnli.ALL_SUBCASES) and len(found.open("hans")) == 30
    assert found.examples("ln_subject-object_swap").texts == ["Premise of ln_subject-object_swap ."]
    assert set(found.open("subsequence").targets.tolist()) == {0}  # contradiction
    assert set(found.open("subsequence_entailed").targets.tolist()) == {1}


def test_three_classes_are_scored_as_two(tmp_path):
    glue(tmp_path)
    hans_file(tmp_path)
    found = dataset("hans", root=str(tmp_path), hans_root=str(tmp_path))
    logits = torch.eye(3)  # contradiction, entailment, neutral
    score = found.open("lexical_overlap").score
    assert score(logits, torch.zeros(3, dtype=torch.long)).tolist() == [0, 1, 0]
    assert score(logits, torch.ones(3, dtype=torch.long)).tolist() == [1, 0, 1]
    for split in ("train", "test", "mismatched"):
        assert found.open(split).score(logits, torch.zeros(3, dtype=torch.long)).tolist() == [0, 1, 1]
    other = dataset(
        "hans", root=str(tmp_path), hans_root=str(tmp_path), labels=("entailment", "neutral", "contradiction")
    )
    assert other.open("lexical_overlap").score(logits, other.open("lexical_overlap").targets[:3]).tolist() == [1, 0, 0]
    with pytest.raises(UserError, match="the model has 1 outputs, entailment is number 1"):
        score(torch.eye(1), torch.zeros(1, dtype=torch.long))


def test_hans_as_hugging_face_has_it_counts_entailment_as_zero(tmp_path):
    header = ["premise", "hypothesis", "label", "heuristic", "subcase"]
    rows = [("a", "b", 0, "subsequence", "se_adjective"), ("c", "d", 1, "subsequence", "sn_NP/S")]
    written(tmp_path / "validation.jsonl", header, rows)
    found = dataset("hans", hans_root=str(tmp_path))
    assert found.examples("subsequence_entailed") == Examples(["a"], ["b"], [1])
    assert found.examples("subsequence") == found.examples("sn_NP-S") == Examples(["c"], ["d"], [0])


def test_strange_rows_of_hans_are_refused(tmp_path):
    glue(tmp_path)
    with pytest.raises(UserError, match=r"has no heuristics_evaluation_set.txt"):
        dataset("hans", root=str(tmp_path), hans_root=str(tmp_path)).open("hans")
    hans_file(tmp_path)
    path = tmp_path / "heuristics_evaluation_set.txt"
    path.write_text(path.read_text().replace("\tconstituent\t", "\tconstituents\t"))
    with pytest.raises(UserError, match="'constituents' is no label or heuristic"):
        dataset("hans", root=str(tmp_path), hans_root=str(tmp_path)).open("hans")


SHARED = next(
    (p / "shared" / "data" for p in Path(__file__).parents if (p / "shared" / "data" / "hans").is_dir()), None
)


@pytest.mark.skipif(SHARED is None, reason="the published files are not here")
def test_the_published_files():
    found = dataset(
        "hans", root=str(SHARED / "mnli"), hans_root=str(SHARED / "hans"), train_from_dev=7000, max_length=32
    )
    assert [len(found.open(split)) for split in ("train", "test", "hans")] == [7000, 2815, 9000]
    assert all(len(found.examples(split).labels) == 300 for split in mnli.ALL_SUBCASES)
    assert all(len(found.examples(split).labels) == 1500 for split in mnli.HEURISTICS)


# -- sentiment4 ---------------------------------------------------------------------------------------------


def inner_archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in rated_files().items():
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def tarred(folder):
    (folder / sentiment.INNER).write_bytes(inner_archive())


def zipped(folder):
    with zipfile.ZipFile(folder / sentiment.ARCHIVE, "w") as archive:
        archive.writestr(f"vaderSentiment-0.5/additional_resources/{sentiment.INNER}", inner_archive())


@pytest.mark.parametrize("layout", [write_ratings, tarred, zipped])
def test_rated_sentences_of_four_domains(layout, tmp_path):
    layout(tmp_path)
    found = dataset("sentiment4", root=str(tmp_path))
    train, test = found.examples("train"), found.examples("test")
    assert (len(train.texts), len(test.texts)) == (56, 24) and not set(train.texts) & set(test.texts)
    for split in found.splits:
        examples = found.examples(split)
        assert examples.labels == [0, 1] * (len(examples.labels) // 2) and len(examples.labels) >= 24
        for text, label in zip(examples.texts, examples.labels, strict=True):
            number = int(text.split()[1].split("'")[0])
            assert number % 5 and "\ttab." in text  # the middling ones are left out
            assert (number < (50 if split in ("train", "test") else 20)) == bool(label)


def test_what_counts_as_an_opinion_and_which_films_train(tmp_path):
    lines = [f"{i}\t{0.5 if i % 2 else -0.5}\tsentence {i // 2}, {i % 2}\n" for i in range(40)]
    text = "".join([*lines, "x\t0.49\tweak, 1\n", "x\t-0.49\tweak, 0\n", "x\t3.9\tone too many, 1\n"])
    for name in sentiment.FILES.values():
        (tmp_path / name).write_text(text)
    found = dataset("sentiment4", root=str(tmp_path))
    train = [i for i in range(20) if i % 10 < 7]  # the first seven of ten pairs
    for split, pairs in (("train", train), ("test", [7, 8, 9, 17, 18, 19]), ("nyt", range(20))):
        expected = [f"sentence {i}, {label}" for i in pairs for label in (0, 1)]
        assert found.examples(split) == Examples(expected, None, [0, 1] * len(pairs))


def test_archives_that_are_damaged_or_absent(tmp_path):
    with pytest.raises(UserError, match=r"has no vaderSentiment-0.5.zip"):
        dataset("sentiment4", root=str(tmp_path)).open("train")
    with pytest.raises(UserError, match=r"nothing is downloaded.*--allow-download"):
        dataset("sentiment4").open("train")
    (tmp_path / sentiment.ARCHIVE).write_bytes(b"PK")
    with pytest.raises(UserError, match="the archive cannot be read"):
        dataset("sentiment4", root=str(tmp_path)).open("train")
    (tmp_path / sentiment.ARCHIVE).unlink()
    write_ratings(tmp_path)
    (tmp_path / sentiment.FILES["nyt"]).write_text("1_1\tgood\tA sentence.\n")
    sentiment._rated.cache_clear()
    with pytest.raises(UserError, match=r"nytEditorialSnippets_GroundTruth.txt: line 1 is no id, rating and sentence"):
        dataset("sentiment4", root=str(tmp_path)).open("nyt")


# -- tables of one's own ------------------------------------------------------------------------------------

ROWS = [("good film", "yes"), ("bad, very bad", "no"), ('"so" so', "no"), ("fine", "yes")]


def written(path, header, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as lines:
            csv.writer(lines).writerows([header, *rows])
    elif path.suffix == ".tsv":
        path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(header)}), path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_any_kind(kind, tmp_path):
    path = written(tmp_path / f"t.{kind}", ["review", "ok"], ROWS)
    found = dataset("text", files={"train": path, "test": path, "later": path}, text="review", label="ok")
    assert found.splits == ("train", "test", "later")
    examples = found.examples("later")
    assert examples.texts == [text for text, _ in ROWS] and examples.labels == [1, 0, 0, 1]
    assert dataset("text", files={"train": path}, text="review", label="ok", labels=("yes", "no")).examples("train").labels == [0, 1, 1, 0]  # fmt: skip
    if kind != "parquet":
        packed = tmp_path / f"t.{kind}.gz"
        packed.write_bytes(gzip.compress(Path(path).read_bytes()))
        again = dataset("text", files={"train": str(packed)}, text="review", label="ok")
        assert again.examples("train") == examples


def test_pairs_numbers_and_parts(tmp_path):
    rows = [("a b", "c", i % 3) for i in range(12)]
    path = written(tmp_path / "t.csv", ["x", "z", "label"], rows)
    found = dataset("text", files={"train": path, "test": path}, text="x", pair="z", train_points=6, limit=3)
    assert found.open("train").targets.tolist() == [0, 1, 2, 0, 1, 2] and len(found.open("test")) == 3
    inputs = found.open("train").inputs
    assert inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1] and inputs["input_ids"].shape == (6, 6)
    with pytest.raises(UserError, match=r"dataset.train_points: 13 texts, but there are 12"):
        dataset("text", files={"train": path}, text="x", train_points=13).open("train")


def test_a_part_has_its_classes_in_turn_in_file_order(tmp_path):
    rows = [(f"text {i}", int(i > 5)) for i in range(9)]
    path = written(tmp_path / "t.csv", ["text", "label"], rows)
    found = dataset("text", files={"train": path, "test": path}, train_points=4, limit=3)
    assert found._chosen("train") == Examples(["text 0", "text 6", "text 1", "text 7"], None, [0, 1, 0, 1])
    assert found._chosen("test") == Examples(["text 0", "text 6", "text 1"], None, [0, 1, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": None}, r"nothing says where the texts are.*dataset.files"),
        ({"files": {"train": "none.csv"}}, r"dataset.files.train: none.csv: no such file"),
        ({"text": "rview"}, r"t.csv: has no column rview.*its columns: review"),
        ({"files": {"test": "t.csv"}}, r"names no 'train'"),
        ({"label": "review", "labels": ("a", "b")}, r"the label 'good film' is unknown"),
        ({"tokenizer": "nowhere"}, r"dataset.tokenizer: nowhere: is no tokenizer"),
        ({"tokenizer": "t.csv"}, r"is no vocab.txt"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "t.csv", ["review", "ok"], ROWS)
    with pytest.raises(UserError, match=message):
        made = dataset(
            "text", **{"files": {"train": "t.csv", "test": "t.csv"}, "text": "review", "label": "ok", **settings}
        )
        made.open("test" if "test" in made.splits else "train")


def test_lines_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\nno\n')
    with pytest.raises(UserError, match=r"line 2 is not JSON"):
        read_columns([tmp_path / "t.jsonl"], [["a"]])
    (tmp_path / "u.jsonl").write_text('{"a": 1}\n{"b": 1}\n')
    with pytest.raises(UserError, match=r"u.jsonl: line 2: has no column a"):
        read_columns([tmp_path / "u.jsonl"], [["a"]])
    (tmp_path / "v.csv").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"v.csv: cannot be read.*UTF-8"):
        read_columns([tmp_path / "v.csv"], [["a"]])
    assert find_table(tmp_path, ["none", "u"]) == [tmp_path / "u.jsonl"] and find_table(tmp_path, ["w"]) == []
    shards = [tmp_path / f"w-{i:05d}-of-00003.parquet" for i in (2, 0, 1)]
    for shard in shards:
        shard.touch()
    assert find_table(tmp_path, ["w"]) == sorted(shards)


# -- tokens -------------------------------------------------------------------------------------------------


def test_words_of_the_training_set():
    words = tokens.Words(["The cat's here.", "the dog!", "the end"], size=7)
    assert words.numbers == {"the": 4, "cat's": 5, "here": 6}
    ((ids, kinds),) = words(["The END, here"], None, 10)
    assert ids == [tokens.BEGIN, 4, tokens.UNKNOWN, tokens.UNKNOWN, 6, tokens.END] and kinds == [0] * 6
    ((ids, kinds),) = words(["the the the the"], ["here here"], 7)
    assert ids == [2, 4, 4, 3, 6, 6, 3] and kinds == [0, 0, 0, 0, 1, 1, 1]
    ((ids, kinds),) = words(["the the"], ["here here"], 6)  # of two that are as long the second
    assert ids == [2, 4, 4, 3, 6, 3] and kinds == [0, 0, 0, 0, 1, 1]
    assert words.identity != tokens.Words(["the dog"], size=7).identity


def test_berts_vocabulary_gives_the_tokens_of_bert(tmp_path):
    vocabulary = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat ##s sat caf ##e".split()
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    made = tokens.OnDisk(tmp_path / "vocab.txt", lowercase=True)
    assert made(["The cats", "Café"], ["sat", "dog"], 20) == [
        ([2, 5, 6, 7, 3, 8, 3], [0, 0, 0, 0, 0, 1, 1]), ([2, 9, 10, 3, 1, 3], [0, 0, 0, 0, 1, 1]),
    ]  # fmt: skip
    assert made(["the cats sat"], None, 4) == [([2, 5, 6, 3], [0, 0, 0, 0])] and made.pad == 0
    cased = tokens.OnDisk(tmp_path / "vocab.txt", lowercase=False)
    assert cased(["The"], None, 9) == [([2, 1, 3], [0, 0, 0])] and cased.identity != made.identity
    made.tokenizer.save_pretrained(tmp_path / "folder")
    assert tokens.OnDisk(tmp_path / "folder", lowercase=True)(["the cats"], None, 9) == made(["the cats"], None, 9)


def test_texts_become_tokens_once(tmp_path, monkeypatch):
    words, made = tokens.Words(["a b c"], size=10), []
    monkeypatch.setattr(tokens, "_padded", lambda rows, pad, keep=tokens._padded: made.append(1) or keep(rows, pad))
    first = tokens.encode(words, ["a b", "c"], None, 8)
    again = tokens.encode(words, ["a b", "c"], None, 8)
    assert made == [1] and all(torch.equal(first[k], again[k]) and again[k].dtype == torch.long for k in first)
    assert first["input_ids"].tolist() == [[2, 4, 5, 3], [2, 6, 3, 0]]
    assert first["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    for other in ((["a", "bc"], None, 8), (["a b", "c"], ["", ""], 8), (["a b", "c"], None, 3)):
        tokens.encode(words, *other)
    assert len(made) == 4
    other = tokens.encode(tokens.Words(["c b a"], size=10), ["a b", "c"], None, 8)
    assert other["input_ids"].tolist() == [[2, 6, 5, 3], [2, 4, 3, 0]]
    pairs = tokens.encode(words, ["a b", "c"], ["c", "a"], 8)
    assert pairs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]  # 0 where the mask is


# -- m-batches ----------------------------------------------------------------------------------------------


def point_sets(folder, texts, **surface):
    """Points of a table of these texts, in file order."""
    path = written(folder / "p.csv", ["text", "label"], [(text, i % 2) for i, text in enumerate(texts)])
    made = dataset("text", files={"train": path, "test": path})
    return PointSets(made, SurfaceConfig(points=len(texts), select="first", **{"m": 2} | surface))


def test_every_m_batch_has_its_own_length(tmp_path):
    sets = point_sets(tmp_path, ["a", "b c", "a b c d e f", "a", "c", "c"])
    assert [{t.shape for t in x.values()} for x, _ in sets.batches] == [{(2, 4)}, {(2, 8)}, {(2, 3)}]
    # Where the longest text of all is nothing is cut; the whole is as it was.
    whole = sets.split("train")
    longest = {name: tensor[2:4] for name, tensor in whole.inputs.items()}
    assert sets.digests("train", "batch")[1] == digest_points(longest, whole.targets[2:4])
    assert sets.digests("train", "split") == [digest_points(whole.inputs, whole.targets)]
    assert sets.points[0]["input_ids"].shape == (6, 8)
    drawn = point_sets(tmp_path, ["a", "b c", "a b c d e f", "a"], batches={"sampled": 9}, m=1).batches
    assert {x["input_ids"].shape[1] for x, _ in drawn} == {3, 4, 8}


def test_a_trimmed_batch_has_the_loss_that_it_had(tmp_path):
    sets, model = point_sets(tmp_path, ["a", "b c", "a b c d e f", "a"]), tiny_bert()
    whole, targets = sets.points
    short, first = sets.batches[0]
    assert short["input_ids"].shape == (2, 4) and torch.equal(first, targets[:2])
    expected = LossSurface(model, ({name: tensor[:2] for name, tensor in whole.items()}, first)).loss()
    torch.testing.assert_close(LossSurface(model, (short, first)).loss(), expected, rtol=0, atol=1e-6)


def test_only_columns_behind_every_text_are_cut(tmp_path):
    trimmed = dataset("text").trimmed
    mask = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 1, 0, 0]])
    inputs = {"attention_mask": mask, "input_ids": mask * 7, "extra": torch.ones(2, 3)}
    found = trimmed(inputs)
    assert {name: tensor.shape[1] for name, tensor in found.items()} == {
        "attention_mask": 4,
        "input_ids": 4,
        "extra": 3,
    }
    assert torch.equal(found["input_ids"], mask[:, :4] * 7)
    left = {"attention_mask": mask.flip(1), "input_ids": mask}
    assert trimmed(left) is left
    nothing = {"attention_mask": torch.zeros(2, 3)}
    lazy = every_row(lambda rows: rows, 3)
    assert trimmed(nothing) is nothing and trimmed(lazy) is lazy and trimmed(mask) is mask


# -- words for classes --------------------------------------------------------------------------------------


def test_words_for_classes(tmp_path):
    turned = ("neutral", "entailment", "contradiction")
    assert dataset("mnli").labels == mnli.LABELS and dataset("hans", labels=turned).labels == turned
    assert dataset("sentiment4").labels == ("negative", "positive")
    path = written(tmp_path / "t.csv", ["text", "label"], ROWS)
    assert dataset("text", files={"train": path}).labels == ("no", "yes")
    assert dataset("text", files={"train": path}, labels=("yes", "no")).labels == ("yes", "no")
    numbers = written(tmp_path / "n.csv", ["text", "label"], [("a", 0), ("b", 1)])
    assert dataset("text", files={"train": numbers}).labels == ()


def named(*words):
    model = torch.nn.Linear(1, len(words))
    model.class_names = words
    return model


@pytest.mark.parametrize("name", ["mnli", "hans"])
def test_a_model_with_the_classes_in_another_order_is_refused(name):
    found = dataset(name, labels=("entailment", "neutral", "contradiction"))
    message = rf"model a gives \(CONTRADICTION, entailment, neutral\), dataset {name} has \(entailment, neutral, contradiction\)"
    with pytest.raises(UserError, match=message) as error:
        require_order(named("CONTRADICTION", "entailment", "neutral"), "a", found)
    assert "write dataset.labels: [contradiction, entailment, neutral]" in error.value.hint
    require_order(named("Entailment", "NEUTRAL", "contradiction"), "a", found)
    require_order(named("yes", "maybe", "no"), "a", found)
    require_order(named("entailment", "not_entailment"), "a", found)
    require_order(torch.nn.Linear(1, 3), "a", found)


def test_a_dataset_without_a_setting_for_it_is_not_to_be_changed():
    with pytest.raises(UserError, match=r"dataset sentiment4 has \(negative, positive\)") as error:
        require_order(named("POSITIVE", "NEGATIVE"), "a", dataset("sentiment4"))
    assert error.value.hint.startswith("reorder the rows")


# -- the kit ------------------------------------------------------------------------------------------------


def kit_mnli(folder):
    glue(folder)
    return {"root": str(folder)}


def kit_hans(folder):
    hans_file(folder)
    return kit_mnli(folder) | {"hans_root": str(folder)}


def kit_sentiment(folder):
    write_ratings(folder)
    return {"root": str(folder)}


def kit_text(folder):
    path = written(folder / "t.csv", ["text", "label"], ROWS)
    return {"files": {"train": path, "test": path}}


@pytest.mark.parametrize("name,make", [("mnli", kit_mnli), ("hans", kit_hans), ("sentiment4", kit_sentiment), ("text", kit_text)])  # fmt: skip
def test_datasets_of_texts_conform(name, make, tmp_path):
    (tmp_path / "data").mkdir()
    outcomes = list(examine(catalog().find("datasets", name), spec=make(tmp_path / "data")).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 9
