"""Frames: an origin and one or two axes in the weights, and what lies among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from acutance.errors import UserError
from acutance.workflows.landscape.ends import End, own_end

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface

DIGITS = 12  # of a coordinate: grids of other extents share their points
ROOM = 1.25  # half width of the picture of a plane, of that of the box around its checkpoints


class Place(NamedTuple):
    """Coordinates along the axes; b is 0 where there is one axis."""

    a: float
    b: float = 0.0


@dataclass(frozen=True)
class Axis:
    """A direction in the weights.

    Attributes:
        name: what it is.
        vector: d, (p,).
        normalized: what was done to it, in words.
    """

    name: str
    vector: Tensor
    normalized: str = ""

    def about(self, w: Tensor) -> dict[str, Any]:
        """Return its name, normalization and scale, beside that of the weights."""
        size, own = length(self.vector), length(w)
        return {
            "name": self.name, "normalized": self.normalized, "norm": size,
            "relative": size / own if own > 0 else math.inf,
        }  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Where slices lie: points w(a, b) of the weights.

    Attributes:
        key: names it in the keys of values.
        origin: w at (0, 0), (p,).
        axes: one or two.
        spans: (low, high) of each axis at an extent of 1.
        marks: checkpoints that lie in it, by name.
        path: places of the checkpoints of a trajectory, beside the plane as a rule.
        segment: the two ends of a segment: weights and buffers lie between them.
        about: what else there is to say of it.
        draw: number of the line.
    """

    key: str
    origin: Tensor
    axes: tuple[Axis, ...]
    spans: tuple[tuple[float, float], ...]
    marks: Mapping[str, Place] = field(default_factory=dict)
    path: tuple[Place, ...] = ()
    segment: tuple[End, End] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0

    def place(self, at: Place, out: Tensor) -> None:
        """Write w(a, b), (p,), into memory: what is there depends on the place alone.

        On a segment both ends are exact.
        """
        if self.segment is not None:
            first, last = self.segment
            torch.lerp(first.w, last.w, at.a, out=out)
            return
        torch.add(self.origin, self.axes[0].vector, alpha=at.a, out=out)
        if len(self.axes) == 2:
            out.add_(self.axes[1].vector, alpha=at.b)

    def buffers(self, at: Place) -> dict[str, Tensor]:
        """Return the buffers there that differ from those of the model: of a segment, as the weights are."""
        if self.segment is None:
            return {}
        first, last = self.segment
        moved = {n: b for n, b in first.buffers.items() if not torch.equal(b, last.buffers[n])}
        return {name: torch.lerp(buffer, last.buffers[name], at.a) for name, buffer in moved.items()}

    def grid(self, count: int, extent: float) -> list[list[float]]:
        """Return the coordinates of the points along each axis."""
        return [coordinates(middle(s) - extent * half(s), middle(s) + extent * half(s), count) for s in self.spans]


def middle(span: tuple[float, float]) -> float:
    """Return the middle of an interval."""
    return (span[0] + span[1]) / 2


def half(span: tuple[float, float]) -> float:
    """Return half the width of an interval."""
    return (span[1] - span[0]) / 2


def coordinates(low: float, high: float, count: int) -> list[float]:
    """Return equally spaced numbers, rounded so that those of other grids which should be equal are.

    >>> coordinates(-0.3, 0.3, 7)
    [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]
    """
    smallest = 10.0**-DIGITS * max(abs(low), abs(high))
    found = [low + (high - low) * (i / (count - 1)) for i in range(count)]
    return [0.0 if abs(x) <= smallest else float(f"{x:.{DIGITS}g}") for x in found]


def length(v: Tensor) -> float:
    """Return the Euclidean norm of v, (p,)."""
    return float(torch.linalg.vector_norm(v, dtype=torch.float64 if v.dtype == torch.float64 else None))


def local(surface: LossSurface, key: str, axes: Sequence[Axis], about: Mapping[str, Any], draw: int = 0) -> Frame:
    """Return the frame of directions that go out from w*.

    Raises:
        UserError: for a direction of length zero, one that is not finite, and two along one line.
    """
    for axis in axes:
        size = length(axis.vector)
        if not math.isfinite(size):
            raise UserError(f"direction '{axis.name}' is not finite", "look at the loss and its gradient at w*")
        if size == 0:
            hint = "at a point where the gradient is zero, take eigenvectors or random ones"
            if "fixed" in axis.normalized:
                hint = "no weight that moves has two axes: let vectors move too (fixed_vectors=False, --move-vectors)"
            raise UserError(f"direction '{axis.name}' has length zero", hint)
    if len(axes) == 2:
        one, other = (axis.vector / length(axis.vector) for axis in axes)
        if length(other - one * torch.dot(one, other)) < 1e-3:
            raise UserError(
                f"directions '{axes[0].name}' and '{axes[1].name}' lie along one line, so they span no plane",
                "take another one",
            )
    return Frame(key, surface.w, tuple(axes), ((-1.0, 1.0),) * len(axes), about=about, draw=draw)


