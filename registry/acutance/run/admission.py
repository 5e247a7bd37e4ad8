"""Which models of a study are compared: those within the bounds of its section ``admit``."""

from __future__ import annotations

from collections.abc import Sequence

from acutance.errors import UserError, some
from acutance.run.ledger import Ledger
from acutance.run.members import Member, PlannedCell
from acutance.run.standing import Standing


def admit(members: Sequence[Member], ledger: Ledger, cells: Sequence[PlannedCell]) -> list[Member]:
    """Write down why models are not compared, and return those that are.

    Args:
        members: all models; one that is not usable has its reason already.
        ledger: what is known of them.
        cells: those that targets are measured in.

    Raises:
        UserError: when no model is left.
    """
    for member in members:
        if member.usable:
            reasons = [
                bound.refusal(target.name, ledger.target(member, target, cells)) for target, bound in ledger.study.admit
            ]
            member.leave_out(Standing.REFUSED, "; ".join(reason for reason in reasons if reason))
    return admitted(members)


def admitted(members: Sequence[Member]) -> list[Member]:
    """Return the models that are compared.

    Raises:
        UserError: when no model is left, with each reason once.
    """
    compared = [member for member in members if member.compared]
    if not compared:
        reasons: dict[str, list[Member]] = {}
        for member in members:
            reasons.setdefault(member.general(member.reason), []).append(member)
        sentences = [f"{alike[0].label}: {alike[0].reason}{and_others(alike)}" for alike in list(reasons.values())[:3]]
        raise UserError(
            f"no model is admitted: {'; '.join(sentences)}", "loosen 'admit' in the config or check the models"
        )
    return compared


def and_others(members: Sequence[Member]) -> str:
    """Return " (and 2 other models: a, b)" for models that share the first one's message; empty for one alone."""
    more = len(members) - 1
    return f" (and {more} other model{'s' * (more > 1)}: {some([m.label for m in members[1:]])})" if more else ""
