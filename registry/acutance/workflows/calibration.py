"""Radii at which a measure says something: above what the loss can resolve, below where the network is destroyed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from acutance.errors import Excluded, UserError, some
from acutance.measure import Cost, Estimate, Status
from acutance.model.conditions import conditions
from acutance.model.functional import default_device
from acutance.plugins import Item
from acutance.run.members import Member, members
from acutance.run.points import points_of
from acutance.run.standing import OF_POOLS
from acutance.spec import Spec, validate
from acutance.study.config import Study
from acutance.study.plan import PlannedMeasure
from acutance.surface.evaluation import evaluate_family
from acutance.surface.loss_surface import LossSurface
from acutance.surface.open_model import OpenModel, Surfaces
from acutance.system.devices import require_device
from acutance.system.progress import Silent
from acutance.workflows.radii import SHARES, CachedRise, Levels, Reached, Window, at_share, median_radius, window

if TYPE_CHECKING:
    from acutance.study.surface_config import Scope
    from acutance.system.progress import Reporter


ON_POINTS = ("batch", "dataset")  # levels of measures that are taken of one model's surface
Place = tuple[str, str]  # level, and the split of the points where it is not the study's


@dataclass
class Definition:
    """A measure with all settings but its radius, and what was found.

    Attributes:
        item: the measure.
        spec: its settings, at one of the study's radii.
        radii: the study's radii.
        replicates: repetitions the study asks for.
        points: split that its points are from; empty for that of the study's surface.
        windows: by model.
        levels: by model.
        looks: radii that were looked at, all models together.
        identity: what its planned measures share.
    """

    item: Item
    spec: Spec
    radii: list[float]
    replicates: int = 1
    points: str = ""
    windows: dict[str, Window] = field(default_factory=dict)
    levels: dict[str, Levels] = field(default_factory=dict)
    looks: int = 0
    identity: str = ""

    @property
    def place(self) -> Place:
        """What it is evaluated on: its level, and the split of its points where that is its own."""
        return str(self.item.target.level_of(self.spec)), self.points

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
    def proposals(self) -> dict[float, float | None]:
        """The radius of the median model by share of the rise to chance level; None where it has none.

        A model on which a share is not resolved counts below every radius, one that does not reach it above.
        """
        low, radii = self.window.low, dict[float, float | None]()
        for share, reached in self._by_share().items():
            rho = median_radius([r.radius for r in reached])
            resolved = 0 < rho < math.inf and (low is None or rho >= low)
            radii[share] = float(f"{rho:.3g}") if resolved else None
        return radii

    @property
    def proposal(self) -> list[float]:
        """The radii of all shares that have one, from small to large."""
        return sorted({rho for rho in self.proposals.values() if rho is not None})

    @property
    def notes(self) -> list[str]:
        """What is missing or odd: notes of the windows, shares that models do not have, shares without a radius."""
        lines = [self.window.note] if self.window.note else []
        proposals = self.proposals
        for share, reached in self._by_share().items():
            notes = Counter(r.note for r in reached if r.note)
            name = f"{100 * share:.4g}% of the way to chance level"
            lines += [f"{name} {note} ({n} of {len(reached)} models)" for note, n in notes.items()]
            if proposals[share] is None:
                lines.append(f"{name}: no radius, as the median model has none above what the loss resolves")
        return lines

    def _by_share(self) -> dict[float, list[Reached]]:
        by_share: dict[float, list[Reached]] = {}
        for here in self.windows.values():
            for reached in here.radii:
                by_share.setdefault(reached.share, []).append(reached)
        return by_share

    @property
    def outside(self) -> list[float]:
        """The study's radii that lie outside the window of the median model."""
        low, high = self.window.low, self.window.high
        return [r for r in self.radii if (low is not None and r < low) or (high is not None and r > high)]

    def section(self, radii: Sequence[float]) -> dict[str, Any]:
        """Return it as an entry of ``measures`` in a study file."""
        fields = self.spec.model_dump(mode="json", exclude_defaults=True)
        fields.pop("rho", None)
        rest: dict[str, Any] = {"points": self.points} if self.points else {}
        rest |= {"replicates": self.replicates} if self.replicates > 1 else {}
        return {"name": self.item.name, **fields, **({"rho": list(radii)} if radii else {}), **rest}


def _middle(ends: Sequence[float]) -> float | None:
    return 10 ** median(math.log10(end) for end in ends) if ends else None


# -- one surface ----------------------------------------------------------------------------------------------


