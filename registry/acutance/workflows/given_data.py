"""Points that a command is given by name: a file of arrays, a table of texts, a registered data set's split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.io.data_files import SUFFIXES, read_inputs, read_points
from acutance.plugins import catalog
from acutance.spec import validate

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.dataset import Dataset


def opened_data(
    source: str, asked: Mapping[str, Any], settings: Mapping[str, Any], option: str = "--data", labelled: bool = True
) -> tuple[Dataset[Any] | None, Any, Tensor]:
    """Open a file or a registered data set's split.

    Args:
        source: FILE, FILE:SPLIT or DATASET[:SPLIT].
        asked: settings that the model asks for, where the data set has them.
        settings: of the data set, as the user gives them.
        option: what messages call the source.
        labelled: whether targets are wanted: else files of arrays may have inputs alone, whose targets are empty.

    Returns:
        The data set, where there is one, inputs and targets.

    Raises:
        UserError: for what is not there, or of no kind that can be read.
    """
    name, _, split = source.rpartition(":") if ":" in source else (source, "", "")
    if Path(name).suffix in SUFFIXES:
        if settings:
            raise UserError(f"{option}-arg: {name} holds arrays and has no settings", "leave it out")
        read = read_points if labelled else read_inputs
        return None, *read(Path(name), split)
    dataset = opened_dataset(name, asked, settings, option, labelled)
    opened = dataset.open(split or "train")
    return dataset, opened.inputs, opened.targets


def opened_dataset(
    name: str, asked: Mapping[str, Any], settings: Mapping[str, Any], option: str = "--data", labelled: bool = True
) -> Dataset[Any]:
    """Return a data set by its name, or the one that reads a file.

    Raises:
        UserError: for a name that is unknown, or a file of no kind that can be read.
    """
    path, datasets = Path(name), [item.target for item in catalog().usable("datasets")]
    reads = [target for target in datasets if path.suffix and path.suffixes[-1] in target.suffixes]
    if path.suffix == ".gz":
        reads = [target for target in datasets if Path(path.stem).suffix in target.suffixes]
    if not reads and (path.suffix or path.exists()):
        every = (*SUFFIXES, *(suffix for target in datasets for suffix in target.suffixes))
        raise UserError(f"{option} {name}: is of no kind that can be read", f"{', '.join(every)}, or DATASET[:SPLIT]")
    target = reads[0] if reads else catalog().get("datasets", name)
    fields = target.Spec.model_fields
    chosen = {key: value for key, value in asked.items() if key in fields}
    file = target.settings_for(path) if reads else {}
    if reads and not labelled:
        file = {**file, **target.settings_without_targets()}
    dataset: Dataset[Any] = target(validate(target.Spec, {**file, **chosen, **settings}, f"{option} {name}"))
    return dataset
