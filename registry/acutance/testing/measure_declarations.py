"""What a measure says of itself, and that it runs at all."""

from __future__ import annotations

import re
from typing import get_args

from acutance.analysis.labels import filled, label_of
from acutance.measure import (
    WITHOUT_POINTS,
    Better,
    Cost,
    Estimate,
    Invariance,
    Level,
    Need,
    PoolMeasure,
    Status,
    Traits,
)
from acutance.presentation import Presentation
from acutance.testing.core import Checklist, require
from acutance.testing.measure_subject import MeasureSubject, show

declarations = Checklist()


@declarations()
def name_doc_and_reference(subject: MeasureSubject) -> None:
    """A reader learns what the measure is and where it is defined."""
    target = subject.item.target
    require(
        re.fullmatch(r"[a-z][a-z0-9_]*", target.name),
        f"the name '{target.name}' cannot be a column or a file name: use small letters, digits and underscores",
    )
    doc = target.__dict__.get("__doc__")
    require(doc and doc.strip(), f"{target.__name__} has no docstring: give the formula, its source and the symbols")
    require(subject.traits.reference, "traits.reference is empty: say where the definition stands (paper, equation)")
    require(
        isinstance(target.version, int) and target.version >= 1,
        f"version is {target.version!r}: give a whole number, and raise it when values change",
    )


@declarations()
def traits_are_known_words(subject: MeasureSubject) -> None:
    """Level, needs and invariances are words that the harness knows, and fit together."""
    traits = subject.traits
    require(isinstance(traits, Traits), f"traits is {traits!r}: write traits = Traits(...)")
    require(
        traits.level in get_args(Level),
        f"traits.level is {traits.level!r}: write batch, dataset, weights or pool",
    )
    compares = isinstance(subject.instance, PoolMeasure)
    require(
        compares == (traits.level == "pool") == ("peers" in traits.needs),
        "level pool, needs peers and the base class PoolMeasure go together: what compares models has all three",
    )
    for field, words, allowed in (
        ("traits.needs", traits.needs, get_args(Need)),
        ("traits.invariant_to", traits.invariant_to, get_args(Invariance)),
        *((f"needs({show(spec)})", subject.instance.needs(spec), get_args(Need)) for spec in subject.specs),
    ):
        unknown = sorted(set(words) - set(allowed))
        require(not unknown, f"{field} has unknown words {', '.join(unknown)}: known are {', '.join(allowed)}")
    require(
        traits.better in get_args(Better),
        f"traits.better is {traits.better!r}: write larger or smaller, or leave it out where none promises anything",
    )
    if traits.level == "weights":
        more = sorted(set(traits.needs) - WITHOUT_POINTS)
        require(
            not more, f"level weights opens no data, but needs has {', '.join(more)}: choose level batch or dataset"
        )


@declarations("traits_are_known_words")
def is_shown_by_its_own_fields(subject: MeasureSubject) -> None:
    """The label, and what settings add to it, are templates over the fields of the spec; curves name both axes."""
    traits, fields = subject.traits, subject.item.target.Spec.model_fields
    require(
        isinstance(traits.symbol, str) and not set("$\\{}") & set(traits.symbol),
        f"traits.symbol is {traits.symbol!r}: it is plain text, as 'R_w', whose letter behind _ is set as an index",
    )
    require(isinstance(traits.label, str), f"traits.label is {traits.label!r}: give a text, as '{{norm}} length'")
    for curve, axes in dict(traits.curves).items():
        require(
            isinstance(axes, tuple | list) and len(axes) == 2 and all(isinstance(text, str) for text in axes),
            f"traits.curves['{curve}'] is {axes!r}: say what both axes are, ('eigenvalue', 'share')",
        )
    shown = Presentation.of(traits, subject.item.target.Spec)
    added = ((f"what the mark of field '{addition.field}' adds", addition.template) for addition in shown.additions)
    for place, template in (("traits.label", traits.label), *added):
        unknown = [name for name in re.findall(r"\{(\w+)\}", template) if name not in fields]
        require(
            not unknown and not re.search(r"[{}]", filled(template, {})),
            f"{place}, '{template}', has {', '.join(unknown) or 'braces around what is no name'}: write {{FIELD}} with "
            f"one of {', '.join(fields)}",
        )
    for spec in subject.specs:
        require(
            not traits.label or label_of(shown, spec.full()).strip(),
            f"traits.label is empty with {show(spec)}: add a word",
        )


@declarations("traits_are_known_words")
def passes_and_vectors_are_known(subject: MeasureSubject) -> None:
    """``check`` can say what every setting costs."""
    for spec in subject.specs:
        passes, vectors = subject.instance.passes(spec), subject.instance.vectors(spec)
        require(
            isinstance(passes, Cost) and passes.forwards >= 0 and passes.backwards >= 0 and passes.hvps >= 0,
            f"passes({show(spec)}) gave {passes!r}: return Cost(forwards, backwards, hvps) over one batch",
        )
        require(
            isinstance(vectors, int) and vectors >= 0,
            f"vectors({show(spec)}) gave {vectors!r}: return how many parameter-sized vectors are alive at the peak",
        )


@declarations("traits_are_known_words", "spec_round_trips")
def evaluates(subject: MeasureSubject) -> None:
    """Evaluation gives a number, or says why there is none, on every problem of the kit."""
    unsupported = {}
    for problem in subject.problems.values():
        for spec in subject.specs:
            where = f"on problem '{problem.name}' with {show(spec)}"
            try:
                estimate = subject.cached_value(problem, spec)
            except Exception as error:
                raise AssertionError(
                    f"evaluate raised {type(error).__name__}: {error} {where}; where the measure is not defined, raise "
                    "acutance.Unsupported with the reason"
                ) from error
            require(isinstance(estimate, Estimate), f"evaluate_many gave {estimate!r} {where}: return Estimates")
            require(
                isinstance(estimate.value, float) and isinstance(estimate.status, Status),
                f"the estimate {where} has value {estimate.value!r} and status {estimate.status!r}: give a float and a "
                "Status",
            )
            if estimate.status is Status.UNSUPPORTED:
                unsupported[problem.name] = estimate.message
                require(estimate.message, f"Unsupported was raised without a reason {where}: say why in one sentence")
    require(
        len(unsupported) < len(subject.problems),
        f"the measure is supported on none of {', '.join(unsupported)} ({next(iter(unsupported.values()), '')}): pass "
        "surfaces=[...] with one on which it is defined (acutance conform: --surfaces module:name)",
    )
    if unsupported:
        subject.note(f"not defined, and so not checked, on: {', '.join(unsupported)}")
