"""The calls of hooks: each plugin is called by itself, and one that raises stops neither the run nor the others.

What becomes of an evaluation that raised, of one model or of several, the hook ``on_cell_error`` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

from acutance.errors import caught, in_words, warn
from acutance.hookspecs import Retry, Skip
from acutance.measure import Estimate, Status
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


def with_retries(
    measure: str,
    count: int,
    evaluated: Callable[[], list[Estimate]],
    given_up: Callable[[Exception], list[Estimate]],
    size: Callable[[], int],
    shrink: Callable[[int], None],
) -> list[Estimate]:
    """Evaluate; smaller passes are tried as long as somebody asks for them.

    Args:
        measure: canonical id.
        count: how many estimates there will be.
        evaluated: gives the estimates, or raises.
        given_up: gives those that take their place where nobody asks for another try.
        size: examples in one pass.
        shrink: makes passes of so many examples at most.

    Raises:
        Corrupted: when the measure changed what it was given: no other try would see the same.
    """
    from acutance.surface.evaluation import reason
    from acutance.surface.integrity import Corrupted

    ran_out = ""
    while True:
        try:
            estimates = evaluated()
            # Smaller passes that were refused are no help, but not what went wrong first.
            return [replace(e, message=f"{ran_out}{e.message}") if e.status is Status.FAILED else e for e in estimates]
        except Corrupted:
            raise
        except Exception as error:
            now = size()
            # Nothing may hold the error longer: with it go the tensors of this try, whose memory the next needs.
            answer = first_answer(Hook("on_cell_error", warn).call(error=error, measure=measure, microbatch=now))
            if isinstance(answer, Retry) and 1 <= answer.microbatch < now:
                shrink(answer.microbatch)
                ran_out = f"{reason(error).splitlines()[0]}; and smaller passes are refused: "
                continue
            if isinstance(answer, Skip):
                return [Estimate.without_value(Status.UNSUPPORTED, answer.reason)] * count
            return given_up(error)
