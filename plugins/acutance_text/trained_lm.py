"""A pool of small language models that are trained on blocks of tokens when a study first needs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from acutance.errors import UserError
from acutance.pool import Attribute
from acutance.spec import Size, Spec
from acutance.training.recipe import log_uniform, uniform
from acutance.training.trained import TrainedPool, TrainedSpec
from acutance_text.choosing import taking_choices
from acutance_text.finetuned import Setting, dataset_of, in_words, of_files

if TYPE_CHECKING:
    from torch import nn

    from acutance.dataset import Dataset
    from acutance.training import Trained

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, lie evenly however many they are


class LanguageRecipe(Spec):
    """How one language model is trained: AdamW, linear warm-up, linear decay to zero, SAM where asked."""

    learning_rate: PositiveFloat
    """Peak learning rate."""
    epochs: PositiveInt
    """Passes over the blocks."""
    batch_size: PositiveInt = 16
    """Blocks in a step."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay, of matrices only."""
    sam_rho: NonNegativeFloat = 0.0
    """Radius of sharpness-aware minimization (Foret et al. 2021); 0 is none."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    seed: NonNegativeInt = 0
    """Names the initial weights and the order of the blocks."""


class TrainedCausalSpec(TrainedSpec):
    """Settings of the pool."""

    size: Size = 12
    """Number of models; a smaller pool is the beginning of a larger one."""
    architecture: Literal["gpt2", "llama"] = "gpt2"
    """GPT-2's blocks, or Llama's (rotary positions, gated, without biases)."""
    dataset: str = "sentiment4_tokens"
    """The dataset of blocks whose split ``train`` they are trained on."""
    settings: dict[str, Setting] | None = None
    """Settings of that dataset, the study's own: tokenizer, block, train_points, files."""
    learning_rate_min: PositiveFloat = 1e-3
    """Lower end of the learning rates, which lie evenly on a logarithmic scale."""
    learning_rate_max: PositiveFloat = 1e-2
    """Upper end of the learning rates."""
    weight_decays: tuple[NonNegativeFloat, ...] = Field(default=(0.0, 0.1), min_length=1)
    """The models have these in turn."""
    sam_rhos: tuple[NonNegativeFloat, ...] = Field(default=(0.0, 0.05), min_length=1)
    """The models have these in turn, each with every weight decay."""
    epochs: PositiveInt = 4
    """Passes over the blocks."""
    batch_size: PositiveInt = 16
    """Blocks in a step."""
    vocabulary: PositiveInt = 257
    """Tokens that the embedding has, at least those of the dataset."""
    hidden: PositiveInt = 64
    """Width."""
    layers: PositiveInt = 2
    """Number of blocks."""
    heads: PositiveInt = 4
    """Attention heads."""
    positions: PositiveInt = 128
    """Longest block of tokens."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Implementation of attention, as of the pool ``causal``."""

    @model_validator(mode="after")
    def _fits(self) -> TrainedCausalSpec:
        if self.learning_rate_min > self.learning_rate_max:
            raise ValueError(f"learning_rate_min: {self.learning_rate_min:g} is above learning_rate_max")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: {self.hidden} is no multiple of the {self.heads} heads")
        return self


class TrainedCausal(TrainedPool[TrainedCausalSpec, LanguageRecipe]):
    """Small language models trained over learning rate, weight decay and SAM on blocks of tokens; on first use."""

    name = "causal_trained"

    def family(self, spec: TrainedCausalSpec) -> str:
        """Return the kind of model."""
        return spec.architecture

    def train_set(self, spec: TrainedCausalSpec) -> str:
        """Return the dataset with the settings that choose and cut texts."""
        return in_words(spec.dataset, spec.settings)

    def settings(self, spec: TrainedCausalSpec) -> dict[str, Any]:
        """Return what the weights depend on beside network, recipe and training set: the texts in files."""
        return of_files(self.data(spec), spec.settings)

    def architecture(self, spec: TrainedCausalSpec) -> Mapping[str, Any]:
        """Return what the network is made of."""
        return {name: getattr(spec, name) for name in ("vocabulary", "hidden", "layers", "heads", "positions")}

    def recipe(self, spec: TrainedCausalSpec, i: int) -> LanguageRecipe:
        """Return how model i is trained: the same in a pool of any size."""
        place = (uniform(self.name, spec.architecture, spec.seed, "learning_rate") + i * GOLDEN) % 1
        decays, rhos = spec.weight_decays, spec.sam_rhos
        return LanguageRecipe(
            learning_rate=log_uniform(spec.learning_rate_min, spec.learning_rate_max, place),
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            weight_decay=decays[i % len(decays)],
            sam_rho=rhos[i // len(decays) % len(rhos)],
            seed=int(uniform(self.name, spec.architecture, spec.seed, i, "seed") * 2**31),
        )

    def attributes(self, recipe: LanguageRecipe) -> dict[str, Attribute]:
        """Return the hyperparameters that vary, and the number of epochs."""
        names = ("learning_rate", "weight_decay", "sam_rho", "epochs")
        return {name: getattr(recipe, name) for name in names}

    def network(self, spec: TrainedCausalSpec) -> nn.Module:
        """Return the model at random weights, without dropout."""
        import transformers

        end = spec.vocabulary - 1
        common: dict[str, Any] = {
            "vocab_size": spec.vocabulary, "bos_token_id": end, "eos_token_id": end,
            "attn_implementation": spec.attention,
        }  # fmt: skip
        config: Any
        if spec.architecture == "gpt2":
            config = transformers.GPT2Config(
                **common, n_embd=spec.hidden, n_layer=spec.layers, n_head=spec.heads, n_positions=spec.positions,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )  # fmt: skip
            model: nn.Module = transformers.GPT2LMHeadModel(config)
        else:
            config = transformers.LlamaConfig(
                **common, hidden_size=spec.hidden, num_hidden_layers=spec.layers, num_attention_heads=spec.heads,
                max_position_embeddings=spec.positions, intermediate_size=3 * spec.hidden, tie_word_embeddings=True,
            )  # fmt: skip
            model = transformers.LlamaForCausalLM(config)
        return taking_choices(model.eval())

    def train(self, model: nn.Module, recipe: LanguageRecipe, spec: TrainedCausalSpec, resume: Path) -> Trained:
        """Train a model on the GPU if there is one."""
        import torch

        from acutance_text.finetuning import train_on_blocks

        ids = self.data(spec).open("train").targets
        tokens = int(ids.max()) + 1
        if tokens > spec.vocabulary:
            raise UserError(
                f"pools: vocabulary: {spec.vocabulary} tokens, but the dataset has {tokens}", f"write {tokens}"
            )
        if ids.shape[1] > spec.positions:
            raise UserError(
                f"pools: positions: {spec.positions}, but blocks have {ids.shape[1]} tokens", f"write {ids.shape[1]}"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trained = train_on_blocks(model.to(device), ids.to(device), recipe)
        model.to("cpu")
        return trained

    def data(self, spec: TrainedCausalSpec) -> Dataset[Any]:
        """Return the dataset that the models are trained on.

        Raises:
            UserError: for an unknown one or wrong settings.
        """
        return dataset_of(spec.dataset, spec.settings)
