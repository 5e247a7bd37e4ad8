"""Pools of transformers in the Hugging Face layout: folders with a config.json and the weights beside it."""

from __future__ import annotations

import glob
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from acutance.errors import UserError, some
from acutance.pool import Attribute, ModelEntry, ModelPool
from acutance.spec import Spec
from acutance.study.attributes import read
from acutance_text.making import CLASSIFIER, DeviceMap, loaded, loaded_apart, require_devices, weights_file

if TYPE_CHECKING:
    from torch import nn

# What the architecture of a model is, besides its type: layers, widths and sizes under the names configs use.
SIZES = ("num_hidden_layers", "n_layer", "n_layers", "hidden_size", "n_embd", "dim", "intermediate_size", "vocab_size")
# name=value between separators, "learning_rate=2e-5_seed=3" say; a separator is followed by a name.
_SETTING = re.compile(r"([A-Za-z]\w*?)=(.+?)(?=[_,;-]+[A-Za-z]\w*?=|$)")


class FolderSpec(Spec):
    """Settings of a pool of folders in the Hugging Face layout."""

    path: str
    """A model's folder, a folder of such folders, a glob of them, or a hub's name (ORG/NAME) that is in its cache."""
    attributes: str = ""
    """CSV file with a column ``model`` or ``id`` (the folder's name) and the attributes of each model. Columns
    ``initial`` and ``log`` are none: the folder that its training began from, and what it wrote down (CSV or JSON
    lines)."""
    initial: str = ""
    """Folder of the model that the training of all began from, head included; a column ``initial`` takes its place."""
    train_set: str = ""
    """What the models were trained on."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Implementation of attention: sdpa, whose mathematical kernel curvature asks for, or eager; both have second
    derivatives."""


class PlacedSpec(FolderSpec):
    """Settings of a pool whose models may lie on several devices."""

    device_map: DeviceMap | None = None
    """Where the parts of each model lie: auto, or {module: device}, {'': cpu} for all; devices are cpu, disk and
    accelerators (cuda:0 or 0). Needs accelerate (the extra 'dispatch'); weights that are not float32 need
    surface.dtype: native."""


FolderSpecT = TypeVar("FolderSpecT", bound=FolderSpec)


class Folders(ModelPool[FolderSpecT]):
    """Models in the Hugging Face layout; a subclass says of which kind."""

    auto: ClassVar[str]
    """The class of transformers that makes the model from its config."""

    def entries(self, spec: FolderSpecT) -> Sequence[ModelEntry]:
        """Return one model for each folder, in the order of their names.

        Raises:
            UserError: when there is no such folder, or two of one name, or a model has no row in ``attributes``, or a
                device is not there.
        """
        require_devices(_device_map(spec))
        models = self.folders(spec)
        names = [name for name, _ in models]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise UserError(f"path: {spec.path} has several models of the name {some(twice)}", "rename their folders")
        where, table = read(spec.attributes) if spec.attributes else ("", {})
        logs = {name: row.pop("log", None) for name, row in table.items()}
        for row in table.values():
            row.pop("initial", None)
        without = [name for name in names if table and name not in table]
        if without:
            raise UserError(f"{where}: has no row for {some(without)}", "its column 'model' is the name of the folder")
        entries = []
        for name, folder in models:
            said = self.entry_of(folder, spec)
            attributes = settings_of(name) | said.pop("attributes", {}) | table.get(name, {})
            log = _beside(spec.attributes, logs.get(name))
            entries.append(ModelEntry(id=name, attributes=attributes, train_set=spec.train_set, log=log, **said))
        return entries

    def entry_of(self, folder: Path, spec: FolderSpecT) -> dict[str, Any]:
        """Return what an entry says of a folder: its ``architecture``, ``path``, and ``attributes`` if it has some."""
        return {"architecture": architecture(folder), "path": _dated_file(weights_file(folder))}

    def folders(self, spec: FolderSpecT) -> list[tuple[str, Path]]:
        """Return names and folders of the models."""
        return find_models(spec.path)

    def load(self, entry: ModelEntry, spec: FolderSpecT) -> nn.Module:
        """Return the model without dropout; every name and shape of its weights must fit.

        Raises:
            UserError: when its folder is gone, cannot be read or does not fit.
        """
        folders = dict(self.folders(spec))
        if entry.id not in folders:
            raise UserError(f"path: {spec.path} no longer has '{entry.id}'", "start the run again")
        if (device_map := _device_map(spec)) is not None:
            return loaded_apart(self.auto, folders[entry.id], spec.attention, device_map)
        return self._made(folders[entry.id], spec)

    def initial(self, entry: ModelEntry, spec: FolderSpecT) -> nn.Module | None:
        """Return the model that training began from, as far as a column or the setting says.

        Raises:
            UserError: as ``load``.
        """
        row = read(spec.attributes)[1].get(entry.id, {}) if spec.attributes else {}
        place = _beside(spec.attributes, row.get("initial")) or spec.initial
        return self._made(Path(place).expanduser(), spec) if place else None

    def _made(self, folder: Path, spec: FolderSpecT) -> nn.Module:
        return loaded(self.auto, folder, spec.attention)


