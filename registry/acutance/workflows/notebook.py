"""``acutance.study``: a study of models and data that are in memory already."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, did_you_mean
from acutance.plugins import extended
from acutance.run.harness import run_study
from acutance.study.attributes import Attributes, read
from acutance.study.config import Study, load_config
from acutance.study.targets import SplitTarget, parse_target
from acutance.workflows.memory import InMemory
from acutance.workflows.sections import measures_section, names_of, splits_of, surface_section

if TYPE_CHECKING:
    from torch import nn

    from acutance.run.harness import Run
    from acutance.run.ledger import Rerun
    from acutance.system.progress import Reporter


def study(
    models: Mapping[str, nn.Module] | Sequence[nn.Module],
    data: Any,
    targets: Mapping[str, Any] | Sequence[str] = ("test_error",),
    measures: Sequence[Mapping[str, Any] | str] = (),
    *,
    test: Any = None,
    splits: Mapping[str, Any] | None = None,
    initial: Mapping[str, nn.Module] | Sequence[nn.Module] | None = None,
    attributes: Attributes | None = None,
    groups: Sequence[str] = (),
    within: Sequence[str] = ("architecture",),
    surface: Mapping[str, Any] | None = None,
    admit: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
    title: str = "study",
    out: str | Path | None = None,
    device: str | None = None,
    executor: str = "serial",
    rerun: Rerun = "missing",
    figures: Mapping[str, Any] | None = None,
    report: bool = True,
    reporter: Reporter | None = None,
) -> Run:
    """Measure models that are in memory, and correlate the measures with targets: ``acutance.run`` for a notebook.

    The same driver, store and report: a model is known by its tensors, so calling this again computes only what is
    new. The models are bitwise untouched; they may lie on any device.

    Args:
        models: ``{name: module}``, or a list, whose models are called model0, model1 ...
        data: the training points: (inputs, targets), a Dataset or DataLoader of torch, dicts with labels, or batches of
            these, as ``acutance.data.forms.understand`` takes them.
        targets: what the measures shall predict: ``{name: values}`` with one number a model in their order, or
            ``{model: number}``; or None for a target to be measured, as ``test_error`` on the split ``test``. A list
            of names means: all are measured, or are attributes (``attr:learning_rate``). A name that is given *and*
            can be measured is both: the given numbers are then called ``given:NAME``.
        measures: as in a study file: ``[{"name": "worst_case", "rho": [0.001, 0.002]}]``; a list for a setting is a
            sweep. A measure without required settings may be its name alone.
        test: the split ``test``, as ``data``.
        splits: more splits, ``{"digits": (inputs, targets)}``, on which targets such as ``digits.error`` are measured.
        initial: the models as they were before training, ``{name: module}`` or a list in the order of the models, for
            measures that need them; a model may be left out of the mapping, and is then unsupported by these measures.
        attributes: ``{model: {name: value}}``, a table with a column or index of models, or a CSV file.
        groups: attributes whose combinations form subgroups.
        within: models are compared only where these agree. The architecture is the class with its structure: modules,
            their settings and shapes. ``[]`` compares all.
        surface: settings of the surface section: ``points``, ``m``, ``loss``, ``dtype`` ... By default 1024 points in
            batches of 128, or as many as there are.
        admit: bounds on targets, ``{"train_error": {"max": 0.01}}``.
        seed: study seed.
        title: headline of the report.
        out: run directory, ``runs/<title>`` by default.
        device: where models are evaluated; the GPU when there is one.
        executor: ``serial``: other processes cannot see these models.
        rerun: ``missing``, ``failed`` or ``all``.
        figures: ``colour``, ``marker`` and ``size`` attributes.
        report: whether to draw figures and write the page.
        reporter: told of progress.

    Returns:
        The run, with its tables as DataFrames.

    Raises:
        UserError: for whatever does not fit together, in one sentence.
    """
    if executor != "serial":
        raise UserError(
            f"executor '{executor}': models in memory cannot be sent to other processes",
            "leave executor out, or write a pool plugin and use acutance.run",
        )
    named, points_of, asked = _models(models), splits_of(data, test, splits), measures_section(measures)
    wanted, given_values = _targets(targets, list(named), tuple(points_of))
    if both := [name for name in given_values if any(m.get("name") == name for m in asked)]:
        raise UserError(f"targets.{both[0]}: is the name of a measure too", "call the given numbers something else")
    if attributes is not None:
        _refuse_strangers(attributes, list(named))
    memory = InMemory(named, given_values, _initial(initial, named), points_of)
    file = {
        "format": 1,
        "title": title,
        "seed": seed,
        "pools": [{"name": memory.pool.id, "digest": memory.targets_digest}],
        "dataset": {"name": memory.dataset.id, "digest": memory.points_digest},
        "surface": surface_section(points_of["train"], surface or {}),
        "admit": {name: dict(bound) for name, bound in (admit or {}).items()},
        "targets": wanted,
        "groups": names_of(groups, "groups"),
        "within": names_of(within, "within"),
        "measures": asked,
        "figures": dict(figures or {}),
    }
    with extended([memory.pool, memory.dataset]):
        return run_study(
            _validated(file), out if out is not None else _folder(title), device=device, rerun=rerun,
            reporter=reporter, report=report, attributes=attributes,
        )  # fmt: skip


def _folder(title: str) -> Path:
    """Return where a study of a title is written by default."""
    return Path("runs") / (re.sub(r"[^\w.-]+", "-", title).strip("-.") or "study")


def _validated(file: dict[str, Any]) -> Study:
    """Validate; the sections of the file have the names of the arguments."""
    try:
        return load_config(file)
    except UserError as error:
        raise UserError(error.message.replace("config: ", ""), error.hint) from None


def _models(models: Any) -> dict[str, nn.Module]:
    """Return models by name.

    Raises:
        UserError: for no models, something else than modules, or one object twice (a loop that trained it on).
    """
    from torch import nn

    from acutance.model.sharded import refuse_shared

    if isinstance(models, nn.Module) or not isinstance(models, Mapping | Sequence):
        raise UserError(f"models: got {type(models).__name__}", "give {name: module} or a list of modules")
    named = dict(models) if isinstance(models, Mapping) else {f"model{i}": model for i, model in enumerate(models)}
    if not named:
        raise UserError("models: there are none")
    names: dict[int, str] = {}
    texts: dict[str, nn.Module] = {}
    for name, model in named.items():
        if not isinstance(model, nn.Module):
            raise UserError(f"models: '{name}' is {type(model).__name__}, not a torch.nn.Module")
        refuse_shared(model)
        if id(model) in names:
            raise UserError(
                f"models: '{names[id(model)]}' and '{name}' are one and the same object",
                "keep a copy.deepcopy of each model when it has been trained",
            )
        if str(name) in texts:
            raise UserError(f"models: two models are called '{name}'", "give every model its own name")
        names[id(model)] = str(name)
        texts[str(name)] = model
    return texts


def _initial(initial: Any, models: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the models at their initial weights, by name.

    Raises:
        UserError: for an unknown name, something else than a module that fits, or the trained model itself.
    """
    from torch import nn

    if initial is None:
        return {}
    hint = "give {name: module} or a list of modules: copy.deepcopy(model) of each before it was trained"
    if isinstance(initial, nn.Module) or not isinstance(initial, Mapping | Sequence):
        raise UserError(f"initial: got {type(initial).__name__}", hint)
    if not isinstance(initial, Mapping) and len(initial) != len(models):
        raise UserError(f"initial: there are {len(initial)} for {len(models)} models", hint)
    named = initial if isinstance(initial, Mapping) else dict(zip(models, initial, strict=True))
    modules = {}
    for name, start in ((str(name), start) for name, start in named.items()):
        if name not in models:
            raise UserError(f"initial: there is no model '{name}'", did_you_mean(name, list(models)))
        if not isinstance(start, nn.Module):
            raise UserError(f"initial: '{name}' is {type(start).__name__}, not a torch.nn.Module", hint)
        _refuse_start(name, models[name], start)
        modules[name] = start
    return modules


