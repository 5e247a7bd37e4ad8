"""What models put out on the points of a study, kept in the run's folder: computed once a model, read by every measure.

One safetensors file a model and set of points: ``logits``, (n, K), and, where a measure has looked at them,
``features``, (n, d), what goes into the last layer. Files may be removed at any time: what is not there is
computed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from acutance.spec import digest

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.data.pointsets import PointSets
    from acutance.study.surface_config import SurfaceConfig
    from acutance.surface.loss_surface import LossSurface

T = TypeVar("T")

LOGITS, FEATURES, LAYER = "logits", "features", "layer"


@dataclass(frozen=True)
class Predictions:
    """The outputs of one model on one set of points.

    Attributes:
        path: their file; None where nothing is kept.
    """

    path: Path | None

    @classmethod
    def of(cls, folder: str, model: str, inputs: str, identity: dict[str, Any]) -> Predictions:
        """Return those of a model on some points.

        Args:
            folder: where files lie; empty to keep nothing.
            model: the model's key.
            inputs: digest of the points as the model sees them, without targets: ``PointSets.digest_of_inputs``.
            identity: of the surface section, ``outputs_identity``.
        """
        if not folder:
            return cls(None)
        name = digest({"model": model, "inputs": inputs, **identity})
        return cls(Path(folder) / f"{name[:32]}.safetensors")

    def load(self) -> tuple[dict[str, Tensor], str]:
        """Return what is kept, by name, and the name of the last layer; nothing where there is no whole file."""
        return self._read(
            lambda file: (
                {name: file.get_tensor(name) for name in file.keys()},
                (file.metadata() or {}).get(LAYER, ""),
            ),
            ({}, ""),
        )

    def _read(self, reading: Callable[[Any], T], nothing: T) -> T:
        """Return what is read of the file; ``nothing`` where there is no whole file."""
        from safetensors import SafetensorError, safe_open

        try:
            if self.path is None or not self.path.exists():
                return nothing
            with safe_open(self.path, "pt") as file:
                return reading(file)
        except (OSError, SafetensorError):
            return nothing

    def give(self, surface: LossSurface) -> None:
        """Let a surface know what is kept, so that it makes no pass for it."""
        (kept, layer), core = self.load(), surface.core
        if LOGITS in kept and len(kept[LOGITS]) == surface.n:
            core.known.clean_logits = kept[LOGITS].to(core.functional.device)
            if FEATURES in kept:
                core.known.features = layer, kept[FEATURES].to(core.functional.device)

    def take(self, surface: LossSurface) -> None:
        """Keep what a surface has come to know beyond what is kept; a folder that cannot be written keeps nothing."""
        from safetensors.torch import save

        known = surface.core.known
        if self.path is None or known.clean_logits is None:
            return
        tensors, layer = {LOGITS: known.clean_logits}, ""
        if known.last_layer is not None:
            tensors[FEATURES], layer = known.last_layer.features, known.last_layer.name
        if set(tensors) <= self._read(lambda file: set(file.keys()), set()):  # names alone: asked after each measure
            return
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        with suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            beside.write_bytes(save(plain, {LAYER: layer}))
            beside.replace(self.path)


def outputs_identity(config: SurfaceConfig, sets: PointSets) -> dict[str, Any]:
    """Return what of the surface section changes the outputs of a model on some points.

    Args:
        config: the section.
        sets: its points, which batch normalization may be recalibrated on.
    """
    identity: dict[str, Any] = {"dtype": config.dtype, "arithmetic": config.arithmetic}
    if config.batch_norm != "eval":
        identity["statistics"] = [config.batch_norm, *sets.digests(config.split, "batch")]
    return identity
