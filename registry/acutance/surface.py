r"""The loss surface :math:`w \mapsto L_S(w)` of one model on one fixed batch: the oracle a measure sees."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from acutance.batch import dtype_of, length_of, take_rows
from acutance.dataset import argmax_error
from acutance.derivatives import (
    flat_gradient,
    gradient_graph,
    plain_arithmetic,
    refuse_missing_derivatives,
    second_derivatives,
)
from acutance.errors import AcutanceWarning, Unsupported, UserError
from acutance.fingerprint import digest_points
from acutance.functional import FunctionalModel, Slot
from acutance.losses import LossFunction, LossHead, NormScale, normalize_logits
from acutance.measure import Cost

T = TypeVar("T")


@dataclass(slots=True)
class Evaluation:
    """What one pass gives: 0-d float64 mean loss, (n, K) raw logits, (p,) gradient when it was asked for."""

    loss: Tensor
    raw: Tensor
    gradient: Tensor | None = None


class _Core:
    """What all views of one surface share: model, data, microbatching, ledger."""

    def __init__(
        self,
        functional: FunctionalModel,
        inputs: Any,
        targets: Tensor,
        head: LossHead,
        microbatch: int | None,
        score: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.functional = functional
        self.inputs = functional.cast_inputs(inputs)
        self.targets: Tensor = functional.cast_inputs(targets if targets.is_floating_point() else targets.long())
        self.head = head
        self.score = score
        self.n = len(self.targets)
        self.microbatch = microbatch
        self.forwards = self.backwards = self.hvps = 0.0
        self.checked = False
        self.digest: str | None = None
        self.clean_logits: Tensor | None = None

    def book(self, forwards: float = 0, backwards: float = 0, hvps: float = 0) -> None:
        self.forwards += forwards
        self.backwards += backwards
        self.hvps += hvps

    def chunks(self) -> Iterable[tuple[Any, Tensor]]:
        size = min(self.microbatch or self.n, self.n)
        if size == self.n:
            return ((self.inputs, self.targets),)
        cuts = (slice(start, start + size) for start in range(0, self.n, size))
        return ((take_rows(self.inputs, rows), self.targets[rows]) for rows in cuts)


class LossSurface:
    """The loss of one model on one batch as a function of a flat weight vector.

    Every method takes points w, (p,), and leaves the model bitwise as it was, also after an exception.
    Without w a method works at w*, the model's own weights.

    Args:
        model: module returning logits (or an object with ``.logits``); evaluated in evaluation mode.
        data: (inputs, targets); inputs may be a tensor, a dict of tensors or a tuple of tensors. None for
            measures of the weights alone.
        loss: ``cross_entropy``, ``mse``, or a function (logits, targets) -> 0-d mean loss.
        parameters: which parameters are free: ``all`` or comma-separated name patterns.
        microbatch: examples in one pass; changes memory, not values.
        device: where to compute; where the model is by default.
        dtype: torch.float32 or torch.float64 (or their names); the model's by default.
        num_train: size of the training set, for bounds that need it; the batch's size by default.
        score: (logits, targets) -> (n,), 1 where wrong; argmax by default.

    Raises:
        UserError: for data that does not fit the model, a stochastic model, or unusable parameters.
    """

    def __init__(
        self,
        model: nn.Module | FunctionalModel,
        data: tuple[Any, Tensor] | None,
        loss: str | LossFunction = "cross_entropy",
        parameters: str = "all",
        microbatch: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        num_train: int | None = None,
        score: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if isinstance(dtype, str):
            dtype = dtype_of(dtype)
        functional = model if isinstance(model, FunctionalModel) else FunctionalModel(model, device, dtype)
        if not isinstance(model, FunctionalModel):
            for note in functional.notes:
                warnings.warn(note, AcutanceWarning, stacklevel=2)
        if data is None:
            core = _Core(functional, (), torch.empty(0), LossHead(loss), None, argmax_error)
            self._setup(core, functional.select(parameters), False, "paper", num_train or 0)
            return
        if not isinstance(data, tuple | list) or len(data) != 2 or not isinstance(data[1], Tensor):
            raise UserError("data must be a pair (inputs, targets) with targets a tensor")
        inputs, targets = data
        n = length_of(inputs)
        if len(targets) == 0:
            raise UserError("the batch is empty", "give at least one example")
        if n is not None and n != len(targets):
            raise UserError(f"there are {n} inputs but {len(targets)} targets")
        if microbatch is not None and microbatch < 1:
            raise UserError(f"microbatch: must be at least 1, got {microbatch}")
        core = _Core(functional, inputs, targets, LossHead(loss), microbatch, score or argmax_error)
        self._setup(core, functional.select(parameters), False, "paper", num_train or core.n)

    def _setup(self, core: _Core, free: list[int], logit_norm: bool, norm_scale: NormScale, num_train: int) -> None:
        self._core, self._free = core, free
        self.logit_norm, self.norm_scale, self.num_train = logit_norm, norm_scale, num_train
        slots = core.functional.slots
        self._sizes = [slots[i].numel for i in free]
        self._pieces = core.functional.w.split_with_sizes([slot.numel for slot in slots])
        everything = len(free) == len(slots)
        self.w: Tensor = core.functional.w if everything else torch.cat([self._pieces[i] for i in free])
        self._memo: dict[Hashable, Any] = {}
        self._views: dict[Hashable, LossSurface] = {}
        self._graph: tuple[Tensor, Tensor] | None = None

    def _view(self, key: Hashable, free: list[int], logit_norm: bool, norm_scale: NormScale) -> LossSurface:
        if key not in self._views:
            view = object.__new__(LossSurface)
            view._setup(self._core, free, logit_norm, norm_scale, self.num_train)
            self._views[key] = view
        return self._views[key]

    # -- what it is ---------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Number of examples."""
        return self._core.n

    @property
    def model(self) -> nn.Module:
        """The model, at w*."""
        return self._core.functional.model

    @property
    def inputs(self) -> Any:
        """Inputs on the device, in the dtype."""
        return self._core.inputs

    @property
    def targets(self) -> Tensor:
        """Targets on the device."""
        return self._core.targets

    @property
    def cost(self) -> Cost:
        """Passes so far, in examples, of this surface and all its views."""
        core = self._core
        return Cost(core.forwards, core.backwards, core.hvps)

    @property
    def microbatch(self) -> int | None:
        """Examples in one pass; None for all at once."""
        return self._core.microbatch

    @microbatch.setter
    def microbatch(self, value: int | None) -> None:
        self._core.microbatch = value
        self.release()

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes, so that an error is defined."""
        return self._core.head.classifies

    @property
    def digest(self) -> str:
        """Digest of the data and the loss, without the model: names the noise that all models share."""
        if self._core.digest is None:
            self._core.digest = digest_points(self._core.inputs, self._core.targets)
        return self._core.digest

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know (weights upcast, say)."""
        return self._core.functional.notes

    @property
    def layers(self) -> list[tuple[str, str, torch.Size, slice]]:
        """(name, kind of module, shape, slice) of every free parameter in the flat vector."""
        found, start = [], 0
        for slot in self._slots:
            found.append((slot.name, slot.kind, slot.shape, slice(start, start + slot.numel)))
            start += slot.numel
        return found

    @property
    def _slots(self) -> list[Slot]:
        return [self._core.functional.slots[i] for i in self._free]

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """Return {parameter name: view of v} for v, (p,)."""
        pieces = v.split_with_sizes(self._sizes)
        return {slot.name: piece.view(slot.shape) for slot, piece in zip(self._slots, pieces, strict=True)}

    # -- views and sharing --------------------------------------------------------------------------

    def restricted(self, parameters: str) -> LossSurface:
        """Return the same surface with only these of its parameters free, the others fixed at w*.

        Raises:
            UserError: for a pattern that matches nothing.
        """
        if parameters == "all":
            return self
        free = [i for i in self._core.functional.select(parameters) if i in set(self._free)]
        if not free:
            raise UserError(f"parameters: '{parameters}' matches none of the free parameters")
        return self._view(("restricted", parameters), free, self.logit_norm, self.norm_scale)

    def transformed(self, logit_norm: bool = True, norm_scale: NormScale = "paper") -> LossSurface:
        """Return the surface of the logit-normalized loss (Eq. 5); see ``raw_logits`` to share forwards.

        Raises:
            UserError: for an unknown ``norm_scale``.
        """
        if norm_scale not in ("paper", "released"):
            raise UserError(f"norm_scale: unknown scale '{norm_scale}'", "known: paper, released")
        if not logit_norm:
            norm_scale = "paper"
        if (logit_norm, norm_scale) == (self.logit_norm, self.norm_scale):
            return self
        return self._view(("transformed", logit_norm, norm_scale), self._free, logit_norm, norm_scale)

    def memo(self, key: Hashable, fn: Callable[[], T]) -> T:
        """Return ``fn()``, computed once for this surface; its cost is booked that once."""
        if key not in self._memo:
            self._memo[key] = fn()
        value: T = self._memo[key]
        return value

    def release(self) -> None:
        """Free the graph kept for Hessian-vector products and everything memoised."""
        self._graph = None
        self._core.clean_logits = None
        self._memo.clear()
        for view in self._views.values():
            view.release()

    # -- passes -------------------------------------------------------------------------------------

    def _all_pieces(self, w: Tensor) -> list[Tensor]:
        if w.shape != self.w.shape:
            raise UserError(f"w has shape {tuple(w.shape)}, this surface has {self.w.numel()} free parameters")
        moved = w.split_with_sizes(self._sizes)
        if len(moved) == len(self._pieces):
            return list(moved)
        pieces = list(self._pieces)
        for i, piece in zip(self._free, moved, strict=True):
            pieces[i] = piece
        return pieces

    def _forward(self, w: Tensor, inputs: Any) -> Tensor:
        return self._core.functional(self._all_pieces(w), inputs)

    def _transform(self, logits: Tensor) -> Tensor:
        return normalize_logits(logits.double(), self.norm_scale) if self.logit_norm else logits

    def _check(self) -> None:
        """Once a surface: the model answers for every example, deterministically, with classes for all labels."""
        core = self._core
        if core.checked:
            return
        if core.n == 0:
            raise Unsupported("this surface has no data: the measure declares that it needs weights only")
        probe = take_rows(core.inputs, slice(0, min(core.n, 8)))
        with torch.no_grad(), plain_arithmetic(core.functional.device):
            first, second = self._forward(self.w, probe), self._forward(self.w, probe)
            rows = [self._forward(self.w, take_rows(probe, slice(i, i + 1))) for i in range(2 if core.n > 1 else 0)]
        core.head.check(first, min(core.n, 8), core.targets)
        scale = float(first.abs().max().nan_to_num()) + 1e-30
        if not _close(first, second, 1e-6 * scale):
            raise UserError(
                "the model gives different outputs for the same input (random layers are active in eval mode)",
                "make its forward pass deterministic: sharpness differences would be noise",
            )
        if core.microbatch is not None and core.microbatch < core.n and rows:
            if not _close(first[: len(rows)], torch.cat(rows), 1e-3 * scale):
                raise UserError(
                    "the model's output for an example depends on the other examples of the batch",
                    "set microbatch to None",
                )
        core.checked = True

    @torch.no_grad()
    def raw_logits(self, w: Tensor | None = None) -> Tensor:
        """Return the model's own logits, (n, K); ``losses_of`` and ``loss_of`` turn them into losses."""
        self._check()
        w = self.w if w is None else w
        with plain_arithmetic(self._core.functional.device):
            logits = [self._forward(w, inputs) for inputs, _ in self._core.chunks()]
        self._core.book(forwards=self.n)
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def loss_of(self, raw: Tensor) -> Tensor:
        """Return the 0-d mean loss of raw logits, (n, K), under this surface's transform."""
        return self._core.head.mean(self._transform(raw), self.targets)

    def losses_of(self, raw: Tensor) -> Tensor:
        """Return the (n,) losses of raw logits, (n, K), under this surface's transform."""
        return self._core.head.losses(self._transform(raw), self.targets)

    def errors_of(self, raw: Tensor) -> Tensor:
        """Return (n,) 0/1 errors of raw logits; normalization does not change them."""
        return self._core.score(raw, self.targets)

    def logits(self, w: Tensor | None = None) -> Tensor:
        """Return logits at w, (n, K), normalized when this surface is."""
        return self._transform(self.raw_logits(w))

    def losses(self, w: Tensor | None = None) -> Tensor:
        """Return per-example losses at w, (n,)."""
        return self.losses_of(self.raw_logits(w))

    def errors(self, w: Tensor | None = None) -> Tensor:
        """Return per-example 0/1 errors at w, (n,)."""
        return self.errors_of(self.raw_logits(w))

    def clean(self) -> Evaluation:
        """Return loss and logits at w*; the pass is made once for the surface and all its views."""
        core = self._core
        raw = core.clean_logits = self.raw_logits() if core.clean_logits is None else core.clean_logits
        return self.memo("clean", lambda: Evaluation(self.loss_of(raw), raw))

    def clean_gradient(self) -> Evaluation:
        """Return loss, logits and gradient at w*; computed once for this surface."""
        return self.memo("gradient", lambda: self.evaluate(self.w, gradient=True))

    def loss(self, w: Tensor | None = None) -> Tensor:
        """Return L_S(w), 0-d float64; L_S(w*) is computed once."""
        return self.clean().loss if w is None else self.evaluate(w).loss

    def gradient(self, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (0-d loss, (p,) gradient) at w."""
        evaluation = self.clean_gradient() if w is None else self.evaluate(w, gradient=True)
        assert evaluation.gradient is not None
        return evaluation.loss, evaluation.gradient.clone() if w is None else evaluation.gradient

    def evaluate(self, w: Tensor, gradient: bool = False) -> Evaluation:
        """Return loss and logits at w, with the gradient when asked; one pass over the batch.

        Args:
            w: (p,) point.
            gradient: whether to make the backward pass.
        """
        if not gradient:
            raw = self.raw_logits(w)
            with torch.no_grad():
                return Evaluation(self.loss_of(raw), raw)
        self._check()
        core = self._core
        pieces = self._all_pieces(w.detach())
        # Each parameter is a leaf of its own: the gradient is put together once, outside the graph.
        free = []
        for i in self._free:
            pieces[i] = pieces[i].view(core.functional.slots[i].shape).requires_grad_()
            free.append(pieces[i])
        with torch.enable_grad(), plain_arithmetic(core.functional.device):
            parts = [self._one_gradient(pieces, free, inputs, targets) for inputs, targets in core.chunks()]
        core.book(forwards=core.n, backwards=core.n)
        found = parts[0] if len(parts) == 1 else _sum(parts)
        if w is self.w:
            core.clean_logits = found.raw
        return found

    def _one_gradient(self, pieces: list[Tensor], free: list[Tensor], inputs: Any, targets: Tensor) -> Evaluation:
        """Return the share of one microbatch in loss and gradient, (p,), with respect to the free leaves."""
        core = self._core
        raw = core.functional(pieces, inputs)
        loss = core.head.mean(self._transform(raw), targets)
        if len(targets) < core.n:
            loss = loss * (len(targets) / core.n)
        return Evaluation(loss.detach(), raw.detach(), flat_gradient(loss, free))

    def mean_error_of(self, raw: Tensor) -> Tensor:
        """Return the 0-d mean error of raw logits, (n, K); NaN when the targets are not classes."""
        if not self._core.head.classifies:
            return torch.full((), float("nan"), dtype=torch.float64, device=raw.device)
        return self.errors_of(raw).double().mean()

    def hvp(self, v: Tensor, w: Tensor | None = None) -> Tensor:
        """Return the Hessian-vector product at w, (p,), by double backward.

        At w* the graph of the gradient is built once and reused by every product, unless microbatching
        forbids keeping it; ``release`` frees it.

        Raises:
            Unsupported: when some operation of the model has no second derivative.
        """
        self._check()
        core = self._core
        keep = w is None and (core.microbatch is None or core.microbatch >= core.n)
        v = v.detach().to(self.w)
        if keep and self._graph is None:
            self._graph = next(self._gradient_graphs(self.w))
        graphs = [self._graph] if keep and self._graph else self._gradient_graphs(self.w if w is None else w)
        total = torch.zeros_like(self.w)
        for leaf, g in graphs:
            if g.requires_grad:
                with second_derivatives():
                    (product,) = torch.autograd.grad(
                        g, leaf, v, retain_graph=keep, allow_unused=True, materialize_grads=True
                    )
                total += product
        core.book(hvps=core.n)
        return total

    def _gradient_graphs(self, w: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        core = self._core
        for inputs, targets in core.chunks():
            leaf = w.detach().requires_grad_()
            # Flash and memory-efficient attention have no second derivative.
            with (
                torch.enable_grad(),
                sdpa_kernel([SDPBackend.MATH]),
                plain_arithmetic(core.functional.device),
                second_derivatives(),
            ):
                loss = core.head.mean(self._transform(self._forward(leaf, inputs)), targets)
                g = gradient_graph(loss * (len(targets) / core.n), leaf)
            refuse_missing_derivatives(g)
            core.book(forwards=len(targets), backwards=len(targets))
            yield leaf, g


def _sum(parts: list[Evaluation]) -> Evaluation:
    """Add up the shares of microbatches."""
    gradients = [part.gradient for part in parts if part.gradient is not None]
    total = gradients[0]
    for gradient in gradients[1:]:
        total = total.add_(gradient)
    return Evaluation(torch.stack([part.loss for part in parts]).sum(), torch.cat([part.raw for part in parts]), total)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True))
