"""Measures of tables made elsewhere, named with their settings: ``worst_case(rho=0.1, norm=linf)``."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from acutance.errors import UserError
from acutance.io.cells import is_empty, is_number, like_number

_SETTINGS = re.compile(r"^\s*([^()]+?)\s*\(([^()]*=[^()]*)\)\s*$")


def definition(name: str) -> tuple[str, dict[str, Any]]:
    """Return a measure and its settings.

    >>> definition("worst_case(rho=0.1, norm=linf)"), definition("tr(H)")
    (('worst_case', {'rho': 0.1, 'norm': 'linf'}), ('tr(H)', {}))
    """
    matched = _SETTINGS.match(name)
    pairs = [pair.partition("=") for pair in matched[2].split(",")] if matched else []
    if not matched or not all(key.strip() and value.strip() for key, _, value in pairs):
        return name, {}
    return matched[1], {key.strip(): _setting(value.strip()) for key, _, value in pairs}


def numeric_radii(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a table whose column ``spec.rho`` holds numbers: ``1/255`` is one; the table itself where it has none.

    Raises:
        UserError: naming the first radius that is no number: radii are put in order.
    """
    if "spec.rho" not in table or pd.api.types.is_numeric_dtype(table["spec.rho"]):
        return table
    cells = table[["measure", "spec.rho"]].drop_duplicates("spec.rho").itertuples(index=False, name=None)
    radii = {cell: _radius(cell, f"{where}: measure '{name}'") for name, cell in cells if not is_empty(cell)}
    return table.assign(**{"spec.rho": pd.to_numeric(table["spec.rho"].map(radii))})


def _radius(cell: Any, where: str) -> float:
    top, over, below = (part.strip() for part in str(cell).partition("/"))
    if is_number(top) and (not over or (is_number(below) and float(below))):
        return float(top) / float(below or 1)
    hint = "write a decimal point" if like_number(str(cell)) else "call a setting that is no radius something else"
    raise UserError(f"{where} has rho = '{cell}', and a radius is a number such as 0.05 or 1/255", hint)


def _setting(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
