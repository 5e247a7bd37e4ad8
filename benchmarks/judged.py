"""The correlations of a run that count, each with the name of its definition and whether it holds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from acutance.analysis.judging import counted, holding
from acutance.analysis.labels import definition_label
from acutance.analysis.statistics.study import StudyTables
from acutance.io.yaml_files import read_yaml
from acutance.run.directory import read_csv
from acutance.run.statistics import study_tables


def judged(run: Path) -> tuple[StudyTables, pd.DataFrame]:
    """Return the tables of a run, and its correlations that count, with ``definition`` and ``holds``."""
    correlations, config = read_csv(run / "correlations.csv"), read_yaml(run / "config.yaml")
    study = study_tables(read_csv(run / "models.csv"), read_csv(run / "results.csv"), correlations, config)
    rows = counted(correlations, config["targets"])
    settings = [{name: value for name, value in row.items() if value == value} for row in rows.to_dict("records")]
    return study, rows.assign(definition=[definition_label(row, study.name) for row in settings], holds=holding(rows))
