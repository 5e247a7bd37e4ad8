"""Points in files of arrays: which of their arrays are inputs and targets, and of which split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from acutance.errors import UserError, did_you_mean, some

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = (("inputs", "targets"), ("x", "y"), ("images", "labels"))  # names that a pair of arrays may have
SUFFIXES = (".npz", ".safetensors", ".pt", ".pth")


def read_points(path: Path, split: str = "") -> tuple[Tensor, Tensor]:
    """Return inputs and targets that lie in a file.

    Args:
        path: .npz or .safetensors, or .pt with a dict of tensors or a pair of them; nothing in it is executed.
        split: of a file with several, ``x_train`` and ``x_test``; by default the pair without a split, or ``train``.

    Raises:
        UserError: for a file that is missing, unreadable, of another kind, or without arrays of these names.
    """
    inputs, targets = chosen(_arrays(path), split, str(path))
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    return inputs, targets.float() if targets.is_floating_point() else targets.long()


def read_inputs(path: Path, split: str = "") -> tuple[Tensor, Tensor]:
    """Return inputs that lie in a file, with targets or without: the targets are not given on, (n, 0).

    A file of torch may hold the tensor of the inputs itself.

    Raises:
        UserError: as ``read_points``.
    """
    import torch

    arrays, named = _arrays(path, alone=True), split or "train"
    of_split = [name for x, _ in PAIRS for name in (f"{x}_{named}", f"{named}_{x}")]
    plain = [x for x, _ in PAIRS]
    names = [name for name in ([*of_split, *plain] if split else [*plain, *of_split]) if name in arrays]
    if not names:
        hint = "name the inputs inputs, x or images, with _train or _test for a split"
        raise UserError(f"{path}: its arrays are {some(list(arrays))}", hint)
    inputs = arrays[names[0]]
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    return inputs, torch.empty(len(inputs), 0)


def chosen(arrays: Mapping[str, Tensor], split: str, where: str, hint: str = "") -> tuple[Tensor, Tensor]:
    """Return the two arrays of a split: ``x_train`` and ``y_train``, ``train_x`` and ``train_y``, or ``x`` and ``y``.

    Args:
        arrays: by name.
        split: or nothing, for a pair without one, and else that of ``train``.
        where: what the message calls the file.
        hint: of the message; by default which names are known.

    Raises:
        UserError: when there are none, naming those that there are.
    """
    named = split or "train"
    of_split = [pair for x, y in PAIRS for pair in ((f"{x}_{named}", f"{y}_{named}"), (f"{named}_{x}", f"{named}_{y}"))]
    order = [*of_split, *PAIRS] if split else [*PAIRS, *of_split]
    for x, y in order:
        if x in arrays and y in arrays:
            return arrays[x], arrays[y]
    usual = "name the arrays inputs and targets, x and y, or images and labels, with _train or _test for a split"
    if split and split not in ("train", "test"):
        usual = did_you_mean(split, ["train", "test"])
    raise UserError(f"{where}: its arrays are {some(list(arrays))}", hint or usual)


def _arrays(path: Path, alone: bool = False) -> Mapping[str, Tensor]:
    """Return the arrays of a file by name; where ``alone``, a file of one tensor holds inputs."""
    import torch

    from acutance.io.checkpoints import all_arrays

    if path.suffix in (".npz", ".safetensors"):
        return all_arrays(path)
    if path.suffix not in (".pt", ".pth"):
        raise UserError(f"{path}: is of no kind that holds arrays", f"one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read: {said}", "save a dict of plain tensors") from None
    if alone and isinstance(found, torch.Tensor):
        return {PAIRS[0][0]: found}
    if isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(x, torch.Tensor) for x in found):
        return dict(zip(PAIRS[0], found, strict=True))
    if isinstance(found, Mapping) and found and all(isinstance(x, torch.Tensor) for x in found.values()):
        return {str(name): tensor for name, tensor in found.items()}
    raise UserError(f"{path}: {_instead_of_tensors(found)}", _advice(found))


def _instead_of_tensors(found: object) -> str:
    """Return what a file of torch holds where tensors are wanted."""
    import torch

    if isinstance(found, torch.Tensor):
        return f"holds one tensor, of shape {tuple(found.shape)}, and no targets"
    parts = found if isinstance(found, Mapping) else dict(enumerate(found)) if isinstance(found, tuple | list) else {}
    others = [f"'{name}' is {_kind(x)}" for name, x in parts.items() if not isinstance(x, torch.Tensor)]
    what = f"holds {_kind(found)}" if found != {} else "is empty"
    return f"{what}, no tensors: {some(others)}" if others else what


def _kind(x: object) -> str:
    many = isinstance(x, list | tuple) and len(x) > 0
    if isinstance(x, str) or (many and all(isinstance(y, str) for y in x)):  # type: ignore[attr-defined]
        return "texts" if many else "a text"
    name = type(x).__name__
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def _advice(found: object) -> str:
    within = list(found.values()) if isinstance(found, Mapping) else found
    parts = within if isinstance(within, tuple | list) else [within]
    if any(_kind(x) in ("texts", "a text") for x in parts):
        return "give texts as a table (.csv, .tsv, .jsonl, .parquet) with a column of labels, or tensors of tokens"
    return "save a dict of tensors, x and y, or the pair (inputs, targets)"
