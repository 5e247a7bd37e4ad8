"""A pool of adapters over one base: LoRA in PEFT's file format, the adapter's own surface or that of the whole."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from acutance.errors import UserError
from acutance.pool import Attribute, ModelEntry
from acutance_text.causal import Causal
from acutance_text.finetuned import with_new_head
from acutance_text.lora import CONFIG, WEIGHTS, adapter_file, read_adapter, read_config
from acutance_text.making import loaded
from acutance_text.revisions import cached
from acutance_text.transformers_pool import (
    Folders,
    FolderSpec,
    Transformers,
    architecture,
    in_cache,
)

if TYPE_CHECKING:
    from torch import nn

UNKNOWN = "unknown"  # the architecture of an adapter that is not understood
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # of a repository of the hub: NAME or ORG/NAME
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")  # of models that classify sequences


class AdaptersSpec(FolderSpec):
    """Settings of adapters."""

    path: str
    """An adapter's folder (with adapter_config.json), a folder of such folders, or a glob of them."""
    base: str = ""
    """Folder of the base, or a hub's name in its cache; by default what the adapters name."""
    surface: Literal["adapter", "merged"] = "adapter"
    """adapter: over the adapter's weights alone, the base being fixed; merged: over all weights, with the adapter in
    them."""


class Adapters(Folders[AdaptersSpec]):
    """LoRA adapters in PEFT's file format over a base on disk: their own surface, or that of the merged model."""

    name = "adapters"
    auto = Causal.auto

    def folders(self, spec: AdaptersSpec) -> list[tuple[str, Path]]:
        """Return names and folders of the adapters.

        Raises:
            UserError: when there are none.
        """
        matches = [Path(name) for name in sorted(glob.glob(str(Path(spec.path).expanduser())))]
        found = [folder for folder in matches if (folder / CONFIG).is_file()]
        if not found and len(matches) == 1 and matches[0].is_dir():
            found = [folder for folder in sorted(matches[0].iterdir()) if (folder / CONFIG).is_file()]
        if not found:
            raise UserError(f"path: {spec.path} has no adapter", f"give a folder with {CONFIG} and {WEIGHTS[0]}")
        return [(folder.resolve().name, folder) for folder in found]

    def entries(self, spec: AdaptersSpec) -> Sequence[ModelEntry]:
        """Return one model for each adapter; one that is not understood is left out as it is loaded, with the reason.

        Raises:
            UserError: when none of them can be loaded, as for the first, or ``base`` is not there; otherwise as
                ``causal``.
        """
        if spec.base:
            _on_disk("base", spec.base, None)
        found = super().entries(spec)
        if all(entry.architecture == UNKNOWN for entry in found):
            self._described(self.folders(spec)[0][1], spec)
        return found

    def entry_of(self, folder: Path, spec: AdaptersSpec) -> dict[str, Any]:
        """Return what an entry says of a folder: what it is made of, and the settings of its adapter."""
        try:
            return self._described(folder, spec)
        except UserError:  # of this one alone: ``load`` says it again
            return {"architecture": UNKNOWN, "path": None}

    def _described(self, folder: Path, spec: AdaptersSpec) -> dict[str, Any]:
        config = read_config(folder)
        adapter_file(folder)
        base = architecture(base_of(folder, config, spec.base))
        # Adapters of one rank have the same weights; merged ones have those of the base, whatever the rank.
        kind = f"{base}+lora" if spec.surface == "merged" else f"{base}+lora-{config.get('r', 8)}"
        settings: dict[str, Attribute] = {name: config[name] for name in ("r", "lora_alpha") if name in config}
        # The base's weights count too, so that the file alone does not tell which model it is.
        return {"architecture": kind, "attributes": settings, "path": None}

    def initial(self, entry: ModelEntry, spec: AdaptersSpec) -> nn.Module | None:
        """Return where training began: the base itself, of merged models; an adapter that a setting or column names."""
        named = super().initial(entry, spec)
        if named is not None or spec.surface == "adapter":
            return named
        folder = dict(self.folders(spec))[entry.id]
        config = read_config(folder)
        return None if config.get("modules_to_save") else _base(folder, config, spec, {})

    def _made(self, folder: Path, spec: AdaptersSpec) -> nn.Module:
        from acutance_text.adapted import beside, merged

        adapter = read_adapter(folder)
        base = _base(folder, adapter.config, spec, adapter.whole)
        return beside(base, adapter) if spec.surface == "adapter" else merged(base, adapter)

    def data_settings(self, entry: ModelEntry, spec: AdaptersSpec) -> dict[str, Any]:
        """Return the base's tokenizer."""
        folder = dict(self.folders(spec))[entry.id]
        return {"tokenizer": str(base_of(folder, read_config(folder), spec.base))}


def base_of(folder: Path, config: dict[str, Any], base: str) -> Path:
    """Return the folder of an adapter's base.

    Args:
        folder: of the adapter.
        config: its settings.
        base: folder or name that takes the place of what they say.

    Raises:
        UserError: when it is nowhere on disk.
    """
    named = base or str(config.get("base_model_name_or_path") or "")
    if not named:
        raise UserError(f"{folder}: does not name its base", "write base: FOLDER")
    revision = None if base else config.get("revision")
    return _on_disk(f"{folder}: its base", named, revision and str(revision))


def _on_disk(what: str, named: str, revision: str | None) -> Path:
    """Return the folder of a base by its place, or its name on the hub."""
    place = Path(named).expanduser()
    if (place / "config.json").is_file():
        return place
    if _NAME.fullmatch(named) is None or place.is_dir():
        fault = "has no config.json" if place.is_dir() else "is not on disk"
        raise UserError(f"{what} '{named}' {fault}", "write base: FOLDER, of the model that was adapted")
    kept = cached(named).get(revision) if revision else in_cache(named)
    if kept is None:
        which = f"'{named}' at revision {revision}" if revision else f"'{named}'"
        raise UserError(f"{what} {which} is not on disk", f"write base: FOLDER, or get it: 'hf download {named}'")
    return kept


def _base(folder: Path, config: Any, spec: AdaptersSpec, saved: Any) -> nn.Module:
    """Return an adapter's base with its weights; a classifier's head that only the adapter has is still random."""
    place = base_of(folder, config, spec.base)
    if config.get("task_type") != "SEQ_CLS":
        return loaded(Causal.auto, place, spec.attention)
    head = next((saved[name] for name in HEADS if name in saved), None)
    if head is None:
        return loaded(Transformers.auto, place, spec.attention)
    return with_new_head(place, len(head), spec.attention)
