r"""Where a model's attention keeps the pairs of matrices of which only the product counts.

Scores depend on :math:`G H^\top` with G the queries' weights and bias of a head, (d + 1, h), and H the keys'; outputs
do with G the values' and H the output map's columns, (d, h). Query heads that share a key head (grouped-query
attention) are one G, put together; so are the columns of the output map that share a value head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from acutance.surface import LossSurface

QUERY = ("q", "query", "q_proj", "q_lin", "to_q", "wq", "q_linear")
KEY = ("k", "key", "k_proj", "k_lin", "to_k", "wk", "k_linear")
VALUE = ("v", "value", "v_proj", "v_lin", "to_v", "wv", "v_linear")
PACKED = ("qkv", "to_qkv", "in_proj", "qkv_proj")
OUT = ("o", "out", "o_proj", "out_proj", "out_lin", "to_out", "wo", "proj", "dense")
HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads", "n_head")
Kind = Literal["query_key", "value_output"]


@dataclass(frozen=True)
class Pair:
    """Where the entries of G, (rows, h), and of H, (other rows, h), lie in the flat vector of free parameters."""

    kind: Kind
    g: Tensor
    h: Tensor


def pairs_of(view: LossSurface) -> list[Pair]:
    """Return the pairs of all attention modules whose matrices are free, as far as names and shapes tell them."""
    places = {name: torch.arange(part.start, part.stop).view(shape) for name, _, shape, part in view.layers}
    found = []
    for name, module in view.model.named_modules():
        if heads := _heads(module):
            own = isinstance(module, nn.MultiheadAttention)
            q, k, v, out = _packed_by_torch(name, places) if own else _by_children(view.model, name, places)
            if q is not None and k is not None:
                found += [Pair("query_key", many, few) for many, few in _by_head(q.T, k.T, heads)]
            if v is not None and out is not None:
                found += [Pair("value_output", few, many) for many, few in _by_head(out, v.T, heads)]
    return found


Maps = tuple[Tensor | None, ...]  # rows of q, k, v with their biases, and the output's weight; None where not free


def _by_head(many: Tensor, few: Tensor, heads: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the columns of each key or value head, with those of all query heads that share it, one below the other."""
    size = many.shape[1] // heads
    if not size or many.shape[1] % heads or few.shape[1] % size or many.shape[1] % few.shape[1]:
        return
    shared = many.shape[1] // few.shape[1]
    for group, head in zip(many.split(size * shared, 1), few.split(size, 1), strict=True):
        yield torch.cat(list(group.split(size, 1))), head


def _heads(module: nn.Module) -> int:
    """Return the number of query heads, 0 where nothing says it."""
    for holder in (module, getattr(module, "config", None)):
        for attribute in HEADS:
            number = getattr(holder, attribute, None)
            if isinstance(number, int) and number > 0:
                return number
    return 0


def _rows(places: dict[str, Tensor], name: str, layer: Any) -> Tensor | None:
    """Return where weight and bias of a linear map lie, (out, in + 1); None where one of them is not free."""
    weight, bias = places.get(f"{name}.weight"), places.get(f"{name}.bias")
    if weight is None or weight.dim() != 2 or (layer.bias is not None and bias is None):
        return None
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


def _linear(model: nn.Module, name: str, aliases: tuple[str, ...]) -> tuple[str, nn.Linear] | None:
    """Return the child of a module that is a linear map with one of these names, or holds one first."""
    children = dict(model.get_submodule(name).named_children())
    for alias in aliases:
        child, path = children.get(alias), f"{name}.{alias}".lstrip(".")
        if isinstance(child, nn.Sequential) and len(child):
            child, path = child[0], f"{path}.0"
        if isinstance(child, nn.Linear):
            return path, child
    return None


def _by_children(model: nn.Module, name: str, places: dict[str, Tensor]) -> Maps:
    out = _linear(model, name, OUT)
    parent = name.rpartition(".")[0]
    if out is None and "output" in dict(model.get_submodule(parent).named_children()):
        out = _linear(model, f"{parent}.output".lstrip("."), ("dense",))  # beside it, as in BERT
    parts = [_linear(model, name, aliases) for aliases in (QUERY, KEY, VALUE, PACKED)]
    q, k, v, packed = (None if part is None else _rows(places, *part) for part in parts)
    if packed is not None and len(packed) % 3 == 0:
        q, k, v = packed.chunk(3)
    return q, k, v, places.get(f"{out[0]}.weight") if out is not None else None


def _packed_by_torch(name: str, places: dict[str, Tensor]) -> Maps:
    prefix = f"{name}." if name else ""
    weights = [places.get(f"{prefix}{part}_proj_weight") for part in "qkv"]
    whole, bias = places.get(f"{prefix}in_proj_weight"), places.get(f"{prefix}in_proj_bias")
    if whole is not None:
        weights = list(whole.chunk(3))
    rows = weights
    if bias is not None:
        extras = bias[:, None].chunk(3)
        rows = [None if w is None else torch.cat([w, extra], 1) for w, extra in zip(weights, extras, strict=True)]
    return (*rows, places.get(f"{prefix}out_proj.weight"))
