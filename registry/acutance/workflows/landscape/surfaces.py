"""The surfaces of a model on every split that a landscape is drawn for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from acutance.data.forms import CheckedPoints, understand
from acutance.data.lazy import applied
from acutance.errors import UserError
from acutance.model.sharded import refuse_shared
from acutance.surface.loss_surface import LossSurface
from acutance.surface.open_model import OpenModel


def opened_model(model: Any, device: Any, dtype: Any) -> OpenModel:
    """Return an open model, made of a module unless it is one.

    Raises:
        UserError: for a device or a type that an open model has already.
    """
    if isinstance(model, OpenModel) and not (device is None and dtype is None):
        raise UserError("an open model has its device and dtype already", "give them to OpenModel")
    if isinstance(model, nn.Module):
        refuse_shared(model)
    return model if isinstance(model, OpenModel) else OpenModel(model, device=device, dtype=dtype)


def surfaces_of(
    opened: OpenModel, data: Any, loss: Any, parameters: str, microbatch: int | None
) -> dict[str, LossSurface]:
    """Return the surfaces of the splits, by name, the first first.

    Args:
        opened: the model.
        data: points, or {split: points}.
        loss: as LossSurface takes it.
        parameters: which move.
        microbatch: examples in one pass.

    Raises:
        UserError: for points that have no targets, or do not fit.
    """
    splits = data if isinstance(data, Mapping) and not _is_batch(data) else {"data": data}
    if not splits:
        raise UserError("data: there is no split", "give (inputs, targets), or {name: (inputs, targets)}")
    found: dict[str, LossSurface] = {}
    for name, points in splits.items():
        where = "data" if splits is not data else f"data '{name}'"
        pair = points if isinstance(points, CheckedPoints) else understand(points, where, stacklevel=5)
        if not pair.labelled:
            raise UserError(f"{where}: there are no targets (labels), so there is no loss", "give (inputs, targets)")
        opened.require_fit(pair.inputs, pair.targets, loss, where)
        pair = CheckedPoints(applied(opened.preprocess, pair.inputs), pair.targets)
        surface = LossSurface(opened.functional, pair, loss=loss, parameters=parameters, microbatch=microbatch)
        if surface.moves_in_place:
            raise UserError("a landscape moves a vector of all weights, which weights in their own types do not have",
                            "dtype float32")  # fmt: skip
        opened.fit(surface)
        found[str(name)] = surface
    return found


def _is_batch(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping is one batch of points with labels, not splits by name."""
    return bool(data) and all(hasattr(value, "shape") for value in data.values())
