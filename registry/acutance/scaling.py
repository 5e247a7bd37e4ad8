r"""The vector c of the paper: in which units each weight is perturbed.

The ball of radius rho is :math:`\|\delta \oslash c\|_p \le \rho`; a coordinate with :math:`c_i = 0` never
moves. A strategy is a function of a surface that returns c, (p,), or None for c = 1. Other distributions
add strategies through the hook ``register_scalings``; a config may also name its own ``module:function``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from acutance.errors import Unsupported, UserError
from acutance.measure import Estimate, Status
from acutance.own_code import is_own, load_function
from acutance.plugins import catalog

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.units import Units
    from acutance.surface.loss_surface import LossSurface

ETA = 0.01  # the published ASAM code's default


def none(surface: LossSurface) -> Tensor | None:
    """C = 1: standard sharpness."""
    return None


def elementwise(surface: LossSurface) -> Tensor | None:
    """C = |w|: elementwise adaptive sharpness (Kwon et al. 2021)."""
    return surface.w.abs()


def elementwise_eta(surface: LossSurface) -> Tensor | None:
    """C = |w| + 0.01 on tensors with "weight" in their name, 1 elsewhere: as the published ASAM code.

    The rule goes by name: it takes in the weights of normalization layers and leaves out class tokens and
    position embeddings.
    """
    return _joined(surface, elementwise_eta)


def filter_norm(surface: LossSurface) -> Tensor | None:
    """C = l2 norm of the filter a weight belongs to: its slice along the first axis; |w| for vectors.

    A filter is an output channel of a convolution, a row of a linear map, the vector of a token.
    """
    return _joined(surface, filter_norm)


def layer_norm(surface: LossSurface) -> Tensor | None:
    """C = l2 norm of the parameter tensor a weight belongs to."""
    return _joined(surface, layer_norm)


def _absolute(name: str, p: Tensor) -> Tensor:
    return p.abs()


def _absolute_eta(name: str, p: Tensor) -> Tensor:
    return p.abs() + ETA if "weight" in name else p.new_ones(())


def _of_filters(name: str, p: Tensor) -> Tensor:
    rows = p.reshape(len(p), -1) if p.dim() else p.view(1, 1)
    norms: Tensor = rows.norm(dim=1)
    return norms.view(*p.shape[:1], *[1] * (p.dim() - 1))


def _of_layers(name: str, p: Tensor) -> Tensor:
    norm: Tensor = p.norm()
    return norm


# Of the name of a parameter and its tensor: what broadcasts to the tensor's shape.
BY_PARAMETER: dict[Any, Callable[[str, Tensor], Tensor]] = {
    elementwise: _absolute, elementwise_eta: _absolute_eta, filter_norm: _of_filters, layer_norm: _of_layers,
}  # fmt: skip


def _joined(surface: LossSurface, strategy: object) -> Tensor:
    of = BY_PARAMETER[strategy]
    return surface.flatten({name: of(name, p) for name, p in surface.unflatten(surface.w).items()})


class PieceUnits:
    """The vector c of a strategy, of which nothing is held that can be made of the weights again.

    Args:
        surface: whose free parameters it belongs to.
        of: of the name of a parameter and its tensor; see ``BY_PARAMETER``.
    """

    def __init__(self, surface: LossSurface, of: Callable[[str, Tensor], Tensor]) -> None:
        own, slots = surface.core.functional.own_pieces(), surface.parameters.free_slots
        self._named = [(slot, own[i]) for i, slot in zip(surface.parameters.free, slots, strict=True)]
        self._of, self._portion = of, surface.core.functional.portion(surface.parameters.free)
        # A number for each row, or one for all: made of the whole tensor, once.
        each = of in (_absolute, _absolute_eta)
        self._rows = [None if each else self._rows_of(i) for i in range(len(self._named))]

    def _rows_of(self, i: int) -> Tensor:
        slot, own = self._named[i]
        if self._portion is None:
            return _wide(self._of, slot.name, own.view(slot.shape))
        share, layer = self._portion.shares[i], self._of is _of_layers
        if own.numel():
            rows = _wide(self._of, slot.name, own.view(share.shape))
        else:
            rows = _finer(own).new_zeros(1 if layer or not share.shape else share.shape[0])
        # A row is whole where the parameter is cut along the first axis.
        cut = share.axis is not None and (layer or share.axis > 0)
        return self._portion.norms_by_row(rows) if cut else rows

    def block(self, i: int, start: int, count: int) -> Tensor:
        """Return ``count`` entries of c, float32 or finer, from the given place in what is held of a free parameter."""
        slot, own = self._named[i]
        rows = self._rows[i]
        if rows is None:
            return self._of(slot.name, _finer(own[start : start + count])).expand(count)
        import torch

        length = own.numel() // rows.numel()
        return rows[torch.arange(start, start + count, device=rows.device) // length]

    def norm(self) -> float:
        """Return the l2 norm of c."""
        import torch

        each = []
        for i, (_, own) in enumerate(self._named):
            squares = [torch.zeros((), dtype=torch.float64)]
            for start in range(0, own.numel(), CHUNK):
                c = self.block(i, start, min(CHUNK, own.numel() - start))
                squares.append(torch.linalg.vector_norm(c, dtype=torch.float64).square().cpu())
            each.append(torch.stack(squares).sum())
        sums = torch.stack(each)
        return float((sums if self._portion is None else self._portion.summed(sums)).sum().sqrt())


CHUNK = 1 << 18  # entries of c that are made at once


def _finer(p: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is where it is that or finer."""
    import torch

    return p.float() if p.dtype in (torch.float16, torch.bfloat16) else p


