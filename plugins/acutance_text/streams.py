"""From documents to one stream of tokens for language models: byte by byte, or by a tokenizer on disk; made once."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from acutance.errors import UserError
from acutance.io.checkpoints import read_state
from acutance.io.folders import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

BYTES = "bytes"
ENDS = (
    "<|endoftext|>",
    "</s>",
    "<|end_of_text|>",
    "<eos>",
    "[EOS]",
    "<|im_end|>",
)  # that a bare tokenizer.json may have
AT_ONCE = 1000  # documents


class Encoder(Protocol):
    """Numbers for documents.

    Attributes:
        identity: tells encoders apart that would give other numbers.
        end: the number behind each document.
        begin: the number before a text that stands alone: the tokenizer's own, else that of an end.
    """

    identity: str
    end: int
    begin: int

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, without any that mark its beginning or end."""


class Bytes:
    """The 256 bytes of UTF-8, and 256 for the end of a document: a vocabulary of 257 that needs no file."""

    identity = BYTES
    end = begin = 256

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the bytes of each text."""
        return [list(text.encode("utf-8", "surrogatepass")) for text in texts]


class TokenizerFile:
    """A tokenizer of transformers from a folder, or the one file ``tokenizer.json`` of the library tokenizers.

    Args:
        path: folder or file.
        end: the token behind each document; the tokenizer's own token of the end, or a usual one, where it is empty.

    Raises:
        UserError: when there is none, or it has no such token.
    """

    def __init__(self, path: Path, end: str = "") -> None:
        import transformers

        fast: Any = transformers.PreTrainedTokenizerFast
        try:
            if not path.exists():
                raise UserError(f"dataset.tokenizer: {path}: no such file or folder", _HINT)
            if path.is_file():
                self.tokenizer: Any = fast(tokenizer_file=str(path))
            else:
                auto: Any = transformers.AutoTokenizer
                self.tokenizer = auto.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except UserError:
            raise
        except Exception as error:  # the tokenizers library raises plain exceptions
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"dataset.tokenizer: {path}: is no tokenizer: {said}", _HINT) from None
        if not set(self.tokenizer.get_vocab()).difference(self.tokenizer.all_special_tokens):
            # transformers makes one of nothing but marks where it finds no files of a tokenizer.
            raise UserError(f"dataset.tokenizer: {path}: is no tokenizer: it has no words", _HINT)
        self.end = self._end(path, end)
        begin = self.tokenizer.bos_token_id
        self.begin = self.end if begin is None else int(begin)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        named = backend.to_str() if backend is not None else str(sorted(self.tokenizer.get_vocab().items()))
        self.identity = hashlib.sha256(f"{self.end}|{named}".encode()).hexdigest()

    def _end(self, path: Path, end: str) -> int:
        vocabulary = self.tokenizer.get_vocab()
        own = self.tokenizer.eos_token
        for token in [end] if end else filter(None, (own, *ENDS)):
            if token in vocabulary:
                return int(vocabulary[token])
        if end:
            raise UserError(f"dataset.end_token: {path}: its vocabulary has no '{end}'", "write one that it has")
        raise UserError(f"dataset.tokenizer: {path}: has no token for the end of a text", "name it: dataset.end_token")

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text; words for special tokens that a text has are these tokens."""
        found: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return found


_HINT = "give a folder with tokenizer files, a tokenizer.json, or bytes"


def stream(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Return the tokens of all documents, each with the token of the end behind it, (N,) int32.

    They are made once and kept in the cache folder under a digest of the texts and the encoder.
    """
    import torch
    from safetensors.torch import save_file

    named = hashlib.sha256()
    for text in ("stream", encoder.identity, str(encoder.end), *texts):
        data = text.encode("utf-8", "surrogatepass")
        named.update(len(data).to_bytes(8, "big") + data)  # with its length, so that no two lists look alike
    path = cache_folder() / "data" / "tokens" / f"{named.hexdigest()[:32]}.safetensors"
    if path.is_file():
        return read_state(path)["tokens"]
    tokens = torch.frombuffer(joined(encoder, texts), dtype=torch.int32).clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({"tokens": tokens}, partial)
    os.replace(partial, path)
    return tokens


def joined(encoder: Encoder, texts: Sequence[str]) -> array[int]:
    """Return the numbers of all documents, one behind the other."""
    numbers = array("i")
    for first in range(0, len(texts), AT_ONCE):
        for ids in encoder(texts[first : first + AT_ONCE]):
            numbers.extend(ids)
            numbers.append(encoder.end)
    return numbers
