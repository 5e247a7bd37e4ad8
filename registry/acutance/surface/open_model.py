"""A model opened: on a device, its classes held against those of the data, and seen as the surfaces of its points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.checks.parts import divisible
from acutance.data.batch import dtype_of, take_rows
from acutance.data.forms import CheckedPoints
from acutance.data.lazy import applied
from acutance.errors import Misfit, UserError
from acutance.io.training_log import read_training_log
from acutance.model.fitness import FEW, require_fit
from acutance.model.functional import FunctionalModel
from acutance.model.recalibration import recalibrated
from acutance.model.token_ids import require_tokens
from acutance.surface.beside import VALIDATION
from acutance.surface.fitting import fitting_microbatch
from acutance.surface.loss_surface import LossSurface
from acutance.system.memory import free_bytes

if TYPE_CHECKING:
    from acutance.data.pointsets import PointSets
    from acutance.dataset import Dataset
    from acutance.pool import ModelEntry, ModelPool
    from acutance.study.surface_config import Scope, SurfaceConfig
    from acutance.surface.core import Core

Place = tuple[str, str, int]  # split, scope and number of a set of points
WHOLE_MICROBATCH = 1000  # examples in one pass over a whole split


class OpenModel:
    """A model on a device, with what its pool does to the inputs and how many examples its memory holds.

    Args:
        model: the module.
        name: of the model, for messages.
        dataset: what it is measured on; None where nobody knows what its classes are called.
        device: where it is evaluated; where it is by default.
        dtype: float32 or float64 (or their names), or native; the model's own by default.
        preprocess: gives the function that its inputs go through first, or None; asked when the first is needed.
        initial: gives the model at its initial weights, or its state dict; None where they are not known.
        lent: whether nobody else writes to the model's tensors, as for FunctionalModel.

    Attributes:
        functional: the model as a function of its weights.
        microbatch: examples that fit into memory together, where not all do; known once a surface was fitted.

    Raises:
        UserError: when the model's classes are those of the dataset in another order, or it cannot be measured.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str = "",
        dataset: Dataset[Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        preprocess: Callable[[], Any] = lambda: None,
        initial: Callable[[], nn.Module | Mapping[str, Tensor] | None] | None = None,
        lent: bool = False,
    ) -> None:
        if dataset is not None:
            require_order(model, name, dataset)
        self.functional = FunctionalModel(model, device, dtype_of(dtype) if isinstance(dtype, str) else dtype, lent)
        if initial is not None:
            self.functional.initial = initial
        self._preprocess = preprocess
        self.microbatch: int | None = None
        self._fitted = False

    @classmethod
    def entry(
        cls,
        pool: ModelPool[Any],
        spec: Any,
        entry: ModelEntry,
        dataset: Dataset[Any] | None,
        device: torch.device | str | None,
        dtype: torch.dtype | str | None,
        model: nn.Module | None = None,
        asked: Collection[str] = (),
    ) -> OpenModel:
        """Open a model of a pool, loaded by it unless it is given.

        Args:
            pool: an instance.
            spec: its settings.
            entry: the model.
            dataset: as for the class.
            device: as for the class.
            dtype: as for the class.
            model: the module, where it is loaded already or stands for one that is still to be made.
            asked: what measures will ask for of the pool: ``initial_weights``, ``update``.
        """
        opened = cls(
            pool.load(entry, spec) if model is None else model, entry.id, dataset, device, dtype,
            lambda: pool.preprocess(entry, spec),
            (lambda: pool.initial(entry, spec)) if "initial_weights" in asked else None,
            lent=True,
        )  # fmt: skip
        if "update" in asked:
            opened.functional.update = lambda: pool.update(entry, spec)
        if entry.log is not None:
            path = Path(entry.log)
            opened.functional.log = lambda: read_training_log(path) if path.is_file() else None
        return opened

    @cached_property
    def preprocess(self) -> Any:
        """The function that the inputs go through first, or None."""
        return self._preprocess()

    def require_fit(self, inputs: Any, targets: Tensor, loss: Any, where: str) -> None:
        """Refuse points that the model does not take (the first are tried), or targets it has no outputs for.

        Args:
            inputs: of all points, as the dataset gives them.
            targets: of all points, (n, ...).
            loss: as LossSurface takes it.
            where: what a message calls the points.

        Raises:
            Misfit: saying what does not fit.
        """
        try:
            require_tokens(self.functional.model, inputs)
        except Misfit as error:
            raise Misfit(f"{where}: {error.message}", error.hint) from None
        few = applied(self.preprocess, take_rows(inputs, slice(0, FEW)))
        require_fit(self.functional, few, targets, loss, where)

    def fit(self, surface: LossSurface, processes: int = 1) -> None:
        """Cut the passes over an m-batch where a whole one would not fit into memory; asked once a model.

        Args:
            surface: of this model on an m-batch.
            processes: that share the memory of the device.
        """
        if not self._fitted and self.functional.weights.spread:
            self._fitted = True  # which device runs short, and with what, is not known: microbatch is the user's
        if not self._fitted:
            surface.check()
            room = free_bytes(self.functional.device)
            fitting = fitting_microbatch(surface.core, room and room / processes)
            # Where parts would give other values, all go together as long as memory lasts.
            self.microbatch = fitting if fitting and divisible(surface, fitting) else None
            self._fitted = True
        if self.microbatch is not None:
            surface.microbatch = self.microbatch


