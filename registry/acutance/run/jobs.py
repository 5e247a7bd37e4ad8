"""What goes to a worker and what comes back: jobs and outcomes, and their one form as JSON texts.

A job is one JSON text, an outcome another. Executors carry the texts as they are; driver and worker read and write
them here alone, so that both ends, also of two machines, mean the same. Fields that this version does not know are
passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from acutance.errors import UserError
from acutance.measure import Cost, Estimate, Status
from acutance.plugin_files import carried, received
from acutance.pool import ModelEntry
from acutance.spec import canonical_json
from acutance.study.surface_config import Scope, SurfaceConfig

if TYPE_CHECKING:
    from acutance.study.config import Chosen

# -- jobs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A pool or dataset by its id, with all settings, as another process can open it."""

    name: str
    spec: dict[str, Any]

    def __hash__(self) -> int:
        return hash((self.name, canonical_json(self.spec)))

    @classmethod
    def of(cls, chosen: Chosen) -> Choice:
        """Return what a study has chosen, as it goes into a job."""
        return cls(chosen.item.id, chosen.spec.full())


@dataclass(frozen=True)
class Cell:
    """A measure with its settings and the m-batches on which its value is missing.

    Attributes:
        index: names the cell in the outcomes.
        measure: canonical id.
        spec: all of its settings.
        replicate: index of the repetition.
        split: where its points are from.
        scope: what it is evaluated on.
        batches: indices of the sets of points.
    """

    index: int
    measure: str
    spec: dict[str, Any]
    replicate: int
    split: str
    scope: Scope
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model by its pool and its entry there."""

    pool: Choice
    entry: ModelEntry


@dataclass(frozen=True, kw_only=True)
class Build(Model):
    """Make a model that is missing, by training it say.

    Attributes:
        id: names the job in its outcomes.
        cost: relative to that of other jobs of the same run.
    """

    id: str
    kind: Literal["build"] = "build"
    cost: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """Cells to be computed, and where.

    Attributes:
        id: names the job in its outcomes.
        dataset: where the points are from.
        surface: how they are cut into batches, and how losses are computed.
        seed: study seed.
        device: where to compute; an executor whose workers have devices of their own lets these choose.
        asked: what some measure needs of the pool, initial_weights or update: its digest is part of keys.
        announce: whether to say what begins.
        workers: how many share the memory of a machine.
        cost: relative to that of other jobs of the same run.
        cells: what to compute; none to learn a model's key alone.
        outputs: folder where outputs of models on the points are kept; empty to keep none.
    """

    id: str
    dataset: Choice
    surface: SurfaceConfig
    seed: int
    device: str
    asked: tuple[str, ...] = ()
    announce: bool = False
    workers: int = 1
    cost: float = 0.0
    cells: tuple[Cell, ...] = ()
    outputs: str = ""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Model, Work):
    """Open a model and compute cells of it.

    Attributes:
        look: splits whose points the model is held to before anything is measured.
        next: the model that this worker will most likely get next, to be loaded ahead.
    """

    kind: Literal["evaluate"] = "evaluate"
    look: tuple[str, ...] = ()
    next: Model | None = None


@dataclass(frozen=True, kw_only=True)
class Compared(Model):
    """A model that is compared with others: what it and its training run are called, and the key that it has."""

    name: str
    key: str
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class Compare(Work):
    """Compute cells of measures that compare models, for all of these.

    Attributes:
        models: all that are compared.
    """

    kind: Literal["compare"] = "compare"
    models: tuple[Compared, ...]


@dataclass(frozen=True, kw_only=True)
class Call:
    """Work that is no cell of a study: a function of JSON values that yields JSON values.

    Attributes:
        id: names the job in its outcomes.
        function: ``module:function`` of (payload, device).
        payload: what it is given.
        device: where to compute; an executor whose workers have devices of their own lets these choose.
    """

    id: str
    kind: Literal["call"] = "call"
    function: str
    payload: dict[str, Any]
    device: str


Job: TypeAlias = Build | Evaluate | Compare
Sent: TypeAlias = Job | Call

# -- outcomes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model was made."""

    job: str
    kind: Literal["built"] = "built"
    entry: str
    facts: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model was loaded: its identity.

    Attributes:
        entry: id of the model in its pool.
        key: of its tensors.
        initial: digest of its initial weights, empty where there are none; None where no measure needs them, or they
            cannot be loaded.
        update: digest of the optimizer's next step, likewise.
        parameters: how many it has.
        notes: what a reader should know of it.
    """

    job: str
    kind: Literal["model"] = "model"
    entry: str
    key: str
    initial: str | None = None
    update: str | None = None
    parameters: int
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A worker begins cells of one measure on one batch; sent only where an executor limits the time they take."""

    job: str
    kind: Literal["begin"] = "begin"
    cells: tuple[int, ...]


class Part(NamedTuple):
    """The value of one cell on one batch, in the order of its list in the text."""

    cell: int
    value: float
    stderr: float | None
    status: Status
    message: str
    extras: dict[str, Any]

    @classmethod
    def of(cls, cell: int, estimate: Estimate) -> Part:
        """Return value, error, status, message and extras of an estimate; its cost is sent with the whole family."""
        e = estimate
        return cls(cell, e.value, e.stderr, e.status, e.message, dict(e.extras))

    @property
    def estimate(self) -> Estimate:
        """The estimate, without the values of single batches."""
        return Estimate(self.value, self.stderr, self.status, self.message, (), self.extras)


