"""What a value may depend on: the weights, the data, the settings and the seed, and nothing else."""

from __future__ import annotations

import math
import pickle
from unittest import SkipTest

import torch

from acutance.errors import Unsupported
from acutance.measure import Estimate, Status
from acutance.numerics.draws import Streams
from acutance.plugin_files import carried
from acutance.spec import Spec
from acutance.system.kept import preserved_rng
from acutance.testing.core import Checklist, require
from acutance.testing.measure_subject import RTOL, MeasureSubject, agree, same, show
from acutance.testing.problems import Problem
from acutance.testing.processes import ask
from acutance.testing.settings import at_defaults, neighbours
from acutance.testing.twins import Twin
from acutance.testing.watching import WatchedStreams, generator_states, seed_generators

values = Checklist()
SEEDS = ((1, 0), (2, 0), (0, 1))  # (seed, replicate), against (0, 0)


@values("evaluates")
def same_seed_same_value(subject: MeasureSubject) -> None:
    """The same seed gives the same value, bitwise, on a fresh surface."""
    for problem, spec, first in subject.cases():
        again = subject.value(problem, spec)
        require(
            repr((again.value, again.stderr, again.status)) == repr((first.value, first.stderr, first.status)),
            f"two evaluations with the same seed gave {first.value!r} and {again.value!r} on '{problem.name}' with "
            f"{show(spec)}: draw all noise from rng, and keep no state in the measure",
        )


@values("same_seed_same_value")
def leaves_global_generators_alone(subject: MeasureSubject) -> None:
    """The global random generators are neither used nor moved."""
    for problem, spec, _ in subject.cases(few=True):
        results: list[float | str] = []
        for seed in (11, 12):
            # Named by the same stream, so that only the global generators differ.
            surface, rng = subject.surface(problem), Streams("conformance", problem.name)
            with preserved_rng():
                seed_generators(seed)
                before = generator_states()
                try:
                    results.append(Estimate.of(subject.instance.evaluate_many(surface, [spec], rng)[0]).value)
                except Unsupported as error:
                    results.append(str(error))
                moved = [name for name, state in generator_states().items() if state != before[name]]
            require(
                not moved,
                f"evaluate moved the global generator of {', '.join(moved)} on '{problem.name}': draw noise from the "
                "argument rng (rng.normal, rng.uniform), which is the same for all models and every order",
            )
        require(
            repr(results[0]) == repr(results[1]),
            f"the value on '{problem.name}' depends on the global random state ({results[0]!r} and {results[1]!r}): "
            "draw noise from the argument rng",
        )


def _where_the_seed_matters(subject: MeasureSubject, problem: Problem, spec: Spec) -> str:
    """Return where another seed or replicate changed the value, or an empty text."""
    first = subject.cached_value(problem, spec)
    for seed, replicate in SEEDS:
        other = subject.value(problem, spec, seed, replicate)
        if repr(other.value) != repr(first.value):
            return f"'{problem.name}' with {show(spec)}: {first.value!r} and {other.value!r}"
    return ""


@values("leaves_global_generators_alone")
def other_seeds_matter_where_declared(subject: MeasureSubject) -> None:
    """Another seed gives another value exactly where the measure says that it is stochastic."""
    tried = [(problem, spec) for problem, spec, _ in subject.cases(few=True)]
    noisy = [(problem, spec) for problem, spec in tried if subject.instance.draws_noise(spec)]
    moved = _first_that_moves(subject, [case for case in tried if case not in noisy])
    require(
        not moved,
        f"traits says stochastic=False, but another seed gave another value on {moved}: write stochastic=True, or "
        "where it depends on the settings override draws_noise(spec)",
    )
    if subject.traits.stochastic and not noisy:
        subject.note("nothing is drawn at the settings tried, says draws_noise: pass spec=[...] with some that draw")
    if not noisy or _first_that_moves(subject, noisy):
        return
    others = [(problem, other) for problem, spec in noisy for other in neighbours(spec)]
    if not _first_that_moves(subject, [case for case in others if subject.instance.draws_noise(case[1])]):
        require(
            any(_draws(subject, problem, spec) for problem, spec in noisy),
            "traits says stochastic=True, but no seed and no replicate changed any value, and nothing was drawn from "
            "rng: write stochastic=False, or where it depends on the settings override draws_noise(spec)",
        )
        subject.note("no draw changed a value at the settings tried: right for a search that ends at the same point")


