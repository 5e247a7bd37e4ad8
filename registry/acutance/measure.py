"""What a measure is: a function of a loss surface, with a spec, traits and an estimate as its value."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from acutance.errors import Unsupported
from acutance.explain import estimate_html, estimate_line, explain
from acutance.own_code import is_own, source_digest
from acutance.spec import Spec, Specified, SpecT, estimation, labelled

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.peers import Peer
    from acutance.surface.loss_surface import LossSurface

__all__ = ["Cost", "Estimate", "Measure", "PoolMeasure", "SharpnessSpec", "Status", "Traits", "Unsupported"]


class Status(StrEnum):
    """How an evaluation ended; everything but ``ok`` says in words what to try."""

    OK = "ok"
    NOT_CONVERGED = "not_converged"
    NONFINITE = "nonfinite"
    UNSUPPORTED = "unsupported"
    BUDGET = "budget"
    FAILED = "failed"

    @property
    def advice(self) -> str:
        """What a user can do about it."""
        return {
            Status.OK: "",
            Status.NOT_CONVERGED: "raise the number of steps or probes, or loosen the tolerance",
            Status.NONFINITE: "the loss overflowed: try dtype float64, or a smaller radius where the measure has one",
            Status.UNSUPPORTED: "the measure is not defined here; see its message",
            Status.BUDGET: "the limit of passes or time was reached: raise it",
            Status.FAILED: "an exception was raised; see its message, then run again with --rerun failed",
        }[self]

    @classmethod
    def worst(cls, statuses: Sequence[Status]) -> Status:
        """Return the gravest of several; ``ok`` for none."""
        return max(statuses, key=list(cls).index, default=cls.OK)


@dataclass(frozen=True)
class Cost:
    """Work done, counted in examples (a pass over a batch of 128 is 128), and the peak of extra memory.

    A product with the Jacobian or its transpose counts as a backward, a Gauss-Newton product as two.
    ``checks`` is what a surface spent on examining the model, in forwards: once a model, no part of a measure's work.
    """

    forwards: float = 0
    backwards: float = 0
    hvps: float = 0
    peak_bytes: int = 0
    checks: float = field(default=0, compare=False)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.hvps + other.hvps,
            max(self.peak_bytes, other.peak_bytes),
            self.checks + other.checks,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards - other.forwards,
            self.backwards - other.backwards,
            self.hvps - other.hvps,
            self.peak_bytes,
            self.checks - other.checks,
        )

    def __mul__(self, factor: float) -> Cost:
        work = self.forwards * factor, self.backwards * factor, self.hvps * factor
        return Cost(*work, self.peak_bytes, self.checks * factor)

    @property
    def units(self) -> float:
        """Work in forward passes: a backward is taken as two forwards, a Hessian-vector product as six."""
        return self.forwards + 2 * self.backwards + 6 * self.hvps


@dataclass(frozen=True)
class Estimate:
    """The value of a measure, how far to trust it, and what it cost.

    Attributes:
        value: finite, or the status says why not.
        stderr: Monte-Carlo standard error on the fixed batches; None for a deterministic measure.
        status: how it ended.
        message: one sentence when the status is not ok.
        per_batch: the values whose mean ``value`` is, one for each m-batch.
        extras: JSON values a reader may want: radius reached, clean loss, value at half the steps ...
        cost: passes in examples.
        measure: id of the measure, where it is known; no part of what makes two estimates equal.
        spec: all settings of the measure, likewise.
        chance: loss of an answer that does not look at the input, on the points and by the loss of the measure, where
            it is known; likewise.
        notes: sentences that a reader should know of the model (weights upcast, frozen ones that move); likewise.
    """

    value: float
    stderr: float | None = None
    status: Status = Status.OK
    message: str = ""
    per_batch: tuple[float, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    measure: str = field(default="", compare=False, repr=False)
    spec: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    chance: float | None = field(default=None, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.status is Status.OK and not math.isfinite(self.value):
            object.__setattr__(self, "status", Status.NONFINITE)
            object.__setattr__(self, "message", self.message or Status.NONFINITE.advice)
        if self.stderr is not None and not math.isfinite(self.stderr):
            object.__setattr__(self, "stderr", None)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return estimate_line(self)

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text(str(self))

    def _repr_html_(self) -> str:
        return estimate_html(self)

    def explain(self) -> str:
        """Return what the value says in words: meaning, uncertainty, convergence, losses, advice, cost."""
        return explain(self)

    @classmethod
    def without_value(cls, status: Status, message: str) -> Estimate:
        """Return an estimate that has no number, and says why."""
        return cls(math.nan, None, status, message)

    @classmethod
    def of(cls, value: Estimate | float) -> Estimate:
        """Return an estimate for what a measure's ``evaluate`` gave: itself, or a plain number.

        Raises:
            TypeError: for anything else; a text is no number, though it may read like one.
        """
        if isinstance(value, Estimate):
            return value
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            return cls(float(value))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"evaluate must return an Estimate or a number, not {_kind(value)}") from None

    @classmethod
    def mean(cls, parts: Sequence[Estimate]) -> Estimate:
        r"""Return the mean over m-batches, :math:`E_S`, with equal weights.

        ``stderr`` is :math:`\sqrt{\sum_b se_b^2}/B`; the spread over the batches goes to
        ``extras["batch_stderr"]``. Extras that are numbers in every part are averaged, and so are curves,
        ``{"x": [...], "y": [...]}``, on the same points; texts stay where all parts agree.

        Raises:
            ValueError: for no parts.
        """
        if not parts:
            raise ValueError("the mean of no batches")
        n = len(parts)
        if n == 1:
            return replace(parts[0], per_batch=(parts[0].value,))
        values = [part.value for part in parts]
        value = math.fsum(values) / n if all(map(math.isfinite, values)) else _nonfinite_mean(values)
        errors = [part.stderr for part in parts]
        stderrs = [e for e in errors if e is not None]
        stderr = math.sqrt(math.fsum(e * e for e in stderrs)) / n if len(stderrs) == n else None
        extras = _mean_extras([part.extras for part in parts])
        if math.isfinite(value):
            spread = math.fsum((v - value) ** 2 for v in values) / (n - 1)
            extras["batch_stderr"] = math.sqrt(spread / n)
        status = Status.worst([part.status for part in parts])
        message = next((part.message for part in parts if part.status is status), "")
        cost = sum((part.cost for part in parts), Cost())
        first = parts[0]
        return cls(value, stderr, status, message, tuple(values), extras, cost, first.measure, first.spec)


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")


def _nonfinite_mean(values: Sequence[float]) -> float:
    """A diverged batch makes the mean infinite, an undefined one makes it undefined."""
    return math.nan if any(math.isnan(v) for v in values) else sum(values)


def _mean_extras(extras: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the extras of a mean over m-batches: numbers and curves averaged, texts on which all agree."""
    shared = [key for key in extras[0] if all(key in other for other in extras)]
    result: dict[str, Any] = {}
    for key in shared:
        column = [other[key] for other in extras]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in column):
            result[key] = math.fsum(column) / len(column)
        elif all(is_curve(v) and v["x"] == column[0]["x"] for v in column):
            ys = zip(*(v["y"] for v in column), strict=True)
            result[key] = {"x": list(column[0]["x"]), "y": [math.fsum(y) / len(column) for y in ys]}
        elif isinstance(column[0], str) and all(v == column[0] for v in column):
            result[key] = column[0]
    return result