def _refuse_start(name: str, model: nn.Module, start: nn.Module) -> None:
    """Refuse initial weights of another network, or those that are the trained ones: the same memory."""
    from acutance.model.functional import FunctionalModel
    from acutance.model.initial import initial_vector

    memory = [{p.data_ptr() for p in module.parameters() if p.numel()} for module in (model, start)]
    if memory[0] and memory[0] == memory[1]:
        raise UserError(
            f"initial: '{name}' holds the trained weights themselves", "keep a copy.deepcopy(model) before training"
        )
    try:
        functional = FunctionalModel(model)
    except UserError:
        # What is wrong with the model itself is told of the model.
        return
    try:
        initial_vector(functional, start)
    except UserError as error:
        raise UserError(f"initial: '{name}': {error.message}", error.hint) from None


def _targets(
    targets: Mapping[str, Any] | Sequence[str], models: list[str], splits: tuple[str, ...]
) -> tuple[list[str], dict[str, dict[str, float]]]:
    """Return the names of all targets as in a study file, and the given values, {target: {model: value}}."""
    table: Mapping[str, Any]
    if isinstance(targets, Mapping):
        table = targets
    elif hasattr(targets, "columns"):  # a table of pandas
        table = {name: targets[name] for name in targets.columns}
    else:
        table = dict.fromkeys(names_of(targets, "targets"))
    given_values = {str(name): _values(str(name), v, models) for name, v in table.items() if v is not None}
    wanted: list[str] = []
    for name in map(str, table):
        if name in given_values and ":" in name:
            raise UserError(f"targets: '{name}' cannot be given a value", "choose a name without a colon")
        try:
            measured = isinstance(parse_target(name, splits, given_values), SplitTarget)
        except UserError as error:
            hint = f"give targets={{'{name}': [one number a model]}}, or its split with test=... or splits=..."
            raise UserError(f"targets: {error.message}: it is neither given nor can it be measured", hint) from None
        wanted += [name, f"given:{name}"] if measured and name in given_values else [name]
    return wanted, given_values