def levels_of(surface: LossSurface) -> Levels:
    r"""Return what bounds the rise of a surface's loss; one pass, at w*.

    Chance is log K for cross-entropy; for the normalized loss, which cannot be that small, the loss of always
    answering the most frequent class; the mean target for squared error; outputs of zero for a loss of one's own.
    The resolution is what a relative rounding error :math:`\epsilon` of every output does to the loss,
    :math:`\epsilon\,(|L| + \sum |\partial L / \partial f| |f|)`, and no less than what a coarser arithmetic does to it.
    """
    raw = surface.clean().raw.detach()
    with conditions(surface.core.functional, order=1):
        outputs = raw.clone().requires_grad_()
        loss = surface.loss_of(outputs)
        (slope,) = torch.autograd.grad(loss, outputs, allow_unused=True, materialize_grads=True)
    epsilon = torch.finfo(surface.dtype).eps
    spread = float((slope * raw).abs().sum(dtype=torch.float64))
    clean = float(loss.detach())
    return Levels(clean, _chance(surface, raw), max(epsilon * (abs(clean) + spread), float(surface.rounding())))


def chance_level(surface: LossSurface, spec: Spec) -> float:
    """Return the loss of an answer that does not look at the input, as a measure with these settings sees the loss.

    No pass where the measure has taken the clean outputs already.
    """
    view = view_of(surface, spec)
    clean, core = view.clean(), view.core
    if core.keeps_logits:
        return _chance(view, clean.raw.detach())
    few = core.few_logits
    assert few is not None
    answer, size = _constant_answer(view, few[:1].expand(core.n, *few.shape[1:])), core.microbatch or core.n
    cuts = [slice(start, start + size) for start in range(0, core.n, size)]
    with torch.no_grad():
        seen = ((view.transform(answer[rows].contiguous()), view.targets[rows]) for rows in cuts)
        return float(torch.stack([core.head.part(outputs, targets, core.n) for outputs, targets in seen]).sum())


def _chance(surface: LossSurface, raw: Tensor) -> float:
    with torch.no_grad():
        return float(surface.loss_of(_constant_answer(surface, raw).contiguous()))


def _constant_answer(surface: LossSurface, raw: Tensor) -> Tensor:
    """Return outputs (n, K) that do not depend on the inputs, whose loss is chance level."""
    targets = surface.targets
    if surface.classifies and surface.logit_norm:
        frequent = torch.bincount(targets).argmax()
        return torch.nn.functional.one_hot(frequent, raw.shape[-1]).to(raw).expand_as(raw)
    if not surface.classifies and targets.is_floating_point() and targets.numel() == raw.numel():
        return targets.to(raw).reshape(raw.shape).mean(dim=0, keepdim=True).expand_as(raw)
    return raw.new_zeros(()).expand_as(raw)


def view_of(surface: LossSurface, spec: Spec) -> LossSurface:
    """Return the surface whose loss a spec's measure sees."""
    fields: Mapping[str, Any] = spec.full()
    view = surface.restricted(fields.get("parameters", "all"))
    return view.transformed(fields.get("logit_norm", False), fields.get("norm_scale", "paper"))


