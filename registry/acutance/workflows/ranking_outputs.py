"""What the ranked models put out on sets of points: one forward a model and set, and a surface of any part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from acutance.data.batch import length_of
from acutance.data.fingerprint import digest_examples, digest_points
from acutance.data.forms import CheckedPoints, refuse_nonfinite, understand
from acutance.data.lazy import Lazy, applied
from acutance.errors import Unsupported, UserError
from acutance.model.functional import FunctionalModel
from acutance.run.predictions import Predictions
from acutance.spec import canonical_json
from acutance.surface.loss_surface import LossSurface
from acutance.surface.open_model import WHOLE_MICROBATCH, OpenModel
from acutance.surface.representations import LastLayer
from acutance.workflows.given_data import opened_data

if TYPE_CHECKING:
    from acutance.dataset import Dataset

HEAD = "head"
Opened = tuple["Dataset[Any] | None", Any, Tensor]


class _Logits(nn.Module):
    """Gives stored logits back."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return them."""
        return self.scale * x


class _Head(nn.Module):
    """The last linear layer, on stored features."""

    def __init__(self, layer: LastLayer) -> None:
        super().__init__()
        self.head = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None)
        self.head.weight = nn.Parameter(layer.weight.cpu())
        if layer.bias is not None:
            self.head.bias = nn.Parameter(layer.bias.cpu())

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(features)
        return logits


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one model puts out on one set of points.

    Attributes:
        logits: (n, K), on the CPU.
        layer: the last linear layer and what goes into it, where it was asked for and is there.
        notes: what there is to know of the model.
    """

    logits: Tensor
    layer: LastLayer | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def _functional(self) -> FunctionalModel:
        module = _Logits().to(self.logits.dtype) if self.layer is None else _Head(self.layer)
        return FunctionalModel(module.eval(), "cpu", self.logits.dtype)

    def surface(
        self, digest: str, examples: Tensor, rows: Tensor | None = None, labels: Tensor | None = None
    ) -> LossSurface:
        """Return the surface of some of the points, on which logits and features cost nothing.

        Args:
            digest: names the noise: the same for all models and parts.
            examples: digests of the examples of the whole set: a part of it is that set to who looks for its points.
            rows: which points; all by default.
            labels: of all points, where a measure may see them.
        """
        chosen = slice(None) if rows is None else rows
        logits = self.logits[chosen]
        inputs = logits if self.layer is None else self.layer.features[chosen]
        targets = torch.empty(len(logits), 0) if labels is None else labels[chosen]
        surface = LossSurface(self._functional, CheckedPoints(inputs, targets))
        surface.core.known.clean_logits = logits
        if self.layer is not None:
            surface.core.known.features = HEAD, inputs
        surface.core.digest, surface.core.example_digests = digest, lambda: examples
        return surface


@dataclass(eq=False)
class PointSet:
    """A set of points under a name, opened once for all models that ask the same of it.

    Attributes:
        name: in tables and messages.
        open: gives the data set, inputs and targets, from what a model asks of the data set.
        labelled: whether the targets are looked at.
    """

    name: str
    open: Callable[[Mapping[str, Any]], Opened]
    labelled: bool
    _opened: dict[str, Opened] = field(default_factory=dict)
    _digests: dict[str, list[tuple[Any, str]]] = field(default_factory=dict)
    _examples: dict[str, Tensor] = field(default_factory=dict)

    def of(self, settings: Mapping[str, Any]) -> Opened:
        """Return the points; targets that are not to be looked at are gone: their places, of width 0, are left.

        Raises:
            UserError: for values that are no numbers, or targets that are no classes.
        """
        key = canonical_json(dict(settings))
        if key not in self._opened:
            dataset, inputs, targets = self.open(settings)
            if not self.labelled:
                targets = targets.new_empty(len(targets), 0)
            elif targets.shape[1:] == (0,):
                raise UserError(f"{self.name}: has no labels", "give labelled points")
            elif targets.is_floating_point() or targets.dim() != 1:
                raise UserError(
                    f"{self.name}: its targets are no classes, so that no error of a model is known",
                    "give one whole number a point",
                )
            if not isinstance(inputs, Lazy):
                refuse_nonfinite(inputs, targets, self.name)
            self._opened[key] = dataset, inputs, targets
        return self._opened[key]

    def digest(self, settings: Mapping[str, Any], preprocess: Any = None) -> str:
        """Return the digest of the inputs as models with these settings and preprocessing see them."""
        known = self._digests.setdefault(canonical_json(dict(settings)), [])
        found = next((digest for other, digest in known if other is preprocess or other == preprocess), None)
        if found is None:
            _, inputs, targets = self.of(settings)
            found = digest_points(applied(preprocess, inputs), torch.zeros(len(targets), dtype=torch.long))
            known.append((preprocess, found))
        return found

    def example_digests(self, settings: Mapping[str, Any]) -> Tensor:
        """Return a digest of each example's inputs, (n,), before any preprocessing."""
        key = canonical_json(dict(settings))
        if key not in self._examples:
            self._examples[key] = digest_examples(self.of(settings)[1])
        return self._examples[key]


