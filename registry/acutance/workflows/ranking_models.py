"""The models that are ranked: those in memory, checkpoints in a folder or list, a study's pools, a pool by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.data.fingerprint import model_key
from acutance.data.prefetch import loaded
from acutance.errors import UserError
from acutance.model.sharded import refuse_shared
from acutance.plugins import catalog
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import validate
from acutance.study.config import load_config, presets
from acutance.surface.open_model import OpenModel
from acutance.workflows.memory import architecture

if TYPE_CHECKING:
    from torch import nn

    from acutance.dataset import Dataset

Opener = Callable[["Dataset[Any] | None", str | None], tuple[OpenModel, str]]


@dataclass(frozen=True)
class Candidate:
    """A model that takes part.

    Attributes:
        name: in tables.
        opened: opens it, given the data set and a device, and returns it with its key.
        data_settings: what it asks of a data set, such as its tokenizer.
    """

    name: str
    opened: Opener
    data_settings: Mapping[str, Any] = field(default_factory=dict)


def candidates(
    models: Mapping[str, nn.Module] | str | Path, settings: Mapping[str, Any] | None = None
) -> list[Candidate]:
    """Return the models that are to be ranked, at least two.

    Args:
        models: ``{name: module}``; or a folder or pattern of checkpoints, a CSV list of them, a folder of several
            transformers, a preset or study file, or the name of a pool.
        settings: of a pool of checkpoints: ``architecture``, ``arguments``.

    Raises:
        UserError: for what is none of these, and fewer than two models.
    """
    if isinstance(models, Mapping):
        found = [_held(str(name), model) for name, model in models.items()]
        where = "models"
    else:
        found, where = _of_pools(str(models), dict(settings or {})), str(models)
    if len(found) < 2:
        raise UserError(f"{where}: {'one model' if found else 'no model'}, and nothing to rank", "give at least two")
    return found


def _held(name: str, model: nn.Module) -> Candidate:
    if not hasattr(model, "state_dict"):
        raise UserError(f"models: '{name}' is a {type(model).__name__}", "give {name: torch.nn.Module}")

    def opened(dataset: Dataset[Any] | None, device: str | None) -> tuple[OpenModel, str]:
        refuse_shared(model)
        return OpenModel(model, name, dataset, device), model_key(architecture(model), model)

    return Candidate(name, opened)


def _of_pools(source: str, settings: dict[str, Any]) -> list[Candidate]:
    """Return the models of the pools that a source means; names of several pools that are the same get the pool's."""
    members = [(pool, spec, entry) for pool, spec in _pools(source, settings) for entry in pool.entries(spec)]
    times = Counter(entry.id for _, _, entry in members)
    return [
        _member(entry.id if times[entry.id] == 1 else f"{pool.name}/{entry.id}", pool, spec, entry)
        for pool, spec, entry in members
    ]


def _member(name: str, pool: ModelPool[Any], spec: Any, entry: ModelEntry) -> Candidate:
    def opened(dataset: Dataset[Any] | None, device: str | None) -> tuple[OpenModel, str]:
        if pool.missing([entry], spec):
            pool.build(entry, spec)
        module, key = loaded(pool, spec, entry)
        return OpenModel.entry(pool, spec, entry, dataset, device, None, module), key

    return Candidate(name, opened, pool.data_settings(entry, spec))


def _pools(source: str, settings: dict[str, Any]) -> list[tuple[ModelPool[Any], Any]]:
    path = Path(source).expanduser()
    if path.suffix in (".yaml", ".yml") or (source in presets() and not path.exists()):
        _refuse(settings, source, "a study says what its models are")
        return [(chosen.item.target(), chosen.spec) for chosen in load_config(source).pools]
    for item in catalog().usable("pools"):
        found = item.target.settings_for_several(source, settings)
        if found is not None:
            return [(item.target(), validate(item.target.Spec, found, item.name))]
    if path.exists() or any(sign in source for sign in "*?/"):
        raise UserError(
            f"{source}: no models are there",
            "give a folder or a pattern of checkpoints, a CSV file with a column 'path', a folder of transformers, a "
            "study's YAML file, or the name of a pool",
        )
    item = catalog().find("pools", source)
    _refuse(settings, source, "a pool knows its architectures")
    return [(item.target(), validate(item.target.Spec, {}, source))]


def _refuse(settings: Mapping[str, Any], source: str, why: str) -> None:
    if settings:
        raise UserError(f"--model and --arg are for checkpoints: {source} is none, {why}", "leave them out")
