"""What all views of one surface share: the model, the data in microbatches, the ledger of passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, saved_tensors_hooks

from acutance.checks.loss_checks import doubt, ends_in_sigmoid, refuse_parts, refuse_unfit
from acutance.checks.parts import keeps_logits, refuse_mixing
from acutance.checks.smoothness import refuse_jumps
from acutance.checks.tracking import Tracking, examine, leaves_of, note_outside, refuse_elsewhere
from acutance.data.batch import channels_first, channels_last, length_of, take_rows, tensor
from acutance.data.lazy import Lazy, ahead, realised
from acutance.dataset import argmax_error
from acutance.errors import Unsupported, UserError, did_you_mean, lacks_memory
from acutance.model.conditions import ARITHMETICS, Arithmetic, conditions
from acutance.model.derivatives import coarsest
from acutance.model.fitness import answering
from acutance.model.functional import FunctionalModel
from acutance.model.layouts import Convolutions
from acutance.model.losses import LossHead, Unlabelled
from acutance.model.state import refuse_drift, refuse_penalty, refuse_reading, size_of
from acutance.model.token_ids import counted_padding, require_tokens
from acutance.model.weights import EXACT
from acutance.surface.linearization import Linearization
from acutance.surface.loss_gradient import objection, product_objection

if TYPE_CHECKING:
    from acutance.surface.loss_surface import LossSurface
    from acutance.surface.representations import LastLayer

MIXED = 8  # roundings by which an example's logits may differ among other examples
PROBE = 8  # examples that the first check of a surface looks at
KINDS = {
    torch.finfo(kind).eps: str(kind).removeprefix("torch.") for kind in (torch.float32, torch.float16, torch.bfloat16)
}
COARSE = (
    "the model computes in {} inside its forward pass, whatever its weights are (autocast, casts of its own): "
    "perturbations below about {:.1g} of what they change are rounded away, and second derivatives are rough; let it "
    "compute in {}"
)


@dataclass(slots=True)
class Evaluation:
    """What one pass gives.

    Attributes:
        loss: 0-d float64.
        note: (n, K) raw logits; (n,) errors, or (0,), where logits are not kept. ``errors_noted`` reads both.
        gradient: (p,) when it was asked for.
        again: makes the logits where they are not kept, in another pass.
    """

    loss: Tensor
    note: Tensor
    gradient: Tensor | None = None
    again: Callable[[], Tensor] | None = None

    @property
    def raw(self) -> Tensor:
        """(n, K) raw logits; n forwards where they were not kept."""
        return self.note if self.again is None else self.again()


@dataclass
class Ledger:
    """Passes made, in examples."""

    forwards: float = 0.0
    backwards: float = 0.0
    hvps: float = 0.0
    checks: float = 0.0


@dataclass
class Known:
    """What is known of a model on some inputs, whatever their targets: passes made, and results at w*.

    Attributes:
        ledger: the passes.
        clean_logits: (n, K).
        exact_logits: (n, K), where the arithmetic is a coarser one.
        last_layer: with the representations that go into it.
        features: name of the last layer and what goes into it, (n, d), known from an earlier pass.
        shared: what follows from these, and is asked for by several measures.
    """

    ledger: Ledger = field(default_factory=Ledger)
    clean_logits: Tensor | None = None
    exact_logits: Tensor | None = None
    last_layer: LastLayer | None = None
    features: tuple[str, Tensor] | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict)

    def forget(self) -> None:
        """Free the results."""
        self.clean_logits = self.exact_logits = self.last_layer = self.features = None
        self.shared.clear()


class Core:
    """What all views of one surface share: model, data, microbatching, ledger, graphs kept at w*."""

    def __init__(
        self,
        functional: FunctionalModel,
        inputs: Any,
        targets: Tensor,
        head: LossHead,
        microbatch: int | None,
        score: Callable[[Tensor, Tensor], Tensor],
        arithmetic: Arithmetic = "exact",
        cuda_graphs: bool = False,
    ) -> None:
        _refuse(arithmetic, functional)
        self._cuda_graphs = cuda_graphs
        self.arithmetic = arithmetic
        self.functional = functional
        self.inputs = functional.cast_inputs(inputs)
        self._given = inputs if functional.weights.native else None  # before they were rounded
        self.targets = functional.cast_targets(targets)
        self.head = head
        self.score = score
        self.n = len(self.targets)
        self.microbatch = microbatch
        self.known = Known()
        self.companions: dict[str, Callable[[], LossSurface]] = {}  # surfaces of the same model on other points
        self.tracking: Tracking | None = None
        self.loss_products: str | None = None  # why products with the Hessian of the user's own loss would be wrong
        self.few_logits: Tensor | None = None  # logits of a few examples at w*, from the first check
        self.checked = False
        self._by_pixel = False  # whether images are given to the model in the layout of channels_last
        self._laid_out: Any = None  # the inputs in it, where all go through the model together
        self.mixes_examples = False
        self.refuses_single = ""  # why the model cannot pass a single example
        self.vectorises: bool | None = None
        self.part_differences: dict[int, str] = {}  # size of parts -> how the loss differs from that of its parts
        self.passed: dict[Hashable, Evaluation] = {}  # at w*, by transform, where logits are not kept
        self.digest: str | None = None
        self.example_digests: Callable[[], Tensor] | None = None  # of the inputs, where they are known from elsewhere
        self.linearizations: dict[tuple[int, ...], Linearization] = {}
        # (whose, free parameters, all, places of the gradient, loss): one for all views, as large as all activations.
        self._others: Sequence[ref[Tensor]] = ()  # what the outputs are differentiable in, besides the weights
        self.gradient_graph: (
            tuple[object, Sequence[Tensor], Sequence[Tensor], Sequence[GradientEdge | None], Tensor] | None
        ) = None

    def book(self, forwards: float = 0, backwards: float = 0, hvps: float = 0, checks: float = 0) -> None:
        """Enter passes into the ledger, in examples."""
        ledger = self.known.ledger
        ledger.forwards += forwards
        ledger.backwards += backwards
        ledger.hvps += hvps
        ledger.checks += checks

    @property
    def labelled(self) -> bool:
        """Whether there are targets."""
        return not isinstance(self.head, Unlabelled)

    def without_targets(self) -> Core:
        """Return a core of the same inputs that has no targets: what is known of the logits is shared."""
        other = copy(self)
        other.take_no_targets()
        return other

    def at_inputs(self, inputs: Any) -> Core:
        """Return a core of other inputs with the same targets, whose passes are booked here.

        What was found out about the model holds there; nothing of its outputs does.

        Raises:
            UserError: for another number of inputs.
        """
        if length_of(inputs) != self.n:
            raise UserError(f"there are {length_of(inputs)} other inputs, this surface has {self.n} examples")
        other = copy(self)
        other.take_inputs(inputs)
        return other

    def take_inputs(self, inputs: Any) -> None:
        """Look at other inputs, and forget what the outputs at the own ones were."""
        self.inputs = self.functional.cast_inputs(inputs)
        self._given = inputs if self.functional.weights.native else None
        self.digest = self._laid_out = self.example_digests = None
        self.forget_outputs()

    def at_buffers(self, functional: FunctionalModel) -> Core:
        """Return a core of the same points for a model that differs in its buffers, whose passes are booked here."""
        other = copy(self)
        other.functional = functional
        other.forget_outputs()
        return other

    def know(self, other: Core) -> None:
        """Take over what was found out about the same model on the same points at other weights: ``without_model``.

        Nothing of its outputs, nor what was found out at these weights alone.
        """
        own = {name: getattr(self, name) for name in ("functional", "known", "companions")}
        vars(self).update({**vars(other), **own})

    def without_model(self) -> Core:
        """Return what ``know`` takes, which holds neither weights nor outputs."""
        other = copy(self)
        other.forget_outputs()
        other.functional = cast("FunctionalModel", None)
        return other

    def forget_outputs(self) -> None:
        """Forget what the outputs were, and what was found out with them."""
        self.known, self.passed = Known(ledger=self.known.ledger), {}
        self.companions, self.linearizations, self.gradient_graph = {}, {}, None
        self.part_differences = {}

    def take_no_targets(self) -> None:
        """Forget the targets, and what was found out with them."""
        self.head, self.score = Unlabelled(self.head.criterion), argmax_error
        self.targets = torch.zeros(self.n, dtype=torch.long, device=self.functional.device)  # none is ever read
        self.digest, self.passed = None, {}
        self.linearizations, self.gradient_graph = {}, None
        self.tracking = self.loss_products = None
        self.part_differences = {}

    @property
    def inputs_as_points(self) -> Any:
        """The inputs as they name the points: models whose weights have other types are measured on the same ones."""
        return self.inputs if self._given is None else self._given

    @property
    def keeps_logits(self) -> bool:
        """Whether passes hold the logits of all examples, known once the model was checked."""
        return keeps_logits(self)

    @property
    def in_one_pass(self) -> bool:
        """Whether all examples go through the model together, so that a graph can be kept."""
        return self.microbatch is None or self.microbatch >= self.n

    def errors(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Return (n,) scores of raw logits, (n, K): 1 where wrong, 0 where right, NaN where a NaN predicts nothing."""
        top = raw.flatten(1).amax(1) if raw.dim() > 1 else raw
        # A scalar of torch.where would be copied to the device on every draw; one of masked_fill is not.
        return self.score(raw, targets).to(raw.dtype).masked_fill(~(top < torch.inf), torch.nan)

    def release_graphs(self) -> None:
        """Free the graphs kept at w*."""
        self.gradient_graph = None
        self.linearizations.clear()

    def targets_of(self, k: int) -> Tensor:
        """Return the targets of k passes, one after the other, (k n, ...)."""
        return self.targets.repeat(k, *[1] * (self.targets.dim() - 1))

    @property
    def replays(self) -> bool:
        """Whether passes of a walk may be recorded and replayed: the same memory is read by each of them."""
        return (
            self._cuda_graphs
            and self.functional.device.type == "cuda"
            and self.in_one_pass
            and not isinstance(self.inputs, Lazy)
            and not self.functional.hooked
            and self.functional.recomputation is None
            and self.functional.sharded is None
        )

    def chunks(self, as_given: bool = False) -> Iterable[tuple[Any, Tensor]]:
        """Return (inputs, targets) of every microbatch.

        Args:
            as_given: in the layout the user gave. By default images lie as first-order passes are fastest, where the
                model allows it; a second derivative leaves that layout half-way, and is slower from there.
        """
        by_pixel = self._by_pixel and not as_given
        size = min(self.microbatch or self.n, self.n)
        if size == self.n:
            if by_pixel and self._laid_out is None:
                self._laid_out = channels_last(self.inputs)
            return ((self._laid_out if by_pixel else self.inputs, self.targets),)
        cuts = (slice(start, start + size) for start in range(0, self.n, size))
        parts = ((take_rows(self.inputs, rows), self.targets[rows]) for rows in cuts)
        if by_pixel:
            parts = ((channels_last(inputs), targets) for inputs, targets in parts)
        return ahead(parts) if isinstance(self.inputs, Lazy) else parts

    def other_targets(self, targets: Tensor) -> Tensor:
        """Return targets that take the place of the surface's own, as its loss wants them.

        Raises:
            Unsupported: for a loss of the user's own, whose weights and value are known at its own targets alone.
            UserError: for targets of another shape, or outside the classes.
        """
        if callable(self.head.loss):
            raise Unsupported("gradients at other targets need a loss with a name (cross_entropy, mse), not one's own")
        other = tensor(targets, "targets").detach().to(self.targets)
        if other.shape != self.targets.shape:
            wanted = tuple(self.targets.shape)
            raise UserError(f"targets has shape {tuple(other.shape)}, those of this surface have {wanted}")
        assert self.few_logits is not None
        self.head.check(self.few_logits, len(self.few_logits), other)
        return other

    def check(self) -> None:
        """Try a few examples at w*: each has logits, the same ones every time, with an output for every label.

        Raises:
            Unsupported: when there are no data.
            UserError: for a stochastic model, labels that do not fit, or microbatches of a model that mixes examples.
        """
        if self.n == 0:
            raise Unsupported("this surface has no data: the measure declares that it needs weights only")
        if (sharded := self.functional.sharded) is not None:
            sharded.require_same_points(self.inputs_as_points, self.targets, self.microbatch)
        require_tokens(self.functional.model, self.inputs)
        if doubtful := self.head.check_inputs(self.inputs, self.targets):
            self.functional.note(doubtful)
        size = min(self.n, PROBE)
        probe = take_rows(self.inputs, slice(0, size))
        pieces = self.functional.own_pieces()
        with conditions(self.functional):
            probe = realised(probe)
            with answering(probe):
                first = self.functional(pieces, probe)
            second = self.functional(pieces, probe)
            self.head.check(first, size, self.targets)
            if doubtful := doubt(self.head, first):
                self.functional.note(doubtful)
            scale = size_of(first) + 1e-30
            if not _close(first, second, 1e-6 * scale):
                raise UserError(
                    "the model gives different outputs for the same input (random layers are active in eval mode, or "
                    "it keeps something from pass to pass)",
                    "make its forward pass a function of weights and inputs: sharpness differences would be noise",
                )
            refuse_drift(self.functional, pieces, probe, first)
            if doubtful := counted_padding(
                self.functional.model, self.inputs, lambda inputs: self.functional(pieces, inputs)
            ):
                self.functional.note(doubtful)
            if callable(self.head.loss):
                if self.functional.returns_several:
                    refuse_parts(self.head, self.functional.outputs(pieces, probe), first, self.targets[:size])
                refuse_unfit(self.head, first, self.targets)
                # A loss may be one of as many examples as there are targets, and of no fewer.
                rows = torch.arange(self.n, device=first.device) % size
                for refuse, argument in ((refuse_reading, probe), (refuse_penalty, first)):
                    refuse(self.functional, pieces, argument, lambda f: self.head.value(f[rows], self.targets))
            refuse_elsewhere(self.functional, pieces, probe, first)
            self.mixes_examples = self._mixes(pieces, probe, first)
            note_outside(self.functional, self._others)
            by_pixel = self._logits_by_pixel(pieces, probe)
        self.few_logits = first
        self.head.weigh(first, self.targets)
        refuse_mixing(self)
        self._by_pixel = by_pixel is not None and _close(first, by_pixel, 1e-3 * scale)
        self.checked = True

    def _mixes(self, pieces: Sequence[Tensor], probe: Any, first: Tensor) -> bool:
        """Return whether examples have other logits among others than by themselves, or in parts of the batch."""
        # Kernels of other batches add in another order, which half precision shows.
        tolerance = max(1e-3, MIXED * torch.finfo(self.functional.dtype).eps) * (size_of(first) + 1e-30)
        if len(first) == 1:
            return False
        parts = [slice(i, i + 1) for i in range(2)]
        try:
            logits = [
                self._inspected_logits(pieces, take_rows(probe, parts[0])),
                self.functional(pieces, take_rows(probe, parts[1])),
            ]
        except (RuntimeError, ValueError, IndexError) as error:
            if lacks_memory(error):
                raise
            # What cannot pass a single example, as batch normalization by the batch's own statistics, may pass two.
            self.refuses_single = str(error).splitlines()[0]
            parts = [slice(i, i + 2) for i in range(0, len(first) - 1, 2)]
            if len(first) == 2:
                return False
            logits = [self.functional(pieces, take_rows(probe, rows)) for rows in parts]
        return not _close(first[: sum(map(len, logits))], torch.cat(logits), tolerance)

    def _inspected_logits(self, pieces: Sequence[Tensor], inputs: Any) -> Tensor:
        """Return logits, and note what their graph shows: numbers coarser than the weights, a sigmoid at the end."""
        functional = self.functional
        # Nobody goes back through this graph: it need not keep the weights that were brought to a device.
        keeping = saved_tensors_hooks(_nothing, _nothing) if functional.weights.spread else nullcontext()
        with conditions(functional, order=1), keeping:
            leaves = [piece.detach().requires_grad_() for piece in pieces]
            raw = functional(leaves, inputs)
        eps = coarsest(raw)
        if eps > torch.finfo(functional.dtype).eps:
            functional.note(COARSE.format(KINDS.get(eps, "coarser numbers"), eps, str(functional.dtype)[6:]))
        self._others = leaves_of(raw, leaves) if functional.sharded is None else ()
        if doubtful := ends_in_sigmoid(self.head, raw):
            functional.note(doubtful)
        return raw.detach()

    def refuse_derivatives(self, free: Sequence[int], apart: bool = False) -> None:
        """Refuse derivatives in some parameters where they would be wrong, or do not exist.

        Args:
            free: the parameters.
            apart: whether it is a first derivative whose parts keep the types of the weights.

        Raises:
            Unsupported: naming the parameters.
        """
        if (sharded := self.functional.sharded) is not None and apart:
            sharded.refuse_gradient(free, self.functional.dtype)
        else:
            self.functional.weights.refuse_spread()
        if not apart:
            self.refuse_coarse_derivatives()
        refuse_jumps(self.functional, free)
        self.examined().refuse(self.functional, free)

    def refuse_coarse_derivatives(self) -> None:
        """Refuse derivatives that are vectors, second ones and those of single examples in weights of half precision.

        Raises:
            Unsupported: saying what to do.
        """
        if self.functional.dtype not in EXACT:
            kind = str(self.functional.dtype).removeprefix("torch.")
            raise Unsupported(
                f"it takes a derivative that is not computed with weights in {kind}, where gradients alone are, a part "
                "for each parameter: write surface.dtype: float32 (in Python dtype='float32')"
            )

    def refuse_products(self) -> None:
        """Refuse products with the Hessian of the user's own loss in the outputs, where they would be wrong.

        Raises:
            Unsupported: saying so.
        """
        if self.loss_products is None:
            self.loss_products = ""
            if callable(self.head.loss) and self.few_logits is not None:
                with conditions(self.functional, order=2):
                    targets = self.targets[: len(self.few_logits)]
                    self.loss_products = product_objection(self.head, self.few_logits, targets)
        if self.loss_products:
            raise Unsupported(self.loss_products)

    def examined(self) -> Tracking:
        """Return what automatic differentiation does not see, asked once a model and size of batch, and once a loss."""
        if self.tracking is None:
            cache = self.functional.tracking
            if self.n not in cache:
                cache[self.n] = examine(self)
            self.tracking = cache[self.n]
            if callable(self.head.loss) and self.few_logits is not None:
                with conditions(self.functional, order=1):
                    problem = objection(self.head, self.few_logits, self.targets[: len(self.few_logits)])
                self.tracking = replace(self.tracking, loss=problem)
        return self.tracking

    def _logits_by_pixel(self, pieces: Sequence[Tensor], probe: Any) -> Tensor | None:
        """Return the logits of images laid out pixel by pixel; None where that must not be, or brings nothing."""
        if not self.functional.convolves or self.functional.device.type != "cpu":
            return None
        with Convolutions() as convolutions:
            try:
                logits = self.functional(pieces, channels_last(probe))
            except RuntimeError as error:
                if lacks_memory(error):
                    raise
                # A model that calls ``view`` on feature maps relies on their layout.
                return None
        if convolutions.needs_channels_first:
            self.inputs = channels_first(self.inputs)  # the user's own may lie pixel by pixel
            return None
        return logits


def _refuse(arithmetic: str, functional: FunctionalModel) -> None:
    if arithmetic not in ARITHMETICS:
        raise UserError(f"arithmetic: '{arithmetic}' is unknown", did_you_mean(arithmetic, ARITHMETICS))
    if arithmetic != "exact" and functional.dtype != torch.float32:
        raise UserError(f"arithmetic: {arithmetic} is coarser than float32 and was asked for in float64", "choose one")
    if arithmetic == "tf32" and functional.device.type != "cuda":
        raise UserError("arithmetic: tf32 is an arithmetic of GPUs", "choose exact or bf16, or device cuda")


def _nothing(tensor: Any) -> Any:
    return None


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True))