def is_curve(value: Any) -> bool:
    """Return whether an extra is a curve: ``{"x": [...], "y": [...]}``, as many of the one as of the other."""
    return isinstance(value, Mapping) and set(value) == {"x", "y"} and len(value["x"]) == len(value["y"])


Need = Literal[
    "weights",
    "initial_weights",
    "data",
    "gradient",
    "example_gradients",
    "hvp",
    "activations",
    "unlabeled",
    "validation",
    "trajectory",
    "update",
    "input_gradient",
    "peers",
]
Level = Literal["batch", "dataset", "weights", "pool"]
# What opens no points and makes no pass.
WITHOUT_POINTS: frozenset[Need] = frozenset({"weights", "initial_weights", "trajectory", "peers"})
Better = Literal["", "larger", "smaller"]
Invariance = Literal[
    "rescaling",  # MEASURES (a)-(f): every function-preserving elementwise rescaling
    "output_scale",  # (g): the last layer times a constant
    "head_mixing",  # (h): GL(h) on the query-key and value-output pairs
    "permutation",  # (i): neurons in another order
    "translation",  # (j): a constant added to the key bias or to all logits
]


@dataclass(frozen=True)
class Traits:
    """What the harness, the reader and the conformance tests need to know of a measure.

    Attributes:
        level: ``batch`` (the harness averages over m-batches), ``dataset`` (one surface over all points),
            ``weights`` (no data opened) or ``pool`` (all comparable models of a study at once: ``PoolMeasure``).
        larger_means: what a large value says, in one word, e.g. ``sharper``.
        better: which values promise a lower error, ``larger`` or ``smaller`` (as an estimate of the error); empty where
            nothing is promised. ``acutance rank`` asks measures without labels that say so.
        needs: what the measure reads from the surface at any settings (``Measure.needs`` says what it reads at
            some), so that nothing else has to be there: ``weights`` (w and
            what follows from it: layers, unflatten), ``initial_weights`` (w0), ``data`` (forward passes: logits,
            losses, errors), ``gradient``, ``example_gradients``, ``hvp`` (all that differentiates a derivative
            again: hvp, jvp, vjp, ggnvp), ``activations``, ``unlabeled`` (points whose targets it never sees: they
            are taken away), ``validation`` (a second set of points, with targets: ``companion``), ``trajectory``
            (what training wrote down: ``training_log``; of models that are compared, ``run`` and ``step``), ``update``
            (the optimizer's step, or minus the gradient), ``input_gradient`` (derivatives by the inputs), ``peers``
            (the other models: level ``pool``). A pool is asked for initial weights only when they are declared here.
        stochastic: whether another seed gives another value.
        invariant_to: function-preserving changes of the weights that leave the value alone.
        symbol: how plots abbreviate it.
        label: how tables, figures and texts call it: a template over the fields of its spec, as in
            ``"{scaling} gradient norm {norm}"``. Empty: its name with the settings in brackets.
        curves: names of extras that are curves -> what their axes say, (x, y).
        edge: settings at which the value is a curvature of the loss in the weights themselves, {field: value}: gradient
            descent is stable while such a value is below 2 / learning rate, which figures of a training show. Empty
            where no setting makes it one.
        estimates: ``error`` where the value is an estimate of the error on the points, which is compared with the error
            that a target measures there; empty otherwise.
        reference: where the definition stands.
        bibtex: what to cite: keys of ``acutance/references.bib``, or BibTeX entries.
    """

    level: Level = "batch"
    larger_means: str = "sharper"
    better: Better = ""
    needs: frozenset[Need] | set[Need] = frozenset({"data"})
    stochastic: bool = False
    invariant_to: frozenset[Invariance] | set[Invariance] = frozenset()
    symbol: str = ""
    label: str = ""
    curves: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    edge: Mapping[str, Any] = field(default_factory=dict)
    estimates: Literal["", "error"] = ""
    reference: str = ""
    bibtex: tuple[str, ...] | str = ()


