"""From sentences to token numbers: a tokenizer on disk, or the words of the training set; made once and kept."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from acutance.errors import UserError
from acutance.io.checkpoints import read_state
from acutance.io.folders import cache_folder
from acutance.spec import digest

if TYPE_CHECKING:
    from torch import Tensor

PAD, UNKNOWN, BEGIN, END = range(4)  # of Words
Pair = tuple[list[int], list[int]]  # tokens and the sentence each belongs to


class Tokenizer(Protocol):
    """Numbers for texts.

    Attributes:
        identity: tells tokenizers apart that would give other numbers.
        pad: the number that fills up.
    """

    identity: str
    pad: int

    def __call__(self, texts: Sequence[str], seconds: Sequence[str] | None, length: int) -> list[Pair]:
        """Return tokens and sentence numbers of each text, or pair of texts, at most so many."""


class Words:
    """Words and punctuation marks; those that are rare in the training texts are one unknown word.

    Args:
        texts: of the training set.
        size: of the vocabulary, with four special tokens; ties go to the word that is met first.
    """

    WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")

    def __init__(self, texts: Sequence[str], size: int) -> None:
        counts = Counter(word for text in texts for word in self.split(text))
        self.numbers = {word: END + 1 + i for i, (word, _) in enumerate(counts.most_common(max(size - 4, 0)))}
        self.identity = digest({"words": list(self.numbers)})
        self.pad = PAD

    def split(self, text: str) -> list[str]:
        """Return the words of a text."""
        return self.WORD.findall(text.lower())

    def __call__(self, texts: Sequence[str], seconds: Sequence[str] | None, length: int) -> list[Pair]:
        """Return tokens and sentence numbers; of a pair that is too long the longer sentence is cut first."""
        pairs = []
        for i, text in enumerate(texts):
            first = [self.numbers.get(word, UNKNOWN) for word in self.split(text)]
            second = [self.numbers.get(word, UNKNOWN) for word in self.split(seconds[i])] if seconds else None
            _cut(first, second, length - (2 if second is None else 3))
            ids = [BEGIN, *first, END]
            kinds = [0] * len(ids)
            if second is not None:
                ids, kinds = [*ids, *second, END], [*kinds, *[1] * (len(second) + 1)]
            pairs.append((ids, kinds))
        return pairs


def _cut(first: list[int], second: list[int] | None, room: int) -> None:
    while len(first) + len(second or []) > room:
        (first if second is None or len(first) > len(second) else second).pop()


class OnDisk:
    """A tokenizer of transformers from a folder, or a ``vocab.txt`` of BERT.

    Args:
        path: folder with tokenizer files, or a vocabulary file.
        lowercase: for a vocabulary file: whether texts are lower-cased and lose their accents.

    Raises:
        UserError: when there is none, or it cannot pad.
    """

    def __init__(self, path: Path, lowercase: bool) -> None:
        import transformers

        self.tokenizer: Any
        try:
            if path.is_file():
                if path.name != "vocab.txt" and path.suffix != ".txt":
                    raise UserError(f"dataset.tokenizer: {path}: is no vocab.txt", "give its folder, or the vocabulary")
                self.tokenizer = _bert(path, lowercase)
            else:
                self.tokenizer = transformers.AutoTokenizer.from_pretrained(
                    path, local_files_only=True, trust_remote_code=False
                )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"dataset.tokenizer: {path}: is no tokenizer: {str(error).splitlines()[0]}",
                "give a folder with tokenizer.json or vocab.txt, a vocab.txt, or 'words'",
            ) from None
        if not set(self.tokenizer.get_vocab()).difference(self.tokenizer.all_special_tokens):
            raise UserError(
                f"dataset.tokenizer: {path}: is no tokenizer: it has no words", "give the folder that has them"
            )
        if self.tokenizer.pad_token_id is None:
            raise UserError(f"dataset.tokenizer: {path}: has no padding token", "set pad_token in its config")
        self.pad = int(self.tokenizer.pad_token_id)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        named = backend.to_str() if backend is not None else str(sorted(self.tokenizer.get_vocab().items()))
        self.identity = hashlib.sha256(named.encode()).hexdigest()

    def __call__(self, texts: Sequence[str], seconds: Sequence[str] | None, length: int) -> list[Pair]:
        """Return tokens and sentence numbers; of a pair that is too long the longer sentence is cut first."""
        encoding = self.tokenizer(
            list(texts), list(seconds) if seconds else None, truncation=True, max_length=length,
            return_token_type_ids=True, return_attention_mask=False,
        )  # fmt: skip
        return list(zip(encoding["input_ids"], encoding["token_type_ids"], strict=True))


def _bert(path: Path, lowercase: bool) -> Any:
    """Return BERT's tokenizer of a vocabulary, whatever the version of transformers."""
    import tokenizers
    import transformers

    backend = tokenizers.BertWordPieceTokenizer(str(path), lowercase=lowercase)._tokenizer
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def encode(tokenizer: Tokenizer, texts: Sequence[str], seconds: Sequence[str] | None, length: int) -> dict[str, Tensor]:
    """Return the inputs of a model: ``input_ids``, ``attention_mask`` and ``token_type_ids``, each (n, L) int64.

    L is the longest of these texts, at most ``length``; shorter ones are filled up, and the mask is zero there. They
    are made once and kept in the cache folder under a digest of texts, tokenizer and length.
    """
    from safetensors.torch import save_file

    # Each text with its length, so that no two lists of texts look alike.
    named = hashlib.sha256()
    for text in (tokenizer.identity, str(length), *texts, "|", *(seconds or ())):
        data = text.encode("utf-8", "surrogatepass")
        named.update(len(data).to_bytes(8, "big") + data)
    path = cache_folder() / "data" / "tokens" / f"{named.hexdigest()[:32]}.safetensors"
    if path.is_file():
        return {name: tensor.long() for name, tensor in read_state(path).items()}
    inputs = _padded(tokenizer(texts, seconds, length), tokenizer.pad)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({name: tensor.int() for name, tensor in inputs.items()}, partial)
    os.replace(partial, path)
    return inputs


def _padded(rows: Sequence[Pair], pad: int) -> dict[str, Tensor]:
    """Return the inputs of a model, (n, L) int64 each, with L the length of the longest row."""
    import torch

    longest = max((len(ids) for ids, _ in rows), default=1)

    def filled(of: Callable[[Pair], list[int]], value: int) -> Tensor:
        return torch.tensor([of(row) + [value] * (longest - len(row[0])) for row in rows], dtype=torch.long).view(
            len(rows), longest
        )

    return {
        "input_ids": filled(lambda row: row[0], pad),
        "attention_mask": filled(lambda row: [1] * len(row[0]), 0),
        "token_type_ids": filled(lambda row: row[1], 0),
    }
