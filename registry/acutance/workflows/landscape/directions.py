"""Directions in which a loss surface is sliced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.data.fingerprint import digest_initial
from acutance.errors import Unsupported, UserError
from acutance.numerics.basis import NonFiniteProduct
from acutance.numerics.draws import Streams
from acutance.numerics.lanczos import Lanczos, largest_eigenvalues
from acutance.own_code import named, source_digest
from acutance.plugins import catalog
from acutance.spec import digest, validate
from acutance.workflows.landscape import frames
from acutance.workflows.landscape.asked import givers
from acutance.workflows.landscape.ends import End, require_room
from acutance.workflows.landscape.frames import Axis, Frame, signed
from acutance.workflows.landscape.normalizing import in_words, normalized

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface
    from acutance.workflows.landscape.asked import Asked

TOLERANCE, PRODUCTS = 1e-4, 100  # of the run that finds eigenvectors
VERSION = 1  # of what follows; raised when a direction becomes another one

Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]  # of a name and what makes its tensors


def frame_of(
    surface: LossSurface, asked: Asked, identity: tuple[str, str], others: Sequence[End], keep: Keep, notes: list[str],
    draw: int,
) -> Frame:  # fmt: skip
    """Return the frame in which the loss is drawn; of lines along several directions, that of one.

    Args:
        surface: of the points that directions depend on, with the parameters free that move.
        asked: for what.
        identity: what names the model, and the loss.
        others: the checkpoints beside it.
        keep: holds vectors that are dear to make, by the key of a frame.
        notes: gets what there is to know of them.
        draw: number of the line.

    Raises:
        UserError: for directions of length zero, or more than memory holds.
    """
    if not asked.is_local:
        kind = asked.kinds[0]
        ends = [digest_initial(end.w) for end in others]
        if kind == "segment":  # on which buffers, too, lie between those of the ends
            ends += [digest_initial(*(end.buffers[name] for name in sorted(end.buffers))) for end in others]
        key = digest(["between", VERSION, asked.kinds, identity[0], ends])
        if kind == "segment":
            return frames.segment(surface, key, others[0])
        return (frames.plane if kind == "plane" else frames.trajectory)(surface, key, others)
    require_room(surface, asked.dimensions + 2, "directions")
    return _local(surface, asked, identity, draw, keep, notes)


def frame_key(surface: LossSurface, asked: Asked, identity: tuple[str, str], draw: int) -> str:
    """Return what names directions from w*: all that they depend on, and nothing that they do not.

    Random ones depend on no points.
    """
    kinds = list(asked.kinds)
    parts: list[Any] = ["local", VERSION, kinds, asked.dimensions, identity[0], asked.normalize, asked.parameters]
    if "random" in kinds:
        parts += ["random", asked.seed, draw, asked.fixed_vectors]
    if kinds != ["random"]:
        parts += ["points", surface.digest, identity[1], str(surface.dtype)]
        versions = [item.target.version for item in givers() if {item.name, item.id} & {*kinds}]
        parts += ["settings", dict(asked.settings), asked.seed, *versions]
    return digest(parts)


def loss_name(loss: Any) -> str:
    """Return what names a loss in keys: a function of one's own with the digest of its file.

    Raises:
        UserError: for a function that is in memory alone.
    """
    if isinstance(loss, str):
        return loss
    name = named(loss)
    return f"{name} {source_digest(name)}"


def _local(
    surface: LossSurface, asked: Asked, identity: tuple[str, str], draw: int, keep: Keep, notes: list[str]
) -> Frame:
    """Return the frame of directions that go out from w*."""
    key = frame_key(surface, asked, identity, draw)
    axes: list[Axis] = []
    about: dict[str, Any] = {}
    wanted = list(asked.kinds)
    while len(wanted) < asked.dimensions:
        wanted.append(wanted[0])
    for i, kind in enumerate(wanted[: asked.dimensions]):
        number = wanted[:i].count(kind)
        if kind == "random":
            axes.append(_random(surface, asked, asked.dimensions * draw + number, f"random {number + draw + 1}"))
        else:
            made = keep(f"{key}.{kind}", partial(_made, surface, asked, kind, notes))
            names = sorted(made)
            if number >= len(names):
                raise UserError(f"there are only {len(names)} {kind} here", "take dimensions 1, or random ones")
            vector = made[names[number]].to(surface.w)
            axes.append(_axis(surface, asked, kind, number, vector))
    return frames.local(surface, key, axes, about, draw)


def _random(surface: LossSurface, asked: Asked, k: int, name: str) -> Axis:
    """Return random direction k: the same noise for all models of a size, extents and grids."""
    noise = Streams("landscape", asked.seed).normal("direction", k, surface.w)
    vector = normalized(surface, noise, asked.normalize, True, asked.fixed_vectors)
    return Axis(name, vector, in_words(asked.normalize, True, asked.fixed_vectors))


def _axis(surface: LossSurface, asked: Asked, kind: str, number: int, vector: Tensor) -> Axis:
    """Return a direction that was made of the loss, brought to scale where that is asked for."""
    name = f"eigenvector {number + 1}" if kind == "eigenvectors" else kind.rpartition("/")[2].replace("_", " ")
    # What is normalized beside noise is noise alone, unless nothing else is there.
    by = "none" if "random" in asked.kinds else asked.normalize
    words = in_words(by, False, False)
    if by == "none":
        words = {"eigenvectors": "a unit vector", "gradient": "the gradient itself"}.get(
            kind, "the point found lies at 1"
        )
    return Axis(name, normalized(surface, vector.clone(), by, False, False), words)


def _made(surface: LossSurface, asked: Asked, kind: str, notes: list[str]) -> dict[str, Tensor]:
    """Return the vectors of a kind, (p,) each, in the order of their names."""
    if kind == "gradient":
        _, gradient = surface.gradient()
        return {"0": gradient}
    if kind == "eigenvectors":
        vectors = top_eigenvectors(surface, asked.dimensions, asked.seed, notes)
        return {str(i): v for i, v in enumerate(vectors)}
    item = catalog().find("measures", kind)
    spec = validate(item.target.Spec, dict(asked.settings), item.name)
    try:
        return {"0": item.target().displacement(surface, spec, Streams(asked.seed, surface.digest, 0, item.id, 0))}
    except Unsupported as error:
        raise UserError(f"directions: {error}") from None


def top_eigenvectors(surface: LossSurface, count: int, seed: int, notes: list[str]) -> list[Tensor]:
    """Return eigenvectors of the Hessian's largest eigenvalues at w*, (p,) each, of length 1.

    By Lanczos; an eigenvalue of higher multiplicity is seen once by one run, so a second run looks beside the first
    vector where the first run ends too early.

    Raises:
        UserError: where the model has no second derivatives, or they are not finite.
    """
    rng = Streams("landscape", seed)
    found: list[Tensor] = []
    while len(found) < min(count, surface.size):
        start = rng.normal("eigenvectors", len(found), surface.w)
        product = _beside(surface.hvp, found)
        run = Lanczos(_without(start, found))
        try:
            largest = largest_eigenvalues(product, run, TOLERANCE, PRODUCTS, count - len(found))
        except NonFiniteProduct:
            raise UserError("a product with the Hessian is not finite", "take another model, or float64") from None
        except Unsupported as error:
            raise UserError(f"directions: eigenvectors: {error}") from None
        if not largest.converged:
            notes.append(
                f"eigenvectors: after {largest.products} products the bound is {max(largest.bounds):.2g} of an "
                f"eigenvalue of {largest.values[0]:.4g}"
            )
        found += [signed(v) for v in run.vectors(count - len(found), largest.products)]
    surface.release()
    return found


def _beside(product: Callable[[Tensor], Tensor], found: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the operator among the vectors orthogonal to those found."""
    return lambda x: _without(product(x), found)


def _without(x: Tensor, found: Sequence[Tensor]) -> Tensor:
    for v in found:
        x = x - torch.dot(v, x) * v
    return x