def _values(name: str, values: Any, models: list[str]) -> dict[str, float]:
    """Return {model: number}, all finite.

    Raises:
        UserError: for another number of values than models, a model without one, or something that is no number.
    """
    # A pandas series is labelled by models, unless it merely counts.
    labelled = isinstance(values, Mapping) or (hasattr(values, "items") and set(map(str, values.index)) >= set(models))
    if labelled:
        table = {str(model): value for model, value in values.items()}
        without = [model for model in models if model not in table]
        if without:
            raise UserError(f"targets.{name}: model '{without[0]}' has no value", "give every model one")
        strangers = [model for model in table if model not in models]
        if strangers:
            raise UserError(f"targets.{name}: there is no model '{strangers[0]}'", did_you_mean(strangers[0], models))
        numbers = [table[model] for model in models]
    else:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"targets.{name}: got {values!r}", "give one number a model, or {model: number}")
        numbers = list(values)
        if len(numbers) != len(models):
            raise UserError(
                f"targets.{name}: there are {len(numbers)} values for {len(models)} models", "give one number a model"
            )
    by_model = {}
    for model, value in zip(models, numbers, strict=True):
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UserError(f"targets.{name}: the value of model '{model}' is {value!r}, not a number") from None
        if not math.isfinite(number):
            raise UserError(
                f"targets.{name}: the value of model '{model}' is {number}", "leave that model out, or mend its value"
            )
        by_model[model] = number
    return by_model


def _refuse_strangers(attributes: Attributes, models: list[str]) -> None:
    """A model that is not in the study is a slip when both are written in one call."""
    where, table = read(attributes)
    strangers = [model for model in table if model not in models]
    if strangers and not isinstance(attributes, str | Path):
        raise UserError(f"{where}: there is no model '{strangers[0]}'", did_you_mean(strangers[0], models))
