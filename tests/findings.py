"""The tables of the built-in statistics of made-up tables, by name."""

from types import SimpleNamespace

import pandas as pd

from acutance.analysis.statistics import StudyTables
from acutance.plugins import OWN, catalog
from acutance.run.statistics import computed


def findings(models, results, *, targets, **settings):
    study = StudyTables(models, results, pd.DataFrame(columns=["within"]), targets, **settings)
    tables, recorded = computed([item for item in catalog().items("statistics") if item.dist == OWN], study)
    assert not recorded
    return SimpleNamespace(tables=tables, **tables)