NORMS = {"l1": "ℓ1", "l2": "ℓ2", "linf": "ℓ∞"}  # how labels write them


class SharpnessSpec(Spec):
    """Fields common to the sharpness family."""

    scaling: Annotated[str, labelled({"none": "standard", "elementwise": "adaptive"})] = "elementwise"
    """The vector c: none (1), elementwise (|w|), elementwise_eta, filter, layer, or an own module:function."""
    logit_norm: Annotated[bool, labelled(adds=", logit-norm{norm_scale}")] = False
    """Divide the logits of each example by their standard deviation over classes (Eq. 5)."""
    norm_scale: Annotated[Literal["paper", "released"], estimation({"paper": "", "released": " (released scale)"})] = (
        "paper"
    )
    """paper: the standard deviation of Eq. 5; released: the l2 norm of the published code, sqrt(K) times larger."""
    parameters: Annotated[str, labelled(adds=" [{parameters}]")] = "all"
    """Which parameters move: "all", or comma-separated patterns of names; a leading "!" takes some out."""

    @property
    def view(self) -> tuple[str, bool, str]:
        """Which function of which parameters it is about: specs that agree share the gradient at w*."""
        return self.parameters, self.logit_norm, self.norm_scale if self.logit_norm else "paper"

    def canonical(self) -> dict[str, Any]:
        """Return what enters a key; an own function enters with the digest of its file."""
        source = {"scaling_source": source_digest(self.scaling)} if is_own(self.scaling) else {}
        return super().canonical() | source


