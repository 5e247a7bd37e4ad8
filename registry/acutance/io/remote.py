"""Files by URL (``s3://``, ``https://``, ``file://`` ...): listed, told apart, fetched into the cache folder.

Whatever fsspec reads can be named; each worker of a cluster fetches what it needs itself.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acutance.errors import UserError
from acutance.io.folders import cache_folder

# What file systems call that which changes with a file's contents; its size always counts.
CHANGES = (
    "ETag", "etag", "Content-MD5", "Digest", "md5Hash", "checksum", "mtime", "Last-Modified", "LastModified",
    "last_modified", "updated",
)  # fmt: skip


def is_remote(path: str) -> bool:
    """Return whether a path is a URL, with a protocol in front."""
    return "://" in path


def without_query(url: str) -> str:
    """Return a URL without what follows ``?`` in an http address, a signature say: it then ends in a file name."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def beside(url: str, path: str) -> str:
    """Return the URL of a path that is relative to the file at a URL; an absolute path stays on its file system."""
    protocol, _, place = without_query(url).partition("://")
    return f"{protocol}://{posixpath.normpath(posixpath.join(posixpath.dirname(place), path))}"


def listed(pattern: str) -> list[str]:
    """Return the URLs of the files that a pattern names, in order, each with its protocol.

    Raises:
        UserError: when the place cannot be reached, or its protocol needs a package that is missing.
    """
    with _reached(pattern):
        system, path = _opened(pattern)
        if not any(mark in without_query(path) for mark in "*?["):
            return [pattern]
        system.invalidate_cache()  # object stores remember listings for the life of the process
        found = system.glob(path, detail=True)
        names = [name for name, info in found.items() if info.get("type") != "directory"]
        return sorted(str(system.unstrip_protocol(name)) for name in names)


def stamp(url: str) -> str:
    """Return what tells one state of a file from another, without opening it; empty where nothing does."""
    try:
        with _reached(url):
            system, path = _opened(url)
            info: dict[str, Any] = system.info(path)
    except UserError:
        return ""
    told = [f"{name}={info[name]}" for name in CHANGES if info.get(name)]
    return "|".join([url, str(info.get("size")), *told]) if told else ""


def read_text(url: str) -> str:
    """Return the text of a small file.

    Raises:
        UserError: when it cannot be read.
    """
    with _reached(url):
        system, path = _opened(url)
        return str(system.cat_file(path).decode("utf-8-sig"))


def fetched(url: str) -> Path:
    """Return a copy of a file in the cache folder, made anew where the file has changed, or where that cannot be told.

    Raises:
        UserError: when there is no such file, or it cannot be fetched.
    """
    state = stamp(url)
    folder = cache_folder() / "remote" / hashlib.sha256((state or url).encode()).hexdigest()[:32]
    path = folder / without_query(url).rsplit("/", 1)[-1]
    if state and path.is_file():
        return path
    # Each process writes its own file, also on other nodes of one cache folder; the last one leaves the same bytes.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with _reached(url):
            system, place = _opened(url)
            if system.info(place).get("type") == "directory":
                raise UserError(f"{url}: is a folder", f"write {url}/*.pt")
            folder.mkdir(parents=True, exist_ok=True)
            system.get_file(place, str(partial))
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path there."""
    import fsspec.core

    if "::" in url:
        raise UserError(f"{url}: is a chain of addresses", "unpack the archive and name its files")
    system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Say in one sentence why a place cannot be read; file systems raise whatever their libraries do."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        # Some file systems call every failure so, and keep what happened as its cause.
        cause = error.__cause__
        if cause is not None and not isinstance(cause, LookupError) and "404" not in str(cause):
            raise UserError(f"{url}: cannot be read: {cause}", "check the address and its access") from None
        raise UserError(f"{url}: no such file", "check the address, and that you may read it") from None
    except ImportError as error:
        raise UserError(f"{url}: cannot be read: {error}", "pip install what reads this protocol") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{url}: is not text: {error}", "give a file in UTF-8") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{url}: cannot be read: {reason.splitlines()[0]}", "check the address and its access"
        ) from None
