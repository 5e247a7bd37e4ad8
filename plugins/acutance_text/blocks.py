"""Datasets of blocks of tokens for language models: what they have in common, and ``tokens``, texts of one's own."""

from __future__ import annotations

import glob
import gzip
import zlib
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field, PositiveInt, model_validator

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.spec import Spec
from acutance_text.choices import Question, WrongChoice, question, tokens_of
from acutance_text.next_token import wrong_next_token
from acutance_text.sentiment import FILES, SentimentFiles
from acutance_text.streams import BYTES, Bytes, TokenizerFile, stream
from acutance_text.tables import read_columns

if TYPE_CHECKING:
    from acutance_text.streams import Encoder

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")  # every other file is one text


class BlockSpec(Spec):
    """Settings common to datasets of blocks of tokens."""

    tokenizer: str = BYTES
    """A folder with tokenizer files, a ``tokenizer.json``, or ``bytes``: 256 of them and 256 for the end of a text."""
    end_token: str = ""
    """Token behind each text; the tokenizer's own by default."""
    block: int = Field(default=128, ge=2)
    """Tokens in a block; what is left at the end fills none and is left out."""
    train_points: PositiveInt | None = None
    """Only the first so many blocks of the training texts."""
    limit: PositiveInt | None = None
    """Only the first so many blocks of every other split."""


SpecT = TypeVar("SpecT", bound=BlockSpec)


class Blocks(Dataset[SpecT]):
    """Texts, joined by the token of the end and cut into blocks: inputs ``{"input_ids": ids}``, targets ``ids``."""

    has_classes = False

    @abstractmethod
    def documents(self, split: str) -> list[str]:
        """Return the texts of a split in their order; the split is one of ``splits``."""

    def open(self, split: str) -> Split:
        """Return a split of blocks, (n, block).

        Raises:
            UserError: for an unknown split, files that are missing or damaged, no tokenizer, or too short a text.
        """
        if split not in self.splits:
            raise UserError(f"{self.name} has no split '{split}'", did_you_mean(split, self.splits))
        documents = [text for text in self.documents(split) if text]
        if not documents:
            raise UserError(
                f"dataset '{self.name}', split '{split}': its text is empty", "give it one, or leave it out"
            )
        tokens, length = stream(self.encoder, documents), self.spec.block
        n = len(tokens) // length
        if n == 0:
            raise UserError(
                f"dataset '{self.name}', split '{split}': its {len(tokens)} tokens fill no block of {length}",
                "lower dataset.block, or give a longer text",
            )
        count = self.spec.train_points if split == "train" else self.spec.limit
        if split == "train" and count is not None and count > n:
            raise UserError(f"dataset.train_points: {count} blocks, but there are {n}", "lower dataset.train_points")
        n = min(n, count or n)
        ids = tokens[: n * length].view(n, length).long()
        described = f"{n} blocks of {length} tokens, {split}"
        return Split({"input_ids": ids}, ids.clone(), wrong_next_token, described)

    @cached_property
    def encoder(self) -> Encoder:
        """What makes numbers of texts."""
        if self.spec.tokenizer == BYTES:
            return Bytes()
        return TokenizerFile(Path(self.spec.tokenizer).expanduser(), self.spec.end_token)


class TokensSpec(BlockSpec):
    """Settings of tokens."""

    files: dict[str, str | tuple[str, ...]] | None = None
    """{split: FILE}, a pattern of files or a list of them: plain text, JSON lines, Parquet, CSV, TSV; all but Parquet
    may be packed by gzip."""
    field: str = "text"
    """Field or column of the texts, in tables; a file of plain text is one text."""
    questions: dict[str, str] | None = None
    """{split: FILE}: questions with several answers, in JSON lines or Parquet. The answer of a model is the one whose
    loss is lowest."""
    context: str = "context"
    """Field of a question's text."""
    choices: str = "choices"
    """Field of the list of texts that may follow it."""
    answer: str = "answer"
    """Field that says which of them is right: its index from 0, its text, or its letter."""
    normalized: bool = False
    """Whether a choice's loss is the mean over its tokens, not their sum."""

    @model_validator(mode="after")
    def _apart(self) -> TokensSpec:
        twice = sorted(set(self.questions or {}) & set(self.files or {}))
        if twice:
            raise ValueError(f"questions: '{twice[0]}' is one of files too: give it a name of its own")
        return self


