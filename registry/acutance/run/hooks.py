"""The calls of hooks: each plugin is called by itself, and one that raises stops neither the run nor the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from acutance.errors import caught, in_words
from acutance.plugins import catalog


class Hook:
    """One hook of the plugins that are installed.

    Args:
        name: of the hook, as in ``acutance.hookspecs``.
        say: told in one sentence of a plugin that fails, which is not called again.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name, self._say = name, say
        self._failed: set[str] = set()

    def call(self, **arguments: Any) -> Iterator[Any]:
        """Call every plugin that has the hook, in pluggy's order, and yield what each returns.

        Mappings are given as copies: what a plugin does to one, the others do not see.
        """
        manager = catalog().manager
        having = list(reversed(getattr(manager.hook, self.name).get_hookimpls()))
        for each in (one.plugin_name for one in having if one.plugin_name not in self._failed):
            others = [one.plugin for one in having if one.plugin_name != each]
            answers: list[Any] = []
            with caught() as errors:
                given = {
                    name: deepcopy(value) if isinstance(value, dict) else value for name, value in arguments.items()
                }
                answer = manager.subset_hook_caller(self.name, others)(**given)
                answers = answer if isinstance(answer, list) else [answer]
            for error in errors:
                self._failed.add(each)
                self._say(f"hook {self.name} of {_named(each)} failed, and is not called again: {in_words(error)}")
            yield from answers

    def tell(self, **arguments: Any) -> None:
        """Call every plugin that has the hook."""
        for _ in self.call(**arguments):
            pass


def first_answer(answers: Iterator[Any]) -> Any:
    """Return the first answer that is one; no plugin behind it is asked."""
    return next((answer for answer in answers if answer is not None), None)


def _named(key: str) -> str:
    """Return a plugin, by the name it was registered under, as messages call it."""
    known = {
        f"{info.dist}:{info.plugin}": f"plugin '{info.plugin}' of {info.dist} {info.version}"
        for info in catalog().plugins
    }
    return known.get(key, f"plugin '{key}'")
