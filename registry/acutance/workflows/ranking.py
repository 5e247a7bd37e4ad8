"""``acutance.rank``: which of several models will do best on points without labels, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from acutance.errors import UserError
from acutance.run.directory import RunDirectory
from acutance.system.progress import Silent
from acutance.workflows.ranked import Ranked, ranked
from acutance.workflows.ranking_measures import Ranker, chosen
from acutance.workflows.ranking_models import Candidate, candidates
from acutance.workflows.ranking_outputs import Outputs, PointSet, held_points, named_points, outputs_of
from acutance.workflows.ranking_values import Array, Evaluation, Sample, Values, errors_of

if TYPE_CHECKING:
    from torch import nn

    from acutance.system.progress import Reporter

POINTS, VALIDATION = "points", "validation"
FILES = ("ranking.csv", "agreement.csv", "costs.csv", "choices.csv", "rank.html")


def rank(
    models: Mapping[str, nn.Module] | str | Path,
    points: Any,
    labels: Any = None,
    measures: Sequence[str | Mapping[str, Any]] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    pool: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Ranked:
    """Rank models by what measures without labels say of them on some points, never without the uncertainty.

    Args:
        models: ``{name: module}``; or a folder or pattern of checkpoints, a CSV file that lists them, a folder of
            several transformers, a preset or study file, or a pool's name.
        points: inputs, or (inputs, None); targets that come with them are never looked at. Or, as a text, what
            ``acutance measure --data`` takes.
        labels: labelled points, one set or ``{name: set}``, each as ``points``: the one called ``validation`` (or the
            first) is that of measures that need labelled points beside the ranked ones. On all of them it is measured
            what a choice by each measure would have cost.
        measures: names, or mappings with ``name`` and settings; all that apply by default.
        settings: of the measures, each of those that have them.
        pool: settings of a pool of checkpoints: ``architecture`` (``timm:NAME``, ``torchvision:NAME`` or
            ``module:function``), ``arguments`` of it, and others that such a pool has.
        out: folder for tables and page; the models' outputs are kept in it, so that calling this again, also after an
            interruption, makes no pass anew.
        seed: names the groups of points, and noise.
        device: where models are evaluated; where they are by default.
        reporter: told of progress.

    Returns:
        The ranking: ``table``, ``agreement``, ``costs``, ``verdict``.

    Raises:
        UserError: for whatever does not fit together, in one sentence.
    """
    reporter = reporter or Silent()
    sets, notes = _sets(points, labels)
    rankers, more = chosen(measures, settings or {}, len(sets) > 1)
    members = candidates(models, pool)
    folder = None if out is None else RunDirectory(Path(out))
    if folder is not None:
        folder.take_apart(FILES)
    work = _Work(members, sets, rankers, None if folder is None else folder.outputs, seed, device, reporter)
    work.run()
    result = ranked(
        [m.name for m in members], rankers, work.values, work.errors, {s.name: len(s.group) for s in work.samples},
        validation=work.beside.name if work.beside else "", seed=seed, notes=[*notes, *more, *work.notes],
        directory=None if folder is None else folder.path, reporter=reporter,
    )  # fmt: skip
    if folder is not None:
        result.write(folder)
    return result


def _sets(points: Any, labels: Any) -> tuple[list[PointSet], list[str]]:
    """Return the sets of points, the ranked ones first, then validation, then others; and what is to be said."""
    named = labels if isinstance(labels, Mapping) and not _is_batch(labels) else {VALIDATION: labels}
    named = {} if labels is None else {str(name): data for name, data in named.items()}
    if POINTS in named:
        raise UserError(f"labels: '{POINTS}' is what the ranked points are called", "choose another name")
    sets = [_set(POINTS, points, "--points", labelled=False)]
    sets += [_set(name, data, "--labels", labelled=True) for name, data in named.items()]
    sets[1:] = sorted(sets[1:], key=lambda s: s.name != VALIDATION)
    brought = not isinstance(points, str | Path) and isinstance(points, tuple | list) and len(points) > 1
    told = brought and points[1] is not None
    return sets, ["the targets that came with the points were not looked at"] if told else []


def _is_batch(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping is one batch of points with labels, not sets by name."""
    return all(hasattr(value, "shape") for value in data.values())


def _set(name: str, data: Any, option: str, labelled: bool) -> PointSet:
    if isinstance(data, str | Path):
        return named_points(name, str(data), option, labelled)
    return held_points(name, data, labelled)


