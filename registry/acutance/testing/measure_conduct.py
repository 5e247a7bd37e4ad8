"""How a measure behaves: what it leaves behind, what it calls, what it says when things go wrong, what it books."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import torch

from acutance.errors import Unsupported, UserError, some
from acutance.measure import WITHOUT_POINTS, Cost, Status
from acutance.numerics.draws import Streams
from acutance.spec import Spec
from acutance.surface.beside import VALIDATION
from acutance.surface.loss_surface import LossSurface
from acutance.testing.core import Checklist, require
from acutance.testing.measure_subject import MeasureSubject, show
from acutance.testing.problems import DEGENERATE, Problem
from acutance.testing.settings import far, neighbours
from acutance.testing.watching import (
    ALLOWED_BY,
    READS_DATA,
    FailingModel,
    Interrupted,
    WatchedSurface,
    counted_examples,
    differences,
    snapshot,
)

conduct = Checklist()
STREAM = Streams("conformance")


def _prepared(subject: MeasureSubject, problem: Problem) -> tuple[LossSurface, Any]:
    """Return a surface whose model is in an unusual state, and the points it was made of."""
    points = problem.data() if subject.with_data else None
    surface = problem.surface(with_data=subject.with_data, functional=FailingModel, points=points)
    if subject.with_data:
        surface.raw_logits()  # the surface's own examination of the model, outside what is counted
    model = surface.model.train()
    parameters = list(model.parameters())
    for p in parameters[1::2]:
        p.grad = torch.ones_like(p)
    parameters[0].requires_grad_(False)
    return surface, points


def _examined(subject: MeasureSubject, surface: LossSurface, spec: Spec) -> None:
    """Have the surface, and the points beside it, examine the model: that is no part of a measure's work."""
    surface.raw_logits()
    if "validation" in subject.instance.needs(spec):
        surface.core.companions[VALIDATION]().check()


def _evaluate(subject: MeasureSubject, surface: LossSurface, spec: Spec) -> BaseException | None:
    """Evaluate without any of the harness's protection; return what was raised."""
    try:
        subject.instance.evaluate_many(surface, [spec], STREAM)
    except Exception as error:
        return error
    return None


@conduct("evaluates")
def leaves_everything_as_it_was(subject: MeasureSubject) -> None:
    """Weights, buffers, gradients, flags, data and grad mode are bitwise what they were."""
    for problem, spec, _ in subject.cases(few=True):
        for grad_mode in (True, False):
            surface, points = _prepared(subject, problem)
            with _as_before():
                torch.set_grad_enabled(grad_mode)
                before = snapshot(surface, points)
                _evaluate(subject, surface, spec)
                changed = differences(before, snapshot(surface, points))
            require(
                not changed,
                f"evaluate changed {some(changed)} on '{problem.name}': work on copies (surface.w.clone(), loss(w) at "
                "other points) and put back what you must change in a finally clause",
            )


@conduct("leaves_everything_as_it_was")
def leaves_everything_as_it_was_after_an_exception(subject: MeasureSubject) -> None:
    """The same holds when a pass fails in the middle."""
    if not subject.with_data:
        raise SkipTest("level weights: no pass is made that could fail")
    for problem, spec, _ in subject.cases(few=True):
        for share in (0.0, 0.5, 1.0):
            surface, points = _prepared(subject, problem)
            model: Any = surface.core.functional
            total = _passes(subject, problem, spec)
            model.allowed = model.passes + int(share * max(total - 1, 0))
            with _as_before():
                before = snapshot(surface, points)
                error = _evaluate(subject, surface, spec)
                changed = differences(before, snapshot(surface, points))
            require(
                not changed,
                f"after a pass failed, {some(changed)} stayed changed on '{problem.name}': put it back in a finally "
                "clause",
            )
            if total and error is None:
                subject.note("a failed pass was swallowed: let exceptions through, the harness records them")
            elif error is not None and not isinstance(error, Interrupted | Unsupported):
                subject.note(f"a failed pass came out as {type(error).__name__}: {error}; the cause should be kept")


def _passes(subject: MeasureSubject, problem: Problem, spec: Spec) -> int:
    surface, _ = _prepared(subject, problem)
    model: Any = surface.core.functional
    start = model.passes
    _evaluate(subject, surface, spec)
    return int(model.passes - start)


@contextmanager
def _as_before() -> Iterator[None]:
    """Put the process's own switches back, whatever a measure did to them."""
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)


@conduct("evaluates")
def needs_are_declared(subject: MeasureSubject) -> None:
    """A measure calls nothing of a surface that its needs do not name."""
    declared, used = set(subject.traits.needs), set[str]()
    for problem, first, _ in list(subject.cases(few=True))[:: len(subject.specs)]:
        for spec in dict.fromkeys([*subject.specs, *neighbours(first)]):
            surface = problem.surface(with_data=subject.with_data, kind=WatchedSurface)
            assert isinstance(surface, WatchedSurface)
            needs = subject.instance.needs(spec)
            declared |= needs
            _evaluate(subject, surface, spec)
            refused = {call: ALLOWED_BY[call] for call in surface.log.calls if not ALLOWED_BY[call] & needs}
            used = used.union(*(ALLOWED_BY[call] for call in surface.log.calls if ALLOWED_BY[call] != READS_DATA))
            for call, allowed in refused.items():
                # What only looks at data is allowed by any need that does; data is the one to name.
                wanted = "data" if allowed == READS_DATA else " or ".join(sorted(allowed))
                text = f"with {show(spec)} the measure calls surface.{call}, but needs does not name {wanted}"
                require(
                    spec not in subject.specs,
                    f"{text}: add it to traits.needs, which say where the measure can run and what it costs",
                )
                subject.note(f"{text}; it is not called at the settings tested: override needs(spec)")
    idle = sorted(declared - used - {"weights", "data"})
    if idle:
        subject.note(f"needs names {', '.join(idle)}, which was not called with the settings tried")


