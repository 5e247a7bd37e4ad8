"""Discovery and isolation of plugins, and the catalog of what they register.

A plugin may fail in five phases (import, register, hookspec, collect, spec). Each failure is kept as data,
reported in one line, and quoted when a config asks for something that plugin would have brought; it never
stops the others. The own distribution loads first, so nobody can take a built-in's name.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback as tb
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pluggy

from acutance import __version__, hookspecs
from acutance.errors import UserError, caught, did_you_mean

OWN = "acutance"
GROUP = "acutance"
# Libraries that take long to import: what is light imports none of them before it is used.
HEAVY = ("torch", "numpy", "timm", "transformers", "numba", "pandas", "scipy", "sklearn", "matplotlib", "torchvision")

Phase = Literal["import", "register", "hookspec", "collect", "spec"]
Kind = Literal["measures", "pools", "datasets", "executors", "scalings", "figures", "sinks", "statistics"]
KINDS: tuple[Kind, ...] = ("measures", "pools", "datasets", "executors", "scalings", "figures", "sinks", "statistics")
# What only the author of a class can write: method, and how it is called.
OWED = {
    "measures": ("evaluate", "surface, spec, rng"), "figures": ("draw", "data, key"), "sinks": ("write", "row"),
    "statistics": ("compute", "study"),
}  # fmt: skip
TABLE = re.compile(r"[a-z][a-z0-9_]*")  # what a statistic may be called: its table's file is
TABLES = ("models", "results", "correlations", "curves", "sweep")  # a run's own
EVERY_MEASURES = frozenset({"name", "points", "replicates"})  # what a study says of a measure beside its own settings


@dataclass(frozen=True)
class PluginProblem:
    """A plugin, or one thing it registers, that had to be left out."""

    plugin: str
    dist: str
    version: str
    phase: Phase
    error: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.plugin} of {self.dist} {self.version} failed at {self.phase}: {self.error}"


@dataclass(frozen=True)
class PluginInfo:
    """A plugin that was loaded, for ``doctor``: how long it took in all and in each phase, what it imports at once."""

    plugin: str
    dist: str
    version: str
    module: str
    seconds: float
    heavy: tuple[str, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One registered thing: where it comes from and what stands behind it.

    Attributes:
        kind: one of ``KINDS``.
        name: short name.
        dist: distribution that registered it.
        version: of the distribution.
        source: a class, or ``"module:Class"`` of one that nobody has looked up yet; of a scaling ``"module:function"``.
    """

    kind: Kind
    name: str
    dist: str
    version: str
    source: Any

    @property
    def id(self) -> str:
        """Canonical id, ``dist/name``."""
        return f"{self.dist}/{self.name}"

    @property
    def target(self) -> Any:
        """The class, imported when it is first asked for; of a scaling its ``"module:function"``.

        Raises:
            UserError: when it cannot be imported, or is no such class.
        """
        if self.kind == "scalings" or not isinstance(self.source, str):
            return self.source
        return _imported(self)


