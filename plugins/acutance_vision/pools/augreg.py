"""The vision transformers of Steiner et al. (2021), "How to train your ViT?", in their published files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from acutance.errors import UserError
from acutance.io.checkpoints import make_model
from acutance.io.delimited import MissingColumnError, read_columns
from acutance.io.folders import data_folder
from acutance.pool import Attribute, ModelEntry, ModelPool
from acutance.spec import Spec
from acutance_vision.networks.jax_vit import load_jax
from acutance_vision.networks.states import described

if TYPE_CHECKING:
    from torch import nn

FILE = re.compile(
    r"(?P<model>[A-Za-z0-9_]+)-(?P<pretraining>i1k|i21k)-(?P<epochs>\d+)ep-lr_(?P<learning_rate>[\d.]+)"
    r"-aug_(?P<augmentation>[a-z]+\d*)-wd_(?P<weight_decay>[\d.]+)"
    r"-do_(?P<dropout>[\d.]+)-sd_(?P<stochastic_depth>[\d.]+)"
    r"--(?P<dataset>[a-z0-9_]+)-steps_(?P<steps>\d+)k-lr_(?P<finetune_learning_rate>[\d.]+)-res_(?P<resolution>\d+)"
)
AUGMENTATIONS = ("none", "light", "medium", "strong")


class SteinerAugRegSpec(Spec):
    """Where the .npz files are, and which of them."""

    root: str | None = None
    """Folder of the .npz files and, if there, ``index.csv``; ACUTANCE_DATA/steiner_augreg by default."""
    pretraining: Literal["any", "i1k", "i21k"] = "any"
    """i1k: trained from scratch on ImageNet-1k; i21k: on ImageNet-21k, then fine-tuned."""
    model: str = "B_16"
    """Beginning of the file names."""
    resolution: int = 224
    """Side of the images that the models were fine-tuned on, pixels."""
    architecture: str = "timm:vit_base_patch16_224"
    """A vision transformer of timm that the files fit."""
    arguments: dict[str, bool | int | float | str] | None = None
    """Keyword arguments of the architecture."""


class SteinerAugReg(ModelPool[SteinerAugRegSpec]):
    """ViTs fine-tuned on ImageNet-1k by Steiner et al. (2021), hyperparameters from file names (paper, App. C-E)."""

    name = "steiner_augreg"

    def entries(self, spec: SteinerAugRegSpec) -> Sequence[ModelEntry]:
        """Return the models of the folder, in the order of their names.

        Raises:
            UserError: when no file has a name of theirs, or the index cannot be read.
        """
        folder = data_folder(self.name, spec.root, section="pools")
        published = _published(folder / "index.csv")
        entries = []
        for path in sorted(folder.glob("*.npz")):
            match = FILE.fullmatch(path.stem)
            if not match or match["model"] != spec.model or match["dataset"] != "imagenet2012":
                continue
            if int(match["resolution"]) != spec.resolution or spec.pretraining not in ("any", match["pretraining"]):
                continue
            error = published.get(path.stem)
            entries.append(
                ModelEntry(
                    id=path.stem,
                    attributes=attributes(match),
                    targets={} if error is None else {"test_error": error},
                    architecture=described(spec.architecture, spec.arguments or {}),
                    train_set="imagenet",
                    run=path.stem,
                    path=str(path),
                )
            )
        if not entries:
            chosen = "*" if spec.pretraining == "any" else spec.pretraining
            raise UserError(
                f"{folder}: has no {spec.model}-{chosen}-*--imagenet2012-*-res_{spec.resolution}.npz",
                "download the files named in index.csv (column adapt_filename) into it",
            )
        return entries

    def load(self, entry: ModelEntry, spec: SteinerAugRegSpec) -> nn.Module:
        """Return the model.

        Raises:
            UserError: for a damaged file, or the first names that do not fit the architecture.
        """
        return load_jax(make_model(spec.architecture, spec.arguments or {}), Path(entry.path or ""))


def attributes(match: re.Match[str]) -> dict[str, Attribute]:
    """Return the hyperparameters of a file name.

    ``augmentation_group`` and ``strength`` (0 to 3) are the paper's four groups of the seven augmentations, and
    ``regularized`` its colours: dropout and stochastic depth are both on or both off.
    """
    group = match["augmentation"].rstrip("0123456789")
    numbers = ("learning_rate", "weight_decay", "dropout", "stochastic_depth", "finetune_learning_rate")
    values: dict[str, Attribute] = {name: float(match[name]) for name in numbers}
    return values | {
        "pretraining": match["pretraining"],
        "augmentation": match["augmentation"],
        "augmentation_group": group,
        "strength": AUGMENTATIONS.index(group) if group in AUGMENTATIONS else None,
        "regularized": float(match["dropout"]) > 0 or float(match["stochastic_depth"]) > 0,
        "epochs": int(match["epochs"]),
        "finetune_steps": int(match["steps"]) * 1000,
        "resolution": int(match["resolution"]),
    }


def _published(path: Path) -> dict[str, float]:
    """Return the error of every file of the index on the validation images (column adapt_final_test)."""
    if not path.is_file():
        return {}
    try:
        rows = read_columns(path, [["adapt_filename"], ["adapt_final_test"]], fill="")
    except MissingColumnError:
        raise UserError(
            f"{path}: is not the published index", "columns adapt_filename and adapt_final_test, or remove it"
        ) from None
    published = {}
    for line, (name, accuracy) in rows:
        if name and accuracy:
            try:
                published[name.rpartition("/")[2].removesuffix(".npz")] = 1 - float(accuracy)
            except ValueError:
                raise UserError(f"{path}: line {line}: '{accuracy}' is no accuracy", "get the index again") from None
    return published
