"""The models of a study as the driver sees them, and the cells planned for each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from acutance.errors import UserError
from acutance.io.remote import is_remote, stamp
from acutance.io.training_log import read_training_log
from acutance.measure import Cost
from acutance.plugins import Catalog
from acutance.pool import Attribute, ModelEntry
from acutance.run.jobs import Cell
from acutance.run.points import Preprocessed
from acutance.run.rows import CellRow
from acutance.run.standing import Identity, Standing
from acutance.spec import KeyFrame, joint
from acutance.study.config import Chosen, Study
from acutance.study.plan import PlannedMeasure
from acutance.study.surface_config import Scope
from acutance.study.targets import terms_of

if TYPE_CHECKING:
    from acutance.data.pointsets import PointSets
    from acutance.run.levels import Level
    from acutance.run.recorded import RecordedPoints

    Points: TypeAlias = PointSets | RecordedPoints


@dataclass
class _Learned:
    """What a run has learned of a model so far; it changes through the methods of ``Member`` alone."""

    identity: Identity | None = None
    standing: Standing = Standing.COMPARED
    reason: str = ""
    joined: Mapping[str, Attribute] = field(default_factory=dict)
    points: Preprocessed | None = None
    log: str | None = None
    level: Level | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """One model of the study: what its pool says of it, and what the run has learned since.

    Attributes:
        label: its name in tables; unique in the study.
        pool: where it comes from.
        entry: its description.
    """

    label: str
    pool: Chosen
    entry: ModelEntry
    _learned: _Learned = field(default_factory=_Learned, init=False, repr=False)

    # -- learning -----------------------------------------------------------------------------------------------

    def identify(self, identity: Identity) -> None:
        """Set what the model is, once it has been loaded or its file has been recognised."""
        self._learned.identity = identity

    def leave_out(self, standing: Standing, reason: str) -> None:
        """Leave the model out of the comparison, or take it back into it where there is no reason."""
        self._learned.standing, self._learned.reason = standing if reason else Standing.COMPARED, reason

    def add_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Set attributes from outside the pool, which its entry does not have."""
        self._learned.joined = attributes

    def set_points(self, points: Preprocessed) -> None:
        """Set what it sees of the points, where its pool preprocesses them."""
        self._learned.points = points

    def remember_log(self, digest: str) -> None:
        """Set the digest of what its training wrote down, as it was when its values were computed."""
        self._learned.log = digest

    def join(self, level: Level | None) -> None:
        """Set the models that it is compared with."""
        self._learned.level = level

    # -- what is known ------------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity | None:
        """What it is; None before it has been loaded."""
        return self._learned.identity

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        return self._learned.standing

    @property
    def reason(self) -> str:
        """Why it is not compared; empty while it is."""
        return self._learned.reason

    @property
    def joined(self) -> Mapping[str, Attribute]:
        """Attributes from outside the pool."""
        return self._learned.joined

    @property
    def points(self) -> Preprocessed | None:
        """What it sees of the points, where its pool preprocesses them."""
        return self._learned.points

    @property
    def level(self) -> Level | None:
        """The models that it is compared with, itself among them; None where it is not compared, or not yet."""
        return self._learned.level

    @property
    def compared(self) -> bool:
        """Whether it is compared."""
        return self.standing is Standing.COMPARED

    @property
    def usable(self) -> bool:
        """Whether anything can be measured on it."""
        return self.standing in (Standing.COMPARED, Standing.REFUSED)

    @property
    def key(self) -> str | None:
        """Its key, once it has been loaded."""
        return self.identity.key if self.identity else None

    @property
    def name(self) -> tuple[str, str]:
        """Its pool and its id there: the name in a store."""
        return self.pool.item.id, self.entry.id

    @property
    def facts(self) -> dict[str, str]:
        """What enters keys besides the model's tensors, for the store: without it a merge could not tell them."""
        points = {"points": self.points.name} if self.points else {}
        known = {"initial": self.identity.initial, "update": self.identity.update} if self.identity else {}
        known["log"] = self._learned.log or None  # read where a measure needs it
        return points | {name: digest for name, digest in known.items() if digest is not None}

    @property
    def log_digest(self) -> str:
        """Digest of what its training wrote down; empty where nothing is known, or the file is not such a table."""
        if self._learned.log is None:
            try:
                log = read_training_log(Path(self.entry.log)) if self.entry.log is not None else None
            except UserError:
                log = None  # the measure that reads it fails with the reason
            self._learned.log = log.digest if log else ""
        return self._learned.log

    def general(self, message: str) -> str:
        """Return a message about this model without what is its own: the same for all models that it is told of."""
        path = self.entry.path or self.label
        names = sorted({self.label, self.entry.id, path, os.path.basename(path)}, key=len, reverse=True)
        for name in filter(None, names):
            message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "*", message)
        return message

    @property
    def attributes(self) -> dict[str, Attribute]:
        """The pool's attributes and the joined ones; the pool itself never sees the latter."""
        return {**self.entry.attributes, **self.joined}

    @property
    def description(self) -> dict[str, Any]:
        """The entry as JSON values, with all attributes."""
        return self.entry.model_dump(mode="json") | {"attributes": self.attributes}

    @property
    def source(self) -> str:
        """What its file looks like now, so that a known key need not be computed again; empty when unknown."""
        if not self.entry.path:
            return ""
        if is_remote(self.entry.path):
            return stamp(self.entry.path)
        try:
            stat = os.stat(self.entry.path)
        except OSError:
            return ""
        return f"{self.entry.path}|{stat.st_size}|{stat.st_mtime_ns}"

    @property
    def file(self) -> str:
        """Its architecture and what its file looks like now, as a store keeps them."""
        return f"{self.entry.architecture}|{self.source}"


