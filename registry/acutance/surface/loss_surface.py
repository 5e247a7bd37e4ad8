r"""The loss surface :math:`w \mapsto L_S(w)` of one model on one fixed batch: the oracle a measure sees."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from acutance.checks.parts import refuse_mixing, refuse_parts, refuse_single
from acutance.data.batch import dtype_of, tensor, whole
from acutance.data.fingerprint import digest_points
from acutance.data.forms import understand
from acutance.dataset import argmax_error
from acutance.errors import Unsupported, UserError
from acutance.explain import surface_line
from acutance.measure import Cost
from acutance.model.conditions import Arithmetic, conditions, in_own_conditions, trackable
from acutance.model.derivatives import of_a_number
from acutance.model.functional import FunctionalModel
from acutance.model.initial import W0, initial_vector
from acutance.model.losses import LossFunction, LossHead, transform_of
from acutance.model.normalized_rows import NormScale
from acutance.model.parameters import Parameters
from acutance.numerics.units import Magnitudes, Units, huge, large
from acutance.surface.beside import Beside
from acutance.surface.core import Core, Evaluation
from acutance.surface.in_place import InPlace
from acutance.surface.many_points import ManyPoints, go_together
from acutance.surface.moving_point import MovingPoint, moving_point
from acutance.surface.per_example import ExampleGradients
from acutance.surface.perturbed import Perturbed
from acutance.surface.piecewise import PiecewisePoint
from acutance.surface.products import Products
from acutance.surface.readings import Clean, Readings
from acutance.surface.representations import Representations
from acutance.surface.second_order import SecondOrder

T = TypeVar("T")


class LossSurface(Clean, Readings, Representations, Products, Beside, InPlace):
    """The loss of one model on one batch as a function of a flat weight vector.

    Every method takes points w, (p,), and leaves the model bitwise as it was, also after an exception.
    Without w a method works at w*, the model's own weights.

    Args:
        model: module returning logits (or an object with ``.logits``); evaluated in evaluation mode.
        data: (inputs, targets) in any form that ``acutance.data.forms.understand`` takes; inputs may be a tensor, a
            dict of tensors or a tuple of tensors; (inputs, None) for points without targets. None for measures of
            the weights alone.
        loss: ``cross_entropy``, ``mse``, a sum over the examples (``squared_sum``, ``half_squared_sum``), or a function
            (logits, targets) -> 0-d mean loss, or (losses, weights), each (n,), for a weighted mean.
        parameters: which parameters are free: ``all`` or comma-separated name patterns.
        microbatch: examples in one pass; changes memory, not values.
        device: where to compute; where the model is by default.
        dtype: torch.float32 or torch.float64 (or their names); the model's by default. ``native``: its weights keep
            their types and stand for w* themselves; nobody may write to them meanwhile, and ``w`` is unsupported.
        num_train: size of the training set, for bounds that need it; the batch's size by default.
        score: (logits, targets) -> (n,), 1 where wrong; argmax by default.
        initial: the model at its initial weights, or its state dict; read as ``w0``.
        arithmetic: of first-order passes: exact (float32 or float64 as it is), or, faster and coarser, tf32 (GPUs) or
            bf16 (autocast); ``rounding`` says by how much. Second derivatives are always exact.
        cuda_graphs: record the first-order passes of searches and averages once, and replay them, where launching
            them takes longer than running them (GPUs; nothing changes on a CPU); changes speed, not values.
        checkpointing: keep no activations of the layers of a transformers model in first-order passes, and make them
            again in the backward pass; changes memory and speed, not values. Of a model that was opened before it
            holds from then on.

    Raises:
        UserError: for data that does not fit the model, a stochastic model, unusable parameters, or initial
            weights of another architecture.
    """

    def __init__(
        self,
        model: nn.Module | FunctionalModel,
        data: Any,
        loss: str | LossFunction = "cross_entropy",
        parameters: str = "all",
        microbatch: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        num_train: int | None = None,
        score: Callable[[Tensor, Tensor], Tensor] | None = None,
        initial: nn.Module | Mapping[str, Tensor] | None = None,
        arithmetic: Arithmetic = "exact",
        cuda_graphs: bool = False,
        checkpointing: bool = False,
    ) -> None:
        if isinstance(dtype, str):
            dtype = dtype_of(dtype)
        functional = model if isinstance(model, FunctionalModel) else FunctionalModel(model, device, dtype)
        if checkpointing:
            functional.recompute()
        if not isinstance(model, FunctionalModel):
            functional.warn(stacklevel=3)
        if initial is not None:
            functional.w0 = initial_vector(functional, initial)
        if data is None:
            core = Core(functional, (), torch.empty(0), LossHead(loss), None, argmax_error)
            self._setup(core, functional.parameters.only(parameters), False, "paper", num_train or 0)
            return
        inputs, targets = (points := understand(data)).inputs, points.targets
        microbatch = None if microbatch is None else whole(microbatch, "microbatch")
        core = Core(
            functional, inputs, targets, LossHead(loss), microbatch, score or argmax_error, arithmetic, cuda_graphs
        )
        if not points.labelled:
            core.take_no_targets()
        self._setup(core, functional.parameters.only(parameters), False, "paper", num_train or core.n)

    def _setup(
        self, core: Core, parameters: Parameters, logit_norm: bool, norm_scale: NormScale, num_train: int
    ) -> None:
        """Set the state of a new surface, or of a view of one, which shares its core."""
        self.core, self.parameters = core, parameters
        self.logit_norm, self.norm_scale, self.num_train = logit_norm, norm_scale, num_train
        self.transform = transform_of(logit_norm, norm_scale, core.head.wide)
        with conditions(core.functional):
            self._pieces = core.functional.own_pieces()
        self._memo: dict[Hashable, Any] = {}
        self._views: dict[Hashable, LossSurface] = {}

    def _view(
        self, key: Hashable, parameters: Parameters, logit_norm: bool, norm_scale: NormScale, core: Core | None = None
    ) -> LossSurface:
        if key not in self._views:
            view = object.__new__(LossSurface)
            view._setup(core or self.core, parameters, logit_norm, norm_scale, self.num_train)
            self._views[key] = view
        return self._views[key]

    def __repr__(self) -> str:
        clean = self._memo.get("clean")
        return surface_line(self, self.core.head.loss, clean and clean.loss)

    @cached_property
    def w(self) -> Tensor:
        """w*, the model's own weights in the free parameters, (p,).

        Raises:
            Unsupported: for weights in their own types, of which no vector is made.
        """
        with conditions(self.core.functional):
            return self.parameters.free_part(self.core.functional.w)

    @cached_property
    def _second(self) -> SecondOrder:
        return SecondOrder(self.core, self.parameters, self.w, self.transform)

    # -- what it is ---------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of free parameters, p."""
        return sum(self.parameters.sizes)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.core.n

    @property
    def model(self) -> nn.Module:
        """The model, at w*."""
        return self.core.functional.model

    @property
    def inputs(self) -> Any:
        """Inputs on the device, in the dtype."""
        return self.core.inputs

    @property
    def cost(self) -> Cost:
        """Passes so far, in examples, of this surface and all its views."""
        ledger = self.core.known.ledger
        return Cost(ledger.forwards, ledger.backwards, ledger.hvps, checks=ledger.checks)

    @property
    def microbatch(self) -> int | None:
        """Examples in one pass; None for all at once."""
        return self.core.microbatch

    @microbatch.setter
    def microbatch(self, value: int | None) -> None:
        self.core.microbatch = None if value is None else whole(value, "microbatch")
        self.release()

    @property
    def criterion(self) -> str | LossFunction:
        """The loss by its name, or the user's own function; also of points without targets."""
        return self.core.head.criterion

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes, so that an error is defined."""
        return self.core.head.classifies

    @property
    def has_errors(self) -> bool:
        """Whether it is defined which examples are wrong: the targets are classes, or the points bring a score."""
        if not self.core.labelled:
            return False
        return not self.targets.is_floating_point() or self.core.score is not argmax_error

    @property
    def digest(self) -> str:
        """Digest of the data and the loss, without the model: names the noise that all models share."""
        if self.core.digest is None:
            self.core.digest = digest_points(self.core.inputs_as_points, self.core.targets)
        return self.core.digest

    @property
    def notes(self) -> list[str]:
        """What a reader of the results should know (weights upcast, say)."""
        return self.core.functional.all_notes

    @property
    def layers(self) -> list[tuple[str, str, torch.Size, slice]]:
        """(name, kind of module, shape, slice) of every free parameter in the flat vector."""
        return self.parameters.layers

    def silent(self) -> list[str]:
        """Return the free parameters whose gradient at w* is zero throughout, as that of a pooler that nothing reads.

        Empty as long as nobody has asked for the gradient at w*: no pass is made for it.
        """
        known: list[str] | None = self._memo.get("silent")
        if known is not None:
            return known
        evaluation: Evaluation | None = self._memo.get("gradient")
        if evaluation is None or evaluation.gradient is None:
            return []
        pieces = self.parameters.split(evaluation.gradient)
        largest = torch.stack([torch.linalg.vector_norm(piece, torch.inf) for piece in pieces])
        return [slot.name for slot, size in zip(self.parameters.free_slots, largest.tolist(), strict=True) if size == 0]

    def forget_gradient(self) -> None:
        """Free the gradient at w* of very many weights, before a search holds its vectors; who asks makes it anew."""
        if "gradient" in self._memo and huge(self.w):
            self._memo["silent"] = self.silent()
            del self._memo["gradient"]

    def magnitudes(self) -> Units | None:
        """Return |w*| made block by block, of so many weights that this is cheaper than holding it; else None."""
        return Magnitudes(self.w) if large(self.w) else None

    @property
    def w0(self) -> Tensor:
        """(p,) initial weights of the free parameters.

        Raises:
            Unsupported: when they are not known: the pool has none, or ``initial`` was not given.
        """
        start = self.core.functional.w0
        if start is None:
            raise Unsupported(f"the initial weights of this model are not known: {W0}")
        return self.parameters.free_part(start)

    def unflatten(self, v: Tensor) -> dict[str, Tensor]:
        """Return {parameter name: view of v} for v, (p,)."""
        return self.parameters.unflatten(v)

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Return (p,) of {parameter name: tensor of its shape, or one that broadcasts to it}.

        Raises:
            UserError: naming what is missing, or does not fit.
        """
        return self.parameters.flatten(named)

    # -- views and sharing --------------------------------------------------------------------------

    def restricted(self, parameters: str) -> LossSurface:
        """Return the same surface with only these of its parameters free, the others fixed at w*.

        Raises:
            UserError: for a pattern that matches nothing.
        """
        if parameters == "all":
            return self
        free = self.parameters.only(parameters)
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
        return self._view(("transformed", logit_norm, norm_scale), self.parameters, logit_norm, norm_scale)

    def unlabelled(self) -> LossSurface:
        """Return the surface of the same points without their targets: what a measure that needs ``unlabeled`` sees.

        It has logits, features and derivatives of these, and no loss; passes at w* are shared and booked together.
        """
        if not self.core.labelled:
            return self
        core = self.core.without_targets() if ("unlabelled",) not in self._views else None
        return self._view(("unlabelled",), self.parameters, self.logit_norm, self.norm_scale, core)

    def memo(self, key: Hashable, fn: Callable[[], T]) -> T:
        """Return ``fn()``, computed once for this surface; its cost is booked that once."""
        if key not in self._memo:
            self._memo[key] = fn()
        value: T = self._memo[key]
        return value

    def release(self) -> None:
        """Free the graphs kept at w* for derivatives, recorded passes and everything memoised."""
        self.core.release_graphs()
        self.core.known.forget()
        self.core.passed.clear()
        for value in self._memo.values():
            if isinstance(value, MovingPoint):
                value.forget()
        self._memo.clear()
        for view in self._views.values():
            view.release()

    # -- passes -------------------------------------------------------------------------------------

    def pieces(self, w: Tensor) -> list[Tensor]:
        """Return what the model is called with at w, (p,): one flat piece for every slot, views of w where it is free.

        Raises:
            UserError: for a vector of another size.
        """
        if w.shape != (self.size,):
            raise UserError(f"w has shape {tuple(w.shape)}, this surface has {self.size} free parameters")
        return self.parameters.merged(self._pieces, self.parameters.split(w))

    def check(self, derived: bool = False) -> None:
        """Look at the model once; refuse passes that have become too small since, for what is derived from the loss."""
        if self.core.functional.weights.changed:
            raise UserError(
                "the model's weights were written to since this surface was made of them",
                "make another surface, or give it a model of its own (copy.deepcopy)",
            )
        if not self.core.checked:
            self.core.check()
        elif not self.core.in_one_pass:
            refuse_mixing(self.core)
        if derived:
            refuse_parts(self)

    def raw_logits(self, w: Tensor | None = None) -> Tensor:
        """Return the model's own logits, (n, K); ``losses_of`` and ``loss_of`` turn them into losses."""
        point = self.still_point() if w is None else MovingPoint(self, w=w)
        return point.raw_logits()

    def losses_of(self, raw: Tensor) -> Tensor:
        """Return the (n,) losses of raw logits, (n, K), under this surface's transform; unsupported for no mean."""
        refuse_single(self, raw)
        return self.core.head.losses(self.transform(raw), self.targets)

    def logits(self, w: Tensor | None = None) -> Tensor:
        """Return logits at w, (n, K), normalized when this surface is."""
        return self.transform(self.raw_logits(w))

    def losses(self, w: Tensor | None = None) -> Tensor:
        """Return per-example losses at w, (n,)."""
        return self.losses_of(self.raw_logits(w))

    def errors(self, w: Tensor | None = None) -> Tensor:
        """Return per-example 0/1 errors at w, (n,)."""
        self.check()
        if self.core.keeps_logits:
            return self.errors_of(self.raw_logits(w))
        if not self.has_errors:
            raise Unsupported("it is not defined which examples are wrong: the targets are numbers, or there are none")
        return self.clean().note if w is None else MovingPoint(self, w=w).seen_by([]).note

    def still_point(self) -> MovingPoint:
        """Return the point w*, which does not move."""
        if self.core.functional.weights.own:
            return PiecewisePoint(self, moves=False)
        return MovingPoint(self, w=self.w)

    def clean_gradient(self) -> Evaluation:
        """Return loss, logits and gradient at w*, NaN where the loss is no number; computed once for this surface."""

        def evaluated() -> Evaluation:
            found = self.evaluate(self.w, gradient=True)
            assert found.gradient is not None
            again = None if found.again is None else self.clean_logits
            return replace(found, gradient=of_a_number(found.loss, [found.gradient])[0], again=again)

        return self.memo("gradient", evaluated)

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
        point = MovingPoint(self, w=w)
        if not gradient:
            return point.value()
        evaluation = point.gradient()
        if w is self.w:
            self.learn(evaluation.loss, evaluation.note)
        return evaluation

    # -- many points: what searches and averages are made of -----------------------------------------

    def perturbed(self, c: Tensor | Units | None = None) -> Perturbed:
        r"""Return the loss as a function of :math:`\gamma`, (p,), for a search: :math:`L_S(w^* + c \odot \gamma)`.

        Args:
            c: (p,) units, as of ``acutance.scaling.vector``, or ``by_block``; ones by default.
        """
        return Perturbed(self, c)

    def moving_point(self, c: Tensor | Units | None = None) -> MovingPoint:
        r"""Return a point :math:`w^* + s\, c \odot x` that moves in memory of its own, for many passes.

        Args:
            c: (p,) units, as for ``perturbed``.
        """
        return moving_point(self, c)

    def many_points(self, count: int) -> ManyPoints | None:
        """Return rows for so many points, passed together; None where one by one is better, as for all but tiny models.

        Args:
            count: how many points there will be, at least 1; no more rows than one pass takes are held.
        """
        return ManyPoints(self, count) if go_together(self) else None

    # -- further derivatives: those of the loss twice are in ``products`` --------------------------------

    @in_own_conditions
    def example_gradients(
        self, w: Tensor | None = None, chunk: int | None = None, targets: Tensor | None = None,
        u: Tensor | None = None, start: int = 0,
    ) -> Iterator[Tensor]:  # fmt: skip
        r"""Return an iterator of (k, p): the gradient of each example's loss, in order; their mean is ``gradient``.

        They are vectorised with ``torch.func.vmap``, or computed one by one where the model does not allow it
        (it reads values of its input, as masked transformers do, or has a recurrent layer); two examples
        computed in both ways decide, once. A loss of one's own is called with one example at a time, and its mean over
        them must be the loss: the pass at w* tells. Cost: a forward and a backward for each example that is asked for;
        the decision is a check.

        With u, (n, K), they are those of :math:`\langle u_i, f(x_i) \rangle` instead, combinations of rows of the
        Jacobian of the logits (normalized when this surface is), which need no targets.

        Args:
            w: (p,) point.
            chunk: k; by default what fits 256 MiB, and no more than the microbatch.
            targets: what the losses compare with, of the shape of the surface's own, which they are by default: labels
                drawn from the model's own predictions give the true Fisher matrix.
            u: (n, K), of the shape of ``logits``.
            start: the first example that is asked for.

        Raises:
            Unsupported: when an example's output depends on the others, or one's own loss is no mean over them, or
                is asked for at other targets.
            UserError: for targets, u or a start that do not fit.
        """
        self.check()
        if u is None:
            refuse_single(self)
        elif targets is not None:
            raise UserError("example_gradients: u takes the place of the loss, so it goes without targets")
        pieces = self.pieces(trackable((self.w if w is None else tensor(w, "w")).detach().to(self.w)))
        return ExampleGradients(self.core, pieces, self.parameters, self.transform, targets, u).chunks(chunk, start)
