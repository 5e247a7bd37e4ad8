"""The point sets of a study: m-batches for surfaces, whole splits for targets, and their digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acutance.data.batch import take_rows
from acutance.data.fingerprint import digest_examples, digest_points
from acutance.data.forms import finite, refuse_nonfinite
from acutance.data.lazy import Lazy, applied, realised
from acutance.data.points import concatenate, m_batches, read_indices, select
from acutance.dataset import Dataset, Split
from acutance.errors import UserError
from acutance.numerics.draws import Streams
from acutance.study.surface_config import Indices, Sampled, Scope, SurfaceConfig
from acutance.system.progress import Reporter

Points = tuple[Any, Tensor]


class PointSets:
    """Opens the splits of a dataset once and cuts them as a study's surface section says.

    Args:
        dataset: an instance.
        config: the surface section.
        seed: study seed; names random batches and augmentations.
        reporter: told how far the reading of files is, where a split is read when it is used.
    """

    def __init__(
        self, dataset: Dataset[Any], config: SurfaceConfig, seed: int = 0, reporter: Reporter | None = None
    ) -> None:
        self.dataset, self.config, self.seed, self.reporter = dataset, config, seed, reporter
        self._splits: dict[str, Split] = {}
        self._points: dict[str, Points] = {}
        self._batches: dict[str, list[Points]] = {}
        self._digests: dict[tuple[str, Scope], list[str]] = {}
        self._examples: dict[tuple[str, bool], Tensor] = {}
        self._inputs: dict[str, list[tuple[Callable[[Any], Any] | None, str]]] = {}  # after each preprocessing

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            UserError: when it is empty.
        """
        if name not in self._splits:
            split = self.dataset.open(name)
            if len(split) == 0:
                raise UserError(f"split '{name}' of dataset '{self.dataset.name}' is empty", "check its files")
            self._splits[name] = split
            if self.reporter is not None:
                for note in split.notes:
                    self.reporter.say(f"note: {self._place_of(name)}: {note}")
        return self._splits[name]

    @property
    def points(self) -> Points:
        """The selected points of the surface, augmented when the config says so, before they are cut."""
        return self.points_of(self.config.split)

    @property
    def batches(self) -> list[Points]:
        """The m-batches of the surface."""
        return self.batches_of(self.config.split)

    def points_of(self, name: str) -> Points:
        """Return the selected points of a split, chosen and augmented as those of the surface are.

        Raises:
            UserError: for rows listed in a file, which are those of the surface's own split.
        """
        if name not in self._points:
            self._points[name] = self._selected(name)
        return self._points[name]

    def _chosen(self, name: str) -> Tensor:
        """Return which rows of a split are its points."""
        split, rule, count = self.split(name), self.config.select, self.config.points
        if not isinstance(rule, Indices):
            count = min(count, len(split)) if self._beside(name) else count
            return select(split.targets, count, rule, where=self._place_of(name))
        if name == self.config.split:
            return read_indices(rule.indices, self.config.points, len(split))
        raise UserError(
            f"surface.select: {rule.indices} lists rows of split '{self.config.split}', and a measure is asked for "
            f"on points of '{name}'",
            "select balanced or first, or leave points out",
        )

    def _beside(self, name: str) -> bool:
        """Whether a split is that of validation points, of which fewer than the surface's own will do."""
        return name == self.validation and name != self.config.split

    def require(self, split: str, scope: Scope) -> None:
        """Refuse a split with fewer points than the surface has, where something is measured on it.

        Raises:
            UserError: saying how many there are.
        """
        if scope in ("points", "batch") and self._beside(split):
            select(self.split(split).targets, self.config.points, "first", where=self._place_of(split))

    def _selected(self, name: str) -> Points:
        split, chosen = self.split(name), self._chosen(name)
        if self.reporter is not None and len(chosen) < self.config.points:
            self.reporter.say(f"note: {self._place_of(name)}: its {len(chosen)} points are all taken for validation")
        inputs, targets = realised(take_rows(split.inputs, chosen)), split.targets[chosen]
        refuse_nonfinite(inputs, targets, self._place_of(name), chosen)
        return self._augmented(inputs, targets, name) if self.config.augment else inputs, targets

    def _augmented(self, inputs: Any, targets: Tensor, split: str) -> Any:
        """Return one augmentation of each point; noise is named by the row, so more points change none of these."""
        noise = Streams(self.seed, self.dataset.name, split, "augment")
        parts = [
            (self.dataset.augment(take_rows(inputs, slice(i, i + 1)), noise.generator("point", i)), targets[i : i + 1])
            for i in range(len(targets))
        ]
        return concatenate(parts)[0]

    def batches_of(self, name: str) -> list[Points]:
        """Return m-batches: the points cut in their order, or random m-subsets of them, each as short as it can be."""
        if name not in self._batches:
            self._batches[name] = [(self._trimmed(inputs), targets) for inputs, targets in self._cut(name)]
        return self._batches[name]

    def _cut(self, name: str) -> list[Points]:
        inputs, targets = self.points_of(name)
        if not isinstance(self.config.batches, Sampled):
            return m_batches(inputs, targets, self.config.m)
        return [(take_rows(inputs, rows), targets[rows]) for rows in self._subsets(name, self.config.batches.sampled)]

    def _subsets(self, name: str, count: int) -> list[Tensor]:
        """Return which points the random m-batches have, (m,) each."""
        noise = Streams(self.seed, self.digests(name, "points")[0], "batches")
        return [noise.subset("batch", k, self.config.m, len(self.points_of(name)[1])) for k in range(count)]

    def _trimmed(self, inputs: Any) -> Any:
        return inputs if isinstance(inputs, Lazy) else self.dataset.trimmed(inputs)

    def sets(self, split: str, scope: Scope) -> list[Points]:
        """Return the points that a cell is evaluated on, one set after the other.

        Args:
            split: name of a split.
            scope: ``batch``: each m-batch; ``points``: all points of the surface; ``split``: the whole split;
                ``weights``: none.
        """
        if scope == "weights":
            return []
        if scope == "split":
            whole = self.split(split)
            return [(whole.inputs, whole.targets)]
        return [self.points_of(split)] if scope == "points" else self.batches_of(split)

    @property
    def validation(self) -> str:
        """The split of labelled points for measures that need some beside their own; empty where there is none."""
        return self.config.validation or ("validation" if "validation" in self.dataset.splits else "")

    def examples(self, split: str, scope: Scope) -> int:
        """Return how many examples one pass sees; 1 for the weights alone."""
        sizes = {"batch": self.config.m, "points": self.config.points, "weights": 1}
        return sizes[scope] if scope in sizes else len(self.split(split))

    def digests(self, split: str, scope: Scope) -> list[str]:
        """Return a digest for each set of points; one of nothing for the weights alone."""
        if scope == "weights":
            return [""]
        if (split, scope) not in self._digests:
            self._digests[split, scope] = self._digested(split, scope)
        return self._digests[split, scope]

    def _digested(self, split: str, scope: Scope, preprocess: Callable[[Any], Any] | None = None) -> list[str]:
        sets = ((applied(preprocess, self._reporting(split, x)), y) for x, y in self.sets(split, scope))
        if scope == "split" or preprocess is not None:
            where = self._place_of(split) + (" as its models see it" if preprocess is not None else "")
            sets = ((finite(x, y, where), y) for x, y in sets)
        return [digest_points(x, y) for x, y in sets]

    def _place_of(self, split: str) -> str:
        """Return what messages call a split."""
        return f"dataset '{self.dataset.name}', split '{split}'"

    def _reporting(self, split: str, inputs: Any) -> Any:
        """Return the inputs; where reading them takes long, the reporter is told of every part."""
        if self.reporter is None or not isinstance(inputs, Lazy):
            return inputs
        reporter = self.reporter
        reporter.stage(f"reading {split}", len(inputs), len(inputs))

        def advance(part: Any) -> Any:
            reporter.advance(len(part), len(part))
            return part

        return inputs.then(advance)

    def example_digests(self, split: str, scope: Scope, batch: int) -> Tensor:
        """Return a digest of each example, (n,), of one of ``sets``: before it is augmented, and before any model.

        So one reading serves all models, and an image is found again under another augmentation.
        """
        key = split, scope == "split"
        if key not in self._examples:
            inputs = self.split(split).inputs
            if scope != "split":  # read once, unless it was changed then
                augmented = self.config.augment
                inputs = take_rows(inputs, self._chosen(split)) if augmented else self.points_of(split)[0]
            self._examples[key] = digest_examples(inputs)
        found, m = self._examples[key], self.config.m
        if scope != "batch":
            return found
        cutting = self.config.batches
        rows = self._subsets(split, cutting.sampled)[batch] if isinstance(cutting, Sampled) else None
        return found[batch * m : (batch + 1) * m] if rows is None else found[rows]

    def digest_of_inputs(self, split: str, preprocess: Callable[[Any], Any] | None = None) -> str:
        """Return the digest of the selected points of a split as models with a preprocessing see them, without targets.

        It is that of a surface of these points whose targets were taken away. Equal functions are applied once.
        """
        known = self._inputs.setdefault(split, [])
        found = next((digest for other, digest in known if other is preprocess or other == preprocess), None)
        if found is None:
            inputs, targets = self.points_of(split)
            found = digest_points(applied(preprocess, inputs), torch.zeros(len(targets), dtype=torch.long))
            known.append((preprocess, found))
        return found

    def digests_after(self, preprocess: Callable[[Any], Any]) -> dict[str, list[str]]:
        """Return the digests of ``record`` as they are when the inputs have been preprocessed."""
        return {f"{split}/{scope}": self._digested(split, scope, preprocess) for split, scope in self._digests}

    @property
    def record(self) -> dict[str, list[str]]:
        """All digests asked for so far, by ``split/scope``: what the points were, without the points."""
        return {f"{split}/{scope}": digests for (split, scope), digests in self._digests.items()}
