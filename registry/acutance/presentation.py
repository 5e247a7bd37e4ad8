"""How measures are shown: what their classes say of names, symbols and curves, as plain data that needs no torch.

Tables name measures; whoever reads a table asks here how a measure of that name is shown. The answer comes from what
the run wrote down beside its tables (inside of ``showing``), so that a run reads well where its plugins are not
installed, else from the plugins that are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from acutance.errors import caught
from acutance.plugins import catalog
from acutance.spec import Shown, Spec

if TYPE_CHECKING:
    from acutance.measure import Traits


@dataclass(frozen=True)
class Addition:
    """What a field of the spec adds behind the label.

    Attributes:
        field: its name.
        template: the text, over the fields of the spec.
        default: value at which nothing is added; None where there is no such value.
        estimation: whether it says how the value is estimated.
    """

    field: str
    template: str
    default: Any = None
    estimation: bool = False


@dataclass(frozen=True)
class Presentation:
    """How one measure is shown; empty for a measure of which nothing is known.

    Attributes:
        label: ``Traits.label``, a template over the fields of the spec.
        symbol: ``Traits.symbol``.
        words: field -> its values -> what a label writes for them.
        additions: what fields add behind the label, in this order.
        estimation: fields that say how the value is estimated, not what is estimated.
        curves: names of extras that are curves -> what their axes say.
        better: ``Traits.better``, which values promise a lower error.
        estimates: ``Traits.estimates``.
        edge: ``Traits.edge``.
    """

    label: str = ""
    symbol: str = ""
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    additions: tuple[Addition, ...] = ()
    estimation: tuple[str, ...] = ()
    curves: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    better: str = ""
    estimates: str = ""
    edge: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, traits: Traits, spec: type[Spec]) -> Presentation:
        """Return what a measure's class says."""
        marks = {
            name: mark for name, info in spec.model_fields.items() for mark in info.metadata if isinstance(mark, Shown)
        }
        additions = [
            Addition(name, mark.adds, None if mark.always else _default(spec, name), mark.estimation)
            for name, mark in marks.items()
            if mark.adds
        ]
        # What stands directly behind the label, then what is estimated, then how.
        additions.sort(key=lambda added: (added.template.startswith(","), added.estimation))
        return cls(
            label=traits.label,
            symbol=traits.symbol,
            words={name: dict(mark.words) for name, mark in marks.items() if mark.words},
            additions=tuple(additions),
            estimation=tuple(name for name, mark in marks.items() if mark.estimation),
            curves={name: (axes[0], axes[1]) for name, axes in traits.curves.items()},
            better=traits.better,
            estimates=traits.estimates,
            edge=dict(traits.edge),
        )

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Presentation:
        """Return what ``as_json`` gave."""
        additions = tuple(Addition(**added) for added in data["additions"])
        curves = {name: (x, y) for name, (x, y) in data["curves"].items()}
        words, estimation = data["words"], tuple(data["estimation"])
        better, estimates = data.get("better", ""), data.get("estimates", "")  # older runs say nothing of these
        return cls(
            data["label"], data["symbol"], words, additions, estimation, curves, better, estimates, data.get("edge", {})
        )

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


def _default(spec: type[Spec], name: str) -> Any:
    """Return a field's default as a JSON value; None for a field that has none."""
    info = spec.model_fields[name]
    if info.is_required():
        return None
    return list(info.default) if isinstance(info.default, tuple) else info.default


UNKNOWN = Presentation()
_recorded: ContextVar[Mapping[str, Presentation] | None] = ContextVar("acutance_presentations", default=None)


def presentation(measure: str) -> Presentation:
    """Return how a measure of a table is shown; never fails, and is empty for one that nothing is known of.

    Args:
        measure: its name, or its canonical id.
    """
    return (_recorded.get() or {}).get(measure) or _installed(measure)


@contextmanager
def showing(shown: Mapping[str, Presentation]) -> Iterator[None]:
    """Let ``presentation`` answer with these, in this thread and inside this block, whatever is installed."""
    token = _recorded.set({**(_recorded.get() or {}), **shown})
    try:
        yield
    finally:
        _recorded.reset(token)


def presentations(measures: Iterable[str]) -> dict[str, Presentation]:
    """Return how measures are shown, by name."""
    return {name: presentation(name) for name in dict.fromkeys(measures)}


def with_curve(curve: str = "") -> list[str]:
    """Return the names of the installed measures that give a curve, or that one."""
    items = [(item, _of_class(item.target)) for item in catalog().usable("measures")]
    return [item.name for item, shown in items if (curve in shown.curves if curve else shown.curves)]


def _installed(measure: str) -> Presentation:
    shown = UNKNOWN
    with caught():  # nobody reads a table to hear of plugins: what is wrong with one says `acutance doctor`
        item = catalog().lookup("measures", measure)
        shown = _of_class(item.target) if item else UNKNOWN
    return shown


@cache
def _of_class(target: Any) -> Presentation:
    return Presentation.of(target.traits, target.Spec)