def _first_that_moves(subject: MeasureSubject, cases: list[tuple[Problem, Spec]]) -> str:
    """Return where another seed mattered first, or an empty text."""
    return next(filter(None, (_where_the_seed_matters(subject, problem, spec) for problem, spec in cases)), "")


def _draws(subject: MeasureSubject, problem: Problem, spec: Spec) -> bool:
    """Return whether the measure asks for noise."""
    rng = WatchedStreams("conformance", problem.name)
    subject.instance.evaluate_many(subject.surface(problem), [spec], rng)
    return bool(rng.drawn)


@values("same_seed_same_value", "leaves_global_generators_alone")
def microbatch_changes_nothing(subject: MeasureSubject) -> None:
    """A microbatch of 1, of 7 or of everything gives the same value up to rounding.

    Of 1 in the problem's own type alone: it takes as many passes as there are examples.
    """
    if not subject.with_data:
        raise SkipTest("level weights: no data is opened")
    for problem, spec, reference in subject.cases(few=True):
        for dtype, rtol in RTOL.items():
            whole = reference if dtype == problem.dtype else subject.value(problem, spec, dtype=dtype)
            scale = subject.level_of_loss(problem)
            for size in (1, 7) if dtype == problem.dtype else (7,):
                cut = subject.value(problem, spec, dtype=dtype, microbatch=size)
                require(
                    same(cut, whole, rtol, scale),
                    f"microbatch {size} gave {cut.value!r} and the whole batch {whole.value!r} on '{problem.name}' in "
                    f"{dtype} with {show(spec)}: microbatch is memory, not meaning; use the surface's own loss and "
                    "gradient, and never average over microbatches yourself",
                )