@conduct("needs_are_declared", "passes_and_vectors_are_known")
def all_passes_are_booked(subject: MeasureSubject) -> None:
    """Every example that goes through the model is in the ledger of the surface."""
    compared = set()
    for problem, spec, _ in subject.cases(few=True):
        surface = subject.surface(problem)
        if subject.with_data:
            _examined(subject, surface, spec)
        before = surface.cost
        with counted_examples(surface.model) as counts:
            _evaluate(subject, surface, spec)
        spent = surface.cost - before
        require(
            counts["examples"] <= spent.forwards + spent.checks + 1e-6,
            f"{counts['examples']} examples went through the model of '{problem.name}' but {spent.forwards:g} were "
            "booked: evaluate through the surface (loss, logits, gradient), which counts, not by calling surface.model",
        )
        needs = subject.instance.needs(spec)
        if "data" in needs:
            require(
                spent.units > 0,
                f"needs has data, but no pass was booked on '{problem.name}' with {show(spec)}: take data out of "
                "needs, or use the surface's own passes",
            )
        if needs <= WITHOUT_POINTS:
            require(
                spent.units == 0,
                f"needs has only weights, but {spent.forwards:g} examples were passed forward on '{problem.name}': add "
                "data to needs",
            )
        if spec not in compared:
            _compare_with_declared(subject, problem, spec)
            compared.add(spec)


def _compare_with_declared(subject: MeasureSubject, problem: Problem, spec: Spec) -> None:
    """Note by how much the work on a fresh surface differs from what ``passes`` says."""
    surface = subject.surface(problem)
    _evaluate(subject, surface, spec)
    spent = surface.cost * (1 / max(surface.n, 1))
    declared: Cost = subject.instance.passes(spec)
    pairs = {
        "forwards": (declared.forwards, spent.forwards),
        "backwards": (declared.backwards, spent.backwards),
        "Hessian-vector products": (declared.hvps, spent.hvps),
    }
    wrong = [
        f"{promised:g} {kind} where {made:g} were made"
        for kind, (promised, made) in pairs.items()
        if abs(promised - made) > 1e-6
    ]
    if wrong:
        subject.note(f"passes({show(spec)}) says {', '.join(wrong)} on '{problem.name}'")


@conduct("evaluates")
def finite_or_honest(subject: MeasureSubject) -> None:
    """Where there is no finite value the status is not ok and a sentence says why; nothing raises."""
    cases: list[tuple[Problem, Spec]] = [(problem, spec) for problem in DEGENERATE.values() for spec in subject.specs]
    for problem in (subject.problems["tanh_mlp"], subject.problems["relu_mlp"]):
        cases += [(problem, other) for spec in subject.specs if (other := far(spec)) is not None]
    everywhere = [(problem, spec, estimate) for problem, spec, estimate in subject.cases()]
    for problem, spec in cases:
        try:
            estimate = subject.value(problem, spec)
        except UserError:
            continue
        except Exception as error:
            raise AssertionError(
                f"evaluate raised {type(error).__name__}: {error} on the degenerate surface '{problem.name}' with "
                f"{show(spec)}: return an Estimate with a status, or raise acutance.Unsupported"
            ) from error
        everywhere.append((problem, spec, estimate))
    for problem, spec, estimate in everywhere:
        where = f"on '{problem.name}' with {show(spec)}"
        require(
            math.isfinite(estimate.value) or estimate.status is not Status.OK,
            f"the value {where} is {estimate.value!r} with status ok: give status nonfinite",
        )
        require(
            math.isfinite(estimate.value) or estimate.message.strip(),
            f"the value {where} is {estimate.value!r} with status {estimate.status} and no message: say in one "
            "sentence what happened and what to try (Status.advice has a text for each)",
        )
        require(
            estimate.status in (Status.OK, Status.NOT_CONVERGED) or estimate.message.strip(),
            f"status {estimate.status} {where} has no message: say in one sentence what happened and what to try",
        )


@conduct("evaluates")
def estimates_are_json(subject: MeasureSubject) -> None:
    """Value, standard error and extras can be stored: plain numbers, texts, lists and mappings."""
    for problem, spec, estimate in subject.cases():
        where = f"on '{problem.name}' with {show(spec)}"
        for name, value in estimate.extras.items():
            require(isinstance(name, str), f"extras {where} has the key {name!r}: keys must be texts")
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise AssertionError(
                    f"extras['{name}'] {where} cannot be stored ({error}): give float(...), .tolist(), or leave out "
                    "what is not finite"
                ) from None
        require(
            estimate.stderr is None or (isinstance(estimate.stderr, float) and estimate.stderr >= 0),
            f"stderr {where} is {estimate.stderr!r}: give a float that is not negative, or None",
        )
        require(isinstance(estimate.message, str), f"message {where} is {estimate.message!r}: give a text")


@conduct("evaluates")
def standard_error_is_given(subject: MeasureSubject) -> None:
    """A Monte-Carlo estimate has a standard error, a deterministic value has none (a note, never a failure)."""
    has_stderr = {estimate.stderr is not None for _, _, estimate in subject.cases() if estimate.status is Status.OK}
    if subject.traits.stochastic and has_stderr == {False}:
        subject.note("stochastic, but without stderr: right for a search, for an average give its standard error")
    if not subject.traits.stochastic and True in has_stderr:
        subject.note("deterministic, but with a stderr: a standard error is that of random draws")
