"""The CLIP models fine-tuned on ImageNet of Wortsman et al. (2022a), "Model soups", in their published files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.io.checkpoints import load_state, make_model, read_state
from acutance.io.folders import data_folder
from acutance.pool import Attribute, ModelEntry, ModelPool
from acutance.spec import Spec
from acutance_vision.networks.states import described

if TYPE_CHECKING:
    from torch import nn

HYPERPARAMETERS = {
    "lr": "learning_rate", "wd": "weight_decay", "mix": "mixup", "smoothing": "smoothing", "epochs": "epochs",
    "aug": "augmentation",
}  # fmt: skip
ACCURACIES = {
    "ImageNet": "test_error", "ImageNetV2": "v2.error", "ImageNetR": "r.error", "ImageNetSketch": "sketch.error",
    "ImageNetA": "a.error", "ObjectNet": "objectnet.error", "ImageNet2p": "held_out_error",
}  # fmt: skip


class ClipSoupsSpec(Spec):
    """Where the state dicts and the two files that describe them are."""

    root: str | None = None
    """Folder of ``model_0.pt`` ..., and the two files of settings and results; ACUTANCE_DATA/clip_soups by default."""
    architecture: str = "timm:vit_base_patch32_clip_quickgelu_224"
    """The visual tower as a vision transformer of timm."""
    arguments: dict[str, bool | int | float | str] | None = None
    """Keyword arguments of the architecture."""


class ClipSoups(ModelPool[ClipSoupsSpec]):
    """CLIP ViT-B/32 fine-tuned on ImageNet 71 times and its start, by Wortsman et al. (2022a) (paper, App. F)."""

    name = "clip_soups"

    def entries(self, spec: ClipSoupsSpec) -> Sequence[ModelEntry]:
        """Return the models that the folder's files describe, or whose weights lie there.

        Raises:
            UserError: for a folder with neither, or files that are not as published.
        """
        folder = data_folder(self.name, spec.root, section="pools")
        settings, results = _settings(folder / "hparam_info.json"), _results(folder / "individual_model_results.jsonl")
        files = {path.stem for path in folder.glob("model_*.pt")}
        names = sorted(files | set(settings) | set(results), key=_number)
        if not names:
            raise UserError(f"{folder}: has no model_0.pt, hparam_info.json", "download the 72 files of model soups")
        return [
            ModelEntry(
                id=name,
                attributes=settings.get(name, {}),
                targets=results.get(name, {}),
                architecture=described(spec.architecture, spec.arguments or {}),
                train_set="imagenet",
                run=name,
                path=str(folder / f"{name}.pt"),
            )
            for name in names
        ]

    def load(self, entry: ModelEntry, spec: ClipSoupsSpec) -> nn.Module:
        """Return visual tower and head as one network.

        Raises:
            UserError: for a file that is missing or damaged, or the first names that do not fit the architecture.
        """
        from acutance_vision.networks.clip import ClipClassifier, from_clip

        path = Path(entry.path or "")
        # They were saved inside DataParallel.
        state = {name.removeprefix("module."): tensor for name, tensor in read_state(path).items()}
        state = from_clip(state, str(path))
        tower = make_model(spec.architecture, dict(spec.arguments or {}) | {"num_classes": 0})
        classes, features = state["head.weight"].shape
        return load_state(ClipClassifier(tower, features, classes), state, str(path))


def _number(name: str) -> tuple[int, str]:
    match = re.fullmatch(r"model_(\d+)", name)
    return (int(match[1]) if match else -1, name)


def _settings(path: Path) -> dict[str, dict[str, Attribute]]:
    """Return the hyperparameters; RandAugment's magnitude and number of operations also as numbers."""
    if not path.is_file():
        return {}
    try:
        table: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {name: _attributes(fields) for name, fields in table.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", "it is not the published file") from None


def _attributes(fields: Mapping[str, Any]) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {HYPERPARAMETERS[k]: v for k, v in fields.items() if k in HYPERPARAMETERS}
    match = re.fullmatch(r"rand-m(\d+)-n(\d+)", str(attributes.get("augmentation", "")))
    if match:
        attributes |= {"randaugment_magnitude": int(match[1]), "randaugment_operations": int(match[2])}
    return attributes


def _results(path: Path) -> dict[str, dict[str, float]]:
    """Return the published errors of every model."""
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {row["model_name"]: {to: 1 - float(row[n]) for n, to in ACCURACIES.items() if n in row} for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", "it is not the published file") from None