@values("same_seed_same_value", "leaves_global_generators_alone", "leaves_everything_as_it_was")
def order_of_batches_does_not_matter(subject: MeasureSubject) -> None:
    """Measuring one batch before or after another, or twice, gives the same value."""
    for problem, spec, _ in subject.cases(few=True):
        n = len(problem.data()[1])
        parts = (problem.part(slice(0, n // 2)), problem.part(slice(n // 2, n)))
        by_order: dict[tuple[int, ...], list[float]] = {}
        for order in ((0, 1), (1, 0)):
            instance = subject.item.target()
            values = {i: _evaluate_with(subject, instance, problem, spec, parts[i]) for i in order}
            by_order[order] = [values[0], values[1]]
        require(
            repr(by_order[0, 1]) == repr(by_order[1, 0]),
            f"on '{problem.name}' the batches gave {by_order[0, 1]} in one order and {by_order[1, 0]} in the other: "
            "keep nothing from one evaluation to the next (attributes of the measure, module variables); surface.memo "
            "is for that",
        )
        surface = subject.surface(problem)
        once, twice = (subject.evaluate(surface, [spec])[0].value for _ in range(2))
        require(
            agree(once, twice, RTOL[problem.dtype], subject.level_of_loss(problem)),
            f"the same surface of '{problem.name}' gave {once!r} and then {twice!r}: something memoised was changed, "
            "or something was left on the surface",
        )


def _evaluate_with(subject: MeasureSubject, instance: object, problem: Problem, spec: Spec, points: object) -> float:
    original, subject.instance = subject.instance, instance  # type: ignore[assignment]
    try:
        return subject.evaluate(subject.surface(problem, points=points), [spec])[0].value
    finally:
        subject.instance = original


@values("other_seeds_matter_where_declared", "order_of_batches_does_not_matter")
def order_of_examples_does_not_matter(subject: MeasureSubject) -> None:
    """A deterministic measure gives the same value up to rounding for the examples in another order."""
    if not subject.with_data:
        raise SkipTest("level weights: no data is opened")
    quiet = [case for case in subject.cases(few=True) if not subject.instance.draws_noise(case[1])]
    if not quiet:
        raise SkipTest("the noise of a stochastic measure is named by the batch, order included")
    for problem, spec, reference in quiet:
        rows = torch.arange(len(problem.data()[1])).flip(0)
        other = subject.value(problem, spec, points=problem.part(rows))
        require(
            same(other, reference, 1e-9, subject.level_of_loss(problem)),
            f"the examples of '{problem.name}' in reverse order gave {other.value!r} instead of {reference.value!r}: a "
            "measure of a batch is a function of the set of its examples",
        )


@values("same_seed_same_value", "leaves_global_generators_alone")
def float32_agrees_with_float64(subject: MeasureSubject) -> None:
    """Single precision gives the value of double precision, up to what single precision can resolve."""
    for problem, spec, double in subject.cases(few=True):
        if problem.dtype != "float64" or double.status is not Status.OK:
            continue
        single = subject.value(problem, spec, dtype="float32")
        scale = subject.level_of_loss(problem) * 1e-3
        require(
            same(single, double, 1e-2, scale),
            f"float32 gave {single.value!r} ({single.status}) and float64 {double.value!r} on '{problem.name}' with "
            f"{show(spec)}: accumulate sums and differences of losses in float64",
        )


@values("same_seed_same_value", "leaves_global_generators_alone")
def gpu_agrees_with_cpu(subject: MeasureSubject) -> None:
    """A GPU gives the CPU's value."""
    if not torch.cuda.is_available():
        raise SkipTest("there is no GPU here")
    for problem, spec, reference in subject.cases(few=True):
        on_gpu = subject.value(problem, spec, device="cuda")
        require(
            same(on_gpu, reference, 1e-6, subject.level_of_loss(problem)),
            f"the GPU gave {on_gpu.value!r} and the CPU {reference.value!r} on '{problem.name}' with {show(spec)}: "
            "create tensors on surface.w.device, and noise through rng, which is the same on every device",
        )


@values("same_seed_same_value", "leaves_global_generators_alone")
def survives_a_fresh_process(subject: MeasureSubject) -> None:
    """A process started anew gives the same value."""
    cases, sent, unsent = [], [], ""
    for problem, spec, here in subject.cases(few=True):
        try:
            sent.append((pickle.dumps(problem), spec.full()))
            cases.append((problem, spec, here))
        except Exception as error:
            unsent = f"'{problem.name}' cannot be sent to another process: {error}"
    payload = {
        "id": subject.item.id, "target": subject.reference, "files": carried(subject.item.id), "cases": sent,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    answers = ask("estimates", pickle.dumps(payload))["estimates"]
    for (problem, spec, here), (value, status) in zip(cases, answers, strict=True):
        if not status:
            unsent = f"'{problem.name}' cannot be made in another process: {value}"
            continue
        require(
            status == here.status.value and agree(float(value), here.value, 1e-12, subject.level_of_loss(problem)),
            f"a fresh process gave {value} ({status}) instead of {here.value!r} ({here.status}) on '{problem.name}' "
            f"with {show(spec)}: nothing that was set in this process may enter the value",
        )
    if unsent and not any(status for _, status in answers):
        raise SkipTest(f"{unsent}; write its functions into a module that can be imported")
    if unsent:
        subject.note(f"not tried in a fresh process: {unsent}")


@values("order_of_batches_does_not_matter")
def evaluate_many_equals_evaluate(subject: MeasureSubject) -> None:
    """A spec has the same value alone, among others and in another order."""
    for problem, first, _ in list(subject.cases(few=True))[:: len(subject.specs)]:
        specs = list(dict.fromkeys([*subject.specs, *neighbours(first)]))
        alone = [subject.value(problem, spec) for spec in specs]
        for arrangement, order in (("in a list", specs), ("in a list in reverse order", specs[::-1])):
            together = dict(zip(order, subject.evaluate(subject.surface(problem), order), strict=True))
            for spec, single in zip(specs, alone, strict=True):
                other = together[spec]
                require(
                    other.status is single.status
                    and agree(other.value, single.value, 1e-12, subject.level_of_loss(problem)),
                    f"{show(spec)} gave {single.value!r} ({single.status}) alone and {other.value!r} ({other.status}) "
                    f"{arrangement} of {len(specs)} specs on '{problem.name}': evaluate_many may share passes, never "
                    "change values",
                )


@values("same_seed_same_value", "leaves_global_generators_alone")
def declared_invariances_hold(subject: MeasureSubject) -> None:
    """Every invariance that traits declares holds on twins: other weights, same function."""
    specs = list(dict.fromkeys(at_defaults(spec) for spec in subject.specs))
    agreements: dict[str, list[bool]] = {}
    for twin in subject.own_twins:
        require(twin.difference() < 1e-10, f"the twin '{twin.name}' of '{twin.original.name}' has another function")
    for twin in subject.twins:
        declared = twin.invariance in subject.traits.invariant_to
        for spec in specs:
            a, b = subject.cached_value(twin.original, spec), subject.value(twin.changed, spec)
            if Status.UNSUPPORTED in (a.status, b.status):
                continue
            agreements.setdefault(twin.invariance, []).append(agree(a.value, b.value, 1e-5))
            require(
                not declared or _equal_on_twins(subject, a, b, twin),
                f"traits claims invariance to {twin.invariance}, but '{twin.original.name}' gave {a.value!r} and its "
                f"twin ({twin.name}) {b.value!r} with {show(spec)}: take the claim out of invariant_to, or mend the "
                "measure",
            )
    for word in sorted(subject.traits.invariant_to):
        if word not in agreements:
            subject.note(f"the claim of invariance to {word} was not tried: the measure is not defined on these twins")
    undeclared = [
        word for word, results in agreements.items() if all(results) and word not in subject.traits.invariant_to
    ]
    if undeclared:
        subject.note(
            f"also held on all twins, though not declared: {', '.join(undeclared)}; add what is true in general"
        )


def _equal_on_twins(subject: MeasureSubject, a: Estimate, b: Estimate, twin: Twin) -> bool:
    """Equal up to rounding; where weights change places the noise meets others, so up to its standard error."""
    if agree(a.value, b.value, 1e-5):
        return True
    places = twin.invariance in ("permutation", "head_mixing")
    if not (places and subject.traits.stochastic and math.isfinite(a.value) and math.isfinite(b.value)):
        return False
    if a.stderr is not None and b.stderr is not None:
        return abs(a.value - b.value) <= 4 * math.hypot(a.stderr, b.stderr)
    return agree(a.value, b.value, 0.05)


@values("evaluates")
def closed_forms_are_met(subject: MeasureSubject) -> None:
    """The value is the author's ``expected`` wherever that knows one."""
    if subject.expected is None:
        raise SkipTest("no closed form: pass expected=(surface, spec) -> value")
    compared = 0
    for problem, spec, estimate in subject.cases():
        if not (problem.exact or problem.name in subject.additional):
            continue
        expected = subject.expected(subject.surface(problem), spec)
        if expected is None:
            continue
        compared += 1
        if isinstance(expected, int | float):
            slack = 4 * estimate.stderr if estimate.stderr is not None else 0.0
            agrees = agree(estimate.value, float(expected), 1e-6) or abs(estimate.value - float(expected)) <= slack
        else:
            agrees = bool(estimate.value == expected)
        error = f" ± {estimate.stderr:.2g}" if estimate.stderr is not None else ""
        require(
            agrees,
            f"'{problem.name}' with {show(spec)} gave {estimate.value!r}{error}, expected {expected!r}: one of the two "
            "is wrong; for a looser comparison return pytest.approx(value, rel=...)",
        )
    require(compared, "expected returned None on every problem: return a number on one at least")