class Passes(NamedTuple):
    """Work in examples."""

    forwards: float
    backwards: float
    hvps: float

    @classmethod
    def of(cls, cost: Cost) -> Passes:
        """Return the passes of a cost; peak memory and the checks of the model are not sent."""
        return cls(cost.forwards, cost.backwards, cost.hvps)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The values of a measure's cells on one batch."""

    job: str
    kind: Literal["parts"] = "parts"
    measure: str
    split: str
    batch: int
    device: str
    seconds: float
    cost: Passes
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The values of one cell for all models that were compared, in their order; ``cost`` is that of all."""

    job: str
    kind: Literal["comparison"] = "comparison"
    measure: str
    split: str
    device: str
    seconds: float
    cost: Passes
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a reader should know."""

    job: str
    kind: Literal["note"] = "note"
    message: str


@dataclass(frozen=True, kw_only=True)
class Called:
    """What a function that was called has yielded."""

    job: str
    kind: Literal["called"] = "called"
    payload: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A job ended before all of its cells had a value.

    Attributes:
        excluded: whether the pool leaves this model out, which is no failure.
        misfit: whether the model does not take the points.
    """

    job: str
    kind: Literal["failed"] = "failed"
    message: str
    traceback: str = ""
    excluded: bool = False
    misfit: bool = False


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The worker of a job died."""

    job: str
    kind: Literal["lost"] = "lost"
    message: str


@dataclass(frozen=True, kw_only=True)
class Late:
    """The worker of a job was ended because what it had begun took too long.

    Attributes:
        cells: those it had begun, filled in by the driver from the last ``Begun``.
    """

    job: str
    kind: Literal["late"] = "late"
    message: str
    cells: tuple[int, ...] = ()


Outcome: TypeAlias = Built | Opened | Begun | Parts | Comparison | Note | Called | Failed | Lost | Late

# -- texts ----------------------------------------------------------------------------------------------------


class Unreadable(UserError):
    """A text that is no job, or no outcome, of this version.

    Attributes:
        job: the id that it names all the same; empty where it names none.
    """

    def __init__(self, message: str, hint: str, job: str = "") -> None:
        super().__init__(message, hint)
        self.job = job


def plain(message: Any) -> Any:
    """Return a job or an outcome as JSON values."""
    if isinstance(message, BaseModel):
        return message.model_dump(mode="json")
    if is_dataclass(message):
        values = {f.name: getattr(message, f.name) for f in fields(message)}
        # An absent model is left out, as absent fields are everywhere.
        return {name: plain(value) for name, value in values.items() if not (name == "next" and value is None)}
    if isinstance(message, list | tuple):
        return [plain(entry) for entry in message]
    return message


def write(message: Sent | Outcome) -> str:
    """Return a job or an outcome as one JSON text.

    Raises:
        TypeError: for extras of an estimate that are no JSON values.
    """
    text = json.dumps(plain(message))
    files = carried(text) if isinstance(message, Sent) else []
    return f'{text[:-1]}, "files": {json.dumps(files)}}}' if files else text


def read_job(text: str) -> Sent:
    """Return the job of a text; ``files`` of it, plugins beside its study, are left to ``receive``.

    Raises:
        Unreadable: for another text.
    """
    job: Sent = _read(text, _jobs(), "a job", "id")
    return job


def receive(text: str) -> None:
    """Know the plugins beside a study that a job's text carries.

    Raises:
        UserError: for one that fails here.
    """
    if '"files"' in text:
        received(json.loads(text).get("files", []))


def id_of(text: str) -> str:
    """Return the id of a job's text, as far as it says one: what executors do with a job needs no more."""
    try:
        return read_job(text).id
    except Unreadable as error:
        return error.job


def read_outcome(text: str) -> Outcome:
    """Return the outcome of a text.

    Raises:
        Unreadable: for another text.
    """
    outcome: Outcome = _read(text, _outcomes(), "an outcome", "job")
    return outcome


def _read(text: str, adapter: TypeAdapter[Any], expected: str, name: str) -> Any:
    """Return the message of a text.

    Args:
        text: from the other side.
        adapter: of all messages that it may be.
        expected: what it should be, for the message.
        name: the field with the job's id.

    Raises:
        Unreadable: for another text.
    """
    data: Any = None
    try:
        data = json.loads(text)
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    except (ValueError, TypeError) as error:
        why = str(error)
    job = str(data.get(name, "")) if isinstance(data, Mapping) else ""
    hint = "have the same acutance on all machines; executors pass texts on unchanged"
    raise Unreadable(f"{expected} of a run cannot be read: {why}", hint, job)


@cache
def _jobs() -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Sent, Field(discriminator="kind")])


@cache
def _outcomes() -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Outcome, Field(discriminator="kind")])


def on_device(job: Sent, device: str | None) -> Sent:
    """Return a job to be computed on another device than it says, where that is given."""
    return replace(job, device=device) if device is not None and not isinstance(job, Build) else job
