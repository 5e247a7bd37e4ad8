"""Radii at which a measure says something: above what the loss can resolve, below where the network is destroyed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.conditions import conditions
from acutance.config import Study
from acutance.errors import Excluded, UserError
from acutance.evaluation import evaluate_family
from acutance.measure import Cost, Estimate, Status
from acutance.members import Member, members
from acutance.plugins import Item
from acutance.spec import Spec, validate
from acutance.surface import LossSurface

if TYPE_CHECKING:
    from acutance.progress import Reporter
    from acutance.surface_config import Scope

PER_DECADE = 10  # points of the grid on which radii are sought
LOWEST, HIGHEST = -12 * PER_DECADE, 8 * PER_DECADE  # 1e-12 ... 1e8
DIGITS = 100.0  # a rise is resolved when it is this many times the error of the loss
SIGMAS = 2.0  # ... and this many Monte-Carlo standard errors
RADII = 4

Rise = Callable[[float], tuple[float, float]]  # rho -> (S(rho), its standard error)


@dataclass(frozen=True)
class Levels:
    """What bounds the rise of one loss.

    Attributes:
        clean: the loss at w*.
        chance: the loss of an answer that does not look at the input.
        resolution: what rounding of the outputs does to the loss.
    """

    clean: float
    chance: float
    resolution: float


@dataclass(frozen=True)
class Window:
    """The useful radii of one definition on one model.

    Attributes:
        low: smallest radius whose rise is resolved; None when there is none.
        high: largest radius whose perturbed loss is below chance; None when there is none.
        note: why an end is missing.
    """

    low: float | None
    high: float | None
    note: str = ""


@dataclass
class Definition:
    """A measure with all settings but its radius, and what was found.

    Attributes:
        item: the measure.
        spec: its settings, at one of the study's radii.
        radii: the study's radii.
        replicates: repetitions the study asks for.
        windows: by model.
        levels: by model.
    """

    item: Item
    spec: Spec
    radii: list[float]
    replicates: int = 1
    windows: dict[str, Window] = field(default_factory=dict)
    levels: dict[str, Levels] = field(default_factory=dict)

    def ends(self, name: str) -> list[float]:
        """Return the low or high ends that were found, by model."""
        return [end for window in self.windows.values() if (end := getattr(window, name)) is not None]

    @property
    def window(self) -> Window:
        """The window of the median model."""
        low, high = self.ends("low"), self.ends("high")
        notes = dict.fromkeys(window.note for window in self.windows.values() if window.note)
        return Window(_middle(low), _middle(high), "; ".join(notes))

    @property
    def proposal(self) -> list[float]:
        """Four radii in geometric progression over the window of the median model; empty when there is none."""
        window = self.window
        if window.low is None or window.high is None or window.low >= window.high:
            return []
        ratio = (window.high / window.low) ** (1 / (RADII - 1))
        return [float(f"{window.low * ratio**k:.3g}") for k in range(RADII)]

    @property
    def outside(self) -> list[float]:
        """The study's radii that lie outside the window of the median model."""
        low, high = self.window.low, self.window.high
        return [r for r in self.radii if (low is not None and r < low) or (high is not None and r > high)]

    def section(self, radii: Sequence[float]) -> dict[str, Any]:
        """Return it as an entry of ``measures`` in a study file."""
        fields = self.spec.model_dump(mode="json", exclude_defaults=True)
        fields.pop("rho", None)
        rest = {"replicates": self.replicates} if self.replicates > 1 else {}
        return {"name": self.item.name, **fields, **({"rho": list(radii)} if radii else {}), **rest}


def _middle(ends: Sequence[float]) -> float | None:
    return 10 ** median(math.log10(end) for end in ends) if ends else None


def radius(i: int) -> float:
    """Return point i of the logarithmic grid."""
    return float(f"{10 ** (i / PER_DECADE):.6g}")


def window(rise: Rise, levels: Levels, start: float) -> Window:
    r"""Return the useful radii of one definition on one model.

    .. math:: S(\rho) \ge \max(100\, \epsilon_L, 2\, se(\rho)), \qquad L(w^*) + S(\rho) < L_{chance}

    with :math:`\epsilon_L` the resolution of the loss: brackets grow by decades from ``start``, then bisection on a
    grid of ten points a decade. S is taken to grow with the radius.

    Args:
        rise: S and its standard error; a value that is not finite counts as destroyed.
        levels: clean loss, chance level and resolution.
        start: a radius to begin at.
    """
    known: dict[int, tuple[float, float]] = {}

    def at(i: int) -> tuple[float, float]:
        if i not in known:
            known[i] = rise(radius(i))
        return known[i]

    def destroyed(i: int) -> bool:
        value, _ = at(i)
        return not (levels.clean + value < levels.chance)

    def resolved(i: int) -> bool:
        value, stderr = at(i)
        return not value < max(DIGITS * levels.resolution, SIGMAS * stderr)

    if not levels.clean < levels.chance:
        return Window(None, None, "the clean loss is at chance level already")
    first = round(PER_DECADE * math.log10(start))
    above = _first_where(destroyed, min(max(first, LOWEST), HIGHEST))
    if above is None:
        return Window(None, None, f"chance level is not reached below {radius(HIGHEST):g}")
    high = above - 1
    if high < LOWEST:
        return Window(None, None, f"chance level is reached below {radius(LOWEST):g}")
    if not resolved(high):
        return Window(None, radius(high), "the rise is not resolved at any radius below chance level")
    low = _first_where(resolved, high)
    return Window(radius(low if low is not None else high), radius(high))