def named_points(name: str, source: str, option: str, labelled: bool) -> PointSet:
    """Return the points of a file or data set."""
    return PointSet(name, lambda asked: opened_data(source, asked, {}, option, labelled), labelled)


def held_points(name: str, data: Any, labelled: bool) -> PointSet:
    """Return points that are in memory: (inputs, targets) in any form, or inputs alone where no labels are wanted."""

    def opened(asked: Mapping[str, Any]) -> Opened:
        alone = isinstance(data, Tensor) or hasattr(data, "__array__") or isinstance(data, Lazy)
        if not labelled and alone:
            inputs = data if isinstance(data, Tensor | Lazy) else torch.as_tensor(data)
            return None, inputs, torch.empty(length_of(inputs) or 0, 0)
        points = understand(data, name)
        return None, points.inputs, points.targets

    return PointSet(name, opened, labelled)


def outputs_of(
    opened: OpenModel, key: str, points: PointSet, settings: Mapping[str, Any], folder: Path | None, features: bool
) -> Outputs:
    """Return what a model puts out on a set of points: what is kept, or one forward.

    Args:
        opened: the model.
        key: of its tensors.
        points: the set.
        settings: what the model asks of the data set.
        folder: where outputs are kept; None to keep nothing.
        features: whether what goes into the last layer is wanted.

    Raises:
        UserError: for points that the model does not take, or outputs that are not one row of logits a point.
    """
    _, inputs, targets = points.of(settings)
    blind = targets if points.labelled else torch.zeros(len(targets), dtype=torch.long)
    opened.require_fit(inputs, blind, "cross_entropy", points.name)
    seen = applied(opened.preprocess, inputs)
    functional = opened.functional
    surface = LossSurface(
        functional, CheckedPoints(seen, torch.empty(len(targets), 0)), microbatch=min(WHOLE_MICROBATCH, len(targets))
    )
    identity = {"dtype": str(functional.dtype).removeprefix("torch."), "arithmetic": "exact"}
    digest = points.digest(settings, opened.preprocess)
    kept = Predictions.of("" if folder is None else str(folder), key, digest, identity)
    kept.give(surface)
    layer = None
    if features:
        try:
            found = surface.last_layer()
            layer = LastLayer(found.name, found.features.detach().cpu(), found.weight.cpu(),
                              None if found.bias is None else found.bias.cpu())  # fmt: skip
        except Unsupported:
            layer = None  # what asks for features is unsupported on the stored logits in the same words
    logits = surface.clean_logits().detach().cpu().clone()
    kept.take(surface)
    notes = tuple(functional.all_notes)
    surface.release()
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise UserError(
            f"{points.name}: the outputs have shape {tuple(logits.shape)}, and models are ranked by their classes",
            "give models with one row of at least two logits a point",
        )
    return Outputs(logits, layer, notes)
