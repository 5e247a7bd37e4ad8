"""Models of pools and points by the names that the command line gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError, did_you_mean
from acutance.io.checkpoint_files import is_checkpoint
from acutance.plugins import Item, catalog
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import validate
from acutance.workflows.given_data import opened_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from acutance.dataset import Dataset


def points_of(
    source: str,
    asked: Mapping[str, Any],
    settings: Mapping[str, Any],
    points: int | None = None,
    option: str = "--data",
    labelled: str | None = None,
) -> tuple[Dataset[Any] | None, tuple[Any, Tensor]]:
    """Open a file or a registered dataset's split, and keep the asked number of points.

    Args:
        source: of the option.
        asked: settings that the model asks for, where the dataset has them.
        settings: of ``--data-arg``.
        points: how many; all by default.
        option: what messages call it.
        labelled: who needs targets, as a message says it. Where nobody does, a source may have none: they are (n, 0).

    Raises:
        UserError: for what is not there, cannot be read, or has no targets that somebody needs.
    """
    from acutance.data.batch import take_rows
    from acutance.data.lazy import realised
    from acutance.data.points import select

    try:
        dataset, inputs, targets = opened_data(source, asked, settings, option)
    except UserError as error:
        try:
            dataset, inputs, targets = opened_data(source, asked, settings, option, labelled=False)
        except UserError:
            raise error from None  # what is wrong is not that there are no targets
        if labelled is not None:
            problem = f"{labelled} needs targets, and {option} {source} has none ({error.message})"
            raise UserError(problem, error.hint) from None
    if points is not None:
        rule = "first" if targets.is_floating_point() else "balanced"
        chosen = select(targets, points, rule, "--points", f"{option} {source}")
        inputs, targets = realised(take_rows(inputs, chosen)), targets[chosen]
    return dataset, (inputs, targets)


@dataclass(frozen=True)
class Member:
    """One model of a pool.

    Attributes:
        pool: an instance.
        spec: its settings.
        entry: the model.
    """

    pool: ModelPool[Any]
    spec: Any
    entry: ModelEntry

    def loaded(self) -> nn.Module:
        """Return the model, made first where it is missing."""
        if self.pool.missing([self.entry], self.spec):
            self.pool.build(self.entry, self.spec)
        return self.pool.load(self.entry, self.spec)


def member(name: str) -> Member | None:
    """Return the model of a pool that a name or a folder means; None for a model that a function makes."""
    if Path(name).is_dir():
        for item in catalog().usable("pools"):
            settings = item.target.settings_for(Path(name))
            if settings is not None:
                pool, spec = item.target(), validate(item.target.Spec, settings, item.name)
                return Member(pool, spec, pool.entries(spec)[0])
        _refuse_other_kinds(Path(name))
    if "/" not in name or ":" in name or (is_checkpoint(name) and Path(name).is_file()):
        return None
    item, entry_id = _pool_and_entry(name)
    required = [field for field, about in item.target.Spec.model_fields.items() if about.is_required()]
    if required:
        raise UserError(
            f"MODEL {name}: '{item.id}' needs {', '.join(required)}",
            f"measure its models in a study: pools: [{{name: {item.id}, {required[0]}: ...}}], or give one's folder",
        )
    pool, spec = item.target(), item.target.Spec()
    entries = {entry.id: entry for entry in pool.entries(spec)}
    if entry_id not in entries:
        problem = f"has no model '{entry_id}'" if entry_id else "is a pool: name one of its models"
        raise UserError(f"MODEL {name}: '{item.id}' {problem}", did_you_mean(entry_id, list(entries)))
    return Member(pool, spec, entries[entry_id])


def _refuse_other_kinds(folder: Path) -> None:
    """Refuse a folder in the Hugging Face layout with a model that no pool takes by itself, in its own words."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds = [str(kind) for kind in config["architectures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    language = any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds)
    hint = (
        f"a language model is measured in a study: pools: [{{name: causal, path: {folder}}}], dataset: {{name: tokens}}"
    )
    raise UserError(
        f"MODEL {folder}: {', '.join(kinds) or 'its model'} is no sequence classifier",
        hint if language else "give a classifier, or the model as package.module:function",
    )


def _pool_and_entry(name: str) -> tuple[Item, str]:
    """Return the pool and the entry of ``POOL/ENTRY`` or ``DIST/POOL/ENTRY``."""
    pools = catalog().items("pools")
    first, *others = name.split("/")
    canonical = f"{first}/{others[0]}"
    # A short name wins unless the first two parts are an id: an entry's own id may hold a slash.
    if any(item.id == canonical for item in pools) or (others[1:] and all(item.name != first for item in pools)):
        return catalog().find("pools", canonical), "/".join(others[1:])
    return catalog().find("pools", first), "/".join(others)
