"""A model and its points by their names, as the command line gives them: opened alike here and by workers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.data.forms import CheckedPoints, refuse_nonfinite
from acutance.data.lazy import applied
from acutance.errors import UserError
from acutance.io.checkpoints import load_file, make_model
from acutance.surface.open_model import OpenModel
from acutance.workflows.named import Member, member, points_of

if TYPE_CHECKING:
    from torch import nn

    from acutance.dataset import Dataset


@dataclass(frozen=True)
class Named:
    """A model and its points, by names that another process of this machine, or one that shares its files, can open.

    Attributes:
        model: as MODEL of ``acutance measure``.
        data: of each split: a file, or DATASET[:SPLIT].
        weights: checkpoint file; empty for none.
        key: where in it the state lies.
        prefix: taken off the names in it.
        arguments: of the model's function.
        data_arguments: settings of the dataset.
        points: how many of each split; None for all.
        dtype: float32 or float64; the model's own by default.
    """

    model: str
    data: Mapping[str, str]
    weights: str = ""
    key: str = ""
    prefix: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    data_arguments: Mapping[str, Any] = field(default_factory=dict)
    points: int | None = None
    dtype: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def opened(self, device: str | None) -> tuple[OpenModel, dict[str, CheckedPoints]]:
        """Return the model on a device, and the points of every split as its dataset gives them.

        Raises:
            UserError: for what is not there, or does not fit.
        """
        of_pool = member(self.model)
        wanted = of_pool.pool.data_settings(of_pool.entry, of_pool.spec) if of_pool else {}
        dataset, splits = None, {}
        for name, source in self.data.items():
            dataset, (inputs, targets) = points_of(
                source, wanted, self.data_arguments, self.points, "--data", labelled="a landscape"
            )
            splits[name] = CheckedPoints(inputs, targets)
        net = self._loaded(of_pool)
        opened = self._open(of_pool, dataset, net, device)
        for name, points in splits.items():
            refuse_nonfinite(applied(opened.preprocess, points.inputs), points.targets, f"--data {self.data[name]}")
        return opened, splits

    def _loaded(self, of_pool: Member | None) -> nn.Module:
        """Return the model with its weights."""
        net = make_model(self.model, dict(self.arguments)) if of_pool is None else of_pool.loaded()
        if self.weights:
            load_file(net, Path(self.weights), self.key, self.prefix)
        return net

    def _open(
        self, of_pool: Member | None, dataset: Dataset[Any] | None, net: nn.Module, device: str | None
    ) -> OpenModel:
        if of_pool is None:
            return OpenModel(net, self.model, dataset, device, self.dtype)
        return OpenModel.entry(of_pool.pool, of_pool.spec, of_pool.entry, dataset, device, self.dtype, net)


def checkpoints_of(names: Sequence[str], model: nn.Module, key: str, prefix: str) -> tuple[list[Any], list[str]]:
    """Return checkpoints by their names, files or POOL/ENTRY, and how pictures call them.

    Args:
        names: of the checkpoints.
        model: of the architecture that files are read into.
        key: where in a file the state lies.
        prefix: taken off the names in a file.

    Raises:
        UserError: for what is not there, or of another architecture.
    """
    found: list[Any] = []
    for name in names:
        if Path(name).is_file():
            try:
                found.append(load_file(copy.deepcopy(model), Path(name), key, prefix).state_dict())
            except UserError as error:
                raise UserError(f"--checkpoint {name}: {error.message}", error.hint) from None
        elif "/" in name and (of_pool := _member(name)) is not None:
            found.append(of_pool.loaded())
        else:
            raise UserError(f"--checkpoint {name}: there is no such file", "give a checkpoint file, or POOL/ENTRY")
    short = [Path(name).stem if Path(name).is_file() else name.rpartition("/")[2] for name in names]
    return found, short if len(set(short)) == len(short) else list(names)


def _member(name: str) -> Member | None:
    try:
        return member(name)
    except UserError:
        return None