def _first_where(condition: Callable[[int], bool], start: int) -> int | None:
    """Return the smallest point where a condition holds that stays true once it does; None where it never does."""
    if condition(start):
        true, false = start, start - PER_DECADE
        while condition(false):
            true, false = false, false - PER_DECADE
            if false < LOWEST:
                return LOWEST if condition(LOWEST) else _between(condition, LOWEST, true)
    else:
        true, false = start + PER_DECADE, start
        while not condition(true):
            true, false = true + PER_DECADE, true
            if true > HIGHEST:
                return None
    return _between(condition, false, true)


def _between(condition: Callable[[int], bool], false: int, true: int) -> int:
    while true - false > 1:
        middle = (true + false) // 2
        true, false = (middle, false) if condition(middle) else (true, middle)
    return true


# -- one surface ----------------------------------------------------------------------------------------------


def levels_of(surface: LossSurface) -> Levels:
    r"""Return what bounds the rise of a surface's loss; one pass, at w*.

    Chance is log K for cross-entropy; for the normalized loss, which cannot be that small, the loss of always
    answering the most frequent class; the mean target for squared error; outputs of zero for a loss of one's own.
    The resolution is what a relative rounding error :math:`\epsilon` of every output does to the loss,
    :math:`\epsilon\,(|L| + \sum |\partial L / \partial f| |f|)`, and no less than what a coarser arithmetic does to it.
    """
    raw = surface.clean().raw.detach()
    with conditions(surface._core.functional, order=1):
        outputs = raw.clone().requires_grad_()
        loss = surface.loss_of(outputs)
        (slope,) = torch.autograd.grad(loss, outputs, allow_unused=True, materialize_grads=True)
    epsilon = torch.finfo(surface.w.dtype).eps
    spread = float((slope * raw).abs().sum(dtype=torch.float64))
    clean = float(loss.detach())
    return Levels(clean, _chance(surface, raw), max(epsilon * (abs(clean) + spread), float(surface.rounding())))


def chance_level(surface: LossSurface, spec: Spec) -> float:
    """Return the loss of an answer that does not look at the input, as a measure with these settings sees the loss.

    No pass where the measure has taken the clean outputs already.
    """
    view = view_of(surface, spec)
    return _chance(view, view.clean().raw.detach())


def _chance(surface: LossSurface, raw: Tensor) -> float:
    with torch.no_grad():
        return float(surface.loss_of(_constant_answer(surface, raw)))


def _constant_answer(surface: LossSurface, raw: Tensor) -> Tensor:
    targets = surface.targets
    if surface.classifies and surface.logit_norm:
        frequent = torch.bincount(targets).argmax()
        return torch.nn.functional.one_hot(frequent, raw.shape[-1]).to(raw).expand_as(raw)
    if not surface.classifies and targets.is_floating_point() and targets.numel() == raw.numel():
        return targets.to(raw).reshape(raw.shape).mean(dim=0, keepdim=True).expand_as(raw)
    return torch.zeros_like(raw)


def view_of(surface: LossSurface, spec: Spec) -> LossSurface:
    """Return the surface whose loss a spec's measure sees."""
    fields: Mapping[str, Any] = spec.full()
    view = surface.restricted(fields.get("parameters", "all"))
    return view.transformed(fields.get("logit_norm", False), fields.get("norm_scale", "paper"))


def calibrate_on(
    surfaces: Sequence[LossSurface], item: Item, spec: Spec, start: float, seed: int
) -> tuple[Window, Levels]:
    """Return the useful radii of one definition on one model, from the mean over its m-batches.

    Args:
        surfaces: the model on each m-batch.
        item: the measure.
        spec: its settings; its field ``rho`` is what varies.
        start: a radius to begin at.
        seed: study seed.
    """
    found = [levels_of(view_of(surface, spec)) for surface in surfaces]
    n = len(found)
    levels = Levels(*(sum(getattr(x, name) for x in found) / n for name in ("clean", "chance", "resolution")))
    instance = item.target()

    def rise(rho: float) -> tuple[float, float]:
        at = validate(type(spec), {**spec.full(), "rho": rho}, item.name)
        parts = [
            evaluate_family(item.id, instance, surface, [at], seed=seed, batch=b)[0]
            for b, surface in enumerate(surfaces)
        ]
        estimate = Estimate.mean(parts)
        if estimate.status in (Status.FAILED, Status.UNSUPPORTED):
            raise UserError(f"at rho = {rho:g}: {estimate.message}")
        return estimate.value, estimate.stderr or 0.0

    return window(rise, levels, start), levels


# -- a study --------------------------------------------------------------------------------------------------


