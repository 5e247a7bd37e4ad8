"""Which models of a study are compared: those within the bounds of its section ``admit``."""

from __future__ import annotations

from collections.abc import Sequence

from acutance.errors import UserError
from acutance.members import Member, PlannedCell
from acutance.values import Values


def admit(members: Sequence[Member], values: Values, cells: Sequence[PlannedCell]) -> list[Member]:
    """Write down why models are not compared, and return those that are.

    Args:
        members: all models; a broken one has its reason already.
        values: what is known of them.
        cells: those that targets are measured in.

    Raises:
        UserError: when no model is left.
    """
    for member in members:
        if not member.broken:
            reasons = [
                bound.refusal(target.name, values.target(member, target, cells)) for target, bound in values.study.admit
            ]
            member.reason = "; ".join(reason for reason in reasons if reason)
    admitted = [member for member in members if not member.reason]
    if not admitted:
        raise UserError(
            "no model is admitted: " + "; ".join(f"{m.label}: {m.reason}" for m in members[:3]),
            "loosen 'admit' in the config or check the models",
        )
    return admitted
