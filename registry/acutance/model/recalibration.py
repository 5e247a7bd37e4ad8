"""Batch-normalization statistics made anew from a study's own batches, without touching the model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acutance.errors import UserError
from acutance.model.conditions import conditions
from acutance.model.functional import FunctionalModel


def recalibrated(
    functional: FunctionalModel, batches: Iterable[Any], pieces: Sequence[Tensor] | None = None
) -> FunctionalModel:
    r"""Return the same model with running statistics of these batches.

    .. math:: \mu = \frac1B \sum_b \mathrm{mean}(z_b), \qquad \sigma^2 = \frac1B \sum_b \mathrm{var}(z_b)

    with z_b the inputs of the normalization layer on batch b and the unbiased variance, as torch's running
    statistics with ``momentum=None`` (``torch.optim.swa_utils.update_bn``). Each layer normalizes by the batch's
    own statistics meanwhile; dropout stays off.

    Args:
        functional: the model; left as it is.
        batches: inputs of each batch.
        pieces: the weights, one tensor for every slot; the model's own by default.

    Raises:
        UserError: for a batch that gives a layer a single value a channel: it has no variance.
    """
    layers = layers_with_statistics(functional)
    if not layers:
        functional.notes.append("the model keeps no batch-normalization statistics: there is nothing to recalibrate")
        return functional
    functional.refuse_inner("statistics of batch normalization")
    sums: dict[nn.Module, list[Tensor]] = {}

    def by_own_statistics(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        """Forward hook: note mean and variance of the layer's input, and normalize by them."""
        z = inputs[0]
        axes = [axis for axis in range(z.dim()) if axis != 1]
        mean, variance = z.double().mean(axes), z.double().var(axes, correction=0)
        n = z.numel() / z.shape[1]
        if n < 2:
            raise UserError(
                f"batch_norm: recalibrate: layer '{layers[module]}' sees one value a channel", "raise surface.m"
            )
        sums.setdefault(module, []).append(torch.stack([mean, variance * n / (n - 1)]))
        assert isinstance(module, _BatchNorm)
        return F.batch_norm(z, mean.to(z), variance.to(z), module.weight, module.bias, eps=module.eps)

    pieces = functional.own_pieces() if pieces is None else pieces
    handles = [module.register_forward_hook(by_own_statistics) for module in layers]
    try:
        with conditions(functional):
            for inputs in batches:
                functional(pieces, functional.cast_inputs(inputs))
    finally:
        for handle in handles:
            handle.remove()
    # A layer that no batch reached keeps what it had.
    statistics = {module: torch.stack(moments).mean(0) for module, moments in sums.items()}
    return _with_statistics(functional, statistics)


def layers_with_statistics(functional: FunctionalModel) -> dict[nn.Module, str]:
    """Return the batch normalization layers that keep running statistics, with their names."""
    return {
        module: name
        for name, module in functional.model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def _with_statistics(functional: FunctionalModel, statistics: Mapping[nn.Module, Tensor]) -> FunctionalModel:
    """Return a functional model that shares everything but the running statistics, (2, channels) for each layer."""
    tables = {
        id(module._buffers): {"running_mean": moments[0], "running_var": moments[1]}
        for module, moments in statistics.items()
    }
    other = copy.copy(functional)
    other.moving = other.held = None
    other.buffers = [
        (table, name, tables.get(id(table), {}).get(name, buffer).to(buffer))
        for table, name, buffer in functional.buffers
    ]
    return other
