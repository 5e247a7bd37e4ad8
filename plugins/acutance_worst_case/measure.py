"""Worst-case (adaptive) sharpness: the largest rise of the loss in a ball."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from acutance.measure import NORMS, Cost, Estimate, Measure, SharpnessSpec, Traits
from acutance.spec import estimation, labelled

if TYPE_CHECKING:
    from torch import Tensor

    from acutance.numerics.draws import Streams
    from acutance.surface import LossSurface


class WorstCaseSpec(SharpnessSpec):
    """Settings of worst-case sharpness."""

    rho: PositiveFloat
    """Radius of the ball, in the coordinates gamma = delta / c."""
    norm: Annotated[Literal["l2", "linf"], labelled(NORMS)] = "linf"
    """Norm of the ball."""
    steps: Annotated[PositiveInt, estimation()] = 20
    """Auto-PGD iterations from each start."""
    restarts: Annotated[PositiveInt, estimation()] = 1
    """Searches from different starts; the best counts."""
    start: Annotated[Literal["screened", "random", "zero"], estimation()] = "screened"
    """screened: the best of the origin, the one-step point and random points; random: uniform in the ball."""
    candidates: Annotated[NonNegativeInt, estimation()] = 2
    """Random points that are screened for each start."""
    mode: Annotated[Literal["paper", "released"], estimation(adds=", released")] = "paper"
    """paper: Algorithm 1 of the paper, in coordinates where the ball is round; released: as the published code."""
    ladder: Annotated[tuple[PositiveFloat, ...], estimation(adds=", ladder {ladder}")] = ()
    """Smaller radii to climb through, in order; each search goes on from the last one's best point, unless a start of
    its own is higher after a few steps. Those not below rho are left out, so one ladder serves all radii of a sweep,
    whose cells then share the climb."""

    @model_validator(mode="before")
    @classmethod
    def _released_starts_at_zero(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mode") == "released":
            return {"start": "zero", **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> WorstCaseSpec:
        if any(a >= b for a, b in itertools.pairwise(self.ladder)):
            raise ValueError("ladder: radii must increase")
        if self.mode == "released" and (self.start != "zero" or self.restarts > 1 or self.ladder):
            raise ValueError("mode released has one start, zero, and no ladder: the published code cannot run others")
        if self.mode == "released" and self.candidates != type(self).model_fields["candidates"].default:
            raise ValueError("candidates: mode released screens no points: leave it out")
        # The identity of a cell is the climb that is made for it; the model is frozen for everybody else.
        object.__setattr__(self, "ladder", tuple(rung for rung in self.ladder if rung < self.rho))
        return self


class WorstCase(Measure[WorstCaseSpec]):
    r"""Worst-case sharpness in a ball of radius rho in units of c.

    .. math:: S_{max}^\rho(w, c) = \max_{\|\delta \oslash c\|_p \le \rho} L_S(w + \delta) - L_S(w)

    (Andriushchenko et al. 2023, Eq. 1, Algorithm 1), by Auto-PGD in :math:`\gamma = \delta \oslash c`, so that
    the algorithm has the invariances of the definition. The value is a lower bound of the maximum, never below
    zero; ``extras["value_half"]`` is the value after half of the steps. Coordinates with c = 0 never move.
    Where the one-step point is the best of those screened, the search starts three quarters of the way there:
    inside the ball the gradient still says something about every coordinate. The point itself counts.

    A screened search in the adaptive l2 ball that is stuck half-way (for a quarter of its steps it stayed where it was,
    up to 1% of its rise) makes the steps that are left from another start, the best of the random points,
    and the higher of the two counts: the passes are the same.
    ``extras["starts"]`` is the number of starts whose searches, or looks of a ladder, were compared, and
    ``extras["starts_differ"]`` by which share of the highest rise the lowest is below it; 0 for one start.
    Where it is large, ``restarts`` may find more.

    With a ``ladder`` the search climbs through smaller balls first. In each larger ball two steps from the last best
    point, scaled to it, and two from a start of that ball tell from where the other steps are made. Cells that differ
    in rho alone are then rungs of one climb: it is made once, so four radii cost four searches, each from a warm start,
    and every cell has the value that it has alone.

    ``mode="released"`` follows the published code step by step instead, to reproduce published values: it is
    not invariant under rescaling for the l2 norm, and reaches smaller values there.
    """

    name = "worst_case"
    traits = Traits(
        level="batch",
        larger_means="sharper",
        needs={"data", "gradient"},
        stochastic=True,
        invariant_to={"rescaling"},
        symbol="S_max",
        label="{scaling} worst-case {norm}",
        reference="Andriushchenko et al. 2023, Eq. 1 and Algorithm 1; Croce & Hein 2020",
        bibtex=("andriushchenko2023modern", "croce2020reliable", "kwon2021asam", "foret2021sharpness"),
    )

    def evaluate(self, surface: LossSurface, spec: WorstCaseSpec, rng: Streams) -> Estimate | float:
        """Return the largest rise found."""
        return self.evaluate_many(surface, [spec], rng)[0]

    def evaluate_many(self, surface: LossSurface, specs: Sequence[WorstCaseSpec], rng: Streams) -> list[Estimate]:
        """Return all values; cells that are rungs of one ladder share its climb."""
        from acutance_worst_case.search import largest_rises

        return largest_rises(surface, specs, rng)

    def displacement(self, surface: LossSurface, spec: WorstCaseSpec, rng: Streams) -> Tensor:
        """Return delta of the highest point found, (p,); parameters that the spec fixes do not move."""
        from acutance_worst_case.search import highest_point

        return highest_point(surface, spec, rng)

    def passes(self, spec: WorstCaseSpec) -> Cost:
        """T + 1 forwards and T backwards a search; screening adds the origin, the one-step point and candidates.

        A later rung's looks leave T + 1 and T - 2; the gradient at the origin is known.
        """
        from acutance_worst_case.search import steps_after_looks

        rungs = len(spec.ladder) + 1
        forwards, backwards = spec.restarts * rungs * (spec.steps + 1), spec.restarts * rungs * spec.steps
        if steps_after_looks(spec.steps):
            at_origin = (rungs - 1) * (spec.start == "zero")
            forwards -= at_origin
            backwards -= 2 * spec.restarts * (rungs - 1) + at_origin
        if spec.start == "screened":
            forwards += 2 + spec.restarts * spec.candidates
            backwards += 1
        elif spec.start == "random":
            forwards += 1
        return Cost(forwards, backwards)

    def passes_together(self, specs: Sequence[WorstCaseSpec]) -> Cost:
        """Rungs of one ladder are one climb; the gradient at the origin is one a view, the clean logits are one."""
        from acutance_worst_case.search import climbs

        total, views, clean = Cost(), set(), False
        for climb in climbs(specs):
            spec = specs[climb[-1]]
            origin = Cost(forwards=1, backwards=int(self.shares(spec) == "gradient"))
            shared = spec.view in views if origin.backwards else clean
            total += self.passes(spec) - (origin if shared else Cost())
            clean = True  # of every pass at w*
            if origin.backwards:
                views.add(spec.view)
        return total

    def shares(self, spec: WorstCaseSpec) -> Literal["", "logits", "gradient"]:
        """The gradient at the origin, where a search begins there or screens the one-step point; else its loss."""
        return "logits" if spec.start == "random" else "gradient"

    def vectors(self, spec: WorstCaseSpec) -> int:
        """Two iterates, the best one and its gradient, and the perturbed weights, over which their gradient is written.

        So of 2^24 weights or more: of fewer the gradient, that at w* and the best point of a search that was stuck are
        held beside them, since walks and passes would cost more than they take. In the box the best point's gradient
        is its signs, a byte each. More are c, unless it is 1 or |w|, and the best point of earlier rungs; in the
        published search the gradients, and what the projection makes.
        """
        if spec.mode == "released":
            count = 7 + (spec.scaling != "none")
            return count + (3 if spec.scaling == "none" else 6 if spec.norm == "l2" else 5)
        return 5 + (spec.scaling not in ("none", "elementwise")) + bool(spec.ladder)

    def vectors_of_few(self, spec: WorstCaseSpec) -> int:
        """What ``vectors`` says that fewer weights hold beside: gradients, c, and the second search's best point."""
        from acutance.numerics.auto_pgd import half

        if spec.mode == "released":
            return self.vectors(spec)
        second = (
            spec.norm == "l2"
            and spec.scaling != "none"
            and spec.start == "screened"
            and spec.candidates > 0
            and spec.steps > half(spec.steps) + 1
        )
        return 6 + (spec.scaling != "none") + (spec.start != "random") + (bool(spec.ladder) or second)