def calibrate_on(
    surfaces: Sequence[LossSurface], item: Item, spec: Spec, start: float, seed: int,
    shares: Sequence[float] = (), looked: list[float] | None = None,
) -> tuple[Window, Levels]:  # fmt: skip
    """Return the useful radii of one definition on one model, from the mean over its m-batches.

    Args:
        surfaces: the model on each m-batch.
        item: the measure.
        spec: its settings; its field ``rho`` is what varies.
        start: a radius to begin at.
        seed: study seed.
        shares: of the rise to chance level, whose radii are looked for too.
        looked: filled with the radii that were looked at.
    """
    bounds = [levels_of(view_of(surface, spec)) for surface in surfaces]
    n = len(bounds)
    levels = Levels(*(sum(getattr(x, name) for x in bounds) / n for name in ("clean", "chance", "resolution")))
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

    rise_of = CachedRise(rise)
    try:
        ends = window(rise_of, levels, start)
        if levels.clean < levels.chance:
            ends = replace(ends, radii=tuple(at_share(rise_of, levels, share) for share in shares))
    finally:
        if looked is not None:
            looked += rise_of.evaluated
    return ends, levels


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
        shares: of the rise to chance level, whose radii were looked for.
    """

    definitions: list[Definition]
    others: list[dict[str, Any]]
    models: list[str]
    examples: int
    cost: Cost
    shares: Sequence[float] = SHARES


def calibrate(
    study: Study, models: int = 3, points: int | None = None, device: str | None = None,
    reporter: Reporter | None = None, shares: Sequence[float] = SHARES,
) -> Calibration:  # fmt: skip
    """Look for the useful radii of every definition of a study that has one, on a few models of its pools.

    Args:
        study: from ``load_config``.
        models: how many models, spread evenly over the pools.
        points: points to use, in whole m-batches; one m-batch by default.
        device: where models are evaluated; the GPU when there is one.
        reporter: told of progress.
        shares: shares of the rise to chance level whose radii are proposed, each above 0 and at most 1.

    Raises:
        UserError: for shares out of range, a study without a radius, or a model that cannot be loaded.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        percentages = some([f"{100 * share:g}%" for share in shares]) or "none"
        raise UserError(
            f"shares of the rise to chance level must lie above 0% and at most at 100%, got {percentages}",
            "100% is chance level; in Python it is 1",
        )
    shares = sorted(set(shares))
    reporter = reporter or Silent()
    device = str(require_device(device or default_device()))
    definitions, others = definitions_of(study)
    if not definitions:
        raise UserError("none of the study's measures has a radius", "calibrate is for measures with a field 'rho'")
    chosen = _evenly_spaced(members(study), models)
    batches = min(max((points or study.surface.m) // study.surface.m, 1), study.surface.batch_count)
    reporter.stage("calibrating", len(chosen) * len(definitions), len(chosen) * len(definitions))
    cost, places = Cost(), dict.fromkeys(d.place for d in definitions)
    measured = []
    with points_of(study) as sets:
        for member in chosen:
            try:
                surfaces = _surfaces(study, sets, member, places, batches, device, reporter)
            except Excluded as error:
                reporter.say(f"{member.label}: {error}")
                reporter.advance(len(definitions), len(definitions))
                continue
            measured.append(member.label)
            for definition in definitions:
                start = math.exp(sum(map(math.log, definition.radii)) / len(definition.radii))
                here = surfaces[definition.place]
                looked: list[float] = []
                try:
                    useful, bounds = calibrate_on(
                        here, definition.item, definition.spec, start, study.seed, shares, looked
                    )
                    definition.levels[member.label] = bounds
                except UserError as error:
                    useful = Window(None, None, str(error))
                definition.windows[member.label] = useful
                definition.looks += len(looked)
                reporter.advance(1, 1)
            cost = sum((surface.cost for group in surfaces.values() for surface in group), cost)
    if not measured:
        raise UserError("the pools leave out every model that was looked at", "raise --models, or mend the pools")
    return Calibration(definitions, others, measured, batches * study.surface.m, cost, shares)


def identity(planned: PlannedMeasure) -> str:
    """Return what two planned measures share when they differ in their radius alone."""
    fields = planned.settings
    rho = fields.pop("rho", None) if planned.level in ON_POINTS else None
    return f"{planned.item.id} {sorted(fields.items())} {rho is None}"


def definitions_of(study: Study) -> tuple[list[Definition], list[dict[str, Any]]]:
    """Return the definitions that have a radius on data, and the other measures as entries of ``measures``."""
    definitions: dict[str, Definition] = {}
    for planned in study.measures:
        rho = planned.spec.full().get("rho") if planned.level in ON_POINTS else None
        name = identity(planned)
        definition = definitions.setdefault(
            name, Definition(planned.item, planned.spec, [], points=planned.points, identity=name)
        )
        definition.replicates = max(definition.replicates, planned.replicate + 1)
        if rho is not None and rho not in definition.radii:
            definition.radii.append(float(rho))
    with_radius = [d for d in definitions.values() if d.radii]
    return with_radius, [d.section([]) for d in definitions.values() if not d.radii]


def _evenly_spaced(all_members: list[Member], count: int) -> list[Member]:
    """Return ``count`` models at even distances in the list, its ends included."""
    n = min(count, len(all_members))
    if n == 1:
        return [all_members[len(all_members) // 2]]
    return [all_members[round(i * (len(all_members) - 1) / (n - 1))] for i in range(n)]


def _surfaces(
    study: Study, sets: Any, member: Member, places: Iterable[Place], batches: int, device: str, reporter: Reporter
) -> dict[Place, list[LossSurface]]:
    """Load a model once, making it when need be, and put it on m-batches or on all points, as each level asks."""
    pool, spec, entry = member.pool.item.target(), member.pool.spec, member.entry
    if pool.missing([entry], spec):
        reporter.say(f"{member.label} is being made")
        pool.build(entry, spec)
    opened = OpenModel.entry(pool, spec, entry, sets.dataset, device, study.surface.dtype, asked=OF_POOLS)
    surfaces = Surfaces(opened, sets, study.surface)

    def on(place: Place) -> list[LossSurface]:
        level, points = place
        scope: Scope = "points" if level == "dataset" else "batch"
        return [
            surfaces.on(points or study.surface.split, scope, b) for b in range(1 if scope == "points" else batches)
        ]

    return {place: on(place) for place in places}