@dataclass(frozen=True)
class _CellIdentity:
    """What all models with one preprocessing share of a cell's key, and the digests of the points as they see them.

    Attributes:
        study: whose surface and seed are in the key.
        frame: the key without model and points.
        digests: of the points, one for each set.
        data: of all sets together.
    """

    study: Study
    frame: KeyFrame
    digests: tuple[str, ...]
    data: str


def _key_of(member: Member) -> str:
    """Return the key of a model that has been loaded."""
    if member.key is None:
        raise ValueError(f"model '{member.label}' has no key before it is loaded")
    return member.key


@dataclass(frozen=True)
class PlannedCell:
    """A measure with its settings, on the points it is evaluated on."""

    planned: PlannedMeasure
    split: str
    scope: Scope
    digests: tuple[str, ...] = field(repr=False)
    """Of the points before any preprocessing, one for each set."""
    statistics: str = ""
    """Digest of the points that batch normalization is recalibrated on; empty when it is not."""
    validation: tuple[str, str] = ("", "")
    """The split of validation points and their digest, where the measure needs some and there are some."""

    _identities: dict[Any, _CellIdentity] = field(default_factory=dict, init=False, repr=False, compare=False)
    _peers: dict[Any, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _identity(self, study: Study, member: Member) -> _CellIdentity:
        """Return what is the same in all keys of this cell for one preprocessing; computed once a study."""
        identity = self._identities.get(member.points)
        if identity is None or identity.study is not study:
            digests, statistics = self.digests, self.statistics
            if member.points is not None:
                if self.scope != "weights":
                    digests = tuple(member.points.digests[f"{self.split}/{self.scope}"])
                if statistics:
                    statistics = joint(list(member.points.digests[f"{study.surface.split}/batch"]))
            item = self.planned.item
            fields = {
                "measure": item.id,
                "version": item.target.version,
                "surface": study.surface.identity(self.scope) | ({"statistics": statistics} if statistics else {}),
                "seed": study.seed,
                "replicate": self.planned.replicate,
            }
            identity = self._identities[member.points] = _CellIdentity(
                study, KeyFrame(fields, self.planned.spec), digests, joint(list(digests))
            )
        return identity

    def key(self, study: Study, member: Member) -> str:
        """Return the cell's key for a model that has been loaded."""
        identity = self._identity(study, member)
        beside = self._initial(member), self._inputs(study, member)
        return identity.frame.key(_key_of(member), identity.data, None, *beside)

    def part_key(self, study: Study, member: Member, batch: int) -> str:
        """Return the key of the cell's part on one batch; the same whatever other batches there are."""
        identity = self._identity(study, member)
        beside = self._initial(member), self._inputs(study, member)
        return identity.frame.key(_key_of(member), identity.digests[batch], batch, *beside)

    @cached_property
    def needs(self) -> frozenset[str]:
        """What the measure reads at its settings."""
        return frozenset(self.planned.item.target().needs(self.planned.spec))

    def _initial(self, member: Member) -> str:
        initial = member.identity.initial if member.identity else None
        return initial or "" if "initial_weights" in self.needs else ""

    def _inputs(self, study: Study, member: Member) -> dict[str, str]:
        """Return the digests of what else the measure needs and finds: they are part of the key."""
        found = self._own_inputs(member)
        if "peers" in self.needs and member.level is not None:
            found["peers"] = self._partners(study, member.level)
        return found

    def _partners(self, study: Study, level: Level) -> str:
        """Return the digest of all models of a level, with what the measure finds of each, in any order."""
        if level not in self._peers:
            keys = []
            for member in level.members:
                identity = self._identity(study, member)
                beside = self._initial(member), self._own_inputs(member)
                keys.append(identity.frame.key(_key_of(member), identity.data, None, *beside))
            self._peers[level] = joint(sorted(keys))
        return self._peers[level]

    def _own_inputs(self, member: Member) -> dict[str, str]:
        """Return the digests of what else a model brings that the measure needs."""
        found = {}
        if "trajectory" in self.needs:
            found["trajectory"] = member.log_digest
            if "peers" in self.needs and member.level is not None:
                found["trajectory"] = joint([member.log_digest, *member.level.place(member)])
        if "update" in self.needs:
            found["update"] = (member.identity.update if member.identity else None) or ""
        if "validation" in self.needs and self.validation[0]:
            split, digest = self.validation
            found["validation"] = member.points.digests[f"{split}/points"][0] if member.points else digest
        return {need: digest for need, digest in found.items() if digest}

    def row(self, study: Study, member: Member) -> CellRow:
        """Return what is stored beside the value."""
        planned = self.planned
        return CellRow(
            self.key(study, member), _key_of(member), planned.item.id, planned.item.target.version, planned.spec.full(),
            self.split, planned.replicate,
        )  # fmt: skip

    def job(self, index: int, batches: Iterable[int]) -> Cell:
        """Return it as a worker gets it, under an index, with the batches that it has to compute."""
        planned = self.planned
        return Cell(
            index, planned.item.id, planned.spec.full(), planned.replicate, self.split, self.scope, tuple(batches)
        )

    def cost(self, examples: int, models: int = 1) -> Cost:
        """Return the passes over one batch of so many examples, of one of so many models that are compared."""
        measure, spec = self.planned.item.target(), self.planned.spec
        passes: Cost = measure.passes_among(spec, models) if models > 1 else measure.passes(spec)
        return passes * examples


def members(study: Study, limit: int | None = None) -> list[Member]:
    """Return the models of all pools, labelled by their id, or pool/id where two pools use the same.

    Raises:
        UserError: for a pool without models, or two models of one id.
    """
    models: list[tuple[Chosen, ModelEntry]] = []
    for i, pool in enumerate(study.pools):
        entries: Sequence[ModelEntry] = pool.item.target().entries(pool.spec)
        if not entries:
            raise UserError(f"pools.{i}: pool '{pool.item.name}' has no models", "check its settings")
        models += [(pool, entry) for entry in entries[:limit]]
    labels = [entry.id for _, entry in models]
    if len(set(labels)) < len(labels):
        labels = [f"{pool.item.name}/{entry.id}" for pool, entry in models]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"pools: more than one model is called '{twice[0]}'", "list each pool once")
    return [Member(label, pool, entry) for label, (pool, entry) in zip(labels, models, strict=True)]