def _wide(of: Callable[[str, Tensor], Tensor], name: str, p: Tensor) -> Tensor:
    """Return a number for each row of a tensor, or one for all of it, from blocks of rows where it is coarse."""
    import torch

    if p.dtype not in (torch.float16, torch.bfloat16):
        return of(name, p).reshape(-1)
    if p.dim() < 2:
        return of(name, p.float()).reshape(-1)
    step = max(1, CHUNK * len(p) // p.numel())
    parts = [of(name, part.float()).reshape(-1) for part in p.split(step)]
    return torch.cat(parts) if of is _of_filters else torch.linalg.vector_norm(torch.cat(parts)).reshape(1)


def _path(name: str) -> str:
    """Return ``module:function`` of a strategy.

    Raises:
        UserError: for an unknown one.
    """
    return name if is_own(name) else str(catalog().get("scalings", name))


def units(surface: LossSurface, name: str) -> PieceUnits | None:
    """Return c of a strategy for a point that moves piece by piece, None for ones.

    Args:
        surface: as for ``vector``.
        name: as for ``vector``.

    Raises:
        UserError: for an unknown strategy.
        Unsupported: for one that is a function of the vector of all weights.
    """
    path = _path(name)
    strategy = load_function(path)
    if strategy is none:
        return None
    if strategy not in BY_PARAMETER:
        raise Unsupported(
            f"scaling '{name}' is a function of the vector of all weights, of which there is none here: take none, "
            "elementwise, filter or layer, or surface.dtype: float32"
        )
    return surface.memo(("scaling.units", path), lambda: PieceUnits(surface, BY_PARAMETER[strategy]))


def vector(surface: LossSurface, name: str) -> Tensor | None:
    """Return c for a strategy, (p,) and non-negative, or None for ones; computed once for a surface.

    Args:
        surface: the loss surface, whose free parameters c belongs to.
        name: a registered strategy, or ``module:function``.

    Raises:
        UserError: for an unknown strategy, or one that gives no finite non-negative vector of this size.
    """
    path = _path(name)
    return surface.memo(("scaling", path), lambda: _checked(load_function(path)(surface), surface, name))


def by_block(surface: LossSurface, name: str) -> Tensor | Units | None:
    """Return c as ``vector`` does, but for |w| of many weights, which is made of them block by block, and not held.

    Args:
        surface: as for ``vector``.
        name: as for ``vector``.

    Raises:
        UserError: as ``vector``.
    """
    path = _path(name)
    made = surface.magnitudes() if load_function(path) is elementwise else None
    return vector(surface, name) if made is None else made


def resolution(surface: LossSurface, name: str) -> float:
    r"""Return the radius in units of c below which moves are less than the smallest unit in the weights' last place.

    .. math:: \tfrac{\epsilon}{2}\, \|w\| / \|c\|

    Args:
        surface: the loss surface.
        name: of the scaling.
    """
    import torch

    def compute() -> float:
        eps = torch.finfo(surface.dtype).eps
        if surface.moves_in_place:
            c_by_piece = units(surface, name)
            size = c_by_piece.norm() if c_by_piece is not None else surface.size**0.5
            return eps / 2 * PieceUnits(surface, _absolute).norm() / size if size else 0.0
        if load_function(_path(name)) is elementwise:
            # The norm of c is that of w.
            return eps / 2 if any(bool(piece.any()) for piece in surface.w.split(CHUNK)) else 0.0
        c = vector(surface, name)
        size = float(torch.linalg.vector_norm(c)) if c is not None else surface.w.numel() ** 0.5
        return eps / 2 * float(torch.linalg.vector_norm(surface.w)) / size if size else 0.0

    return surface.memo(("scaling.resolution", name), compute)


def resolved(estimate: Estimate, surface: LossSurface, name: str, rho: float) -> Estimate:
    """Return an estimate of a perturbation of radius rho, which says so where the weights do not resolve it."""
    least = resolution(surface, name)
    if estimate.status is not Status.OK or rho >= least:
        return estimate
    kind = str(surface.dtype).removeprefix("torch.")
    finer = {"float64": "", "float32": ", or dtype float64"}.get(kind, ", or dtype float32")
    cure = "take a larger radius" + finer
    return replace(
        estimate,
        status=Status.NOT_CONVERGED,
        message=f"rho {rho:g} is below {least:.2g}, what weights in {kind} resolve: the perturbation is lost in their "
        f"rounding; {cure}",
    )


def _checked(c: Tensor | None, surface: LossSurface, name: str) -> Tensor | None:
    """Return c on the surface's device in its dtype; refuse another shape, and entries negative or not finite."""
    import torch

    if c is None:
        return None
    if not isinstance(c, torch.Tensor) or c.shape != surface.w.shape:
        got = f"shape {tuple(c.shape)}" if isinstance(c, torch.Tensor) else type(c).__name__
        raise UserError(f"scaling '{name}' gave {got}", f"it must return a tensor of shape ({surface.w.numel()},)")
    c = c.detach().to(surface.w)
    low, high = torch.aminmax(c)  # NaN wins in both
    if not (low >= 0 and high < torch.inf):
        raise UserError(f"scaling '{name}' gave negative or non-finite entries", "c is a vector of units: |w| or norms")
    return c
