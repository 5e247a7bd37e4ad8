"""What a check is, how checks run, and the test class made of them.

A check raises ``AssertionError`` with advice, or ``unittest.SkipTest`` with a reason; pytest and unittest both
understand these. One that rests on another is not tried when that one failed, so that a fault is reported once.
"""

from __future__ import annotations

import re
import time
import traceback
import unittest
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from acutance.errors import UserError
from acutance.plugins import KINDS, Catalog, Item, Kind, catalog
from acutance.testing.settings import specs_of

KIND_OF: dict[str, Kind] = {"measure": "measures", "pool": "pools", "dataset": "datasets", "executor": "executors"}


class ConformanceNote(UserWarning):
    """Something an author may want to know, though nothing is wrong."""


class NotTried(unittest.SkipTest):
    """The check rests on one that failed."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: what holds, in words joined by underscores.
        function: takes the subject; its docstring is the check's description.
        after: checks without which this one means nothing.
    """

    name: str
    function: Callable[[Any], None]
    after: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The first line of the docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


class Checklist:
    """Collects checks in the order of their definition; used as a decorator."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def __call__(self, *after: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        """Return a decorator that adds a check resting on the named ones."""

        def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
            self.checks.append(Check(function.__name__, function, after))
            return function

        return add

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)


@dataclass
class Outcome:
    """How one check ended."""

    check: Check
    state: Literal["passed", "failed", "skipped"]
    message: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: BaseException | None = None
    traceback: str = ""


def require(condition: Any, message: str) -> None:
    """Raise ``AssertionError(message)`` unless the condition holds."""
    if not condition:
        raise AssertionError(message)


class Subject:
    """The registered thing under test, with the settings it is tried with.

    Attributes:
        item: from the catalog.
        specs: settings, at least one.
        specs_given: whether the author chose them.
        notes: what the check that runs now wants to say.
    """

    def __init__(self, item: Item, spec: Any = None, plugin_modules: Sequence[str] = ()) -> None:
        self.item = item
        self.specs_given = spec is not None
        self.specs = specs_of(item.target.Spec, spec, item.name)
        self.plugin_modules = tuple(plugin_modules)
        self.notes: list[str] = []
        self.cache: dict[Any, Any] = {}

    def note(self, text: str) -> None:
        """Say something that is not a failure."""
        if text not in self.notes:
            self.notes.append(text)

    def once(self, key: Any, function: Callable[[], Any]) -> Any:
        """Return a result that several checks look at, computed once."""
        if key not in self.cache:
            self.cache[key] = function()
        return self.cache[key]

    @property
    def reference(self) -> str:
        """``module:Class``, as another process finds the class."""
        target = self.item.target
        return f"{target.__module__}:{target.__qualname__}"


class Examination:
    """Runs the checks of one subject, each at most once."""

    def __init__(self, subject: Subject, checks: Sequence[Check]) -> None:
        self.subject = subject
        self.checks = {check.name: check for check in checks}
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """Return how a check ended, running it, and those it rests on, if that has not been done."""
        if name not in self._outcomes:
            check = self.checks[name]
            failed = [other for other in check.after if self.outcome(other).state == "failed"]
            missing = [other for other in check.after if isinstance(self.outcome(other).error, NotTried)]
            if failed or missing:
                reason = f"not tried: it rests on {', '.join(failed or missing)}, which did not pass"
                self._outcomes[name] = Outcome(check, "skipped", reason, error=NotTried(reason))
            else:
                self._outcomes[name] = self._run(check)
        return self._outcomes[name]

    def _run(self, check: Check) -> Outcome:
        """Run one check; whatever it raises becomes its outcome."""
        self.subject.notes = []
        outcome, start = Outcome(check, "passed"), time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check.function(self.subject)
        except unittest.SkipTest as error:
            outcome.state, outcome.message, outcome.error = "skipped", str(error), error
        except Exception as error:
            outcome.state, outcome.error, outcome.traceback = "failed", error, traceback.format_exc()
            outcome.message = str(error) if isinstance(error, AssertionError) else _unexpected(error)
        outcome.seconds, outcome.notes = time.perf_counter() - start, list(self.subject.notes)
        return outcome

    def run(self) -> Iterator[Outcome]:
        """Yield the outcome of every check, in order."""
        for name in self.checks:
            yield self.outcome(name)


def _unexpected(error: BaseException) -> str:
    text = str(error) or "no message"
    return f"{type(error).__name__}: {text}; an exception that was not expected here, see the traceback"


def locate(name: str, kind: str | None = None, plugins: Catalog | None = None) -> Item:
    """Return the registered item of a name.

    Args:
        name: short name or ``dist/name``.
        kind: ``measure``, ``pool``, ``dataset`` or ``executor``; not needed while the name is unique.
        plugins: where to look; the installed plugins by default.

    Raises:
        UserError: for an unknown or ambiguous name, or a kind that has no checks.
    """
    plugins = plugins or catalog()
    if kind is not None:
        plural = KIND_OF.get(kind.removesuffix("s"))
        if plural is None:
            raise UserError(f"kind: there are no checks for '{kind}'", "kinds: " + ", ".join(KIND_OF))
        return plugins.find(plural, name)
    items, mistakes = [], []
    for each in KINDS:
        try:
            items.append(plugins.find(each, name))
        except UserError as error:
            mistakes.append(error)
    checked = [item for item in items if item.kind in KIND_OF.values()]
    if len(checked) == 1:
        return checked[0]
    if checked:
        kinds = [item.kind.removesuffix("s") for item in checked]
        raise UserError(f"'{name}' is the name of a {' and of a '.join(kinds)}", f"say which: kind {kinds[0]}")
    if items:
        raise UserError(f"'{name}' is a {items[0].kind.removesuffix('s')}, for which there are no checks")
    for mistake in mistakes:
        if "ambiguous" in mistake.message:
            raise mistake
    failed = "; ".join(map(str, plugins.problems))
    hint = plugins.nearest(name, list(KIND_OF.values())) + (
        f" plugin problems: {failed}; see 'acutance doctor'" if failed else ""
    )
    raise UserError(f"nothing that can be checked is called '{name}'", hint)


def examine(
    item: Item,
    *,
    spec: Any = None,
    expected: Callable[[Any, Any], Any] | None = None,
    surfaces: Any = None,
    plugin_modules: Sequence[str] = (),
) -> Examination:
    """Return the examination of an item, whose checks have not run yet."""
    if item.kind != "measures" and (expected is not None or surfaces is not None):
        raise UserError(f"'{item.name}' is not a measure", "expected and surfaces are for measures only")
    module = import_module(f"acutance.testing.{item.kind}")
    extra = {"expected": expected, "surfaces": surfaces} if item.kind == "measures" else {}
    subject: Subject = module.SUBJECT(item, spec, plugin_modules, **extra)
    return Examination(subject, module.checks_of(item) if item.kind == "measures" else module.CHECKS)


def plugin_modules_of(item: Item, plugins: Catalog) -> list[str]:
    """Return the entry-point modules that may have registered an item: those of its distribution and package."""
    package = item.target.__module__.partition(".")[0]
    return [p.module for p in plugins.plugins if p.dist == item.dist and p.module.partition(".")[0] == package]


def conformance(
    name: str,
    *,
    kind: str | None = None,
    expected: Callable[[Any, Any], Any] | None = None,
    spec: Any = None,
    surfaces: Any = None,
) -> type[unittest.TestCase]:
    """Return a test class that holds a plugin against the contract.

    Write ``TestFoo = conformance("acme-foo/foo")`` in a test file: pytest and unittest collect it, each check as one
    test method. What could not be tried is skipped with the reason; what is worth knowing but not wrong is a
    warning, ``ConformanceNote``.

    Args:
        name: short name or ``dist/name`` of a measure, pool, dataset or executor.
        kind: which of these, when the name does not say.
        expected: for a measure with a closed form: (surface, spec) -> its value on that surface, as a number, as
            ``pytest.approx(...)``, or None where there is no closed form. Called with the quadratics and the
            softmax model of ``acutance.testing.problems`` and with the additional surfaces.
        spec: a mapping of settings to test, or a list of mappings; by default all defaults, with values derived
            for required fields. For a pool that trains, give its smallest settings.
        surfaces: further surfaces to try a measure on: ``Problem`` objects, ``LossSurface`` objects or pairs
            (model, (inputs, targets)), in a list or a mapping of names. A ``Twin`` among them, of
            ``acutance.testing.twins``, tries claims of invariance on models of one's own.

    Raises:
        UserError: for an unknown name or wrong settings.
    """
    plugins = catalog()
    item = locate(name, kind, plugins)
    examination = examine(
        item, spec=spec, expected=expected, surfaces=surfaces, plugin_modules=plugin_modules_of(item, plugins)
    )
    identifier = re.sub(r"\W", "_", item.name)
    body: dict[str, Any] = {f"test_{check}": _method(examination, check) for check in examination.checks}
    body |= {"__doc__": f"Conformance of {item.id}.", "__module__": __name__, "examination": examination}
    return type(f"Conformance_{identifier}", (unittest.TestCase,), body)


def _method(examination: Examination, name: str) -> Callable[[unittest.TestCase], None]:
    """Return the test method of one check."""

    def test(self: unittest.TestCase) -> None:
        outcome = examination.outcome(name)
        for note in outcome.notes:
            warnings.warn(ConformanceNote(f"{examination.subject.item.id}: {note}"), stacklevel=2)
        if outcome.error is not None:
            raise outcome.error

    test.__name__, test.__doc__ = f"test_{name}", examination.checks[name].description
    return test
