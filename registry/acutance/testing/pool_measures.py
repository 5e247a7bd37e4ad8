"""The checks of a measure that compares models: on groups of networks that differ in the size of their weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from unittest import SkipTest

import torch
from torch import Tensor

from acutance.measure import Estimate, PoolMeasure, Status
from acutance.numerics.draws import Streams
from acutance.peers import Peer
from acutance.spec import Spec
from acutance.surface.compared import evaluate_peers
from acutance.surface.loss_surface import LossSurface
from acutance.system.kept import preserved_rng
from acutance.testing.core import Check, Checklist, require
from acutance.testing.measure_subject import MeasureSubject, agree, show
from acutance.testing.problems import DEGENERATE, PROBLEMS, Problem, scaled
from acutance.testing.watching import ALLOWED_BY, READS_INPUTS, WatchedSurface, generator_states, seed_generators

comparisons = Checklist()
FACTORS = (1.0, 0.7, 1.3, 1.0)  # two models are the same
ALONG = (1.0, 0.7, 1.3, 1.1)  # the checkpoints of a training run; another one has the same
GROUPS = ("tanh_mlp", "conv_bn", "attention")
ELSEWHERE = "level pool: it is given all models at once, never a surface of its own"


class ComparingSubject(MeasureSubject):
    """A measure that compares models, with the groups that it is tried on."""

    def __init__(self, item: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(item, *arguments, **named)
        self.compares = cast("PoolMeasure[Any]", self.instance)
        chosen = [PROBLEMS[name] for name in GROUPS] + [self.problems[name] for name in self.additional]
        self.groups = [(problem, spec) for problem in chosen for spec in self.specs]

    def peers(self, group: Sequence[Problem], spec: Spec, kind: type[LossSurface] = LossSurface) -> list[Peer]:
        """Return a group of models as the measure sees them in a study."""
        needs = self.compares.needs(spec)
        on_points = self.compares.reads_points(spec)
        along = "trajectory" in needs

        def opened(problem: Problem, kind: type[LossSurface] = kind) -> LossSurface:
            surface = problem.surface(with_data=on_points, kind=kind)
            return surface.unlabelled() if on_points and "unlabeled" in needs else surface

        def features(problem: Problem) -> Tensor:
            return opened(problem, LossSurface).last_layer().features.clone()

        found = []
        for i, problem in enumerate(group):
            place = ("ab"[i // len(ALONG)], i % len(ALONG)) if along else ()
            key = ("peer", id(problem), spec.model_dump_json())
            # The problem is kept as well, so that no other one gets its id.
            _, plain = self.once(key, partial(self._with_outputs, problem, opened))
            found.append(
                Peer(
                    f"model{i}", _copy(plain.outputs), _copy(plain.targets), partial(opened, problem),
                    partial(features, problem), *place,
                )
            )  # fmt: skip
        return found

    def _with_outputs(self, problem: Problem, opened: Callable[..., LossSurface]) -> tuple[Problem, Peer]:
        return problem, Peer.of("", opened(problem, LossSurface))

    def group(self, problem: Problem, spec: Spec) -> list[Problem]:
        """Return a group of models on the points of a problem: its own, with larger and smaller weights.

        For a measure that needs ``trajectory`` they are the checkpoints of two runs with the same weights.
        """
        factors = 2 * ALONG if "trajectory" in self.compares.needs(spec) else FACTORS

        def made() -> list[Problem]:
            return [replace(problem, model=partial(scaled, problem.model, factor)) for factor in factors]

        group: list[Problem] = self.once(("members", problem.name, factors), made)
        return group

    def compare(self, peers: Sequence[Peer], spec: Spec, seed: int = 0, replicate: int = 0) -> list[Estimate]:
        """Return the values of a group, as the harness gets them."""
        with preserved_rng():
            seed_generators(1000 * seed + replicate)
            return evaluate_peers(
                self.item.id, self.compares, peers, spec, seed=seed, points="points", replicate=replicate,
                dtype=torch.float64,
            )  # fmt: skip

    def first(self, problem: Problem, spec: Spec) -> list[Estimate]:
        """Return the values of the group of a problem, computed once."""
        key = ("group", problem.name, spec.model_dump_json())
        estimates: list[Estimate] = self.once(
            key, lambda: self.compare(self.peers(self.group(problem, spec), spec), spec)
        )
        return estimates

    def defined(self) -> Iterator[tuple[Problem, Spec, list[Estimate]]]:
        """Yield (problem, spec, values) wherever some model of the group has a value."""
        for problem, spec in self.groups:
            estimates = self.first(problem, spec)
            if any(estimate.status is not Status.UNSUPPORTED for estimate in estimates):
                yield problem, spec, estimates


def _written(estimates: Sequence[Estimate]) -> str:
    return repr([(e.value, e.stderr, e.status) for e in estimates])


def _same(ones: Sequence[Estimate], others: Sequence[Estimate], rtol: float = 1e-9) -> bool:
    pairs = zip(ones, others, strict=True)
    return all(a.status is b.status and agree(a.value, b.value, rtol, 1e-6) for a, b in pairs)


@comparisons("traits_are_known_words", "spec_round_trips")
def evaluates(subject: ComparingSubject) -> None:
    """Every model of a group gets a number, or a reason for having none."""
    unsupported = {}
    for problem, spec in subject.groups:
        estimates = subject.first(problem, spec)
        where = f"for the models of '{problem.name}' with {show(spec)}"
        for estimate in estimates:
            require(
                estimate.status is not Status.FAILED,
                f"evaluate_pool failed {where}: {estimate.message}; it gives an Estimate or number for each model, and "
                "raises acutance.Unsupported with the reason where it is not defined",
            )
        if all(estimate.status is Status.UNSUPPORTED for estimate in estimates):
            unsupported[problem.name] = estimates[0].message
    require(
        len(unsupported) < len({problem.name for problem, _ in subject.groups}),
        f"the measure is supported on none of {', '.join(unsupported)} ({next(iter(unsupported.values()), '')}): pass "
        "surfaces=[...] with one on whose models it is defined",
    )
    if unsupported:
        subject.note(f"not defined, and so not checked, on: {', '.join(unsupported)}")


@comparisons("evaluates")
def same_seed_same_value(subject: ComparingSubject) -> None:
    """The same models give the same values, bitwise, also after others were compared in between."""
    for problem, spec, first in subject.defined():
        subject.compare(subject.peers(subject.group(PROBLEMS["relu_mlp"], spec)[:2], spec), spec)
        again = subject.compare(subject.peers(subject.group(problem, spec), spec), spec)
        require(
            _written(again) == _written(first),
            f"the models of '{problem.name}' gave other values after others had been compared, with {show(spec)}: draw "
            "all noise from rng, and keep no state in the measure",
        )


@comparisons("same_seed_same_value")
def leaves_global_generators_alone(subject: ComparingSubject) -> None:
    """The global random generators are neither used nor moved."""
    for problem, spec, _ in subject.defined():
        values = []
        for seed in (11, 12):
            peers = subject.peers(subject.group(problem, spec), spec)
            with preserved_rng():
                seed_generators(seed)
                before = generator_states()
                found = subject.compares.evaluate_pool(peers, spec, Streams("conformance", problem.name))
                values.append(_written([Estimate.of(value) for value in found]))
                moved = [name for name, state in generator_states().items() if state != before[name]]
            require(not moved, f"evaluate_pool moved the global generator of {', '.join(moved)}: draw noise from rng")
        require(values[0] == values[1], f"the values on '{problem.name}' depend on the global random state: use rng")


@comparisons("leaves_global_generators_alone")
def other_seeds_matter_where_declared(subject: ComparingSubject) -> None:
    """Another seed gives other values exactly where the measure says that it is stochastic."""
    moved = ""
    for problem, spec, first in subject.defined():
        for seed, replicate in ((1, 0), (0, 1)):
            other = subject.compare(subject.peers(subject.group(problem, spec), spec), spec, seed, replicate)
            if _written(other) != _written(first):
                moved = f"'{problem.name}' with {show(spec)}"
    if subject.traits.stochastic and not moved:
        subject.note("traits say stochastic, but no other seed gave another value")
    require(subject.traits.stochastic or not moved, f"another seed gave other values on {moved}: declare stochastic")


@comparisons("evaluates")
def order_of_models_does_not_matter(subject: ComparingSubject) -> None:
    """The values follow the models: in another order every model has the value that it had, and equal ones agree."""
    for problem, spec, first in subject.defined():
        count = len(first)
        for order in (list(reversed(range(count))), [*range(1, count), 0]):
            peers = subject.peers(subject.group(problem, spec), spec)
            turned = subject.compare([peers[i] for i in order], spec)
            require(
                _same(turned, [first[i] for i in order]),
                f"the models of '{problem.name}' have other values in another order with {show(spec)}: what a model is "
                "given may depend on the others as a set, never on its place among them",
            )
        twins = [(0, 3)] if count == len(FACTORS) else [(i, i + len(ALONG)) for i in range(len(ALONG))]
        for i, j in twins:
            require(
                _same([first[i]], [first[j]]),
                f"two equal models of '{problem.name}' have the values {first[i].value!r} and {first[j].value!r} with "
                f"{show(spec)}: a model has one value, whatever it is called",
            )


@comparisons("evaluates")
def needs_are_declared(subject: ComparingSubject) -> None:
    """A measure reads nothing of a model that its needs do not name."""
    for problem, spec, _ in subject.defined():
        needs, read, surfaces = subject.compares.needs(spec), dict[str, frozenset[str]](), list[WatchedSurface]()
        peers = [
            _Watched(*vars(peer).values(), read, surfaces)
            for peer in subject.peers(subject.group(problem, spec), spec, WatchedSurface)
        ]
        subject.compare(peers, spec)
        called = {f"surface().{call}": ALLOWED_BY[call] for surface in surfaces for call in surface.log.calls}
        for call, allowed in (read | called).items():
            require(
                allowed & needs,
                f"with {show(spec)} the measure reads {call} of a model, but needs does not name "
                f"{' or '.join(sorted(allowed))}: add it to traits.needs, which say what is opened and what it costs",
            )


class _Watched(Peer):
    """A model that notes what is read of it."""

    def __init__(self, *fields: Any) -> None:
        *own, read, surfaces = fields
        super().__init__(*own)
        vars(self)["note"] = read.__setitem__
        vars(self)["keep"] = surfaces.append

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        note: Callable[[str, frozenset[str]], None] = super().__getattribute__("__dict__").get("note", lambda *_: None)
        if name == "logits":
            note(name, READS_INPUTS)
        elif name == "targets" and found is not None:
            note(name, frozenset({"data"}))
        elif name == "features":
            note("features()", frozenset({"activations"}))
        elif name in ("run", "step"):
            note(name, frozenset({"trajectory"}))
        return found

    def surface(self) -> LossSurface:
        """Return the model, and keep it to see what is called of it."""
        surface = super().surface()
        vars(self)["keep"](surface)
        return surface


@comparisons("evaluates")
def leaves_everything_as_it_was(subject: ComparingSubject) -> None:
    """Logits, targets and the weights of surfaces are bitwise what they were."""
    for problem, spec, _ in subject.defined():
        opened: list[tuple[LossSurface, Tensor]] = []

        def kept(peer: Peer, opened: list[tuple[LossSurface, Tensor]] = opened) -> LossSurface:
            surface = peer.opened()
            opened.append((surface, surface.core.functional.w.detach().clone()))
            return surface

        peers = subject.peers(subject.group(problem, spec), spec)
        before = [(_copy(peer.outputs), _copy(peer.targets)) for peer in peers]
        subject.compare([replace(peer, opened=partial(kept, peer)) for peer in peers], spec)
        for peer, (logits, targets) in zip(peers, before, strict=True):
            for name, was, now in (("logits", logits, peer.outputs), ("targets", targets, peer.targets)):
                require(
                    was is None or (now is not None and torch.equal(was.nan_to_num(), now.nan_to_num())),
                    f"evaluate_pool changed the {name} of a model of '{problem.name}': work on copies",
                )
        require(
            all(torch.equal(surface.core.functional.w, w) for surface, w in opened),
            f"evaluate_pool changed the weights of a model of '{problem.name}': work on copies (surface.w.clone())",
        )


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


@comparisons("evaluates")
def finite_or_honest(subject: ComparingSubject) -> None:
    """Where there is no finite value the status is not ok and a sentence says why; nothing raises."""
    for problem in DEGENERATE.values():
        for spec in subject.specs:
            for estimate in subject.compare(subject.peers(subject.group(problem, spec), spec), spec):
                where = f"for a model of '{problem.name}' with {show(spec)}"
                require(
                    estimate.status is not Status.FAILED,
                    f"evaluate_pool failed {where}: {estimate.message}; give a status, or raise acutance.Unsupported",
                )
                require(
                    math.isfinite(estimate.value) or (estimate.status is not Status.OK and estimate.message.strip()),
                    f"the value {where} is {estimate.value!r} with status {estimate.status} and no sentence saying why",
                )


@comparisons("evaluates")
def estimates_are_json(subject: ComparingSubject) -> None:
    """Values and extras can be stored: plain finite numbers, texts, lists and mappings."""
    for problem, spec, estimates in subject.defined():
        for estimate in estimates:
            try:
                json.dumps(dict(estimate.extras), allow_nan=False)
            except (TypeError, ValueError) as error:
                raise AssertionError(
                    f"the extras on '{problem.name}' with {show(spec)} cannot be stored: {error}"
                ) from None


@comparisons("same_seed_same_value")
def declared_invariances_hold(subject: ComparingSubject) -> None:
    """Where a model is replaced by a twin, other weights and the same function, no value of the group changes."""
    tried = set()
    for twin in subject.twins:
        for spec in subject.specs if twin.invariance in subject.traits.invariant_to else ():
            others = subject.group(twin.original, spec)[1:]
            a, b = (subject.compare(subject.peers([m, *others], spec), spec) for m in (twin.original, twin.changed))
            if Status.UNSUPPORTED in {estimate.status for estimate in (*a, *b)}:
                continue
            tried.add(twin.invariance)
            require(
                _same(a, b, 1e-5),
                f"traits claims invariance to {twin.invariance}, but values changed where a model of "
                f"'{twin.original.name}' was replaced by its twin ({twin.name}) with {show(spec)}",
            )
    if untried := sorted(set(subject.traits.invariant_to) - tried):
        subject.note(f"no twins to try invariance to {', '.join(untried)} with")


def elsewhere(check: Check) -> Check:
    """Return a check of a single surface as one that is skipped, and says why."""

    def skipped(subject: ComparingSubject) -> None:
        raise SkipTest(ELSEWHERE)

    skipped.__doc__ = check.description
    return Check(check.name, skipped, check.after)
