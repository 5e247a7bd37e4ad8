"""Questions whose answer is the choice with the lowest loss, against losses computed one choice at a time."""

import copy
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from acutance import LossSurface, UserError
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.testing.core import examine
from acutance_text.causal import Causal
from acutance_text.choices import WrongChoice, question
from acutance_text.choosing import taking_choices
from acutance_text.next_token import next_token
from acutance_text.streams import Bytes
from acutance_text.transformers_pool import FolderSpec

ROWS = [
    {"context": "1 + 1 = ", "choices": ["3", "2", "17"], "answer": 1},
    {"context": "a dog ", "choices": ["barks", "meows aloud"], "answer": "meows aloud"},
    {"context": "", "choices": ["xy", "yx"], "answer": "A"},
    {"context": "the sky is ", "choices": ["blue", "green", "a bird"], "answer": "2"},
]
RIGHT = [1, 1, 0, 2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))


def gpt2(seed=0, vocabulary=257):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=8, n_layer=1, n_head=2, n_positions=24, initializer_range=0.5,
        bos_token_id=vocabulary - 1, eos_token_id=vocabulary - 1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def written(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tokens(**settings):
    made = catalog().get("datasets", "tokens")
    return made(made.Spec(**settings))


def loss_of_choice(model, context, choice, mean=False):
    """The loss of the bytes of a choice, one sequence at a time."""
    ids = [256, *(context + choice).encode()]
    start = 1 + len(context.encode())
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    losses = [-float(logs[t - 1, ids[t]]) for t in range(start, len(ids))]
    return sum(losses) / (len(losses) if mean else 1)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("microbatch", [None, 1])
def test_the_answer_is_the_choice_with_the_lowest_loss(normalized, microbatch, tmp_path):
    data = tokens(questions={"quiz": written(tmp_path / "q.jsonl")}, normalized=normalized)
    split = data.open("quiz")
    assert (
        data.splits == ("quiz",)
        and split.description == "4 questions with 3 choices, quiz"
        and split.targets.shape[:2] == (4, 3)
    )
    seen = set()
    for seed in range(6):
        model = gpt2(seed)
        losses = [[loss_of_choice(model, r["context"], c, normalized) for c in r["choices"]] for r in ROWS]
        wrong = [
            float(min(range(len(of)), key=of.__getitem__) != right) for of, right in zip(losses, RIGHT, strict=True)
        ]
        points = (split.inputs, split.targets)
        surface = LossSurface(
            taking_choices(gpt2(seed)),
            points,
            loss=next_token,
            score=split.score,
            microbatch=microbatch,
            dtype="float64",
        )
        assert surface.errors().tolist() == wrong
        seen.add(tuple(wrong))
        # The loss is that of the right answers, by token.
        sizes = [len(r["choices"][right]) for r, right in zip(ROWS, RIGHT, strict=True)]
        sums = [loss_of_choice(model, r["context"], r["choices"][right]) for r, right in zip(ROWS, RIGHT, strict=True)]
        assert float(surface.loss()) == pytest.approx(sum(sums) / sum(sizes), rel=1e-5)
    assert len(seen) > 1


def test_normalizing_by_length_matters():
    logits = torch.zeros(1, 2, 5, 3)
    logits[0, 0, :, 0] = 1.0  # each of the four tokens of the right one costs ln(e + 2) - 1 = 0.55
    targets = torch.tensor(
        [[[0, 0, 0, 0, 0], [1, -100, -100, -100, 1]]]
    )  # the other one's only token costs ln 3 = 1.10
    assert WrongChoice()(logits, targets).tolist() == [1.0] and WrongChoice(True)(logits, targets).tolist() == [0.0]


def test_ties_count_as_a_guess():
    logits = torch.zeros(2, 4, 3, 5)
    targets = torch.zeros(2, 4, 3, dtype=torch.long)
    targets[1, 3] = -100  # this question has three choices
    assert WrongChoice()(logits, targets).tolist() == pytest.approx([3 / 4, 2 / 3])


def test_the_right_choice_comes_first_behind_its_context(tmp_path):
    split = tokens(questions={"quiz": written(tmp_path / "q.jsonl", ROWS[:1])}).open("quiz")
    ids, context = split.inputs["input_ids"][0], [*b"1 + 1 = "]
    assert ids.tolist() == [[256, *context, *b"2", 256], [256, *context, *b"3", 256], [256, *context, *b"17"]]
    nothing = [-100] * 9
    assert split.targets[0].tolist() == [[*nothing, *b"2", -100], [*nothing, *b"3", -100], [*nothing, *b"17"]]


def test_tokens_that_a_choice_changes_in_its_context_are_predicted_too(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "ab": 2, "</s>": 3, "<s>": 4, "?": 5}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>")
    fast.save_pretrained(tmp_path / "t")
    rows = [{"context": "b a", "choices": ["b", " b"], "answer": 0}]  # "b ab" has no token "a"
    split = tokens(questions={"q": written(tmp_path / "q.jsonl", rows)}, tokenizer=str(tmp_path / "t")).open("q")
    assert split.inputs["input_ids"].tolist() == [[[4, 1, 2, 3], [4, 1, 0, 1]]]
    assert split.targets.tolist() == [[[-100, -100, 2, -100], [-100, -100, -100, 1]]]
    rows = [{"context": "a", "choices": [" ", " b"], "answer": 0}]
    with pytest.raises(UserError, match="the choice ' ' behind 'a' has no token of its own"):
        tokens(questions={"q": written(tmp_path / "q.jsonl", rows)}, tokenizer=str(tmp_path / "t")).open("q")


@pytest.mark.parametrize(
    ("answer", "right"), [(0, "x"), (2, "1"), ("y", "y"), ("1", "1"), ("0", "x"), ("B", "y"), ("c", "1")]
)
def test_ways_to_say_which_is_right(answer, right):
    found = question("", ["x", "y", "1"], answer, "here")
    assert found.choices[0] == right and sorted(found.choices) == ["1", "x", "y"]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ((None, ["a", "b"], 0), "here: its context is no text"),
        (("", ["a"], 0), "no list of two or more texts"),
        (("", "ab", 0), "no list of two or more texts"),
        (("", ["a", ""], 0), "no list of two or more texts"),
        (("", ["a", "b"], 2), r"its answer 2 is none of its 2 choices \(write 0 to 1"),
        (("", ["a", "b"], -1), "is none of its 2 choices"),
        (("", ["a", "b"], True), "is none of its 2 choices"),
        (("", ["a", "b"], "d"), "is none of its 2 choices"),
        (("", ["a", "b"], "none"), "is none of its 2 choices"),
        (("", ["a", "b"], 1.0), "is none of its 2 choices"),
    ],
)
def test_rows_that_are_no_questions_are_refused(row, match):
    with pytest.raises(UserError, match=match):
        question(*row, "here")


