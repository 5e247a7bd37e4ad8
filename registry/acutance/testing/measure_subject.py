"""The measure under test, and how its values are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from acutance.measure import Estimate, Measure, Status
from acutance.own_code import load
from acutance.plugins import Item
from acutance.spec import Spec
from acutance.surface.evaluation import evaluate_family
from acutance.surface.loss_surface import LossSurface
from acutance.system.kept import preserved_rng
from acutance.testing.core import Subject
from acutance.testing.problems import PROBLEMS, Problem, additional
from acutance.testing.twins import TWINS, split_twins
from acutance.testing.watching import seed_generators

# Between them: second order, ReLU, buffers, attention kernels; enough where a check needs many evaluations.
FEW = ("slope", "tanh_mlp", "conv_bn", "attention")
STATED = 0.1  # of a value that is called ok: a larger error that it states is no excuse
RTOL = {"float64": 1e-12, "float32": 1e-6}


def evaluate_safely(
    measure_id: str,
    instance: Measure[Any],
    surface: LossSurface,
    specs: Sequence[Spec],
    seed: int = 0,
    replicate: int = 0,
) -> list[Estimate]:
    """Evaluate as the harness does, with the global generators seeded.

    A measure that draws from them gives what it should everywhere but in the check that looks for it, so that one fault
    fails one check.
    """
    with preserved_rng():
        seed_generators(1000 * seed + replicate)
        return evaluate_family(measure_id, instance, surface, specs, seed=seed, batch=0, replicate=replicate)


def evaluate_fresh(measure_id: str, instance: Measure[Any], problem: Problem, spec: Spec) -> Estimate:
    """Return the value on a new surface of a problem, with seed 0."""
    surface = problem.surface(with_data=instance.traits.level != "weights")
    return evaluate_safely(measure_id, instance, surface, [spec])[0]


class MeasureSubject(Subject):
    """A measure, with the problems it is tried on."""

    def __init__(
        self,
        item: Item,
        spec: Any = None,
        plugin_modules: Sequence[str] = (),
        expected: Callable[[LossSurface, Spec], Any] | None = None,
        surfaces: Any = None,
    ) -> None:
        super().__init__(item, spec, plugin_modules)
        self.expected = expected
        self.traits = item.target.traits
        self.instance: Measure[Any] = item.target()
        self.with_data = self.traits.level != "weights"
        known = load(item.target.tried_on) if item.target.tried_on else None
        parts = [split_twins(given) for given in (known, surfaces)]
        self.own_twins = [twin for _, twins in parts for twin in twins]
        self.twins = (*TWINS, *self.own_twins)
        more = [problem for others, _ in parts for problem in additional(others)]
        more += [twin.original for twin in self.own_twins]
        self.additional = {problem.name for problem in more}
        self.problems = {**PROBLEMS, **{problem.name: problem for problem in more}}

    def surface(self, problem: Problem, **options: Any) -> LossSurface:
        """Return a fresh surface, without data for a measure of the weights."""
        return problem.surface(with_data=self.with_data, **options)

    def evaluate(
        self, surface: LossSurface, specs: Sequence[Spec], seed: int = 0, replicate: int = 0
    ) -> list[Estimate]:
        """Return the values of several specs on one surface."""
        return evaluate_safely(self.item.id, self.instance, surface, specs, seed, replicate)

    def value(self, problem: Problem, spec: Spec, seed: int = 0, replicate: int = 0, **options: Any) -> Estimate:
        """Return the value of one spec on a fresh surface."""
        return self.evaluate(self.surface(problem, **options), [spec], seed, replicate)[0]

    def cached_value(self, problem: Problem, spec: Spec) -> Estimate:
        """Return the value in the problem's own dtype with seed 0, computed once."""
        estimate: Estimate = self.once((problem.name, spec.model_dump_json()), lambda: self.value(problem, spec))
        return estimate

    def cases(self, few: bool = False) -> Iterator[tuple[Problem, Spec, Estimate]]:
        """Yield (problem, spec, value) wherever the measure is defined; in a few problems when asked."""
        chosen = [p for p in self.problems.values() if not few or p.name in FEW or p.name in self.additional]
        cases = [(p, s, e) for p in chosen for s in self.specs if _defined(e := self.cached_value(p, s))]
        if few and not cases:
            yield from self.cases()
        yield from cases

    def level_of_loss(self, problem: Problem) -> float:
        """Return |L(w*)|, to which a difference of losses is known; 0 for measures of the weights."""
        if not self.with_data:
            return 0.0
        loss: float = self.once(("loss", problem.name), lambda: abs(float(problem.surface().loss())))
        return loss if math.isfinite(loss) else 0.0


def _defined(estimate: Estimate) -> bool:
    return estimate.status is not Status.UNSUPPORTED


def agree(a: float, b: float, rtol: float, scale: float = 0.0) -> bool:
    """Whether two values are the same up to rounding: relative to themselves, or to the scale they were got from."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= rtol * max(abs(a), abs(b), scale)


def stated(estimate: Estimate) -> float:
    """Return how far a value is off by its own account, ``extras["product_error"]``, a share of it.

    A value that is called ok says a tenth at most.
    """
    error = estimate.extras.get("product_error", 0.0)
    if not (isinstance(error, int | float) and math.isfinite(error) and error >= 0):
        return 0.0
    return (min(error, STATED) if estimate.status is Status.OK else error) * abs(estimate.value)


def same(a: Estimate, b: Estimate, rtol: float, scale: float = 0.0) -> bool:
    """Whether two estimates are the same up to rounding, and what both say they may be off.

    One that says so may be called not converged where the other is not quite.
    """
    status = a.status is b.status or all(
        e.status is Status.OK or (e.status is Status.NOT_CONVERGED and stated(e) > 0) for e in (a, b)
    )
    return status and (agree(a.value, b.value, rtol, scale) or abs(a.value - b.value) <= stated(a) + stated(b))


def show(spec: Spec) -> str:
    """Return the settings of a spec as a message names them."""
    values = spec.canonical()
    return "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}" if values else "its defaults"
