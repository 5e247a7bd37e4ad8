"""The order of one network's neurons that brings its weights closest to those of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from acutance.errors import Unsupported
from acutance_predictions.pairs.chains import Moved, chain
from acutance_predictions.pairs.ends import End

if TYPE_CHECKING:
    from acutance.surface import LossSurface

SWEEPS = 100  # over the layers; each raises the objective, so that a few are enough
GAIN = 1e-12  # of the objective's largest value: less is rounding


@dataclass(frozen=True)
class Matching:
    """How neurons of a chain are matched.

    Attributes:
        layers: hidden ones.
        places: {name: (shape, slice)} of all parameters in the flat vector.
    """

    layers: Sequence[Moved]
    places: dict[str, tuple[torch.Size, slice]]

    @classmethod
    def of(cls, surface: LossSurface) -> Matching:
        """Return that of a model, all parameters free.

        Raises:
            Unsupported: where it is no chain.
        """
        layers, places = chain(surface.model), {name: (shape, rows) for name, _, shape, rows in surface.layers}
        known = {*places, *surface.buffers}
        for name in (name for layer in layers for name in (layer.weight, *layer.along, layer.reader)):
            if name not in known:
                raise Unsupported(f"'{name}' is not its own, so neurons are not matched: measure 'alignment: none'")
        return cls(layers, places)

    def aligned(self, a: End, b: End) -> End:
        r"""Return b with its neurons in the order that weight matching finds (Ainsworth et al. 2023, algorithm 1).

        .. math:: \max_{P_1, \dots, P_L} \sum_l \langle W_l^a, P_l W_l^b P_{l-1}^\top \rangle

        with biases and the gains and offsets of batch normalization; running statistics go along and say nothing. Each
        layer's order is the best one given the others, layer after layer from the first, from the order that b has,
        until none gains: a local maximum, which depends on nothing drawn.
        """
        ours, theirs = self._pieces(a), self._pieces(b)
        # Rounding of a sum of products is relative to the largest one, |w_a| |w_b|.
        least = GAIN * float(a.w.double().norm() * b.w.double().norm())
        gained = True
        sweeps = 0
        while gained and sweeps < SWEEPS:
            gained, sweeps = False, sweeps + 1
            for layer in self.layers:
                gain = _gains(layer, ours, theirs)
                rows, order = linear_sum_assignment(gain, maximize=True)
                if gain[rows, order].sum() > np.trace(gain) + least:
                    _reorder(layer, theirs, torch.from_numpy(order).to(b.w.device))
                    gained = True
        w = b.w.clone()
        for name, (_, rows) in self.places.items():
            w[rows] = theirs[name].reshape(-1).to(w)
        return End(w, {name: theirs[name] for name in b.buffers})

    def _pieces(self, end: End) -> dict[str, Tensor]:
        """Return the parameters and buffers of an end, by name."""
        return {name: end.w[rows].reshape(shape) for name, (shape, rows) in self.places.items()} | dict(end.buffers)


def _gains(layer: Moved, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Any:
    """Return the (size, size) objective of each of our neurons (rows) with each of theirs, all else in its order."""
    size = layer.size
    trained = [name for name in layer.along if "running_" not in name.rpartition(".")[2]]
    makers = [
        [pieces[name].reshape(size, -1).double() for name in (layer.weight, *trained)] for pieces in (ours, theirs)
    ]
    readers = [_by_neuron(pieces[layer.reader], size).double() for pieces in (ours, theirs)]
    a, b = (torch.cat([*made, read], 1) for made, read in zip(makers, readers, strict=True))
    return (a @ b.T).cpu().numpy()


def _by_neuron(reader: Tensor, size: int) -> Tensor:
    """Return what reads each neuron as a row, (size, -1): columns of one channel lie together after a Flatten."""
    if reader.shape[1] % size:
        raise Unsupported(
            f"{reader.shape[1]} inputs of a layer are no multiple of the {size} neurons before it, so these are not "
            "matched: measure 'alignment: none'"
        )
    return reader.reshape(reader.shape[0], size, -1).transpose(0, 1).reshape(size, -1)


def _reorder(layer: Moved, pieces: dict[str, Tensor], order: Tensor) -> None:
    """Put the neurons of a layer into an order, in all that belongs to them."""
    for name in (layer.weight, *layer.along):
        pieces[name] = pieces[name][order]
    reader = pieces[layer.reader]
    groups = reader.reshape(reader.shape[0], layer.size, -1)
    pieces[layer.reader] = groups[:, order].reshape(reader.shape)