@dataclass
class Catalog:
    """Everything the loaded plugins registered.

    Attributes:
        manager: the pluggy manager, for the hooks that are calls and not registrations.
        problems: what failed, in order.
        plugins: what loaded.
    """

    manager: pluggy.PluginManager
    problems: list[PluginProblem] = field(default_factory=list)
    plugins: list[PluginInfo] = field(default_factory=list)
    _items: dict[Kind, dict[str, Item]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def items(self, kind: Kind) -> list[Item]:
        """Return what is registered of one kind, built-ins first."""
        return list(self._items[kind].values())

    def usable(self, kind: Kind) -> list[Item]:
        """Return the items of one kind whose class can be imported; any other is a problem."""
        importable = []
        for item in self.items(kind):
            try:
                _ = item.target
                importable.append(item)
            except UserError as error:
                cause = error.__cause__ or error
                trace = "".join(tb.format_exception(cause))
                problem = PluginProblem(item.name, item.dist, item.version, "import", _describe(cause), trace)
                if problem not in self.problems:
                    self.problems.append(problem)
        return importable

    def import_all(self) -> None:
        """Import every class registered by name, for the problems that this finds (doctor and strict mode)."""
        for kind in KINDS:
            self.usable(kind)

    def with_items(self, items: Iterable[Item]) -> Catalog:
        """Return a catalog with these too; one takes the place of what has its id."""
        registered: dict[Kind, dict[str, Item]] = {kind: dict(self._items[kind]) for kind in KINDS}
        for item in items:
            registered[item.kind][item.id] = item
        return replace(self, _items=registered, problems=list(self.problems))

    def keeping(self, wanted: Callable[[Item], bool]) -> Catalog:
        """Return a catalog with the items that are wanted alone."""
        kept = {kind: {id_: item for id_, item in items.items() if wanted(item)} for kind, items in self._items.items()}
        return replace(self, _items=kept, problems=list(self.problems))

    def lookup(self, kind: Kind, name: str) -> Item | None:
        """Return the item of a canonical id or of a short name that is unique; None for any other name."""
        items = self._items[kind]
        short = self._by_short_name(kind, name)
        built_in = [item for item in short if item.dist == OWN]
        return items.get(name) or next(iter(built_in or short[: len(short) == 1]), None)

    def _by_short_name(self, kind: Kind, name: str) -> list[Item]:
        return [item for item in self._items[kind].values() if item.name == name]

    def find(self, kind: Kind, name: str) -> Item:
        """Return what ``lookup`` does.

        Raises:
            UserError: for an unknown or ambiguous name; names the nearest one and any plugin that failed.
        """
        if item := self.lookup(kind, name):
            return item
        short = self._by_short_name(kind, name)
        noun = kind.removesuffix("s")
        if short:
            raise UserError(f"{noun} '{name}' is ambiguous", "write " + " or ".join(i.id for i in short))
        hint = self.nearest(name, [kind])
        if self.problems:
            failed = "; ".join(map(str, self.problems))
            hint += f" {len(self.problems)} plugin problem(s): {failed}; see 'acutance doctor'"
        raise UserError(f"unknown {noun} '{name}'", hint)

    def nearest(self, name: str, kinds: Sequence[Kind] = KINDS) -> str:
        """Return what an unknown name may have meant: a canonical id for what is written as one, else a short name."""
        items = [item for kind in kinds for item in self.items(kind)]
        names = [item.id if "/" in name else item.name for item in items]
        return did_you_mean(name, list(dict.fromkeys(names)))

    def names(self, item: Item) -> list[str]:
        """Return what an item may be called: the short name, where that means this item, and the canonical id."""
        try:
            short = self.find(item.kind, item.name) is item
        except UserError:
            short = False
        return [item.name, item.id] if short else [item.id]

    def get(self, kind: Kind, name: str) -> Any:
        """Return the class (or scaling function) of ``find``, importing a ``"module:Class"`` on the way."""
        return self.find(kind, name).target

    def measure(self, name: str) -> Any:
        """Return an instance of a measure class."""
        return self.get("measures", name)()

    def add(self, item: Item) -> None:
        """Register one item.

        Raises:
            ValueError: when its id is taken, or its short name belongs to a built-in; of a statistic, whose table has
                that name, to anybody.
        """
        registered = self._items[item.kind]
        holder = registered.get(item.id) or registered.get(f"{OWN}/{item.name}")
        if item.kind == "statistics":
            holder = next(iter(self._by_short_name(item.kind, item.name)), None)
        if holder:
            raise ValueError(
                f"{item.kind.removesuffix('s')} name '{item.name}' of {item.dist} {item.version} is taken by "
                f"{holder.dist} {holder.version}"
            )
        registered[item.id] = item


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _selected(points: Iterable[EntryPoint]) -> Iterator[EntryPoint]:
    """Apply ``ACUTANCE_PLUGINS``: ``none``, ``only:a,b`` or ``-a,-b``; the own distribution is always kept."""
    rule = os.environ.get("ACUTANCE_PLUGINS", "").strip()
    only = set(rule.removeprefix("only:").split(",")) if rule.startswith("only:") else None
    without = {part.strip()[1:] for part in rule.split(",") if part.strip().startswith("-")}
    if rule and rule != "none" and only is None and not without:
        raise UserError(f"ACUTANCE_PLUGINS={rule} is not understood", "write none, only:dist,dist or -dist,-dist")
    for point in points:
        dist = point.dist.name if point.dist else "?"
        if dist == OWN or (rule != "none" and (only is None or dist in only) and dist not in without):
            yield point


def _unique(points: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Own distribution first, then by name; a distribution seen twice on the path counts once."""
    by_name: dict[tuple[str, str], EntryPoint] = {}
    for point in points:
        by_name.setdefault((point.dist.name if point.dist else "?", point.name), point)
    return sorted(by_name.values(), key=lambda e: (not e.dist or e.dist.name != OWN, e.dist and e.dist.name, e.name))


def load(points: Iterable[EntryPoint] | None = None) -> Catalog:
    """Load plugins and collect what they register; never raises for a third party's fault.

    Args:
        points: entry points to load; those installed by default.

    Raises:
        UserError: when not even the built-ins are installed (a raw checkout).
    """
    manager = pluggy.PluginManager("acutance")
    manager.add_hookspecs(hookspecs)
    catalog = Catalog(manager)
    installed = entry_points(group=GROUP) if points is None else points
    for point in _unique(_selected(installed)):
        _load_one(catalog, point)
    if points is None and not any(item.dist == OWN for item in catalog.items("measures")):
        failures = "; ".join(str(problem) for problem in catalog.problems if problem.dist == OWN)
        raise UserError(
            "no built-in plugins could be loaded" + (f": {failures}" if failures else ""), "pip install -e ."
        )
    return catalog


def _load_one(catalog: Catalog, point: EntryPoint) -> None:
    """Import a plugin and collect what it registers; a failure is added to the problems with its phase."""
    dist = point.dist.name if point.dist else "?"
    version = point.dist.version if point.dist else "?"
    key = f"{dist}:{point.name}"
    phase: Phase = "import"
    phases: dict[str, float] = {}
    since = time.perf_counter()

    def enter(new: Phase) -> None:
        nonlocal phase, since
        now = time.perf_counter()
        phases[phase] = phases.get(phase, 0.0) + now - since
        phase, since = new, now

    def note(errors: Iterable[BaseException]) -> None:
        for error in errors:
            trace = "".join(tb.format_exception(error))
            catalog.problems.append(PluginProblem(point.name, dist, version, phase, _describe(error), trace))

    before = {name for name in HEAVY if name in sys.modules}
    with caught() as errors:
        _refuse_older_core(point)
        plugin = point.load()
        enter("register")
        catalog.manager.register(plugin, name=key)
        enter("hookspec")
        _refuse_unknown_hooks(catalog.manager, plugin)
    if errors:
        note(errors)
        if catalog.manager.has_plugin(key):
            catalog.manager.unregister(name=key)
        return
    for kind in KINDS:
        enter("collect")
        others = [p for p in catalog.manager.get_plugins() if p is not plugin]
        with caught() as errors:
            registered = catalog.manager.subset_hook_caller(f"register_{kind}", others)()
            for target in _flatten(registered):
                enter("collect")
                with caught() as own:  # one bad class must not hide its siblings
                    item = _item(kind, target, dist, version)
                    enter("spec")
                    if not isinstance(item.source, str):
                        _refuse_bad_spec(item)
                    enter("collect")
                    catalog.add(item)
                note(own)
        note(errors)
    heavy = tuple(name for name in HEAVY if name in sys.modules and name not in before)
    module = getattr(plugin, "__name__", point.value)
    enter(phase)
    catalog.plugins.append(PluginInfo(point.name, dist, version, module, sum(phases.values()), heavy, phases))


def collected(plugin: object, dist: str, version: str) -> list[Item]:
    """Return what one plugin registers, which is no installed one.

    Raises:
        Exception: whatever is wrong with it: a hook that there is not, a class with a fault.
    """
    manager = pluggy.PluginManager("acutance")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    _refuse_unknown_hooks(manager, plugin)
    registered = ((kind, _flatten(getattr(manager.hook, f"register_{kind}")())) for kind in KINDS)
    items = [_item(kind, target, dist, version) for kind, targets in registered for target in targets]
    for item in items:
        _refuse_bad_spec(item)
    return items


def _refuse_older_core(point: EntryPoint) -> None:
    """Refuse a plugin made for another acutance than this one: pip checks it only when something is installed."""
    wanted = getattr(point.dist, "requires", None) or () if point.dist and point.dist.name != OWN else ()
    if not any(line.startswith(OWN) for line in wanted):
        return
    from packaging.requirements import Requirement

    for need in map(Requirement, wanted):
        applies = need.name == OWN and (need.marker is None or need.marker.evaluate({"extra": ""}))
        if applies and not need.specifier.contains(__version__, prereleases=True):
            raise ImportError(
                f"it needs acutance{need.specifier}, this is {__version__}: pip install 'acutance{need.specifier}'"
            )


def _refuse_unknown_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            hooks = [name for name, hook in vars(manager.hook).items() if getattr(hook, "spec", None)]
            raise ValueError(f"there is no hook '{caller.name}'; {did_you_mean(caller.name, hooks)}")


def _flatten(groups: Iterable[Any]) -> Iterator[Any]:
    for group in groups:
        yield from group.items() if isinstance(group, Mapping) else group


def _item(kind: Kind, target: Any, dist: str, version: str) -> Item:
    """Make a catalog item from what a hook returned: a class, its ``"module:Class"``, or a name and that."""
    if isinstance(target, tuple):
        name, path = target
        if kind != "scalings" and not (isinstance(path, str) and ":" in path):
            raise TypeError(f"{path!r} of '{name}' is not a text \"module:Class\"")
        _refuse_bad_name(kind, name)
        return Item(kind, name, dist, version, path)
    if isinstance(target, str):
        # Without a name beside it only the class says what it is called.
        target = _attribute(target)
    return Item(kind, _name_of(kind, target), dist, version, target)


def _attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _name_of(kind: Kind, target: Any) -> str:
    """Return the name that a class gives itself.

    Raises:
        TypeError: for what is no class of this kind.
    """
    name = getattr(target, "name", None)
    if not isinstance(target, type) or not isinstance(name, str):
        raise TypeError(f"{target!r} is not a class with a 'name'")
    method, arguments = OWED.get(kind, ("", ""))
    if method and _abstract(target, method):
        raise TypeError(f"{kind.removesuffix('s')} '{name}' does not define {method}({arguments})")
    _refuse_bad_name(kind, name)
    return name


def _refuse_bad_name(kind: Kind, name: str) -> None:
    """Refuse a statistic whose table could not be a file of its name."""
    if kind == "statistics" and (name in TABLES or not TABLE.fullmatch(name)):
        raise ValueError(f"statistic '{name}': its table is NAME.csv: small letters, digits and _, no other table's")


@cache
def _imported(item: Item) -> Any:
    """Return the class of an item that was registered by name, once it is known to be what was registered."""
    noun = item.kind.removesuffix("s")
    with caught() as errors:
        target = _attribute(item.source)
        name = _name_of(item.kind, target)
        if name != item.name:
            raise ValueError(f"{item.source} is called '{name}'")
        _refuse_bad_spec(replace(item, source=target))
    for error in errors:
        # A third party's module may raise anything; nothing but what asked for it is to fail.
        raise UserError(
            f"{noun} '{item.name}' of {item.dist} {item.version} cannot be loaded: {_describe(error)}",
            f"see 'acutance doctor', or leave the distribution out: ACUTANCE_PLUGINS=-{item.dist}",
        ) from error
    return target


def _abstract(target: type, method: str) -> bool:
    function = getattr(target, method, None)
    return function is None or getattr(function, "__isabstractmethod__", False)


def _refuse_bad_spec(item: Item) -> None:
    """Raise ValueError for a spec class with faults, and UserError for unknown citation keys of a measure."""
    # Pydantic, which a list of names does not need.
    from acutance.spec import Spec, spec_faults

    spec = getattr(item.source, "Spec", None)
    if isinstance(spec, type) and issubclass(spec, Spec):
        faults = spec_faults(spec)
        if item.kind == "measures":
            taken = sorted(EVERY_MEASURES & set(spec.model_fields))
            faults += [f"field '{name}' is what every measure has in a study: call it something else" for name in taken]
        if faults:
            raise ValueError(f"{item.kind.removesuffix('s')} '{item.name}': " + "; ".join(faults))
    cited = getattr(getattr(item.source, "traits", None), "bibtex", ())
    if cited:
        from acutance.references import entries

        entries(cited)


def catalog() -> Catalog:
    """Return the catalog of this process, loaded once; inside ``extended``, the extended one."""
    present = _extended.get() or _installed()
    return present.with_items(_adopted.values()) if _adopted else present


def adopt(items: Iterable[Item]) -> None:
    """Let ``catalog()`` find these too in this process, in place of any that was adopted under the same name."""
    for item in items:
        for former in [id_ for id_, other in _adopted.items() if (other.kind, other.name) == (item.kind, item.name)]:
            del _adopted[former]
        _adopted[item.id] = item


_adopted: dict[str, Item] = {}


@lru_cache(maxsize=1)
def _installed() -> Catalog:
    return load()


_extended: ContextVar[Catalog | None] = ContextVar("acutance_catalog", default=None)


@contextmanager
def extended(items: Iterable[Item]) -> Iterator[Catalog]:
    """Let ``catalog()`` find these too, in this thread and inside this block: models held in memory, say.

    An item takes the place of one with its id.
    """
    present = catalog()
    token = _extended.set(present.with_items(items))
    try:
        yield catalog()
    finally:
        _extended.reset(token)