class Surfaces:
    """The surfaces of an open model on the points of a study.

    Args:
        opened: the model.
        sets: the points.
        config: the study's surface section.
        processes: that share the memory of the device.
        looked_at: what ``learned`` gave for the same model at other weights; it is not looked at again.
    """

    def __init__(
        self, opened: OpenModel, sets: PointSets, config: SurfaceConfig, processes: int = 1,
        looked_at: Mapping[Place, Core] | None = None,
    ) -> None:  # fmt: skip
        self._opened, self._sets, self._config, self._processes = opened, sets, config, processes
        self._looked_at = dict(looked_at or {})

    @property
    def learned(self) -> Mapping[Place, Core]:
        """What was learned of the model on the points of each surface so far; neither weights nor outputs."""
        return self._looked_at

    @cached_property
    def as_set_up(self) -> FunctionalModel:
        """The model as the surface section wants it: with recalibrated batch normalization, or as it is."""
        functional, preprocess = self._opened.functional, self._opened.preprocess
        if self._config.batch_norm == "eval":
            return functional
        return recalibrated(functional, (applied(preprocess, x) for x, _ in self._sets.batches))

    def require_fit(self, splits: Iterable[str]) -> None:
        """Refuse splits whose points the model does not take, before anything is measured on them.

        Raises:
            Misfit: naming the split.
        """
        for name in splits:
            split, where = self._sets.split(name), f"dataset '{self._sets.dataset.name}', split '{name}'"
            self._opened.require_fit(split.inputs, split.targets, self._config.loss, where)

    def on(self, split: str, scope: Scope, batch: int) -> LossSurface:
        """Return the surface that a cell of this scope sees: one m-batch, all points, a whole split, or no data.

        Args:
            split: name of the split.
            scope: which of its points.
            batch: index among the sets of points of this scope.
        """
        config = self._config
        # Targets are measured on the model as it is.
        functional = self._opened.functional if scope == "split" else self.as_set_up
        if scope == "weights":
            return LossSurface(functional, None, parameters=config.parameters)
        inputs, targets = self._sets.sets(split, scope)[batch]
        surface = LossSurface(
            functional,
            CheckedPoints(applied(self._opened.preprocess, inputs), targets),
            loss=config.loss,
            parameters="all" if scope == "split" else config.parameters,
            microbatch=config.microbatch or (None if scope == "batch" else WHOLE_MICROBATCH),
            num_train=len(self._sets.split(config.split)),
            score=self._sets.split(split).score,
            arithmetic="exact" if scope == "split" else config.arithmetic,
            cuda_graphs=config.cuda_graphs,
            checkpointing=config.checkpointing,
        )
        if (known := self._looked_at.get((split, scope, batch))) is not None:
            surface.core.know(known)
        elif scope == "batch" and config.microbatch is None:
            self._opened.fit(surface, self._processes)
        surface.core.example_digests = lambda: self._sets.example_digests(split, scope, batch)
        return self._beside(surface)

    def learn(self, surface: LossSurface, split: str, scope: Scope, batch: int) -> None:
        """Keep what was learned of the model on the points of a surface that has been used."""
        if surface.core.checked:
            self._looked_at[split, scope, batch] = surface.core.without_model()

    def _beside(self, surface: LossSurface) -> LossSurface:
        if self._sets.validation:
            surface.core.companions[VALIDATION] = lambda: self._validation
        return surface

    @cached_property
    def _validation(self) -> LossSurface:
        """The model on the validation points, opened where a measure looks at them, once for all surfaces."""
        return self.on(self._sets.validation, "points", 0)


def require_order(model: Any, name: str, dataset: Dataset[Any]) -> None:
    """Refuse a model that has the classes of a dataset in another order: its errors would be above chance.

    A model may carry ``class_names``, words for its outputs; a dataset may have ``labels``. Upper and lower case are
    the same. Where one of them says nothing, or the words are others, nothing can be told.

    Args:
        model: a module, as its pool loaded it.
        name: of the model, for the message.
        dataset: an instance.

    Raises:
        UserError: when the words are the same and their order is another.
    """
    names = tuple(getattr(model, "class_names", ()))
    # Not asked before, since a dataset may have to read a file for its words.
    wanted = dataset.labels if names else ()
    of_data, of_model = [word.casefold() for word in wanted], [word.casefold() for word in names]
    if of_data == of_model or sorted(of_data) != sorted(of_model):
        return
    hint = "reorder the rows of its last layer and the names in its config"
    if "labels" in type(dataset.spec).model_fields:
        spelled = dict(zip(of_data, wanted, strict=True))
        hint = f"write dataset.labels: [{', '.join(spelled[word] for word in of_model)}], or {hint}"
    raise UserError(f"model {name} gives ({', '.join(names)}), dataset {dataset.name} has ({', '.join(wanted)})", hint)
