"""Which parameters of a model are weight matrices, and how each is laid out as one, (out, in).

* ``weight`` of linear layers and of convolutions, the latter as (out, in/groups · kernel), transposed ones too;
* ``weight`` of transformers' ``Conv1D``, which is stored transposed;
* query, key and value of ``nn.MultiheadAttention``, a matrix each where they are packed in ``in_proj_weight``;
* every gate of recurrent layers;
* embedding tables, (words, dimension): the map of one-hot words; a table tied to the output layer counts once;
* any other parameter with two axes that is called ``weight``: that of a linear layer of one's own.

Gains and biases of normalization, tokens and positions that are learnt, and other parameters are none. Query, key and
value that other layers pack into one linear map, as those of timm and of GPT-2, are the one matrix that they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from acutance.errors import Unsupported

if TYPE_CHECKING:
    from acutance.surface import LossSurface

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


@dataclass(frozen=True)
class WeightMatrix:
    """One weight matrix.

    Attributes:
        name: of the parameter, with the part of it in brackets where it packs several.
        values: (out, in), as given to ``matrices``: weights, or how far they are from others.
        kernel: the values as they are stored, and their layer, of a convolution; else None.
    """

    name: str
    values: Tensor
    kernel: tuple[Tensor, Convolution] | None = None


def matrices(surface: LossSurface, pattern: str, moved: bool = False) -> list[WeightMatrix]:
    """Return the weight matrices among the parameters that a pattern names.

    Args:
        surface: of the model.
        pattern: as of the field ``parameters``.
        moved: whether their values are w - w0, not w.

    Raises:
        Unsupported: for no matrix, one whose layer computes it from other parameters, or unknown initial weights.
        UserError: for a pattern that matches no parameter.
    """
    part = surface.restricted(pattern)
    v = part.w - part.w0 if moved else part.w
    modules = dict(surface.model.named_modules(remove_duplicate=False))
    found = []
    for name, tensor in part.unflatten(v).items():
        path, _, last = name.rpartition(".")
        refuse_computed(path, modules)
        found += [
            WeightMatrix(name + which, values, kernel)
            for which, values, kernel in _laid_out(modules[path], last, tensor)
        ]
    if not found:
        raise Unsupported(
            f"no weight matrix stands behind parameters '{pattern}': name the weights of linear, convolutional or "
            "embedding layers"
        )
    return found


def refuse_computed(path: str, modules: dict[str, nn.Module]) -> None:
    """Refuse parameters of which a layer computes its weight matrix: they are not the matrix."""
    owner, _, _ = path.partition(".parametrizations")
    layer = modules[owner]
    plain = (nn.Linear, nn.Embedding, *CONVOLUTIONS, *TRANSPOSED)
    if is_parametrized(layer) or (isinstance(layer, plain) and "weight" not in dict(layer.named_parameters())):
        raise Unsupported(
            f"the weight of '{owner}' is computed from other parameters (weight or spectral normalization, ...): fold "
            "it first, torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm"
        )


def _laid_out(
    layer: nn.Module, last: str, tensor: Tensor
) -> Iterator[tuple[str, Tensor, tuple[Tensor, Convolution] | None]]:
    """Yield (part, matrix, kernel) of a parameter by what its layer does with it."""
    if isinstance(layer, nn.MultiheadAttention) and last.endswith("proj_weight"):
        packed = zip(("[query]", "[key]", "[value]"), tensor.chunk(3), strict=True)
        yield from ((which, rows, None) for which, rows in (packed if last == "in_proj_weight" else [("", tensor)]))
    elif isinstance(layer, nn.RNNBase) and last.startswith(("weight_ih", "weight_hh")):
        gates = tensor.chunk({"LSTM": 4, "GRU": 3}.get(layer.mode, 1))
        yield from ((f"[{i}]" if len(gates) > 1 else "", rows, None) for i, rows in enumerate(gates))
    elif last != "weight" or isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return
    elif isinstance(layer, TRANSPOSED):
        grouped = tensor.unflatten(0, (layer.groups, -1)).transpose(1, 2)  # (groups, out/groups, in/groups, ...)
        yield "", grouped.flatten(0, 1).flatten(1), (tensor, layer)
    elif isinstance(layer, CONVOLUTIONS):
        yield "", tensor.flatten(1), (tensor, layer)
    elif tensor.dim() == 2:
        yield "", tensor.T if type(layer).__name__ == "Conv1D" else tensor, None
