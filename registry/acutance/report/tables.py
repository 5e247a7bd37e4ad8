"""Tables in the layout of Tables 1-4 of the paper: a row for each definition and radius, a column for each target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from acutance.analysis.judging import holds
from acutance.analysis.labels import Namer, spec_fields, truth

STRONG = 0.5  # the paper prints larger |tau| in bold


class Entry(NamedTuple):
    """One correlation."""

    tau: float
    low: float
    high: float
    p_adjusted: float
    ceiling: float

    @property
    def strong(self) -> bool:
        """Whether the paper would print it in bold."""
        return abs(self.tau) > STRONG

    @property
    def significant(self) -> bool:
        """Whether it holds."""
        return holds(self._asdict())


@dataclass(frozen=True)
class TauTable:
    """The correlations of one level of ``within`` and one group.

    Attributes:
        level: of ``within``.
        group: ``all`` or a subgroup.
        n: models; the largest number that any correlation has.
        lead: names of the columns before the targets: ``sharpness``, and as far as any definition has them
            ``logit_norm`` and ``rho``.
        targets: the other columns.
        rows: (cells of ``lead``, correlation by target); logit_norm is True, False or None, rho a number or None.
    """

    level: str
    group: str
    n: int
    lead: list[str]
    targets: list[str]
    rows: list[tuple[list[Any], dict[str, Entry]]]

    @property
    def caption(self) -> str:
        """What is in the table."""
        where = [part for part in (self.level, self.group) if part != "all"]
        return ", ".join(["Rank correlation coefficient τ", *where, f"n = {self.n}"])

    def ceiling(self, target: str) -> tuple[float, float] | None:
        """Return the smallest and the largest tau that a perfect measure is expected to show; None when unknown."""
        ceilings = [entry.ceiling for _, entries in self.rows if (entry := entries.get(target)) is not None]
        finite = [value for value in ceilings if math.isfinite(value)]
        return (min(finite), max(finite)) if finite else None

    def frame(self) -> pd.DataFrame:
        """Return the table with numbers as numbers: tau of each target, its interval, its adjusted p."""
        rows = []
        for lead, entries in self.rows:
            row: dict[str, Any] = {"within": self.level, "group": self.group, "n": self.n}
            row |= dict(zip(self.lead, lead, strict=True))
            for target in self.targets:
                entry = entries.get(target, Entry(*[math.nan] * len(Entry._fields)))
                row |= {target: entry.tau} | {f"{target} {name}": getattr(entry, name) for name in Entry._fields[1:]}
            rows.append(row)
        return pd.DataFrame(rows)


def tau_tables(correlations: pd.DataFrame, group: str = "all") -> list[TauTable]:
    """Return a table for each level of ``within`` that has the group."""
    chosen = correlations[correlations["group"].astype(str) == group]
    # Logit normalization has a column of its own, as in the paper.
    namer = Namer(map(_plain, correlations.to_dict("records")))
    return [_table(str(level), group, part, namer) for level, part in chosen.groupby("within", sort=False)]


def _table(level: str, group: str, part: pd.DataFrame, namer: Namer) -> TauTable:
    rows: dict[tuple[Any, ...], dict[str, Entry]] = {}
    for row in part.to_dict("records"):
        fields = spec_fields(row)
        logit_norm = truth(fields["logit_norm"]) if "logit_norm" in fields else None
        rho = float(fields["rho"]) if "rho" in fields else None
        entry = Entry(*(float(row.get(name, math.nan)) for name in Entry._fields))
        rows.setdefault((namer(_plain(row)), logit_norm, rho), {})[str(row["target"])] = entry
    lead = ["sharpness", "logit_norm", "rho"]
    columns = [i for i in range(3) if i == 0 or any(key[i] is not None for key in rows)]
    n = int(part["n"].max()) if len(part) else 0
    cells = [([key[i] for i in columns], entries) for key, entries in rows.items()]
    return TauTable(level, group, n, [lead[i] for i in columns], list(map(str, dict.fromkeys(part["target"]))), cells)


def _plain(row: dict[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in row.items() if name != "spec.logit_norm"}
