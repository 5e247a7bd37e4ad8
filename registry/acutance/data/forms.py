"""Data in the forms that people have them in, as points: inputs and targets whose first axis is the example."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from acutance.data.batch import length_of
from acutance.data.lazy import Lazy
from acutance.data.loaders import batches_of, examples_of, seeded
from acutance.data.points import concatenate
from acutance.dataset import Split
from acutance.errors import AcutanceWarning, UserError, some

LABELS = ("labels", "label", "targets", "target", "y")  # keys of a dict under which labels lie
ALONE = ("x", "inputs", "input", "data", "features", "feature", "image", "images", "img")
"""Keys under which the only inputs lie that a model takes by place, not by name."""
COUNTS = ("index", "indices", "idx", "id", "ids")  # keys of a dict that number its examples
FORMS = "give (inputs, targets), a torch Dataset or DataLoader, or dicts with one of the keys " + ", ".join(LABELS)


@dataclass(frozen=True)
class CheckedPoints:
    """Points in the form that surfaces take, checked already: ``understand`` does not check them again.

    Attributes:
        inputs: a tensor, a dict or a tuple of tensors, or ``acutance.data.lazy.Lazy``; first axis n.
        targets: (n, ...); (n, 0) where there are none.
        size: examples in the first batch of those they came in, or n.
        notes: what a user should know of how they were read.
    """

    inputs: Any
    targets: Tensor
    size: int = 0
    notes: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether there are targets: points without any have an empty one each, (n, 0)."""
        return self.targets.shape[1:] != (0,)


def understand(data: Any, where: str = "data", stacklevel: int = 3) -> CheckedPoints:
    """Return data as points, and warn of what a user should know of how they were read.

    Args:
        data: (inputs, targets) as tensors, arrays or lists, in a tuple or list, with more parts (an index) or not;
            (inputs, None) for points without targets; a dict with a key for labels; a Dataset or DataLoader of torch;
            any iterable of batches or examples of these forms; a ``Split``. Batches of texts are filled up on the
            right where an ``attention_mask`` says so.
        where: what messages call it.
        stacklevel: of the warnings.

    Raises:
        UserError: in one sentence, for anything that is none of these, lacks targets, or has parts that do not belong
            together or are not finite.
    """
    if isinstance(data, CheckedPoints):
        _refuse_lengths(data.inputs, len(data.targets), where)
        return data
    if isinstance(data, Split):
        parsed = CheckedPoints(data.inputs, data.targets, len(data.targets))
    else:
        parsed = _Reading(where).read(data)
    _refuse_lengths(parsed.inputs, len(parsed.targets), where)
    refuse_nonfinite(parsed.inputs, parsed.targets, where)
    for note in parsed.notes:
        warnings.warn(f"{where}: {note}", AcutanceWarning, stacklevel=stacklevel)
    return parsed


def refuse_nonfinite(inputs: Any, targets: Tensor, where: str, rows: Tensor | None = None, first: int = 0) -> None:
    """Refuse points with a value that is no number, and name its row.

    What is read when it is used is not looked at; a mask may hold -inf.

    Args:
        inputs: of the points, first axis n.
        targets: (n, ...).
        where: what the message calls the points.
        rows: (n,) their numbers, by default from ``first`` on.
        first: number of the first row.

    Raises:
        UserError: for NaN or an infinite value.
    """
    for name, tensor in [*_leaves(inputs, "inputs"), ("targets", targets)]:
        row = _nonfinite_row(tensor)
        if row is not None:
            number = first + row if rows is None else int(rows[row])
            raise UserError(
                f"{where}: the {name} have a non-finite value (row {number})", "mend it or leave the row out"
            )


def finite(inputs: Any, targets: Tensor, where: str) -> Any:
    """Return the inputs when they are finite; those that are read when they are used are looked at as they are read.

    Raises:
        UserError: as ``refuse_nonfinite``; of inputs that are read later, while they are.
    """
    if not isinstance(inputs, Lazy):
        refuse_nonfinite(inputs, targets, where)
        return inputs
    refuse_nonfinite((), targets, where)
    read = 0

    def checked(part: Any) -> Any:
        nonlocal read
        refuse_nonfinite(part, targets[:0], where, first=read)
        read += length_of(part) or 0
        return part

    return inputs.then(checked)


