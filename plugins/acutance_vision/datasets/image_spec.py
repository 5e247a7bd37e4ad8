"""Settings of datasets whose images have any size: how they become what a model sees."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from acutance.spec import Spec


def not_usual_names(splits: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return further splits as they are; refuse the names of the usual ones, and empty names."""
    for name in splits or {}:
        if name in ("train", "test") or not name:
            raise ValueError(f"'{name}' cannot be the name of a further split")
    return splits


Further = Annotated[dict[str, str] | None, AfterValidator(not_usual_names)]


class ImageSpec(Spec):
    """How an image is resized, cut and normalized, in the words of timm's data config."""

    data_config: str | None = None
    """Name of a timm model whose data config gives what the following fields leave open."""
    size: PositiveInt | None = None
    """Side of the square that models see, pixels; 224 where nothing says."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the resized image's side that the square takes; 0.875 where nothing says."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """center: the short side is resized, the middle cut out; squash: both sides; border: the long side, filled up."""
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] | None = None
    """How pixels are resampled; bicubic where nothing says."""
    mean: tuple[float, float, float] | None = None
    """Subtracted from each channel, in units of full intensity; ImageNet's (0.485, 0.456, 0.406) where nothing says."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Divides each channel; ImageNet's (0.229, 0.224, 0.225) where nothing says."""
    grey: bool = False
    """Whether models see one channel instead of three, normalized by the first of mean and std."""


class FolderSpec(ImageSpec):
    """How many images of folders are looked at."""

    train_points: PositiveInt | None = None
    """Only this many training images, classes in turn in the order of file names; a smaller set begins a larger one."""
    limit: PositiveInt | None = None
    """At most this many images of each other split, chosen in the same way."""
