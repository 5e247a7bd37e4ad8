"""``acutance.measure`` and ``acutance.run``: what the command line does, in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from acutance.errors import UserError
from acutance.io.training_log import read_training_log
from acutance.measure import ALONE, Estimate
from acutance.plugins import catalog
from acutance.run.harness import run_study
from acutance.spec import validate
from acutance.study.config import load_config
from acutance.study.surface_config import dropped

if TYPE_CHECKING:
    import torch
    from torch import nn

    from acutance.data.forms import CheckedPoints
    from acutance.io.training_log import TrainingLog
    from acutance.model.functional import FunctionalModel
    from acutance.run.harness import Run
    from acutance.surface.loss_surface import LossSurface
    from acutance.surface.open_model import OpenModel

T = TypeVar("T")


def measure(
    name: str,
    model: LossSurface | OpenModel | nn.Module,
    data: Any = None,
    *,
    m: int | None = None,
    seed: int = 0,
    replicate: int = 0,
    loss: Any = "cross_entropy",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    microbatch: int | None = None,
    checkpointing: bool = False,
    initial: nn.Module | Mapping[str, torch.Tensor] | None = None,
    validation: Any = None,
    update: Mapping[str, torch.Tensor] | None = None,
    log: str | Path | None = None,
    num_train: int | None = None,
    **fields: Any,
) -> Estimate:
    """Evaluate one measure on one surface, or on a model and its batches.

    The model is bitwise what it was afterwards. ``acutance list`` names the measures, ``acutance show NAME`` the
    settings of one; ``print(estimate.explain())`` says in words what a value means.

    Args:
        name: a measure's name, e.g. ``worst_case``.
        model: a surface; or a module, with ``data``, or one that is open already, as ``acutance measure`` has it.
            One whose parameters are DTensors is measured by all processes that share it: each calls the same.
        data: (inputs, targets), a Dataset or DataLoader of torch, dicts with labels, or batches of these, as
            ``acutance.data.forms.understand`` takes them.
        m: examples in one m-batch; by default those of one pair of ``data``. A remainder is dropped, as ``notes`` say.
        seed: study seed; the same seed gives the same value.
        replicate: index of an independent repetition.
        loss: for a module: ``cross_entropy``, ``mse`` or a function, as in LossSurface.
        device: for a module: where to compute.
        dtype: for a module: float32, float64, or native for the types that its weights have.
        microbatch: for a module: examples in one pass; changes memory, not values.
        checkpointing: for a module of transformers: layers are made again in the backward pass; changes memory, not
            values.
        initial: for a module: the model at its initial weights, or its state dict, for measures that need them.
        validation: for a module: labelled points, as ``data``, for measures that need some beside their own.
        update: for a module: the optimizer's next step, {parameter name: change}, for measures that take a step.
        log: for a module: a file of what training wrote down, CSV or JSON lines, for measures of the training.
        num_train: for a module: size of the training set, the m of bounds and criteria; by default the number of
            points, which is that of the training set only where these are all of it.
        fields: the measure's own settings, e.g. ``rho=0.002``.

    Returns:
        The estimate; the mean over the m-batches when there are several. Its ``notes`` say what there is to know of the
        model; those of weights that are not as they were stored are warned of too, as by LossSurface.

    Raises:
        UserError: for an unknown measure, a wrong field, data that does not fit, or a measure that compares models.
        Corrupted: when the measure changed the weights, buffers or points that it was given.

    Example:
        >>> import acutance, torch
        >>> model = torch.nn.Linear(4, 3)
        >>> points = torch.randn(64, 4), torch.arange(64) % 3
        >>> estimate = acutance.measure("average_case", model, points, m=32, rho=0.1)
        >>> estimate.status.value, len(estimate.per_batch), estimate.stderr > 0
        ('ok', 2, True)
    """
    from acutance.data.batch import whole
    from acutance.model.initial import initial_vector
    from acutance.surface.beside import VALIDATION
    from acutance.surface.evaluation import evaluate_family
    from acutance.surface.integrity import untouched
    from acutance.surface.loss_surface import LossSurface
    from acutance.surface.open_model import OpenModel
    from acutance.workflows.calibration import chance_level

    m = None if m is None else whole(m, "m")
    num_train = None if num_train is None else whole(num_train, "num_train")
    item = catalog().find("measures", name)
    spec = validate(item.target.Spec, fields, name)
    instance = item.target()
    if (level := instance.level_of(spec)) == "pool":
        raise UserError(ALONE.format(name=name), "acutance.run(config), or acutance.study(models, data, measures)")
    levels: list[float] = []

    def evaluated(surface: LossSurface, batch: int) -> list[Estimate]:
        with untouched(surface, item.id):
            estimates = evaluate_family(item.id, instance, surface, [spec], seed=seed, batch=batch, replicate=replicate)
        if "perturbed_loss" in estimates[0].extras:
            levels.append(chance_level(surface, spec))
        return estimates

    def mean(parts: list[Estimate], notes: Sequence[str]) -> Estimate:
        chance = sum(levels) / len(levels) if levels else None
        return replace(Estimate.mean(parts), chance=chance, notes=tuple(notes))

    if isinstance(model, LossSurface):
        if data is not None or m is not None:
            raise UserError("a surface has its data already", "give a model together with data")
        if initial is not None:
            raise UserError("a surface has its initial weights already", "give them to LossSurface")
        if validation is not None or update is not None or log is not None:
            raise UserError("validation, update and log go with a model and its data", "give these, not a surface")
        if num_train is not None:
            raise UserError("a surface has its size of the training set already", "give num_train to LossSurface")
        return mean(evaluated(model, 0), model.notes)
    if data is None and level != "weights":
        raise UserError("a model needs data", "give (inputs, targets), a Dataset or a DataLoader")
    if isinstance(model, OpenModel) and not (device is None and dtype is None):
        raise UserError("an open model has its device and dtype already", "give them to OpenModel")
    opened = model if isinstance(model, OpenModel) else OpenModel(model, device=device, dtype=dtype)
    functional = opened.functional
    functional.warn(stacklevel=3)
    if initial is not None:
        functional.w0 = initial_vector(functional, initial)
    if update is not None:
        functional.update = lambda: update
    if log is not None:
        functional.log = partial(_itself, _log(log))
    size = opened.microbatch if microbatch is None else microbatch
    held_out = None if validation is None else _held_out(functional, validation, loss)
    parts, remainder = [], ""
    pairs: list[CheckedPoints | None] = [None]
    if data is not None and level != "weights":
        batches, remainder = _batches(
            data, m, level == "dataset", None if "unlabeled" in instance.needs(spec) else name
        )
        pairs = [*batches]
    for batch, pair in enumerate(pairs):
        surface = LossSurface(
            functional, pair, loss=loss, microbatch=size, num_train=num_train, checkpointing=checkpointing
        )
        if held_out is not None:
            surface.core.companions[VALIDATION] = partial(_itself, held_out)
        parts += evaluated(surface, batch)
    functional.warn(stacklevel=3)
    return mean(parts, [*functional.all_notes, *filter(None, [remainder])])


def _itself(thing: T) -> T:
    return thing


def _log(path: str | Path) -> TrainingLog:
    """Return what training wrote down, read though no measure may ask for it: a slip must not go unnoticed."""
    if not isinstance(path, str | Path):
        raise UserError(f"log: got {type(path).__name__}", "give the path of a file, CSV or JSON lines")
    return read_training_log(Path(path))


def _held_out(functional: FunctionalModel, data: Any, loss: Any) -> LossSurface:
    """Return the surface of validation points, held to the model though no measure may look at them."""
    from acutance.data.forms import understand
    from acutance.model.fitness import require_fit
    from acutance.surface.loss_surface import LossSurface

    points = understand(data, "validation", stacklevel=5)
    if not points.labelled:
        raise UserError("validation: there are no targets (labels)", "give (inputs, targets)")
    require_fit(functional, points.inputs, points.targets, loss, "validation")
    return LossSurface(functional, points, loss=loss)


def _batches(data: Any, m: int | None, whole: bool, labelled: str | None) -> tuple[list[CheckedPoints], str]:
    """Return m-batches of equal size, cut from the points in their order, and what to say of points left over.

    Args:
        data: as a user gave them.
        m: examples in one batch.
        whole: whether all points make one batch.
        labelled: name of the measure, where it needs targets.
    """
    from acutance.data.forms import CheckedPoints, understand
    from acutance.data.points import m_batches

    points = understand(data, stacklevel=4)
    if labelled is not None and not points.labelled:
        raise UserError(
            f"measure '{labelled}' needs targets (labels), and the data have none", "give (inputs, targets)"
        )
    size = len(points.targets) if whole else points.size if m is None else m
    batches = [CheckedPoints(*pair) for pair in m_batches(points.inputs, points.targets, size)]
    return batches, dropped(len(points.targets), size)


def run(
    config: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    **options: Any,
) -> Run:
    """Run or resume a study; what ``acutance run`` does.

    Args:
        config: name of a preset, path of a YAML file, or a mapping.
        out: run directory; ``runs/<name>`` by default.
        options: ``overrides`` (``{"surface.m": 64}``); ``executor``, the name of one that replaces the study's before
            they are made; ``sinks``, names of more of them; ``device``, ``rerun``, ``limit``, ``attributes``,
            ``report`` and ``reporter``, as of ``acutance.run.harness.run_study``.

    Returns:
        The run, with its tables as DataFrames.

    Raises:
        UserError: for a mistake in the config.
    """
    chosen = {name: options.pop(name) for name in ("overrides", "executor", "sinks") if name in options}
    return run_study(load_config(config, **chosen), out, **options)
