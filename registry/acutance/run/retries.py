"""What becomes of an evaluation that raised, of one model or of several: the hook ``on_cell_error`` decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from acutance.errors import warn
from acutance.hookspecs import Retry, Skip
from acutance.measure import Estimate, Status
from acutance.run.hooks import Hook, first_answer


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
            asked = {"error": error, "measure": measure, "microbatch": now}
            answer = first_answer(Hook("on_cell_error", warn).call(**asked))
            if isinstance(answer, Retry) and 1 <= answer.microbatch < now:
                shrink(answer.microbatch)
                ran_out = f"{reason(error).splitlines()[0]}; and smaller passes are refused: "
                continue
            if isinstance(answer, Skip):
                return [Estimate.without_value(Status.UNSUPPORTED, answer.reason)] * count
            return given_up(error)
