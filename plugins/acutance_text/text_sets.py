"""Datasets of texts: what they have in common, and ``text``, a table of one's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import PositiveInt

from acutance.dataset import Dataset, Split, argmax_error
from acutance.errors import UserError, did_you_mean, some
from acutance.spec import Spec
from acutance_text.packaged import minilm_folder
from acutance_text.tables import SUFFIXES, read_columns
from acutance_text.tokens import OnDisk, Words, encode

if TYPE_CHECKING:
    from torch import Tensor

    from acutance_text.tokens import Tokenizer

Score = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Examples:
    """Labelled texts.

    Attributes:
        texts: the first sentences.
        seconds: the second ones of pairs, or None.
        labels: class numbers.
    """

    texts: list[str]
    seconds: list[str] | None
    labels: list[int]

    def rows(self, chosen: Sequence[int]) -> Examples:
        """Return some of them."""
        seconds = None if self.seconds is None else [self.seconds[i] for i in chosen]
        return Examples([self.texts[i] for i in chosen], seconds, [self.labels[i] for i in chosen])


class TextSpec(Spec):
    """Settings common to datasets of texts."""

    tokenizer: str = "words"
    """A folder with tokenizer files, a ``vocab.txt`` of BERT, ``minilm``, or ``words``: those of the training set."""
    lowercase: bool = True
    """Of a ``vocab.txt``: whether texts are lower-cased and lose their accents, as in BERT's uncased models."""
    vocabulary: PositiveInt = 8000
    """Of ``words``: size of the vocabulary, with four special tokens."""
    max_length: PositiveInt = 128
    """Longer texts are cut, of a pair the longer one first; shorter ones are filled up and masked."""
    train_points: PositiveInt | None = None
    """Only this many training texts, classes in turn in file order; a smaller set begins a larger one."""
    limit: PositiveInt | None = None
    """Only this many texts of every other split, chosen in the same way."""


SpecT = TypeVar("SpecT", bound=TextSpec)


class Texts(Dataset[SpecT]):
    """Labelled texts or pairs of texts as dict inputs: ``input_ids``, ``attention_mask``, ``token_type_ids``."""

    @abstractmethod
    def examples(self, split: str) -> Examples:
        """Return the texts of a split in file order; the split is one of ``splits``."""

    def score(self, split: str) -> Score:
        """Return how predictions of a split are judged."""
        return argmax_error

    def open(self, split: str) -> Split:
        """Return a split.

        Raises:
            UserError: for an unknown split, files that are missing or damaged, or no tokenizer.
        """
        import torch

        if split not in self.splits:
            raise UserError(f"{self.name} has no split '{split}'", did_you_mean(split, self.splits))
        examples = self._chosen(split)
        inputs = encode(self.encoder, examples.texts, examples.seconds, self.spec.max_length)
        labels = torch.tensor(examples.labels, dtype=torch.long)
        kind = "texts" if examples.seconds is None else "pairs of texts"
        return Split(inputs, labels, self.score(split), f"{len(labels)} {kind}, {split}")

    def trimmed(self, inputs: Any) -> Any:
        """Return inputs without the last columns, which are padding in every row; the mask says so."""
        if not isinstance(inputs, dict) or "attention_mask" not in inputs:
            return inputs
        mask = inputs["attention_mask"]
        # Only what is behind the last token of all goes: a row that is padded on the left ends with one.
        used = (mask != 0).any(dim=0).nonzero()
        length = int(used.max()) + 1 if len(used) else mask.shape[1]
        if length == mask.shape[1]:
            return inputs
        # Copies, since a view would keep the whole.
        return {name: t[:, :length].clone() if t.shape == mask.shape else t for name, t in inputs.items()}

    @cached_property
    def encoder(self) -> Tokenizer:
        """The tokenizer."""
        if self.spec.tokenizer == "minilm":
            return OnDisk(minilm_folder("dataset.tokenizer"), self.spec.lowercase)
        if self.spec.tokenizer != "words":
            return OnDisk(Path(self.spec.tokenizer).expanduser(), self.spec.lowercase)
        train = self._chosen("train")
        return Words([*train.texts, *(train.seconds or ())], self.spec.vocabulary)

    def _chosen(self, split: str) -> Examples:
        """Return the texts of a split that the settings ask for: all, or so many with balanced classes."""
        import torch

        from acutance.data.points import select

        examples = self.examples(split)
        field = "train_points" if split == "train" else "limit"
        count = getattr(self.spec, field)
        if not examples.labels:
            raise UserError(f"{self.name}: split '{split}' has no texts")
        if count is None or (field == "limit" and count >= len(examples.labels)):
            return examples
        if count > len(examples.labels):
            raise UserError(
                f"dataset.{field}: {count} texts, but there are {len(examples.labels)}", f"lower dataset.{field}"
            )
        return examples.rows(select(torch.tensor(examples.labels), count, "balanced").tolist())