class Tokens(Blocks[TokensSpec]):
    """Blocks of tokens of any texts: plain files, JSON lines, Parquet; each named set of files is a split."""

    name = "tokens"

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The splits that the settings name."""
        asked = tuple(self.spec.questions or ())
        return (*(self.spec.files or (() if asked else ("train", "test"))), *asked)

    def open(self, split: str) -> Split:
        """Return a split of blocks, or of questions: inputs and targets (n, choices, tokens), the right choice first.

        Raises:
            UserError: for an unknown split, files that are missing or damaged, no tokenizer, or too short a text.
        """
        place = (self.spec.questions or {}).get(split)
        if place is None:
            return super().open(split)
        asked = self._questions(place, split)[: self.spec.limit]
        if not asked:
            raise UserError(f"dataset '{self.name}', split '{split}': has no questions", "give some, or leave it out")
        inputs, targets = tokens_of(asked, self.encoder)
        described = f"{len(asked)} questions with {targets.shape[1]} choices, {split}"
        return Split({"input_ids": inputs}, targets, WrongChoice(self.spec.normalized), described)

    def _questions(self, place: str, split: str) -> list[Question]:
        files = _found(place, split, "questions")
        names = [[name] for name in (self.spec.context, self.spec.choices, self.spec.answer)]
        asked = []
        for path in files:
            if _kind(path) not in (".jsonl", ".json", ".parquet"):
                raise UserError(f"dataset.questions.{split}: {path}: is of no known kind", "give JSON lines or Parquet")
            rows = zip(*read_columns([path], names), strict=True)
            asked += [question(row[0], row[1], row[2], f"{path}: row {i}") for i, row in enumerate(rows, 1)]
        return asked

    def documents(self, split: str) -> list[str]:
        """Return the texts of a split's files, one file after the other."""
        if self.spec.files is None:
            hint = "write dataset.files: {train: FILE, test: FILE}"
            raise UserError(f"{self.name}: nothing says where the texts are", hint)
        named = self.spec.files[split]
        places = [named] if isinstance(named, str) else named
        return [text for place in places for path in _found(place, split) for text in self._texts(path)]

    def _texts(self, path: Path) -> list[str]:
        if _kind(path) not in TABLES:
            return [_plain(path)]
        (texts,) = read_columns([path], [[self.spec.field]])
        wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            hint = "fill it or take the row out"
            raise UserError(f"{path}: row {wrong + 1} has no text in '{self.spec.field}'", hint)
        return texts


class Sentiment4TokensSpec(BlockSpec):
    """Settings of sentiment4_tokens."""

    root: str | None = None
    """Folder of the files of sentiment4; without it ACUTANCE_DATA/sentiment4. It enters no key."""


class Sentiment4Tokens(Blocks[Sentiment4TokensSpec]):
    """All sentences of ``sentiment4`` as blocks of tokens: ``train`` and ``test`` are films, seven and three of ten."""

    name = "sentiment4_tokens"
    splits = ("train", "test", "amazon", "nyt", "tweets")

    def documents(self, split: str) -> list[str]:
        """Return the sentences of a split, with an opinion or without."""
        files = SentimentFiles(self.spec.root)
        if split in FILES:
            return [text for _, text in files.rated(split)]
        return [text for i, (_, text) in enumerate(files.rated("movie")) if files.trains(i) == (split == "train")]


def _kind(path: Path) -> str:
    """Return the ending of a file, before that of gzip."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _found(place: str, split: str, field: str = "files") -> list[Path]:
    """Return the files that a path or a pattern names, in the order of their names."""
    path = Path(place).expanduser()
    files = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path))) if Path(name).is_file()]
    if not files:
        hint = "give a file, a pattern of files or a list; paths are taken from the working directory"
        raise UserError(f"dataset.{field}.{split}: {place}: no such file", hint)
    return files


def _plain(path: Path) -> str:
    """Return the text of a file as it is, line ends included."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", "give a text file in UTF-8") from None
