"""One spec or a few for every registered measure, and the bounds that it has to hold.

A measure without an entry here is benchmarked with its defaults, its required fields filled in by their types.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from acutance.plugins import Catalog, Item
from acutance.spec import Spec
from tracking.networks import Network

EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    # From a random start: T + 1 forwards, T backwards, and the clean forward.
    "worst_case": {
        "linf": {"rho": 0.002, "norm": "linf", "start": "random"},
        "l2": {"rho": 0.1, "norm": "l2", "start": "random"},
    },
    "average_case": {"": {"rho": 0.1}, "linear": {"rho": 0.1, "variance_reduction": "linear"}},
    "hessian_trace": {"": {}, "hutch++": {"estimator": "hutch++"}},
    "hessian_top_eigenvalue": {"": {"tol": 1e-12}},
}

# Bounds of time over the bare passes and of parameter-sized vectors over a bare pass (DESIGN, section 7).
TIME = {
    "worst_case": {"tiny": 1.5, "small": 1.5, "embedding": 1.15, "large": 1.1},
    "average_case": {"tiny": 2.5, "small": 1.25, "embedding": 1.1, "large": 1.1},
}
VECTORS = {"worst_case": 4, "average_case": 2}

MOST = 150  # rounds of a case: of short ones the fastest of 30 is some percent slower, and of another run another

# Fields that say how long a measure works; each is lowered to what a large network can bear in a benchmark.
EFFORT = ("steps", "draws", "probes", "iterations", "max_iterations")


@dataclass(frozen=True)
class Example:
    """A measure with settings to be timed."""

    item: Item
    variant: str
    settings: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """As in the names of the cases."""
        short = self.item.name if self.item.dist == "acutance" else self.item.id.replace("/", ".")
        return f"{short}-{self.variant}" if self.variant else short

    def spec(self, network: Network) -> Spec:
        """Return the settings for a network: fields of effort no larger than it can bear.

        Raises:
            ValueError: naming the measure, when no spec could be made.
        """
        spec_type = self.item.target.Spec
        spec = _validated(spec_type, dict(self.settings), self.item.id)
        if network.effort is None:
            return spec
        fields = {name: value for name in EFFORT if isinstance(value := getattr(spec, name, None), int)}
        limit = network.effort
        # A measure may need more than the limit (a fitted control variate needs three draws).
        while any(value > limit for value in fields.values()):
            lower = {name: min(value, limit) for name, value in fields.items()}
            try:
                return spec_type.model_validate(dict(self.settings) | lower)
            except ValidationError:
                limit *= 2
        return spec

    @property
    def draws_noise(self) -> bool:
        """Whether each perturbed forward needs noise: DESIGN counts its drawing among the bare work."""
        traits = self.item.target.traits
        return bool(traits.stochastic) and not {"gradient", "hvp", "example_gradients"} & set(traits.needs)

    def bound(self, network: Network) -> float | None:
        """Return the bound of the ratio, or None where there is none."""
        return TIME.get(self.item.name, {}).get(network.size) if self.item.dist == "acutance" else None

    @property
    def vectors_bound(self) -> float | None:
        """Return the bound of parameter-sized vectors, or None where there is none."""
        return VECTORS.get(self.item.name) if self.item.dist == "acutance" else None


def examples(plugins: Catalog) -> list[Example]:
    """Return what is timed of every measure that the catalog holds."""
    found = []
    for item in plugins.items("measures"):
        variants = EXAMPLES.get(item.name, {}) if item.dist == "acutance" else {}
        for variant, settings in (variants or {"": filled(item.target.Spec, item.id)}).items():
            found.append(Example(item, variant, tuple(settings.items())))
    return found


def filled(spec_type: type[Spec], where: str) -> dict[str, Any]:
    """Return values for the required fields of a spec, by their types.

    Raises:
        ValueError: for a type that no value can be guessed for.
    """
    return {
        name: _guess(field.annotation, f"{where}.{name}")
        for name, field in spec_type.model_fields.items()
        if field.is_required()
    }


def _guess(annotation: Any, where: str) -> Any:
    options = get_args(annotation)
    if get_origin(annotation) is Literal:
        return options[0]
    kinds = {annotation, *options}
    for kind, value in ((bool, False), (int, 2), (float, 0.01)):
        if kind in kinds:
            return value
    raise ValueError(f"{where}: no value can be guessed for {annotation}; add the measure to EXAMPLES")


def _validated(spec_type: type[Spec], settings: dict[str, Any], where: str) -> Spec:
    try:
        return spec_type.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"{where}: {settings} is no valid example; add the measure to EXAMPLES: {error}") from None


def rounds(seconds: float, budget: float) -> int:
    """Return how often a case that takes so long is timed: within the budget, twice at least, once if it alone exceeds it."""
    least = 1 if 2 * seconds > budget else 2
    return max(least, min(MOST, math.floor(budget / max(2 * seconds, 1e-9))))
