"""The weights that a training started from, kept beside its curves: one that goes on compares with them still."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from acutance.errors import UserError, in_words
from acutance.io.written import put
from acutance.model.wrappers import unwrapped


class InitialWeights:
    """The weights before the first step, by name.

    Args:
        folder: of the run.
        run: name of the training.
        tell: told in one sentence what goes wrong.

    Attributes:
        weights: {name: tensor}; None while they are not known.
    """

    def __init__(self, folder: Path, run: str, tell: Callable[[str], None]) -> None:
        self._folder, self._name, self._tell = folder, f".initial-{run}.safetensors", tell
        self.weights: Mapping[str, Tensor] | None = None

    def keep(self, model: Any) -> None:
        """Copy the weights of now, in memory and in the folder."""
        try:
            module = unwrapped(model)
        except UserError:  # told when it is measured
            return
        with torch.inference_mode(False), torch.no_grad():
            self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}
            plain = {name: w.cpu().contiguous() for name, w in self.weights.items()}
        try:
            put(self._folder, {self._name: save(plain)})
        except Exception as error:
            self._tell(f"the initial weights are not kept for a training that goes on: {in_words(error)}")

    def find(self) -> None:
        """Take those that a training which now goes on has kept."""
        path = self._folder / self._name
        if self.weights is not None or not path.is_file():
            return
        try:
            self.weights = load_file(path)
        except Exception as error:
            self._tell(f"the initial weights cannot be read from {path}: {in_words(error)}")
