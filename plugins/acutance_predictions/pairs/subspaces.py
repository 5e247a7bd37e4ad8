"""The leading output directions of task vectors, layer by layer, and how far two models share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acutance.measure import Estimate
from acutance_predictions.pairs.task_vector_numerics import APART, STILL, explained, mean, started_alike

if TYPE_CHECKING:
    from acutance.peers import Peer
    from acutance.surface import LossSurface

# Kinds of modules whose weight is stored as (in, out, ...): transposed convolutions, transformers' Conv1D, tables.
EXCHANGED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Conv1D", "Embedding", "EmbeddingBag")
Bases = dict[str, "Tensor | None"]  # of each matrix that is large enough, (rows, k); None where it is not determined


def matrices(surface: LossSurface) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (name, what was added, initial weights) of each weight matrix, (out, in), in float64."""
    w, w0 = (surface.unflatten(v.detach()) for v in (surface.w, surface.w0))
    for name, kind, shape, _ in surface.layers:
        if len(shape) >= 2 and name.rpartition(".")[2].startswith(("weight", "in_proj_weight")):
            now, then = (_laid_out(v[name], kind) for v in (w, w0))
            yield name, now - then, then


def _laid_out(weight: Tensor, kind: str) -> Tensor:
    return (weight.transpose(0, 1) if kind in EXCHANGED else weight).flatten(1).double()


def bases(surface: LossSurface, k: int) -> Bases:
    """Return the k leading left singular vectors of each weight matrix of the task vector, (rows, k), on the CPU."""
    eps = torch.finfo(surface.w.dtype).eps
    found: Bases = {}
    for name, added, then in matrices(surface):
        rows, columns = added.shape
        if rows <= k or columns < k:
            continue
        u, s, _ = torch.linalg.svd(added, full_matrices=False)
        after = float(s[k]) if len(s) > k else 0.0
        rounding = eps * float((then.square().sum() + (then + added).square().sum()).sqrt())
        found[name] = u[:, :k].cpu() if float(s[k - 1]) - after > rounding else None
    return found


def overlap(one: Bases, other: Bases) -> float:
    r"""Return the mean of :math:`\|U^\top V\|_F^2 / k` over the matrices that both determine; NaN for none."""
    pairs = [(u, other[name]) for name, u in one.items()]
    return mean([float((u.T @ v).square().sum()) / u.shape[1] for u, v in pairs if u is not None and v is not None])


def overlaps(peers: Sequence[Peer], parameters: str, k: int) -> list[Estimate]:
    """Return the mean overlap of each model with its partners, and how many of its matrices are determined."""
    known: dict[int, Bases] = {}

    def kept(place: int, surface: LossSurface) -> str:
        known[place] = bases(surface, k)
        return _undetermined(surface, known[place], k)

    kinds, reasons = started_alike(peers, parameters, kept)
    table = torch.full((len(peers),) * 2, torch.nan, dtype=torch.float64)
    for places in kinds:
        for a, i in enumerate(places):
            for j in places[a + 1 :]:
                table[i, j] = table[j, i] = overlap(known[i], known[j])
    return [_counted(estimate, known.get(i)) for i, estimate in enumerate(explained(table, peers, reasons, APART))]


def _undetermined(surface: LossSurface, own: Bases, k: int) -> str:
    """Return why a model has no subspace at all; empty where it has one."""
    if not bool((surface.w != surface.w0).any()):
        return STILL
    if not own:
        return f"no weight matrix has more than {k} rows and {k} columns or more: give a smaller k"
    if not any(u is not None for u in own.values()):
        return f"no weight matrix has {k} leading directions that stand out of rounding: give a smaller k"
    return ""


def _counted(estimate: Estimate, own: Bases | None) -> Estimate:
    if own is None or estimate.value != estimate.value:
        return estimate
    determined = sum(u is not None for u in own.values())
    return replace(estimate, extras={**estimate.extras, "layers": determined, "undetermined": len(own) - determined})