@dataclass
class Calibration:
    """What was found.

    Attributes:
        definitions: those with a radius, with their windows.
        others: those without, as entries of ``measures``.
        models: labels of the models that were looked at.
        examples: points of one surface.
        cost: passes, in examples.
    """

    definitions: list[Definition]
    others: list[dict[str, Any]]
    models: list[str]
    examples: int
    cost: Cost


def calibrate(
    study: Study, models: int = 3, points: int | None = None, device: str | None = None,
    reporter: Reporter | None = None,
) -> Calibration:  # fmt: skip
    """Look for the useful radii of every definition of a study that has one, on a few models of its pools.

    Args:
        study: from ``load_config``.
        models: how many models, spread evenly over the pools.
        points: points to use, in whole m-batches; one m-batch by default.
        device: where models are evaluated; the GPU when there is one.
        reporter: told of progress.

    Raises:
        UserError: for a study without a radius, or a model that cannot be loaded.
    """
    from acutance.functional import default_device
    from acutance.pointsets import PointSets
    from acutance.progress import Silent

    reporter = reporter or Silent()
    definitions, others = definitions_of(study)
    if not definitions:
        raise UserError("none of the study's measures has a radius", "calibrate is for measures with a field 'rho'")
    dataset = study.dataset
    sets = PointSets(dataset.item.target(dataset.spec), study.surface, study.seed)
    chosen = _spread(members(study), models)
    batches = min(max((points or study.surface.m) // study.surface.m, 1), study.surface.batch_count)
    device = device or default_device()
    reporter.stage("calibrating", len(chosen) * len(definitions), len(chosen) * len(definitions))
    cost, levels = Cost(), dict.fromkeys(str(d.item.target.level_of(d.spec)) for d in definitions)
    measured = []
    for member in chosen:
        try:
            surfaces = _surfaces(study, sets, member, levels, batches, device, reporter)
        except Excluded as error:
            reporter.say(f"{member.label}: {error}")
            reporter.advance(len(definitions), len(definitions))
            continue
        measured.append(member.label)
        for definition in definitions:
            start = math.exp(sum(map(math.log, definition.radii)) / len(definition.radii))
            here = surfaces[definition.item.target.level_of(definition.spec)]
            try:
                found, bounds = calibrate_on(here, definition.item, definition.spec, start, study.seed)
                definition.levels[member.label] = bounds
            except UserError as error:
                found = Window(None, None, str(error))
            definition.windows[member.label] = found
            reporter.advance(1, 1)
        cost = sum((surface.cost for group in surfaces.values() for surface in group), cost)
    if not measured:
        raise UserError("the pools leave out every model that was looked at", "raise --models, or mend the pools")
    return Calibration(definitions, others, measured, batches * study.surface.m, cost)


def definitions_of(study: Study) -> tuple[list[Definition], list[dict[str, Any]]]:
    """Return the definitions that have a radius on data, and the other measures as entries of ``measures``."""
    found: dict[str, Definition] = {}
    for planned in study.measures:
        fields = planned.spec.full()
        rho = fields.pop("rho", None) if planned.level != "weights" else None
        name = f"{planned.item.id} {sorted(fields.items())} {rho is None}"
        known = found.setdefault(name, Definition(planned.item, planned.spec, []))
        known.replicates = max(known.replicates, planned.replicate + 1)
        if rho is not None and rho not in known.radii:
            known.radii.append(float(rho))
    with_radius = [d for d in found.values() if d.radii]
    return with_radius, [d.section([]) for d in found.values() if not d.radii]


def _spread(all_members: list[Member], count: int) -> list[Member]:
    """Return so many models, evenly over the list, its ends included."""
    n = min(count, len(all_members))
    if n == 1:
        return [all_members[len(all_members) // 2]]
    return [all_members[round(i * (len(all_members) - 1) / (n - 1))] for i in range(n)]


def _surfaces(
    study: Study, sets: Any, member: Member, levels: Iterable[str], batches: int, device: str, reporter: Reporter
) -> dict[str, list[LossSurface]]:
    """Load a model once, making it when need be, and put it on its m-batches or on all points, as each level asks."""
    from acutance.batch import dtype_of
    from acutance.class_order import require_order
    from acutance.functional import FunctionalModel
    from acutance.worker import build_surface, set_up

    pool, spec, entry = member.pool.item.target(), member.pool.spec, member.entry
    if pool.missing([entry], spec):
        reporter.say(f"{member.label} is being made")
        pool.build(entry, spec)
    model = pool.load(entry, spec)
    require_order(model, entry.id, sets.dataset)
    functional = FunctionalModel(model, device, dtype_of(study.surface.dtype))
    functional.initial = lambda: pool.initial(entry, spec)
    preprocess = pool.preprocess(entry, spec)
    functional = set_up(functional, sets, study.surface, preprocess)

    def on(scope: Scope, batch: int) -> LossSurface:
        return build_surface(functional, sets, study.surface, study.surface.split, scope, batch, preprocess)

    return {
        level: [on("points", 0)] if level == "dataset" else [on("batch", b) for b in range(batches)] for level in levels
    }
