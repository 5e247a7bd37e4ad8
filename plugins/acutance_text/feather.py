"""The 100 BERTs of McCoy et al. (2020), fine-tuned on MNLI: as published by TensorFlow, or converted."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt

from acutance.errors import UserError, some
from acutance.io.checkpoints import read_state
from acutance.io.delimited import MissingColumnError, read_columns
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec
from acutance_text.making import fill, make, weights_file

if TYPE_CHECKING:
    from torch import Tensor, nn

# Columns of the published table, all accuracies, and the targets whose values they are: errors.
PUBLISHED = {
    "MNLI dev acc.": "published_mnli",
    "Lexical (nonent)": "published_hans_lexical",
    "Subseq (nonent)": "published_hans_subsequence",
    "Constituent (nonent)": "published_hans_constituent",
}
_RENAMED = (
    ("/", "."),
    ("layer_", "layer."),
    (".kernel", ".weight"),
    (".gamma", ".weight"),
    (".beta", ".bias"),
    ("_embeddings", "_embeddings.weight"),
    ("output_weights", "classifier.weight"),
    ("output_bias", "classifier.bias"),
)


class FeatherSpec(Spec):
    """Settings of the pool of 100 BERTs."""

    path: str
    """Folder with a folder for each model, whose name ends in the number of its run: bert_0 ... bert_99."""
    accuracies: str = ""
    """The published berts_of_a_feather_accuracies_by_run.csv: gives every model its published errors."""
    subset: PositiveInt | None = None
    """How many of the models, drawn at random; all by default. The paper's 50 are unpublished."""
    seed: NonNegativeInt = 0
    """Names the random draw of the subset."""


class BertFeather(ModelPool[FeatherSpec]):
    """100 BERTs that differ in the head's initial weights and the order of examples alone (McCoy et al. 2020)."""

    name = "bert_feather"

    def entries(self, spec: FeatherSpec) -> Sequence[ModelEntry]:
        """Return the models in the order of their runs.

        Raises:
            UserError: when the folder has no such models, fewer than the subset, or one without published values.
        """
        root = Path(spec.path).expanduser()
        runs: dict[int, Path] = {}
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            number = re.search(r"(\d+)$", folder.name)
            if folder.is_dir() and number:
                if int(number[1]) in runs:
                    raise UserError(f"path: {folder} and {runs[int(number[1])]} are the same run", "keep one of them")
                runs[int(number[1])] = folder
        if not runs:
            raise UserError(f"path: {root} has no models", "it must have a folder for each run, named bert_NN")
        chosen = sorted(runs)
        if spec.subset is not None:
            if spec.subset > len(runs):
                raise UserError(f"subset: {spec.subset} of {len(runs)} models", "ask for fewer")
            chosen = sorted(random.Random(spec.seed).sample(chosen, spec.subset))
        targets = published(Path(spec.accuracies).expanduser()) if spec.accuracies else {}
        if targets and (without := [f"Run {i}" for i in chosen if i not in targets]):
            raise UserError(f"{spec.accuracies}: has no row for {some(without)}")
        return [
            ModelEntry(
                id=f"bert_{i:02d}",
                attributes={"run_number": i},
                targets=targets.get(i, {}),
                architecture="bert-base",
                train_set="mnli",
                path=str(_weights(runs[i])),
            )
            for i in chosen
        ]

    def load(self, entry: ModelEntry, spec: FeatherSpec) -> nn.Module:
        """Return the classifier; its labels are those of BERT's MNLI task: contradiction, entailment, neutral."""
        assert entry.path is not None
        file = Path(entry.path)
        if file.suffix != ".index" and ".data-" not in file.name:
            return fill(make("AutoModelForSequenceClassification", file.parent, "sdpa"), read_state(file), str(file))
        from acutance_text.tf_checkpoint import read_checkpoint

        prefix = file.parent / file.name.rpartition(".data-")[0]
        return from_tensorflow(file.parent, read_checkpoint(prefix), str(prefix))


def _weights(folder: Path) -> Path:
    """Return a run's data file of TensorFlow, else the weights of a converted folder."""
    files = sorted(folder.glob("*.ckpt*.data-*"))
    if len(files) > 1:
        raise UserError(f"{folder}: has several checkpoints", "keep the last one")
    return files[0] if files else weights_file(folder)


def published(path: Path) -> dict[int, dict[str, float]]:
    """Return {run: {target: published error}}; the rows behind the runs are summaries and are passed over."""
    try:
        rows = read_columns(
            path, [[name] for name in ("Run", *PUBLISHED)], hint="it is published with the models", fill=""
        )
    except MissingColumnError:
        raise UserError(
            f"{path}: is not the published table of accuracies", f"its columns are Run, {some([*PUBLISHED])}"
        ) from None
    return {
        int(match[1]): {
            target: 1 - _accuracy(cell, f"{path}: line {line}")
            for target, cell in zip(PUBLISHED.values(), cells, strict=True)
        }
        for line, (run, *cells) in rows
        if (match := re.fullmatch(r"Run (\d+)", run))
    }


def _accuracy(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{where}: '{cell}' is no accuracy", "get the published table again") from None


def from_tensorflow(folder: Path, arrays: Mapping[str, Any], where: str) -> nn.Module:
    """Return a classifier with the weights of BERT's own code, whose config is bert_config.json or config.json.

    Raises:
        UserError: without a config, or when the weights do not fit it.
    """
    import torch
    import transformers

    config = next((folder / name for name in ("bert_config.json", "config.json") if (folder / name).is_file()), None)
    if config is None:
        raise UserError(f"{folder}: has no bert_config.json", "put that of the pretrained BERT beside the checkpoint")
    with torch.random.fork_rng():
        settings = transformers.BertConfig.from_json_file(config)
        settings.num_labels = len(arrays.get("output_bias", (0, 0, 0)))
        model = transformers.BertForSequenceClassification(settings)
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        # What the optimizer and the pretraining heads left behind is no part of the classifier.
        if name.startswith(("cls/", "global_step")) or name.endswith(("adam_m", "adam_v")):
            continue
        tensor = torch.from_numpy(array)
        state[renamed(name)] = tensor.T.contiguous() if name.endswith("/kernel") else tensor
    return fill(model, state, where)


def renamed(name: str) -> str:
    """Return transformers' name of a weight of BERT's own code."""
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name