def _leaves(inputs: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (what a message calls it, tensor) of all inputs but masks, which may hold -inf."""
    if isinstance(inputs, Tensor):
        yield name, inputs
    elif isinstance(inputs, Mapping):
        for key, value in inputs.items():
            if "mask" not in str(key):
                yield from _leaves(value, f"inputs '{key}'")
    elif isinstance(inputs, tuple | list):
        for value in inputs:
            yield from _leaves(value, name)


def _nonfinite_row(tensor: Tensor) -> int | None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.dim() == 0 or not tensor.numel():
        return None
    # A sum needs no memory, and is finite only of finite numbers; one that merely overflows is looked at again.
    if bool(torch.isfinite(tensor.detach().sum())):
        return None
    wrong = ~torch.isfinite(tensor.detach().reshape(len(tensor), -1)).all(dim=1)
    return int(wrong.nonzero()[0]) if bool(wrong.any()) else None


def _refuse_lengths(inputs: Any, n: int, where: str) -> None:
    """Refuse inputs without points, or of another number than there are targets."""
    try:
        count = length_of(inputs)
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from None
    if n == 0:
        raise UserError(f"{where}: there are no points", "give at least one")
    if count is not None and count != n:
        raise UserError(f"{where}: there are {count} inputs but {n} targets", "give one target for each input")


class _Reading:
    """Reads data once, and collects the notes on how."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.notes: dict[str, None] = {}

    def wrong(self, message: str, hint: str = FORMS) -> UserError:
        """Return an error that says where the data were given."""
        return UserError(f"{self.where}: {message}", hint)

    def note(self, sentence: str) -> None:
        """Add a sentence to the notes, once."""
        self.notes[sentence] = None

    def read(self, data: Any) -> CheckedPoints:
        """Return the points."""
        pairs: list[tuple[Any, Tensor]] = []
        single = None  # whether items are examples, not batches: the first one tells
        for is_example, item in self.items(data):
            if single is None:
                single = is_example if is_example is not None else _is_example(item)
            pairs.append(self.pair(item, single))
        if not pairs:
            raise self.wrong("there are no batches")
        for inputs, targets in pairs:
            _refuse_lengths(inputs, len(targets), self.where)
        inputs, targets = concatenate(self.filled_up(pairs))
        size = len(targets) if single else len(pairs[0][1])
        return CheckedPoints(inputs, targets, size, tuple(self.notes))

    # -- what the data consist of -------------------------------------------------------------------

    def items(self, data: Any) -> Iterator[tuple[bool | None, Any]]:
        """Yield (whether it is an example, or None where the item tells, the item)."""
        if isinstance(data, TensorDataset):
            yield False, data.tensors
        elif hasattr(data, "columns") and hasattr(data, "iloc"):
            raise self.wrong(
                "is one table, which does not say which of its columns are the targets",
                "give a pair: (table.drop(columns='label').to_numpy('float32'), table['label'])",
            )
        elif isinstance(data, DataLoader):
            batched = data.batch_sampler is not None or data.batch_size is not None
            yield from ((False if batched else None, batch) for batch in batches_of(data, self.note))
        elif isinstance(data, IterableDataset):
            with seeded(0):
                yield from ((None, item) for item in data)
        elif isinstance(data, Tensor | np.ndarray | Mapping) or _is_batch(data):
            yield False, data
        elif isinstance(data, Dataset) or _counts(data):
            yield from ((True, item) for item in examples_of(data, self.note))
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            yield from ((None, item) for item in data)
        else:
            raise self.wrong(f"got {type(data).__name__}")

    # -- one batch, or one example ------------------------------------------------------------------

    def pair(self, item: Any, single: bool) -> tuple[Any, Tensor]:
        """Return (inputs, targets) of a batch, or of an example as a batch of one."""
        if isinstance(item, Mapping):
            inputs, targets = self.labelled(item)
        elif isinstance(item, tuple | list) and len(item) > 1:
            inputs, targets = self.parts(item, single)
            if targets is None:
                self.refuse_no_points(inputs, item)
                given = self.inputs(inputs, None, single)
                return given, torch.zeros(length_of(given) or 0, 0)
        else:
            inputs, targets = item[0] if isinstance(item, tuple | list) and item else item, None
        self.refuse_no_points(inputs, item)
        if targets is None:
            raise self.wrong("there are no targets (labels), which the loss needs")
        targets = self.targets(targets, single)
        return self.inputs(inputs, None if single else len(targets), single), targets

    def refuse_no_points(self, inputs: Any, item: Any) -> None:
        """Refuse what no model takes before anything is made of it."""
        if any(hasattr(x, "getbands") for x in _members(inputs)):
            raise self.wrong(
                "the inputs are images of PIL", "give the dataset a transform, e.g. torchvision.transforms.ToTensor()"
            )
        if _is_text(inputs):
            raise self.wrong("the inputs are texts", "give what a tokenizer makes of them, as a dict of tensors")
        readable = isinstance(inputs, Tensor | np.ndarray | Mapping | tuple | list | Lazy)
        if not readable and not hasattr(inputs, "to_numpy") and not _is_number(inputs):
            raise self.wrong(f"a batch is {type(item).__name__}, not a pair (inputs, targets)")

    def labelled(self, item: Mapping[Any, Any]) -> tuple[Any, Any]:
        """Take the labels out of a dict."""
        label_keys = [key for key in LABELS if key in item]
        keys = some([str(key) for key in item])
        if not label_keys:
            raise self.wrong(f"a batch has the keys {keys}, none of them for targets", f"name it {' or '.join(LABELS)}")
        if len(label_keys) > 1:
            raise self.wrong(f"a batch has several keys for targets: {', '.join(label_keys)}", "keep one of them")
        rest = {str(key): value for key, value in item.items() if key != label_keys[0]}
        unused = [key for key in rest if key in COUNTS or _is_text(rest[key])]
        if unused and len(unused) < len(rest):
            self.note(f"left out of a batch: {some(unused)}")
            rest = {key: value for key, value in rest.items() if key not in unused}
        if not rest:
            raise self.wrong(f"a batch has the keys {keys}, none of them for inputs")
        only = next(iter(rest))
        return (rest[only] if len(rest) == 1 and only in ALONE else rest), item[label_keys[0]]

    def parts(self, item: Sequence[Any], single: bool) -> tuple[Any, Any]:
        """Tell inputs from targets in a tuple: (x, y), (x, y, index) or (ids, mask, y)."""
        if len(item) == 2:
            return item[0], item[1]
        shapes = [_shape(part) for part in item]
        labels = () if single else (1,)  # ranks of the shape of one number a point
        flat = [shape is not None and len(shape) == len(labels) for shape in shapes]
        if flat[1] and not flat[0]:
            self.note(f"a batch has {len(item)} parts: the first are the inputs, the second the targets")
            return item[0], item[1]
        alike = all(shape == shapes[0] for shape in shapes[:-1])
        if flat[-1] and not flat[0] and alike and all(_is_whole(part) for part in item[:-1]):
            self.note(f"a batch has {len(item)} parts: the last are the targets, the others the inputs")
            return tuple(item[:-1]), item[-1]
        raise self.wrong(
            f"a batch has {len(item)} parts, and it cannot be told which are the targets",
            "give (inputs, targets), several inputs as ((a, b), targets)",
        )

    def targets(self, value: Any, single: bool) -> Tensor:
        """Return targets (n, ...)."""
        tensor = self.array(value, "targets")
        if tensor is None and isinstance(value, list | tuple) and value and all(_shape(one) == () for one in value):
            tensor = torch.stack([torch.as_tensor(one) for one in value])
        if tensor is None and _is_text(value):
            raise self.wrong("the targets are text, not numbers", "number the classes from 0")
        if tensor is None:
            raise self.wrong(f"the targets are {type(value).__name__}, not a tensor of one a point")
        if single:
            return tensor.unsqueeze(0)
        if tensor.dim() == 0:
            raise self.wrong("the targets are one number, not a tensor of one a point")
        return tensor

    def inputs(self, value: Any, n: int | None, single: bool) -> Any:
        """Return inputs as tensors, dicts and tuples of them; what else lies in a dict stays as it is."""
        if _is_number(value) and not single:
            return value  # a setting of the model's, beside its inputs
        tensor = self.array(value, "inputs")
        if tensor is not None:
            return tensor.unsqueeze(0) if single else tensor
        if isinstance(value, Mapping):
            return {str(key): self.inputs(part, n, single) for key, part in value.items()}
        if not isinstance(value, tuple | list):
            return value
        if n is not None and len(value) == n and all(isinstance(x, Tensor | np.ndarray) for x in value):
            if {tuple(x.shape[:1]) for x in value} != {(n,)}:
                # A list of examples, not of several inputs.
                return self.joined([self.inputs(part, None, True) for part in value])
        return tuple(self.inputs(part, n, single) for part in value)

    def joined(self, inputs: list[Any]) -> Any:
        """Return the inputs of examples as those of a batch."""
        return concatenate(self.filled_up([(x, torch.zeros(1)) for x in inputs]))[0]

    def array(self, value: Any, role: str) -> Tensor | None:
        """Return a tensor of an array, a table or (nested) lists of numbers; None for anything else."""
        if isinstance(value, Tensor):
            if value.is_nested or value.layout is not torch.strided:
                layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
                method = "to_padded_tensor(0)" if value.is_nested else "to_dense()"
                raise self.wrong(f"the {role} are stored as {layout}", f"make them dense: {role}.{method}")
            if value.is_meta:
                raise self.wrong(f"the {role} have no values (they are on the device meta)", "give real tensors")
            return value
        if hasattr(value, "to_numpy"):
            value = value.to_numpy()
        if isinstance(value, list | tuple):
            if not _numbers(value):
                return None
            try:
                return torch.tensor(value)
            except (ValueError, TypeError):
                raise self.wrong(f"the {role} are lists of different lengths", "fill them up to one length") from None
        if not isinstance(value, np.ndarray | np.generic) and not _is_number(value):
            return None
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            kind = "text" if array.dtype.kind in "US" else f"an array of {array.dtype}"
            hint = FORMS if role == "inputs" else "number the classes from 0"
            raise self.wrong(f"the {role} are {kind}, not numbers", hint)
        # Torch takes neither memory that it may not write nor steps backwards or foreign bytes.
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        plain = native.flags.writeable and all(step >= 0 for step in native.strides)
        return torch.from_numpy(native if plain else native.copy())

    # -- several batches ----------------------------------------------------------------------------

    def filled_up(self, pairs: list[tuple[Any, Tensor]]) -> list[tuple[Any, Tensor]]:
        """Return batches of one shape: texts are filled up to the longest, where a mask says what is text."""
        kinds = {_layout(inputs) for inputs, _ in pairs}
        if len(kinds) == 1:
            return pairs
        masks = [inputs.get("attention_mask") if isinstance(inputs, dict) else None for inputs, _ in pairs]
        lengths = {mask.shape[1] for mask in masks if isinstance(mask, Tensor) and mask.dim() == 2}
        if len(lengths) < 2 or not all(isinstance(mask, Tensor) and mask.dim() == 2 for mask in masks):
            a, b = sorted(map(str, kinds))[:2]
            raise self.wrong(
                f"the inputs of its batches differ: {a} and {b}",
                "resize or fill them up to one shape; texts in dicts with attention_mask are filled up here",
            )
        length, pad = max(lengths), _padding([inputs for inputs, _ in pairs])
        self.note(f"texts of other lengths are filled up with {pad} on the right, and masked")
        filled = [(_lengthened(inputs, length, pad), targets) for inputs, targets in pairs]
        kinds = {_layout(inputs) for inputs, _ in filled}
        if len(kinds) > 1:
            a, b = sorted(map(str, kinds))[:2]
            raise self.wrong(f"the inputs of its batches differ: {a} and {b}", "fill them up to one shape")
        return filled


def _padding(inputs: list[dict[str, Any]]) -> int:
    """Return the token that fills up rows, as far as they show one: models may tell the end of a text by it."""
    tokens: set[int] = set()
    for part in inputs:
        ids, mask = part.get("input_ids"), part["attention_mask"]
        if isinstance(ids, Tensor) and ids.shape == mask.shape:
            tokens |= set(ids[mask == 0].unique().tolist())
    return int(tokens.pop()) if len(tokens) == 1 else 0


def _lengthened(inputs: dict[str, Any], length: int, pad: int) -> dict[str, Any]:
    """Return a batch of texts filled up to a length on the right: token ids with ``pad``, all else with 0."""
    shape = inputs["attention_mask"].shape

    def filled(name: str, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or tensor.shape[:2] != shape:
            return tensor
        last = [0, 0] * (tensor.dim() - 2)
        value = pad if name == "input_ids" else 0
        return torch.nn.functional.pad(tensor, [*last, 0, length - shape[1]], value=value)

    return {name: filled(name, tensor) for name, tensor in inputs.items()}


def _layout(inputs: Any) -> Any:
    """Return the shapes of a batch's inputs without the examples, and the kinds of whatever else it holds."""
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape[1:])
    if isinstance(inputs, Mapping):
        return tuple((key, _layout(inputs[key])) for key in sorted(inputs))
    if isinstance(inputs, tuple):
        return tuple(_layout(value) for value in inputs)
    return type(inputs).__name__


def _is_batch(data: Any) -> bool:
    """Whether a tuple or list is one batch, (x, y), [x, y] or (x, y, index), not several of them."""
    if not isinstance(data, tuple | list) or not data:
        return False
    first = data[0]
    if isinstance(first, Tensor | np.ndarray | Lazy) or hasattr(first, "to_numpy"):
        return _shape(first) != ()
    if len(data) < 2:
        return False
    labels = data[1] is None or _is_column(data[1])
    return labels and (isinstance(first, Mapping) or _numbers(first) or _columns(first))


def _is_column(value: Any) -> bool:
    """Whether a value can be the targets of a batch: an array, or a flat list of numbers."""
    if isinstance(value, Tensor | np.ndarray) or hasattr(value, "to_numpy"):
        return True
    return isinstance(value, list | tuple) and (
        _numbers(value) or (bool(value) and all(_shape(v) == () for v in value))
    )


def _columns(value: Any) -> bool:
    """Whether a value is several inputs, each an array."""
    return isinstance(value, tuple | list) and bool(value) and all(_shape(v) is not None for v in value)


def _is_example(item: Any) -> bool:
    """Whether an item of an iterable is one example: its target is one number."""
    if isinstance(item, Mapping):
        target = next((item[key] for key in LABELS if key in item), None)
    else:
        target = item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
    return _shape(target) == ()


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an array or a number, of nested tensors how many; None for anything else."""
    if isinstance(value, Tensor) and value.is_nested:
        return (value.size(0),)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return tuple(value.shape)
    return () if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, np.generic) and value.dtype.kind in "biuf")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and not torch.as_tensor(value).is_floating_point()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and bool(value) and isinstance(value[0], str))


def _members(inputs: Any) -> Iterator[Any]:
    """Yield what lies in inputs: themselves, or what a dict or tuple of them holds."""
    if isinstance(inputs, Mapping | tuple | list):
        yield from inputs.values() if isinstance(inputs, Mapping) else inputs
    else:
        yield inputs


def _numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of such lists."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(map(_is_number, value)) or all(map(_numbers, value))


def _counts(data: Any) -> bool:
    """Whether an object is a dataset by what it does: it has a length, and an example at each place."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes | Sequence)
