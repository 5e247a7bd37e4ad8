"""Downloads: never without being asked, whole or not at all, and checked against a published digest."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from acutance.errors import UserError

VARIABLE = "ACUTANCE_ALLOW_DOWNLOAD"  # of the environment, so that worker processes know it too
BLOCK = 1 << 20


def allowed() -> bool:
    """Return whether the user has asked for downloads: ``run --allow-download``, or ACUTANCE_ALLOW_DOWNLOAD=1."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


@contextmanager
def allowing(downloads: bool) -> Iterator[None]:
    """Allow downloads in this block, when asked to; without that the environment decides."""
    before = os.environ.get(VARIABLE)
    if downloads:
        os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if downloads:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before


def fetch(url: str, path: Path, digest: str) -> Path:
    """Download a file, unless it is there.

    Args:
        url: where from.
        path: where to; its folder is made.
        digest: ``md5:`` or ``sha256:`` and hexadecimal digits.

    Returns:
        The path.

    Raises:
        UserError: when downloads are not allowed, the connection fails, or the file is another than the published one.
    """
    if path.is_file():
        return path
    if not allowed():
        raise UserError(f"{path}: no such file, and downloads are not allowed", f"get {url}, or use --allow-download")
    algorithm, _, wanted = digest.partition(":")
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    click.echo(f"downloading {url} to {path}", err=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as source, partial.open("wb") as target:
            while block := source.read(BLOCK):
                hasher.update(block)
                target.write(block)
        if hasher.hexdigest() != wanted:
            message = f"{url}: has {algorithm} {hasher.hexdigest()}, published is {wanted}"
            raise UserError(message, "the connection broke off, or the file was changed: try again")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{url}: cannot be downloaded: {error}", f"get it by other means and put it at {path}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return path