def target_cells(study: Study, plugins: Catalog, sets: Points) -> list[PlannedCell]:
    """Return the cells that targets and admission need, each once."""
    terms = terms_of([*study.targets, *(target for target, _ in study.admit)])
    needed = {(measure, split) for _, measure, split in terms}
    cells = []
    for measure, split in sorted(needed, key=lambda pair: (pair[1], pair[0])):
        item = plugins.find("measures", f"acutance/{measure}")
        planned = PlannedMeasure(item, item.target.Spec())
        # A target is measured on the whole split, whatever points the surface is built on.
        cells.append(PlannedCell(planned, split, "split", tuple(sets.digests(split, "split"))))
    return cells


def measure_cells(study: Study, sets: Points) -> list[PlannedCell]:
    """Return the cells of all planned measures, on the study's points or on those of another split."""
    own = study.surface.split
    statistics = joint(sets.digests(own, "batch")) if study.surface.batch_norm == "recalibrate" else ""
    cells = []
    for planned in study.measures:
        scope, split = planned.scope, planned.points or own
        try:
            sets.require(split, scope)
            digests = tuple(sets.digests(split, scope))
        except UserError as error:
            if not planned.points:
                raise
            # What the study's own points bear, those of another split may not.
            where = f"measure '{planned.item.name}' with points: {split}"
            raise UserError(f"{where}: {error.message}", error.hint) from None
        cell = PlannedCell(planned, split, scope, digests, statistics)
        if "validation" in cell.needs and sets.validation:
            cell = replace(cell, validation=(sets.validation, sets.digests(sets.validation, "points")[0]))
        cells.append(cell)
    return cells
