"""Models of timm by name or pattern."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from acutance.errors import UserError, did_you_mean
from acutance.pool import Attribute, ModelEntry, ModelPool
from acutance.spec import Spec
from acutance_vision.networks.normalize import normalization

if TYPE_CHECKING:
    from torch import nn

    from acutance_vision.networks.normalize import Normalize


class TimmSpec(Spec):
    """Which models of timm."""

    models: tuple[str, ...]
    """Names or patterns, as ``vit_*_patch16_224*``; published weights have a tag after a dot."""
    pretrained: bool = True
    """Published weights; else random ones by the seed."""
    allow_download: bool = False
    """Get weights from the hub that are not in its local cache yet."""
    seed: NonNegativeInt = 0
    """Names random weights."""
    num_classes: PositiveInt | None = None
    """Classes of a model with random weights; the published number by default."""
    preprocess: Literal["none", "timm"] = "none"
    """timm: normalize inputs by each model's data config, for a dataset that gives them between 0 and 1."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel of the inputs; in place of the data config's."""
    std: tuple[PositiveFloat, ...] | None = None
    """Divides each channel of the inputs; in place of the data config's."""


class Timm(ModelPool[TimmSpec]):
    """timm's models by name or pattern, with published weights from the local cache or random ones."""

    name = "timm"

    def entries(self, spec: TimmSpec) -> Sequence[ModelEntry]:
        """Return the models in timm's order with the facts of their configs.

        Raises:
            UserError: for a name or pattern that matches none.
        """
        import timm

        available = timm.list_models(pretrained=spec.pretrained)
        chosen: dict[str, None] = {}
        for pattern in spec.models:
            matching = [name for name in available if fnmatchcase(name, pattern)]
            if not matching:  # a name without its tag is the model with its default tag
                matching = [name for name in timm.list_models() if fnmatchcase(name, pattern)]
            if not matching:
                raise UserError(f"timm has no model '{pattern}'", did_you_mean(pattern, available))
            chosen |= dict.fromkeys(matching)
        return [self._entry(name, spec) for name in chosen]

    def _entry(self, name: str, spec: TimmSpec) -> ModelEntry:
        """Return the entry of a model with the facts of its config."""
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(name)
        attributes: dict[str, Attribute] = {"family": name.partition("_")[0]}
        if config is not None:
            tag = name.partition(".")[2] or config.tag or ""
            attributes |= {"tag": tag, "input_size": config.input_size[-1], "classes": config.num_classes}
        return ModelEntry(
            id=name,
            attributes=attributes,
            architecture=f"timm:{name.partition('.')[0]}",
        )

    def load(self, entry: ModelEntry, spec: TimmSpec) -> nn.Module:
        """Return the model.

        Raises:
            UserError: when its weights are not at hand and may not be downloaded.
        """
        import timm

        from acutance.training import initialised

        if not spec.pretrained:
            arguments: dict[str, Any] = {"num_classes": spec.num_classes} if spec.num_classes else {}
            return initialised(lambda: timm.create_model(entry.id, pretrained=False, **arguments), spec.seed).eval()
        if not spec.allow_download and not _cached(entry.id):
            raise UserError(
                f"timm: the weights of {entry.id} are not in the hub's local cache",
                "write allow_download: true in the pool, or copy them there",
            )
        try:
            model: nn.Module = timm.create_model(entry.id, pretrained=True)
        except Exception as error:
            raise UserError(f"timm: {entry.id} cannot be loaded: {error}", "is the hub reached?") from None
        return model.eval()

    def preprocess(self, entry: ModelEntry, spec: TimmSpec) -> Normalize | None:
        """Return the normalization that the spec asks for."""
        return normalization(f"timm:{entry.id}", spec.preprocess, spec.mean, spec.std, "timm")


def _cached(name: str) -> bool:
    """Return whether the hub's cache holds the weights of a model."""
    from huggingface_hub import try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files)