def test_files_that_hold_no_questions_are_refused(tmp_path):
    place = written(tmp_path / "q.jsonl", [{**ROWS[0], "answer": 9}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "q.txt").write_text("x")
    for settings, match in (
        ({"questions": {"q": place}}, r"q.jsonl: row 1: its answer 9"),
        ({"questions": {"q": place}, "choices": "endings"}, "has no column endings"),
        ({"questions": {"q": str(tmp_path / "none.jsonl")}}, r"dataset.questions.q: .*none.jsonl: no such file"),
        ({"questions": {"q": str(tmp_path / "empty.jsonl")}}, "split 'q': has no questions"),
        ({"questions": {"q": str(tmp_path / "q.txt")}}, r"q.txt: is of no known kind \(give JSON lines or Parquet"),
    ):
        with pytest.raises(UserError, match=match):
            tokens(**settings).open("q")
    with pytest.raises(ValueError, match="'q' is one of files too"):
        tokens(files={"q": place}, questions={"q": place})


def test_parquet_holds_questions_too(tmp_path):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{**row, "answer": right} for row, right in zip(ROWS, RIGHT, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    splits = [tokens(questions={"q": f"{tmp_path}/q.{kind}"}) for kind in ("parquet", "jsonl")]
    written(tmp_path / "q.jsonl")
    assert torch.equal(*(data.open("q").targets for data in splits))


def test_a_model_that_takes_choices_is_otherwise_the_same():
    plain, model = gpt2(), taking_choices(gpt2())
    assert taking_choices(model) is model and type(model).__name__ == "GPT2LMHeadModel"
    assert list(model.state_dict()) == list(plain.state_dict())
    ids = torch.randint(257, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.lm_head.weight.zero_()
        for given in ((ids,), ()):
            named = {} if given else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            found = model(*given, **named).logits
            assert found.shape == (2, 3, 5, 257)
            torch.testing.assert_close(found, torch.stack([plain(input_ids=rows).logits for rows in ids]))
            assert not copied(*given, **named).logits.any()  # a copy sees its own weights
        assert torch.equal(model(input_ids=ids[0]).logits, plain(input_ids=ids[0]).logits)


def test_a_study_asks_questions(tmp_path):
    for seed in range(3):
        gpt2(seed).save_pretrained(tmp_path / "models" / f"gpt_seed={seed}")
    (tmp_path / "train.txt").write_text("the quick brown fox " * 20)
    quiz = written(tmp_path / "q.jsonl")
    settings = {
        "format": 1, "within": ["architecture"], "pools": [{"name": "causal", "path": str(tmp_path / "models")}],
        "dataset": {
            "name": "tokens", "files": {"train": str(tmp_path / "train.txt")}, "block": 16, "questions": {"quiz": quiz},
        },
        "surface": {"points": 8, "m": 4, "select": "first", "loss": "acutance_text.causal:next_token"},
        "measures": [{"name": "gradient_norm"}], "targets": ["quiz.error", "quiz.loss", "train.loss"],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(settings))
    run = run_study(load_config(tmp_path / "study.yaml"), tmp_path / "run", report=False)
    found = run.models.set_index("model")
    for seed in range(3):
        model = Causal().load(*_entry(tmp_path / "models" / f"gpt_seed={seed}"))
        losses = [[loss_of_choice(model, r["context"], c) for c in r["choices"]] for r in ROWS]
        wrong = [min(range(len(of)), key=of.__getitem__) != right for of, right in zip(losses, RIGHT, strict=True)]
        assert found.loc[f"gpt_seed={seed}", "target.quiz.error"] == sum(wrong) / 4


def _entry(folder):
    spec = FolderSpec(path=str(folder))
    return Causal().entries(spec)[0], spec


def test_the_dataset_conforms_with_questions(tmp_path):
    (tmp_path / "train.txt").write_text("the quick brown fox " * 20)
    spec = {
        "files": {"train": str(tmp_path / "train.txt")}, "block": 16,
        "questions": {"quiz": written(tmp_path / "q.jsonl")},
    }  # fmt: skip
    outcomes = list(examine(catalog().find("datasets", "tokens"), spec=spec).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert Bytes().begin == Bytes().end == 256
