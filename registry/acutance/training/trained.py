"""Base of pools whose models are trained when a study first needs them, and kept in the cache folder."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import NonNegativeInt

from acutance.errors import UserError
from acutance.io.checkpoints import load_state, read_state
from acutance.io.folders import cache_folder
from acutance.pool import Attribute, ModelEntry, ModelPool
from acutance.spec import Size, Spec, digest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from acutance.training.loop import Trained


LOG = ".jsonl"  # ending of the file of what a training wrote down, beside that of the weights


class TrainedSpec(Spec):
    """Settings common to pools that are trained."""

    size: Size = 18
    """Number of models; a smaller pool is the beginning of a larger one."""
    seed: NonNegativeInt = 0
    """Names the hyperparameters and the training noise."""


class Seeded(Protocol):
    """A spec of how a model is trained, with the seed that names its initial weights and its noise."""

    @property
    def seed(self) -> int:
        """The seed."""

    def full(self) -> dict[str, Any]:
        """Return all settings."""


SpecT = TypeVar("SpecT", bound=TrainedSpec)
RecipeT = TypeVar("RecipeT", bound=Seeded)


class TrainedPool(ModelPool[SpecT], Generic[SpecT, RecipeT]):
    """Models that are trained on first use; a subclass says how, and the files follow from what it says."""

    @abstractmethod
    def train_set(self, spec: SpecT) -> str:
        """Return what the models are trained on, in words that tell different sets apart."""

    @abstractmethod
    def architecture(self, spec: SpecT) -> Mapping[str, Any]:
        """Return the arguments that the network is made of."""

    @abstractmethod
    def network(self, spec: SpecT) -> nn.Module:
        """Return an untrained network, initialised from torch's global generator."""

    @abstractmethod
    def recipe(self, spec: SpecT, i: int) -> RecipeT:
        """Return how model i is trained: the same in a pool of any size."""

    @abstractmethod
    def attributes(self, recipe: RecipeT) -> dict[str, Attribute]:
        """Return the hyperparameters of a model, for tables and figures; ``epochs`` is one of them."""

    @abstractmethod
    def train(self, model: nn.Module, recipe: RecipeT, spec: SpecT, resume: Path) -> Trained:
        """Train a model in place.

        Args:
            model: at its initial weights, on the CPU, where it is when this returns.
            recipe: its hyperparameters.
            spec: of the pool.
            resume: file in which a pool that takes long may keep what the next epoch needs.
        """

    def family(self, spec: SpecT) -> str:
        """Return what begins the models' names and names their hyperparameters: the pool's name."""
        return self.name

    def settings(self, spec: SpecT) -> dict[str, Any]:
        """Return what the weights depend on beside network, recipe and training set."""
        return {}

    def _recipe_of(self, entry: ModelEntry, spec: SpecT) -> RecipeT:
        return self.recipe(spec, int(entry.id.rpartition("_")[2]))

    def entries(self, spec: SpecT) -> Sequence[ModelEntry]:
        """Return the models with their hyperparameters, trained or not."""
        arguments, family, train_set = self.architecture(spec), self.family(spec), self.train_set(spec)
        shape = ",".join(f"{k}={v}" for k, v in arguments.items())
        entries = []
        for i in range(spec.size):
            recipe = self.recipe(spec, i)
            identity = {
                "pool": self.name, "version": self.version, "train_set": train_set, "network": dict(arguments),
                "recipe": recipe.full(), **self.settings(spec),
            }  # fmt: skip
            path = cache_folder() / "models" / f"{self.name}-{digest(identity)[:20]}.safetensors"
            entries.append(
                ModelEntry(
                    id=f"{family}_{i:03d}",
                    attributes=self.attributes(recipe),
                    architecture=f"{family}({shape})",
                    train_set=train_set,
                    run=f"{family}_{i:03d}",
                    path=str(path),
                    log=str(path.with_suffix(LOG)),
                )
            )
        return entries

    def missing(self, entries: Sequence[ModelEntry], spec: SpecT) -> list[ModelEntry]:
        """Return the models that have not been trained yet."""
        return [entry for entry in entries if not Path(entry.path or "").is_file()]

    def build_cost(self, entry: ModelEntry, spec: SpecT) -> float:
        """Return epochs, twice for SAM's two passes."""
        return float(entry.attributes["epochs"] or 1) * (2 if entry.attributes.get("sam_rho") else 1)

    def build(self, entry: ModelEntry, spec: SpecT, threads: int | None = None) -> dict[str, Any]:
        """Train one model and write its weights, all or nothing."""
        from safetensors.torch import save_file

        from acutance.training.loop import initialised

        recipe = self._recipe_of(entry, spec)
        model = initialised(lambda: self.network(spec), recipe.seed)
        path = Path(entry.path or "")
        resume = path.with_suffix(".epochs")
        trained = self.train(model, recipe, spec, resume)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "loss": trained.loss,
            "epochs": trained.epochs,
            "diverged": trained.diverged,
            "seconds": trained.seconds,
        }
        metadata = {"recipe": json.dumps(recipe.full()), "training": json.dumps(facts)}
        state = _saved_once(model)
        # Written beside and moved: another process building the same model can only replace it by its equal.
        partial = path.with_suffix(f".{os.getpid()}.partial")
        if trained.log:
            partial.write_text("".join(json.dumps(dict(row)) + "\n" for row in trained.log))
            os.replace(partial, path.with_suffix(LOG))
        save_file(state, partial, metadata=metadata)
        os.replace(partial, path)
        resume.unlink(missing_ok=True)
        return facts

    def initial(self, entry: ModelEntry, spec: SpecT) -> nn.Module:
        """Return the network that training starts from: made anew from the recipe's seed."""
        from acutance.training.loop import initialised

        return initialised(lambda: self.network(spec), self._recipe_of(entry, spec).seed).eval()

    def load(self, entry: ModelEntry, spec: SpecT) -> nn.Module:
        """Return the trained model.

        Raises:
            UserError: for a damaged file; deleting it makes the next run train it again.
        """
        from acutance.training.loop import initialised

        path = Path(entry.path or "")
        try:
            state = read_state(path)
        except UserError as error:
            raise UserError(error.message, f"delete {path} to train the model again") from None
        return load_state(initialised(lambda: self.network(spec), 0), state, str(path))


def _saved_once(model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict in which a tensor of several names, a tied weight, has its first one alone."""
    state: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() == 0 or place not in seen:
            state[name] = tensor.contiguous()
            seen.add(place)
    return state