def _device_map(spec: FolderSpec) -> DeviceMap | None:
    """Return where parts of models are to lie; initial weights, which are one vector, lie in one place."""
    return spec.device_map if isinstance(spec, PlacedSpec) else None


class Transformers(Folders[PlacedSpec]):
    """Transformers that classify sequences, in the Hugging Face layout: folders on disk, never a download."""

    name = "transformers"
    auto = CLASSIFIER

    @classmethod
    def settings_for(cls, path: Path) -> dict[str, Any] | None:
        """Return the settings of a folder with a classifier."""
        file = path / "config.json"
        if not file.is_file():
            return None
        kinds = json.loads(file.read_text(encoding="utf-8")).get("architectures") or []
        fits = not kinds or any(str(kind).endswith("ForSequenceClassification") for kind in kinds)
        return {"path": str(path)} if fits else None

    @classmethod
    def settings_for_several(cls, source: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the settings of a folder of folders, or a pattern of folders, with classifiers."""
        if settings or not glob.glob(str(Path(source).expanduser())):
            return None
        try:
            folders = find_folders(source)
        except UserError:
            return None
        return {"path": source} if cls.settings_for(folders[0]) is not None else None

    def data_settings(self, entry: ModelEntry, spec: PlacedSpec) -> dict[str, Any]:
        """Return the folder's tokenizer."""
        return {"tokenizer": str(dict(self.folders(spec))[entry.id])}


def find_models(path: str) -> list[tuple[str, Path]]:
    """Return names and folders of the models that a path names; what lies on disk comes before a model of the hub.

    Raises:
        UserError: when there is none.
    """
    cached = None if glob.glob(str(Path(path).expanduser())) else in_cache(path)
    if cached is not None:
        return [(path.rpartition("/")[2], cached)]  # the folder itself is called after a commit
    return [(folder.resolve().name, folder) for folder in find_folders(path)]


def in_cache(name: str) -> Path | None:
    """Return the folder in which the hub's local cache holds a model, or None; the network is never asked."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        # By a file, since a snapshot of only what transformers reads does not count as complete.
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no model can have this name
        return None
    return Path(config).parent if isinstance(config, str) else None


def find_folders(path: str) -> list[Path]:
    """Return the folders with a config.json that a path names: itself, those inside it, or those of a glob.

    Raises:
        UserError: when there is none.
    """
    matches = [Path(name) for name in sorted(glob.glob(str(Path(path).expanduser())))]
    inside = [folder if (folder / "config.json").is_file() else None for folder in matches]
    folders = [folder for folder in inside if folder is not None]
    if not folders and len(matches) == 1 and matches[0].is_dir():
        folders = [folder for folder in sorted(matches[0].iterdir()) if (folder / "config.json").is_file()]
    if not folders:
        raise UserError(
            f"path: {path} has no model (a folder with config.json and weights)",
            "models are read from disk; download one of the hub first, with 'hf download NAME'",
        )
    return folders


def _beside(table: str, path: Attribute) -> str | None:
    """Return a path that a table names, relative to it; None for an empty cell."""
    return None if path is None or path == "" else str(Path(table).expanduser().parent / Path(str(path)).expanduser())


def _dated_file(file: Path) -> str | None:
    """Return the file whose size and date say that a model is still the one hashed before; None for a list of files.

    The list (an ``.index.json``) stays the same when the weights beside it are exchanged.
    """
    return None if file.suffix == ".json" else str(file)


def settings_of(name: str) -> dict[str, Attribute]:
    """Return the attributes in a folder's name: ``learning_rate=2e-5_seed=3`` has two."""
    settings: dict[str, Attribute] = {}
    for key, text in _SETTING.findall(name):
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        settings[key] = value if isinstance(value, bool | int | float) else text
    return settings


def architecture(folder: Path) -> str:
    """Return the type of a model and its sizes, from its config."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: is not a config of transformers", "it must be JSON with a 'model_type'") from None
    return "-".join([str(kind), *(str(config[name]) for name in SIZES if name in config)])
