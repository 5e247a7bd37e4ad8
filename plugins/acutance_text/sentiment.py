"""Rated sentences of four domains (Hutto and Gilbert 2014): films, and three others as natural shifts."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from acutance.errors import UserError
from acutance.io.downloads import allowed, fetch
from acutance.io.folders import cache_folder, data_folder
from acutance_text.text_sets import Examples, Texts, TextSpec

FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
ARCHIVE, INNER = "vaderSentiment-0.5.zip", "hutto_ICWSM_2014.tar.gz"
URL = f"https://files.pythonhosted.org/packages/source/v/vaderSentiment/{ARCHIVE}"
DIGEST = "sha256:5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
OPINION = 0.5  # smaller mean ratings, of -4 to 4, are no clear opinion
TRAIN = 7  # of ten pairs


class Sentiment4Spec(TextSpec):
    """Settings of sentiment4."""

    root: str | None = None
    """Folder of the archive or of its ``*_GroundTruth.txt``; without it ACUTANCE_DATA/sentiment4. It enters no key."""


@dataclass(frozen=True)
class SentimentFiles:
    """The rated sentences on disk.

    Attributes:
        root: folder of the archive or of its files; None for that of ACUTANCE_DATA, or the downloaded archive.
    """

    root: str | None

    def rated(self, domain: str) -> list[tuple[float, str]]:
        """Return mean rating and sentence of each line of a domain's file, in file order."""
        return _rated(self._folder(), domain)

    @staticmethod
    def trains(i: int) -> bool:
        """Return whether the i-th of the films is one to train on."""
        return i % 10 < TRAIN

    def _folder(self) -> Path:
        """Return the folder of the user's files, else that of the downloaded archive."""
        try:
            return data_folder("sentiment4", self.root)
        except UserError as error:
            if self.root is not None:
                raise
            folder = cache_folder() / "data" / "sentiment4"
            if not folder.is_dir() and not allowed():
                raise UserError(error.message, f"{error.hint}, or use --allow-download") from None
            fetch(URL, folder / ARCHIVE, DIGEST)
            return folder


class Sentiment4(Texts[Sentiment4Spec]):
    """Is a sentence's mean rating at least 0.5, or at most -0.5? Film reviews; Amazon, New York Times and Twitter.

    Splits: ``train`` and ``test`` are films, seven and three of ten; ``amazon``, ``nyt`` and ``tweets``. Every split
    has as many sentences of each kind; the other kind's last ones are left out. Target 1 is the positive one.
    """

    name = "sentiment4"
    splits = ("train", "test", "amazon", "nyt", "tweets")
    labels = ("negative", "positive")

    def examples(self, split: str) -> Examples:
        """Return the sentences of a split."""
        domain = "movie" if split in ("train", "test") else split
        files = SentimentFiles(self.spec.root)
        rated = files.rated(domain)
        kinds = [[text for rating, text in rated if rating * sign >= OPINION] for sign in (-1, 1)]
        pairs = list(zip(*kinds, strict=False))  # as many of each
        if domain == "movie":
            pairs = [pair for i, pair in enumerate(pairs) if files.trains(i) == (split == "train")]
        return Examples([text for pair in pairs for text in pair], None, [0, 1] * len(pairs))


@lru_cache(maxsize=8)
def _rated(folder: Path, domain: str) -> list[tuple[float, str]]:
    """Return mean rating and sentence of each line of a domain's file, in file order."""
    name = FILES[domain]
    rows = []
    with _opened(folder, name) as lines:
        for number, line in enumerate(io.TextIOWrapper(lines, encoding="utf-8"), 1):
            fields = line.rstrip("\r\n").split("\t", 2)
            if fields == [""]:
                continue
            try:
                rows.append((float(fields[1]), fields[2]))
            except (IndexError, ValueError):
                raise UserError(f"{folder}: {name}: line {number} is no id, rating and sentence") from None
    return rows


def _opened(folder: Path, name: str) -> IO[bytes]:
    """Open one of the files, beside or inside of the published archives."""
    for place in (folder, folder / "hutto_ICWSM_2014"):
        if (place / name).is_file():
            return (place / name).open("rb")
    try:
        if (folder / INNER).is_file():
            return _inside((folder / INNER).read_bytes(), name)
        if (folder / ARCHIVE).is_file():
            with zipfile.ZipFile(folder / ARCHIVE) as archive:
                inner = next(member for member in archive.namelist() if member.endswith(f"/{INNER}"))
                return _inside(archive.read(inner), name)
    except (OSError, EOFError, KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: the archive cannot be read: {error}", f"get it again: {URL}") from None
    raise UserError(f"{folder}: has no {ARCHIVE}, {INNER} or {name}", f"get {URL}")


def _inside(archive: bytes, name: str) -> IO[bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        member = files.extractfile(f"hutto_ICWSM_2014/{name}")
        assert member is not None  # a folder, which it is not
        return io.BytesIO(member.read())
