"""The 384 rank correlations that Andriushchenko et al. (2023) print in Tables 1-4, in the columns of our own tables."""

from __future__ import annotations

from importlib import resources

import pandas as pd

from acutance.errors import UserError, did_you_mean
from acutance.io.spreadsheet import read_back

SOURCE = "Andriushchenko, Croce, Mueller, Hein, Flammarion: A Modern Look at the Relationship between Sharpness and \
Generalization, ICML 2023, Tables 1-4"


def published(setting: str | None = None) -> pd.DataFrame:
    """Return the correlations as printed, with two digits; the paper gives neither intervals nor p-values.

    Columns: ``table`` (1-4), ``setting``, ``measure``, ``spec.norm``, ``spec.scaling`` (``none`` for standard and
    ``elementwise`` for adaptive sharpness), ``spec.logit_norm``, ``spec.rho``, ``target`` (``test_error`` is the error
    in distribution), ``printed_target`` (headline of the column in the paper), ``tau``.

    Args:
        setting: one block of the tables, ``cifar10_vit`` say; all of them by default.

    Raises:
        UserError: for a setting that is not in the paper.
    """
    with (resources.files("acutance") / "reference" / "published_tau.csv").open(encoding="utf-8") as file:
        table = read_back(file)
    if setting is None:
        return table
    available = list(dict.fromkeys(table["setting"]))
    if setting not in available:
        raise UserError(f"--setting: the paper has no setting '{setting}'", did_you_mean(setting, available))
    return table[table["setting"] == setting].reset_index(drop=True)