class OwnTextSpec(TextSpec):
    """Settings of text."""

    files: dict[str, str] | None = None
    """{split: FILE}: CSV, TSV, JSON lines or Parquet; the first three also as ``.gz``."""
    text: str = "text"
    """Column of the texts."""
    pair: str = ""
    """Column of the second texts, for pairs."""
    label: str = "label"
    """Column of the labels: numbers from 0, or words; empty for texts without labels."""
    labels: tuple[str, ...] = ()
    """Words that are labels, in the order of the model's outputs; the sorted words of the training set by default."""


class OwnText(Texts[OwnTextSpec]):
    """Texts, or pairs of texts, in tables: CSV, TSV, JSON lines or Parquet, by the names of their columns."""

    name = "text"
    suffixes = SUFFIXES

    @classmethod
    def settings_for(cls, path: Path) -> dict[str, Any]:
        """Return the settings of one table."""
        return {"files": {"train": str(path)}}

    @classmethod
    def settings_without_targets(cls) -> dict[str, Any]:
        """Return that no column of labels is read."""
        return {"label": ""}

    def open(self, split: str) -> Split:
        """Return a split; without labels where no column has them."""
        found = super().open(split)
        return found if self.spec.label else replace(found, targets=found.targets.new_empty(len(found), 0))

    @property
    def splits(self) -> tuple[str, ...]:  # type: ignore[override]
        """The splits that the settings name."""
        return tuple(self.spec.files or ("train", "test"))

    def examples(self, split: str) -> Examples:
        """Return the texts of a split."""
        texts, seconds, labels = self._read(split)
        return Examples(texts, seconds, [self._number(value, split) for value in labels])

    def _read(self, split: str) -> tuple[list[str], list[str] | None, list[Any]]:
        """Return texts, second texts where there are pairs, and labels as the table has them."""
        if self.spec.files is None:
            raise UserError(
                f"{self.name}: nothing says where the texts are", "write dataset.files: {train: FILE, test: FILE}"
            )
        if split not in self.spec.files:
            raise UserError(
                f"dataset.files: names no '{split}', whose words are the vocabulary and the labels", "add it"
            )
        path = Path(self.spec.files[split]).expanduser()
        if not path.is_file():
            raise UserError(
                f"dataset.files.{split}: {path}: no such file", "paths are taken from the working directory"
            )
        if not any(suffix in SUFFIXES for suffix in path.suffixes[-2:]):
            raise UserError(f"dataset.files.{split}: {path}: is of no known kind", f"one of {', '.join(SUFFIXES)}")
        columns = [self.spec.text, *filter(None, (self.spec.label, self.spec.pair))]
        values = read_columns([path], [[name] for name in columns])
        for name, column in zip(columns, values, strict=True):
            empty = next((i for i, value in enumerate(column) if value is None), None)
            if empty is not None:
                raise UserError(f"{path}: row {empty + 1} has no '{name}'", "fill it or take the row out")
        texts, *others = values
        labels = others.pop(0) if self.spec.label else [0] * len(texts)
        return [str(t) for t in texts], [str(t) for t in others[0]] if others else None, labels

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """The words that are labels, in the order of their numbers; none where labels are numbers.

        Raises:
            UserError: when they are those of the training set and its file cannot be read.
        """
        return tuple(self._words)

    @cached_property
    def _words(self) -> dict[str, int]:
        """Labels that are words; empty where labels are numbers."""
        words = self.spec.labels or tuple(sorted({str(value) for value in self._read("train")[2]}))
        numbers = not self.spec.labels and all(word.isdigit() for word in words)
        return {} if numbers else {word: i for i, word in enumerate(words)}

    def _number(self, value: Any, split: str) -> int:
        """Return the class number of a label of the table."""
        if not self._words:
            if not isinstance(value, bool) and str(value).isdigit():
                return int(value)
            raise UserError(f"dataset.files.{split}: the label {value!r} is no number", "those of train are numbers")
        if str(value) not in self._words:
            hint = f"known: {some(list(self._words))}"
            raise UserError(f"dataset.files.{split}: the label {value!r} is unknown", hint)
        return self._words[str(value)]