def segment(surface: LossSurface, key: str, other: End) -> Frame:
    """Return the frame of the segment from the model, a = 0, to a checkpoint, a = 1.

    Raises:
        UserError: for the same weights.
    """
    own = own_end(surface)
    d = other.w - own.w
    if length(d) == 0:
        raise UserError(f"checkpoint '{other.name}' has the model's own weights: the segment has length zero")
    axis = Axis(f"{own.name} to {other.name}", d, "the segment itself")
    marks = {own.name: Place(0.0), other.name: Place(1.0)}
    return Frame(key, own.w, (axis,), ((0.0, 1.0),), marks, segment=(own, other))


def plane(surface: LossSurface, key: str, others: Sequence[End]) -> Frame:
    r"""Return the plane through the model and two checkpoints, with orthonormal axes (Garipov et al. 2018).

    :math:`\hat u = (w_2 - w_1)/\|w_2 - w_1\|` and :math:`\hat v` along what :math:`w_3 - w_1` has beside it, so that
    coordinates are distances in the weights.

    Raises:
        UserError: for three checkpoints on one line.
    """
    own = own_end(surface)
    one, two = others
    u, v = one.w - own.w, two.w - own.w
    wide = length(u)
    if wide == 0 or length(v) == 0:
        name = one.name if wide == 0 else two.name
        raise UserError(f"checkpoint '{name}' has the model's own weights: there is no plane through it and the model")
    far = length(v)
    u = u / wide
    along = float(torch.dot(u, v))
    v = v - along * u
    v = v - torch.dot(u, v) * u
    high = length(v)
    if high < 1e-4 * far:
        raise UserError(f"'{one.name}', '{two.name}' and the model lie on one line, so they span no plane", "segment")
    axes = (Axis(f"{own.name} to {one.name}", u, "a unit vector"), Axis(f"to {two.name}", v / high, "a unit vector"))
    marks = {own.name: Place(0.0, 0.0), one.name: Place(wide, 0.0), two.name: Place(along, high)}
    return Frame(key, own.w, axes, box(list(marks.values())), marks)


def trajectory(surface: LossSurface, key: str, others: Sequence[End]) -> Frame:
    r"""Return the plane of the two principal components of a trajectory's checkpoints, through the last of them.

    Of :math:`w_t - w_T` (Li et al. 2018, section 7), centred, as principal components are. The path is where the
    checkpoints lie when they are projected onto the plane.

    Raises:
        UserError: for a path that spans no plane.
    """
    own = own_end(surface)
    differences = torch.stack([end.w - own.w for end in others] + [torch.zeros_like(own.w)])
    centre = differences.mean(0)
    centred = differences - centre
    gram = (centred @ centred.T).double()
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    total = float(values.sum())
    smallest = 1e-10 if own.w.dtype == torch.float64 else 1e-6
    if total == 0 or float(values[1]) <= smallest * total:
        raise UserError("the checkpoints of the trajectory lie on one line, so they span no plane", "take segment")
    axes: list[Axis] = []
    for k in range(2):
        v = centred.T @ vectors[:, k].to(centred)
        if axes:
            v = v - torch.dot(axes[0].vector, v) * axes[0].vector
        v = signed(v / length(v))
        axes.append(Axis(f"principal component {k + 1}", v, "a unit vector"))
    share = [float(values[k]) / total for k in range(2)]
    places = [Place(*(float(torch.dot(axis.vector, d)) for axis in axes)) for d in differences]
    marks = {own.name: Place(0.0, 0.0)}
    names = [*(end.name for end in others), own.name]
    about = {"explained": share, "path_names": names}
    return Frame(key, own.w, tuple(axes), box(places), marks, tuple(places), about=about)


def signed(v: Tensor) -> Tensor:
    """Return v or -v: the one whose largest entry is positive, so that a line has one direction."""
    return v if float(v[v.abs().argmax()]) >= 0 else -v


def box(places: Sequence[Place]) -> tuple[tuple[float, float], ...]:
    """Return the spans of a picture around places, with room on each side."""
    columns = [[p.a for p in places], [p.b for p in places]]
    spans = [(min(column), max(column)) for column in columns]
    widest = max(half(span) for span in spans)
    widths = [max(half(span), 0.1 * widest) * ROOM for span in spans]
    return tuple((middle(s) - width, middle(s) + width) for s, width in zip(spans, widths, strict=True))
