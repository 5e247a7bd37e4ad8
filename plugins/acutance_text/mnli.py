"""MNLI (Williams et al. 2018), and its models on HANS (McCoy et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import PositiveInt

from acutance.dataset import argmax_error
from acutance.errors import UserError
from acutance.io.folders import data_folder
from acutance_text.tables import find_table, read_columns
from acutance_text.text_sets import Examples, Score, Texts, TextSpec

if TYPE_CHECKING:
    from torch import Tensor

LABELS = ("contradiction", "entailment", "neutral")
PUBLISHED = ("entailment", "neutral", "contradiction")  # the numbers of Hugging Face's tables
FOLDERS = (".", "MNLI", "data", "original", "multinli_1.0")
STEMS = {
    "train": ("train", "multinli_1.0_train"),
    "test": ("dev_matched", "multinli_1.0_dev_matched", "validation_matched"),
    "mismatched": ("dev_mismatched", "multinli_1.0_dev_mismatched", "validation_mismatched"),
}
PREMISE, HYPOTHESIS, LABEL = ("sentence1", "premise"), ("sentence2", "hypothesis"), ("gold_label", "label")


class MnliSpec(TextSpec):
    """Settings of mnli."""

    root: str | None = None
    """Folder of the files; without it ACUTANCE_DATA/mnli. It enters no key."""
    labels: tuple[str, str, str] = LABELS
    """The model's outputs in their order; this one is that of BERT's own fine-tuning code."""
    train_from_dev: PositiveInt | None = None
    """Without a training set: so many first pairs of the matched development set are train, the rest is test."""


SpecT = TypeVar("SpecT", bound=MnliSpec)


class MnliLike(Texts[SpecT]):
    """What mnli and hans have in common."""

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """The classes in the order that the settings say."""
        return self.spec.labels

    def examples(self, split: str) -> Examples:
        """Return the pairs of a split; those without an agreed label are left out."""
        if self.spec.train_from_dev is None or split == "mismatched":
            return self._read(split)
        dev, count = self._read("test"), self.spec.train_from_dev
        if count >= len(dev.labels):
            raise UserError(
                f"dataset.train_from_dev: {count} of {len(dev.labels)} pairs leave none for test", "lower it"
            )
        return dev.rows(range(count) if split == "train" else range(count, len(dev.labels)))

    def _read(self, split: str) -> Examples:
        """Read the pairs of a split of MNLI from whichever layout the folder has."""
        if sorted(self.spec.labels) != sorted(LABELS):
            message = f"dataset.labels: {', '.join(self.spec.labels)} are not the labels of MNLI"
            raise UserError(message, f"write {', '.join(LABELS)} in the order of the model")
        files = find_table(self._folder, STEMS[split], FOLDERS)
        if not files:
            names = " or ".join(f"{stem}.tsv, .jsonl, .parquet" for stem in STEMS[split][:1])
            raise UserError(f"{self._folder}: has no {names}", "docs/text.md lists the layouts")
        premises, hypotheses, labels = read_columns(files, [PREMISE, HYPOTHESIS, LABEL])
        numbers = {label: i for i, label in enumerate(self.spec.labels)}
        words = [PUBLISHED[value] if isinstance(value, int) and 0 <= value < 3 else str(value) for value in labels]
        labelled = [i for i, word in enumerate(words) if word in numbers]
        unknown = {words[i] for i in range(len(words))} - set(numbers) - {"-", "-1"}
        if unknown:
            raise UserError(f"{files[0]}: the label '{sorted(unknown)[0]}' is unknown", f"known: {', '.join(LABELS)}")
        return Examples(
            [str(premises[i]) for i in labelled],
            [str(hypotheses[i]) for i in labelled],
            [numbers[words[i]] for i in labelled],
        )

    @cached_property
    def _folder(self) -> Path:
        return data_folder(self.name, self.spec.root, "mnli")


class Mnli(MnliLike[MnliSpec]):
    """Pairs of sentences, three classes: GLUE's tables, the original JSON lines or texts, or Hugging Face's Parquet.

    Splits: ``train``, ``test`` (the matched development set) and ``mismatched``.
    """

    name = "mnli"
    splits = ("train", "test", "mismatched")


HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
# The 30 subcases by heuristic: entailed ones, then those that are not; a slash in the published name is a dash here.
SUBCASES = {
    "lexical_overlap": (
        "le_around_prepositional_phrase le_around_relative_clause le_conjunction le_passive le_relative_clause "
        "ln_conjunction ln_passive ln_preposition ln_relative_clause ln_subject-object_swap"
    ),
    "subsequence": (
        "se_PP_on_obj se_adjective se_conjunction se_relative_clause_on_obj se_understood_object "
        "sn_NP-S sn_NP-Z sn_PP_on_subject sn_past_participle sn_relative_clause_on_subject"
    ),
    "constituent": (
        "ce_adverb ce_after_since_clause ce_conjunction ce_embedded_under_since ce_embedded_under_verb "
        "cn_adverb cn_after_if_clause cn_disjunction cn_embedded_under_if cn_embedded_under_verb"
    ),
}
ALL_SUBCASES = tuple(name for names in SUBCASES.values() for name in names.split())


class HansSpec(MnliSpec):
    """Settings of hans: those of mnli, and where HANS is."""

    hans_root: str | None = None
    """Folder of HANS; without it ACUTANCE_DATA/hans. It enters no key."""


class Hans(MnliLike[HansSpec]):
    """MNLI, and HANS: pairs whose words overlap, for models of three classes that are judged on two.

    Splits: ``train``, ``test`` and ``mismatched`` of mnli; ``lexical_overlap``, ``subsequence`` and ``constituent``,
    the pairs of HANS that are no entailment, as in the paper; each with ``_entailed`` the pairs that are; the 30
    subcases by name, a slash written as a dash; ``hans``, all of them. A prediction is entailment or it is not; in
    losses what is no entailment counts as contradiction.
    """

    name = "hans"
    splits = (
        "train", "test", "mismatched", "hans", *HEURISTICS, *(f"{name}_entailed" for name in HEURISTICS), *ALL_SUBCASES
    )  # fmt: skip

    def examples(self, split: str) -> Examples:
        """Return the pairs of a split."""
        if split in ("train", "test", "mismatched"):
            return super().examples(split)
        pairs, golds, heuristics, subcases = self._evaluation_set
        heuristic, entailed = split.removesuffix("_entailed"), split.endswith("_entailed")
        chosen: Sequence[int]
        if split == "hans":
            chosen = range(len(golds))
        elif split in ALL_SUBCASES:
            chosen = [i for i, name in enumerate(subcases) if name == split]
        else:
            wanted = "entailment" if entailed else "non-entailment"
            chosen = [i for i in range(len(golds)) if heuristics[i] == heuristic and golds[i] == wanted]
        yes, no = self.spec.labels.index("entailment"), self.spec.labels.index("contradiction")
        return Examples(
            [pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen],
            [yes if golds[i] == "entailment" else no for i in chosen],
        )  # fmt: skip

    def score(self, split: str) -> Score:
        """Return the error of three classes, or of entailment against the rest."""
        if split in ("train", "test", "mismatched"):
            return argmax_error
        return EntailmentOrNot(self.spec.labels.index("entailment"))

    @cached_property
    def _evaluation_set(self) -> tuple[list[tuple[str, str]], list[str], list[str], list[str]]:
        """Pairs, their labels, heuristics and subcases, in the order of HANS's file."""
        folder = data_folder(self.name, self.spec.hans_root, "hans", "hans_root")
        files = find_table(folder, ("heuristics_evaluation_set", "validation"), (".", "data"))
        if not files:
            raise UserError(f"{folder}: has no heuristics_evaluation_set.txt", "it is published with HANS")
        names = [PREMISE, HYPOTHESIS, LABEL, ("heuristic",), ("subcase",)]
        premises, hypotheses, golds, heuristics, subcases = read_columns(files, names)
        # Hugging Face's table has 0 for entailment.
        golds = [("entailment", "non-entailment")[g] if isinstance(g, int) else str(g) for g in golds]
        strange = set(golds) - {"entailment", "non-entailment"} | set(heuristics) - set(HEURISTICS)
        if strange:
            raise UserError(f"{files[0]}: '{sorted(map(str, strange))[0]}' is no label or heuristic of HANS")
        pairs = [(str(a), str(b)) for a, b in zip(premises, hypotheses, strict=True)]
        return pairs, golds, heuristics, [str(name).replace("/", "-") for name in subcases]


class EntailmentOrNot:
    """Three classes scored as two: neutral and contradiction are both no entailment (McCoy et al. 2019).

    Args:
        entailment: the model's output for it.
    """

    def __init__(self, entailment: int) -> None:
        self.entailment = entailment

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (n,) ones where exactly one of prediction and target is entailment."""
        if logits.shape[1] <= self.entailment:
            message = f"the model has {logits.shape[1]} outputs, entailment is number {self.entailment}"
            raise UserError(message, "take a model of MNLI, or write dataset.labels in its order")
        predicted = logits.argmax(dim=1) == self.entailment
        return (predicted != (targets == self.entailment)).to(logits.dtype)
