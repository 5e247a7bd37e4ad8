"""The pool of diagonal linear networks: trained all at once on first use, and cached."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from acutance.errors import Excluded, UserError
from acutance.io.checkpoints import read_state
from acutance.io.folders import cache_folder
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Size, digest
from acutance.training.recipe import log_uniform, uniform
from acutance_dln.regression import RegressionSpec, generator, task_identity, training_points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

LOCK_SECONDS = 3600.0  # how long to wait for another process that trains
FACTOR = {"half_squared_sum": 1.0, "squared_sum": 2.0}


class DLNSpec(RegressionSpec):
    """Settings of the pool of diagonal linear networks."""

    size: Size = 200
    """Number of networks; a smaller pool is the beginning of a larger one."""
    seed: NonNegativeInt = 0
    """Names the hyperparameters, the initial weights and the order of the examples."""
    learning_rate_min: PositiveFloat = 0.03
    """Lower end of the log-uniform distribution of the learning rate."""
    learning_rate_max: PositiveFloat = 0.3
    """Upper end of the log-uniform distribution of the learning rate."""
    init_scale_min: PositiveFloat = 1e-3
    """Lower end of the log-uniform distribution of the initial scale alpha: small is the sparse regime."""
    init_scale_max: PositiveFloat = 0.3
    """Upper end of the log-uniform distribution of the initial scale alpha: large is the kernel regime."""
    imbalance_max: float = Field(default=10.0, ge=1)
    """Largest ratio of the initial u to the initial v, or of v to u; log-uniform between them, 1 for none."""
    optimizer: Literal["gd", "sgd"] = "gd"
    """gd: descent on all training points; sgd: on batches of them."""
    batch_size: PositiveInt = 10
    """Examples in a batch of sgd."""
    loss: Literal["half_squared_sum", "squared_sum"] = "half_squared_sum"
    """Loss that is minimised, a sum over the examples; set surface.loss to the same."""
    tolerance: PositiveFloat = 1e-5
    """Loss on all training points at which training ends."""
    max_steps: PositiveInt = 30_000
    """Steps after which a network is given up: it is left out of the study, with its loss as the reason."""

    @model_validator(mode="after")
    def _ordered(self) -> DLNSpec:
        for name in ("learning_rate", "init_scale"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min {low:g} is above {name}_max {high:g}: exchange them")
        return self


class DLN(ModelPool[DLNSpec]):
    r"""Diagonal linear networks on sparse_regression over learning rate, initial scale and imbalance.

    .. math:: u_0 = \alpha \sqrt{k}\, g_u, \qquad v_0 = \alpha / \sqrt{k}\, g_v, \qquad g_u, g_v \sim N(0, I_d)

    Trained on first use by gradient descent until the training loss is at most ``tolerance``; those that do not get
    there are left out, with the reason.
    """

    name = "dln"

    def recipe(self, spec: DLNSpec, i: int) -> dict[str, Any]:
        """Return all that the weights of network i depend on: the same in a pool of any size."""

        def draw(setting: str) -> float:
            return uniform(self.name, spec.seed, i, setting)

        imbalance = spec.imbalance_max
        recipe: dict[str, Any] = {
            "pool": self.name,
            "version": self.version,
            "task": task_identity(spec),
            "learning_rate": log_uniform(spec.learning_rate_min, spec.learning_rate_max, draw("learning_rate")),
            "init_scale": log_uniform(spec.init_scale_min, spec.init_scale_max, draw("init_scale")),
            "imbalance": log_uniform(1 / imbalance, imbalance, draw("imbalance")),
            "weights": [self.name, spec.seed, i],
            "optimizer": spec.optimizer,
            "loss": spec.loss,
            "tolerance": spec.tolerance,
            "max_steps": spec.max_steps,
        }
        if spec.optimizer == "sgd":
            recipe |= {"batch_size": spec.batch_size, "order": int(draw("order") * 2**53)}
        return recipe

    def entries(self, spec: DLNSpec) -> Sequence[ModelEntry]:
        """Return the networks with their hyperparameters, trained or not."""
        train_set = f"sparse_regression:{digest(task_identity(spec))[:12]}"
        entries = []
        for i in range(spec.size):
            recipe = self.recipe(spec, i)
            path = cache_folder() / "models" / f"{self.name}-{digest(recipe)[:20]}.safetensors"
            entries.append(
                ModelEntry(
                    id=f"{self.name}_{i:03d}",
                    attributes={name: recipe[name] for name in ("learning_rate", "init_scale", "imbalance")},
                    architecture=f"{self.name}(d={spec.d})",
                    train_set=train_set,
                    run=f"{self.name}_{i:03d}",
                    path=str(path),
                )
            )
        return entries

    def missing(self, entries: Sequence[ModelEntry], spec: DLNSpec) -> list[ModelEntry]:
        """Return the networks that have not been trained yet."""
        return [entry for entry in entries if not Path(entry.path or "").is_file()]

    def build(self, entry: ModelEntry, spec: DLNSpec, threads: int | None = None) -> dict[str, Any]:
        """Train a network, and all others of the pool that are missing with it: one call of the kernel for all.

        Of several processes one trains; the others wait and find the files.

        Raises:
            UserError: when the cache folder cannot be written.
        """
        from filelock import FileLock

        if self.missing([entry], spec):
            folder = Path(entry.path or "").parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with FileLock(folder / f"{self.name}.lock", timeout=LOCK_SECONDS):
                    # Listed anew: another process may have trained them while this one waited.
                    self._train(self.missing(self.entries(spec), spec), spec, threads)
            except OSError as error:
                raise UserError(
                    f"{folder}: cannot be written: {error}", "set ACUTANCE_CACHE to another folder"
                ) from None
        state = self._state(entry)
        return {"loss": float(state["loss"]), "steps": int(state["steps"])}

    def _train(self, entries: Sequence[ModelEntry], spec: DLNSpec, threads: int | None) -> None:
        """Train networks and write a file for each."""
        import numpy as np

        from acutance_dln.kernel import train

        if not entries:
            return
        recipes = [self.recipe(spec, _index(entry)) for entry in entries]
        starts = [initial_weights(recipe) for recipe in recipes]
        stochastic = spec.optimizer == "sgd"
        trained = train(
            *training_points(spec),
            np.stack([u for u, _ in starts]),
            np.stack([v for _, v in starts]),
            np.array([recipe["learning_rate"] for recipe in recipes]),
            factor=FACTOR[spec.loss],
            batch_size=spec.batch_size if stochastic else None,
            seeds=np.array([recipe["order"] for recipe in recipes], np.uint64) if stochastic else None,
            tolerance=spec.tolerance,
            max_steps=spec.max_steps,
            threads=threads,
        )
        for i, entry in enumerate(entries):
            arrays = {"u": trained.u[i], "v": trained.v[i], "u0": starts[i][0], "v0": starts[i][1]}
            facts = {"loss": trained.loss[i : i + 1], "steps": trained.steps[i : i + 1]}
            _write(Path(entry.path or ""), arrays | facts, recipes[i])

    def initial(self, entry: ModelEntry, spec: DLNSpec) -> nn.Module:
        """Return the network that training started from."""
        return _network(self._state(entry), "u0", "v0")

    def load(self, entry: ModelEntry, spec: DLNSpec) -> nn.Module:
        """Return the trained network, in float64.

        Raises:
            Excluded: for a network whose training did not get to the tolerance.
            UserError: for a damaged file; deleting it makes the next run train it again.
        """
        state = self._state(entry)
        loss, steps = float(state["loss"]), int(state["steps"])
        rate = entry.attributes["learning_rate"]
        if not math.isfinite(loss):
            raise Excluded(f"training diverged after {steps} steps with learning rate {rate:g}")
        if loss > spec.tolerance:
            raise Excluded(f"training loss {loss:.3g} after {steps} steps, above the tolerance {spec.tolerance:g}")
        return _network(state, "u", "v")

    @staticmethod
    def _state(entry: ModelEntry) -> dict[str, Tensor]:
        """Return what is in a network's file."""
        path = Path(entry.path or "")
        again = f"delete {path} to train the network again"
        try:
            state = read_state(path)
        except UserError as error:
            raise UserError(error.message, again) from None
        if absent := {"u", "v", "u0", "v0", "loss", "steps"} - set(state):
            raise UserError(f"{path}: has no {', '.join(sorted(absent))}", again)
        return state


def initial_weights(recipe: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return u0 and v0, (d,), of a recipe."""
    u, v = generator(*recipe["weights"], "weights").standard_normal((2, recipe["task"]["d"]))
    scale, root = recipe["init_scale"], recipe["imbalance"] ** 0.5
    return scale * root * u, scale / root * v


def _index(entry: ModelEntry) -> int:
    return int(entry.id.rpartition("_")[2])


def _network(state: dict[str, Tensor], u: str, v: str) -> nn.Module:
    from acutance_dln.network import DiagonalLinearNetwork

    return DiagonalLinearNetwork(state[u], state[v]).eval()


def _write(path: Path, arrays: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Write a file, all or nothing."""
    from safetensors.numpy import save_file

    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(arrays, partial, metadata={"recipe": json.dumps(recipe)})
    os.replace(partial, path)
