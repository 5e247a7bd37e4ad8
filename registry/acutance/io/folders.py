"""Folders outside of a study: where what is made or downloaded is kept, and where the user's data lie."""

from __future__ import annotations

import os
from pathlib import Path

from acutance.errors import UserError

VARIABLE = "ACUTANCE_DATA"


def cache_folder() -> Path:
    """Return where pools keep what they train, ``ACUTANCE_CACHE`` or a folder of the user's; it need not exist yet."""
    own = os.environ.get("ACUTANCE_CACHE")
    if own:
        return Path(own).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("acutance")


def data_folder(
    dataset: str, root: str | None, subfolder: str | None = None, field: str = "root", section: str = "dataset"
) -> Path:
    """Return the folder of a dataset's files.

    Args:
        dataset: name, for the message.
        root: what the spec says, if it does.
        subfolder: folder under ``ACUTANCE_DATA`` that is taken otherwise; the dataset's name by default.
        field: the spec's field, for the message.
        section: of the study that has the field.

    Raises:
        UserError: when neither says where the files are, or there is no such folder.
    """
    if root is not None:
        path, where = Path(root).expanduser(), f"{section}.{field}"
    elif os.environ.get(VARIABLE):
        path, where = Path(os.environ[VARIABLE]).expanduser() / (subfolder or dataset), VARIABLE
    else:
        raise UserError(
            f"{dataset}: nothing says where its files are, and nothing is downloaded",
            f"write {section}.{field}: FOLDER in the study, or set {VARIABLE} to a folder that holds "
            f"{subfolder or dataset}/",
        )
    if not path.is_dir():
        raise UserError(f"{where}: {path}: no such folder", f"{dataset} reads its files from there")
    return path