class Measure(Specified[SpecT]):
    """A generalization measure: subclass it, set the three class attributes, write ``evaluate``.

    Attributes:
        name: short name, unique within the distribution.
        version: raise it when the same spec starts to give another value; keys change with it.
        traits: see Traits.
        tried_on: ``module:name`` of surfaces that the conformance kit tries it on besides its own, where it is defined
            on special models only: ``Problem`` and ``Twin`` objects of ``acutance.testing``.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    traits: ClassVar[Traits] = Traits()
    tried_on: ClassVar[str] = ""

    @abstractmethod
    def evaluate(self, surface: LossSurface, spec: SpecT, rng: Streams) -> Estimate | float:
        """Return the value on one surface.

        Args:
            surface: the loss surface of one model on one batch (or on all points: ``traits.level``).
            spec: the settings.
            rng: counter-based noise; never use the global generators.

        Raises:
            Unsupported: when the measure is not defined on this surface.
        """

    def evaluate_many(self, surface: LossSurface, specs: Sequence[SpecT], rng: Streams) -> list[Estimate]:
        """Return the values for several specs on one surface; override it to share passes between them.

        The values must equal those of ``evaluate``. The default evaluates one after the other.
        """
        estimates = []
        for spec in specs:
            before = surface.cost
            estimate = Estimate.of(self.evaluate(surface, spec, rng))
            estimates.append(replace(estimate, cost=surface.cost - before))
        return estimates

    def displacement(self, surface: LossSurface, spec: SpecT, rng: Streams) -> Tensor:
        """Return how far the point of the value lies from w*, (p,): for measures that search for a point.

        ``acutance landscape`` draws the loss along it.

        Raises:
            Unsupported: for a measure that finds no point; the default.
        """
        raise Unsupported(f"measure '{self.name}' finds no point in the weights, so it gives no direction")

    def needs(self, spec: SpecT) -> frozenset[Need]:
        """Return what is read from the surface at these settings; ``traits.needs`` unless they ask for more."""
        return frozenset(self.traits.needs)

    def draws_noise(self, spec: SpecT) -> bool:
        """Return whether another seed may give another value at these settings; ``traits.stochastic`` by default."""
        return self.traits.stochastic

    @classmethod
    def level_of(cls, spec: SpecT) -> Level:
        """Return on what this spec is evaluated: ``traits.level``, unless the measure lets its spec choose."""
        return cls.traits.level

    def passes(self, spec: SpecT) -> Cost:
        """Return the passes over one batch that this spec costs, for ``check`` and for the time left."""
        return Cost(forwards=0 if self.traits.level == "weights" else 1)

    def passes_together(self, specs: Sequence[SpecT]) -> Cost:
        """Return the passes over one batch that specs cost which are evaluated together (``evaluate_many``).

        By default the sum of each; a measure whose specs share passes says how many are left.
        """
        return sum((self.passes(spec) for spec in specs), Cost())

    def shares(self, spec: SpecT) -> Literal["", "logits", "gradient"]:
        """Return what this spec asks for at w* that a surface computes once for all measures; ``passes`` counts it.

        The logits are those of the model, the gradient is that of the spec's view (``SharpnessSpec.view``).
        """
        return ""

    def vectors(self, spec: SpecT) -> int:
        """Return how many parameter-sized vectors are alive at the peak besides the weights."""
        return 2

    def vectors_of_few(self, spec: SpecT) -> int:
        """Return the same for fewer weights than 2^24, where a measure may hold more to save passes."""
        return self.vectors(spec)


ALONE = "measure '{name}' compares the models of a study with each other: run it in one, as an entry of 'measures'"


class PoolMeasure(Measure[SpecT]):
    """A measure that compares models: write ``evaluate_pool``; ``traits.level`` is ``pool``, ``needs`` has ``peers``.

    The models of a study that agree in ``within`` come together, with their outputs where ``needs`` names ``data`` or
    ``unlabeled``. Costs are those of one model.
    """

    traits: ClassVar[Traits] = Traits(level="pool", needs={"peers", "unlabeled"})

    @abstractmethod
    def evaluate_pool(self, peers: Sequence[Peer], spec: SpecT, rng: Streams) -> Sequence[Estimate | float]:
        """Return a value for each model, in their order; ``acutance.peers.over_partners`` makes them of pairs.

        Args:
            peers: the models, at least two; a value may not depend on their order.
            spec: the settings.
            rng: counter-based noise, the same for all models.

        Raises:
            Unsupported: when the measure is not defined on these models.
        """

    def evaluate(self, surface: LossSurface, spec: SpecT, rng: Streams) -> Estimate | float:
        """Refuse a single model.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(ALONE.format(name=self.name))

    def reads_points(self, spec: SpecT) -> bool:
        """Return whether points are opened at these settings, not the weights alone."""
        return not self.needs(spec) <= WITHOUT_POINTS

    def passes(self, spec: SpecT) -> Cost:
        """Return the passes that a model's outputs cost, where points are opened; override it where more are made."""
        return Cost(forwards=int(self.reads_points(spec)))

    def passes_among(self, spec: SpecT, models: int) -> Cost:
        """Return the passes of one of so many models: those of ``passes``, unless pairs make some of their own."""
        return self.passes(spec)

    def passes_together(self, specs: Sequence[SpecT]) -> Cost:
        """Return the passes of several specs, whose outputs are computed once."""
        again = sum(self.shares(spec) == "logits" for spec in specs) - 1
        return super().passes_together(specs) - Cost(forwards=max(again, 0))

    def shares(self, spec: SpecT) -> Literal["", "logits", "gradient"]:
        """Return that outputs are those that all measures of the same points read."""
        return "logits" if self.reads_points(spec) else ""
