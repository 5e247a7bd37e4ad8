"""The ``surface`` section of a study: which points loss surfaces are built on, in which batches, in which mode."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, PositiveInt, Tag, field_validator

from acutance.errors import did_you_mean
from acutance.own_code import is_own, source_digest
from acutance.spec import Size, Strict

# What a cell is evaluated on: each m-batch, all points of the surface, a whole split, or the weights alone.
Scope = Literal["batch", "points", "split", "weights"]
NATIVE_MOVES = 3  # raised when native weights in half precision that move are rounded in another way
LOSSES = ("cross_entropy", "mse", "squared_sum", "half_squared_sum")


class Section(Strict):
    """A section of a study file: frozen, closed, every field documented."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )


class Sampled(Section):
    """Random batches, the P_m of Propositions 1 and 2."""

    sampled: Size
    """Number of random m-subsets of the points."""


class Indices(Section):
    """Points chosen by the user."""

    indices: str
    """File of row numbers of the split, from 0: .txt (one a line), .json (a list) or .npy."""


def _shape(value: Any) -> str:
    """Tell the two ways of writing a value apart; a name in angle brackets is left out of error paths."""
    return "<section>" if isinstance(value, dict | Section) else "<word>"


Batches = Annotated[
    Annotated[Literal["partition"], Tag("<word>")] | Annotated[Sampled, Tag("<section>")], Discriminator(_shape)
]
Select = Annotated[
    Annotated[Literal["balanced", "first"], Tag("<word>")] | Annotated[Indices, Tag("<section>")],
    Discriminator(_shape),
]


def dropped(points: int, m: int) -> str:
    """Return the sentence that says how many points are left out of batches of m; empty where none are."""
    return f"{points % m} of {points} points do not fill a batch of {m} and are dropped" if points % m else ""


class SurfaceConfig(Section):
    """Which points the loss surface is built on, and how it is evaluated."""

    points: PositiveInt = 1024
    """Number of points, cut into m-batches."""
    m: PositiveInt = 128
    """Examples in one m-batch: the m of m-sharpness."""
    batches: Batches = "partition"
    """partition: the points cut in their order; {sampled: n}: n random m-subsets of the points."""
    split: str = "train"
    """Split the points come from."""
    validation: str = ""
    """Split of labelled points for measures that need some beside their own; by default the one called validation."""
    select: Select = "balanced"
    """balanced: classes in turn; first: file order; {indices: file}: the rows listed in a file, in its order."""
    augment: bool = False
    """Whether the points are augmented as the dataset knows how, once for all models and measures."""
    loss: str = "cross_entropy"
    """cross_entropy, mse, squared_sum, half_squared_sum, or module:function of (logits, targets): the mean loss, or
    (losses, weights)."""
    dtype: Literal["float32", "float64", "native"] = "float32"
    """Arithmetic of the model; losses are always accumulated in float64. native: weights stay in the types that they
    are stored in (bf16, fp16), for measures that hold no vector of all weights."""
    arithmetic: Literal["exact", "tf32", "bf16"] = "exact"
    """exact: that of dtype; tf32 (GPUs), bf16 (autocast): faster and coarser passes, except second derivatives."""
    batch_norm: Literal["eval", "recalibrate"] = "eval"
    """eval: the model's running statistics; recalibrate: new ones from the study's m-batches, at w*."""
    parameters: str = "all"
    """Free parameters: "all" or comma-separated patterns of names."""
    microbatch: PositiveInt | None = None
    """Examples in one pass; changes memory, never values or keys."""
    checkpointing: bool = False
    """Keep no activations of the layers of transformers models in first-order passes, and make them again in the
    backward pass; changes memory and speed, never values or keys."""
    cuda_graphs: bool = False
    """Record the passes of launch-bound models once and replay them (GPUs); changes speed, never values or keys."""

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if loss in LOSSES:
            return loss
        if not is_own(loss):
            raise ValueError(f"unknown loss; {did_you_mean(loss, LOSSES)} or write module:function")
        source_digest(loss)
        return loss

    @property
    def batch_count(self) -> int:
        """How many m-batches there are."""
        return self.batches.sampled if isinstance(self.batches, Sampled) else self.points // self.m

    def identity(self, scope: Scope = "batch") -> dict[str, Any]:
        """Return what enters a key besides the points themselves: only what is not the default.

        A whole split is measured on the model as it is, with all parameters: targets do not depend on
        how the surface is set up.
        """
        names = {"loss", "dtype"} | ({"batch_norm", "parameters"} if scope != "split" else set())
        names |= {"arithmetic"} if scope in ("batch", "points") else set()
        found = self.model_dump(mode="json", include=names, exclude_defaults=True)
        if self.dtype == "native" and scope in ("batch", "points"):
            found["moves"] = NATIVE_MOVES
        if is_own(self.loss):
            found["loss_source"] = source_digest(self.loss)
        return found | ({"m": self.m} if scope == "batch" else {})