@dataclass
class _Work:
    """Opens each model once, and evaluates the measures on what it puts out.

    Attributes:
        samples: the sets of points, dealt into groups; the ranked ones first.
        values: of each measure on each set, [measure][set].
        errors: of each labelled set: errors of all models, (M,), and without one group each, (G, M).
        notes: what is to be said of models.
    """

    members: list[Candidate]
    sets: list[PointSet]
    rankers: list[Ranker]
    outputs: Path | None
    seed: int
    device: str | None
    reporter: Reporter
    samples: list[Sample] = field(default_factory=list)
    values: list[dict[str, Values]] = field(default_factory=list)
    errors: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def beside(self) -> Sample | None:
        """The labelled points for measures that need some."""
        return self.samples[1] if len(self.samples) > 1 else None

    def run(self) -> None:
        """Do all of it."""
        alone = [k for k, r in enumerate(self.rankers) if not r.compares]
        comparing = [k for k, r in enumerate(self.rankers) if r.compares]
        self.values = [{} for _ in self.rankers]
        columns: dict[tuple[int, str], list[Values]] = {}
        errors: dict[str, list[tuple[float, Array]]] = {}
        kept: list[dict[str, Outputs]] = []
        self.reporter.stage("models", len(self.members), len(self.members))
        for member in self.members:
            outputs = self._outputs(member)
            for evaluation in self._evaluations():
                name = evaluation.sample.name
                for k, found in zip(alone, evaluation.alone([self.rankers[k] for k in alone], outputs), strict=True):
                    columns.setdefault((k, name), []).append(found)
                if evaluation.sample.labels is not None:
                    errors.setdefault(name, []).append(errors_of(outputs[name], evaluation.sample))
            if comparing:
                kept.append(outputs)
            self.reporter.advance(1, 1)
        for (k, name), parts in columns.items():
            self.values[k][name] = Values.together(parts)
        for name, pairs in errors.items():
            self.errors[name] = np.array([e for e, _ in pairs]), np.stack([w for _, w in pairs], axis=1)
        if comparing:
            self._compare(comparing, kept)

    def _compare(self, comparing: list[int], kept: list[dict[str, Outputs]]) -> None:
        evaluations = self._evaluations()
        self.reporter.stage("comparisons", len(evaluations), len(evaluations))
        names = [member.name for member in self.members]
        for evaluation in evaluations:
            found = evaluation.compared([self.rankers[k] for k in comparing], names, kept)
            for k, values in zip(comparing, found, strict=True):
                self.values[k][evaluation.sample.name] = values
            self.reporter.advance(1, 1)

    def _evaluations(self) -> list[Evaluation]:
        """Return what evaluates each set; validation points are beside all sets but themselves."""
        return [Evaluation(s, None if s is self.beside else self.beside, self.seed) for s in self.samples]

    def _outputs(self, member: Candidate) -> dict[str, Outputs]:
        """Open a model and return what it puts out on all sets."""
        settings = member.data_settings
        dataset = self.sets[0].of(settings)[0]
        if not self.samples:
            self.samples = self._dealt(settings)
        opened, key = member.opened(dataset, self.device)
        features = any("activations" in ranker.needs for ranker in self.rankers)
        try:
            found = {s.name: outputs_of(opened, key, s, settings, self.outputs, features) for s in self.sets}
        except UserError as error:
            raise UserError(f"model {member.name}: {error.message}", error.hint) from None
        for outputs in found.values():
            self._require_classes(member.name, outputs)
            self.notes += [n for note in outputs.notes if (n := f"{member.name}: {note}") not in self.notes]
        return found

    def _dealt(self, settings: Mapping[str, Any]) -> list[Sample]:
        """Deal all sets into groups, once they are seen to be different points.

        Raises:
            UserError: for two sets of the same points, or fewer points than groups.
        """
        examples = {s.name: s.example_digests(settings) for s in self.sets}
        for at, s in enumerate(self.sets):
            for other in self.sets[:at]:
                own, others = examples[s.name], examples[other.name]
                if torch.equal(own.sort().values, others.sort().values):
                    raise UserError(
                        f"labels '{s.name}' are the very points of '{other.name}'", "give labelled points of their own"
                    )
                if other.name == POINTS and (common := len(np.intersect1d(own, others))):
                    self.notes.append(f"{common} of the {len(others)} ranked points are also in '{s.name}'")
        return [
            Sample.of(s.name, s.digest(settings), examples[s.name], self.seed, targets if s.labelled else None)
            for s in self.sets
            for _, _, targets in [s.of(settings)]
        ]

    def _require_classes(self, name: str, outputs: Outputs) -> None:
        count = outputs.logits.shape[1]
        first = self._classes.setdefault("", (name, count))
        if first[1] != count:
            raise UserError(
                f"model {name} has {count} classes, model {first[0]} has {first[1]}",
                "rank models that predict the same classes",
            )

    _classes: dict[str, tuple[str, int]] = field(default_factory=dict)
