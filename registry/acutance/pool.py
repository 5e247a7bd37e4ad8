"""Model pools: the models a study compares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from acutance.errors import UserError
from acutance.spec import Specified, SpecT

if TYPE_CHECKING:
    from torch import Tensor, nn

Attribute = bool | int | float | str | None


class ModelEntry(BaseModel):
    """One model of a pool, described without opening it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str
    """Unique in the pool; shown in tables and plots."""
    attributes: dict[str, Attribute] = {}
    """Hyperparameters and anything else to colour, group or correlate by."""
    targets: dict[str, float] = {}
    """Targets whose values are known beforehand (published, say), by name."""
    architecture: str
    """Models are compared only where this agrees; it enters the model's key."""
    train_set: str = ""
    """What the model was trained on; compared within this too when a study says so."""
    run: str = ""
    """Training run, when several checkpoints come from one."""
    step: int | None = None
    """Training step of the checkpoint, when known."""
    path: str | None = None
    """File the weights lie in, or will lie in once trained; lets the harness remember the model's key."""
    log: str | None = None
    """File of what training wrote down, a row a step: CSV or JSON lines with a column ``step`` that grows, and others
    such as ``train_loss``, ``learning_rate``, ``gradient_norm``."""


class ModelPool(Specified[SpecT]):
    """A source of models; subclass it and write ``entries`` and ``load``."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    loads_ahead: ClassVar[bool] = False
    """Whether ``load`` only reads files, so that it may run in a thread beside the measuring of another model."""

    @classmethod
    def settings_for(cls, path: Path) -> dict[str, Any] | None:
        """Return the settings under which the pool has the one model at a path; None where it reads no such thing."""
        return None

    @classmethod
    def settings_for_several(cls, source: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the settings under which the pool has the models that a folder, pattern or list of files means.

        Args:
            source: what a user wrote for ``acutance rank``.
            settings: ``architecture`` and ``arguments``, where given.

        Returns:
            None where the pool reads no such thing.
        """
        return None

    def data_settings(self, entry: ModelEntry, spec: SpecT) -> dict[str, Any]:
        """Return settings that this model asks of a dataset that has them, such as its ``tokenizer``."""
        return {}

    @abstractmethod
    def entries(self, spec: SpecT) -> Sequence[ModelEntry]:
        """Return the models, cheaply and without importing torch."""

    @abstractmethod
    def load(self, entry: ModelEntry, spec: SpecT) -> nn.Module:
        """Return the model on the CPU, in evaluation mode.

        The model may have an attribute ``class_names``, a tuple of words for its outputs in their order: where the
        dataset's ``labels`` are the same words in another order the model is refused.
        """

    def missing(self, entries: Sequence[ModelEntry], spec: SpecT) -> list[ModelEntry]:
        """Return the entries that must be made (trained) before they can be loaded; cheap, torch-free."""
        return []

    def build(self, entry: ModelEntry, spec: SpecT, threads: int | None = None) -> dict[str, Any]:
        """Make one missing model and save it where ``load`` finds it; return facts worth reporting."""
        raise UserError(f"pool '{self.name}' names models as missing but cannot make them", "override build()")

    def build_cost(self, entry: ModelEntry, spec: SpecT) -> float:
        """Return the relative cost of making this entry, to schedule the long ones first."""
        return 1.0

    def initial(self, entry: ModelEntry, spec: SpecT) -> nn.Module | None:
        """Return the model at the weights its training started from, or None when the pool does not have them.

        Called only where a measure of the study declares that it needs ``initial_weights``, whose digest is then part
        of its cells' keys. They are taken to belong to the file of ``entry.path``: while it is the one that was
        hashed, they are too.
        """
        return None

    def update(self, entry: ModelEntry, spec: SpecT) -> Mapping[str, Tensor] | None:
        """Return the step that the optimizer would take next, {parameter name: change}, or None where it is not known.

        Called only where a measure of the study needs ``update``; its digest is then part of its cells' keys.
        """
        return None

    def preprocess(self, entry: ModelEntry, spec: SpecT) -> Any:
        """Return a function of the inputs that this model needs, or None.

        It changes what the model sees, so what it makes of the points enters the keys of its cells: it is applied to
        them once at the start of a run. Models that share a preprocessing should get one function object, or equal
        ones, so that this is done once for all of them.
        """
        return None
