"""One study at several values of a setting: how tau depends on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.io.yaml_files import parse_yaml
from acutance.run.directory import STORE, SWEEP, RunDirectory
from acutance.run.harness import run_study
from acutance.study.config import Study, load_config, parse_overrides
from acutance.system.progress import Silent

if TYPE_CHECKING:
    import pandas as pd

    from acutance.run.harness import Run


@dataclass(frozen=True)
class Axis:
    """What is swept.

    Attributes:
        keys: places in the config that all get the same value, ``dataset.sparsity``, ``pools.0.sparsity``.
        values: one study for each.
    """

    keys: tuple[str, ...]
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.keys or len(self.values) < 2:
            raise UserError(
                "over: give the places of a setting and at least two values",
                "for example --over dataset.sparsity,pools.0.sparsity=0,0.5,0.9",
            )
        if len({str(value) for value in self.values}) < len(self.values):
            raise UserError("over: a value is listed twice", "every value is a run of its own")

    @property
    def name(self) -> str:
        """The last part of the first key: what the column of the table is called."""
        return self.keys[0].rpartition(".")[2]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Return the axis of ``KEY[,KEY...]=VALUE,VALUE...``; values are read as YAML.

        Raises:
            UserError: for a text without keys, or with fewer than two values.
        """
        names, equals, listed = text.partition("=")
        keys = tuple(key.strip() for key in names.split(",") if key.strip())
        values = parse_yaml(listed if listed.lstrip().startswith("[") else f"[{listed}]", "--over") if equals else []
        return cls(keys, tuple(values))

    def overrides(self, value: Any) -> dict[str, Any]:
        """Return the changes of the config for one value."""
        return dict.fromkeys(self.keys, value)


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        directory: where it was written; a run directory for each value lies in it.
        axis: what was swept.
        correlations: the tables of all runs below each other, with the swept value as first column.
        failed: number of cells without a value, over all runs.
    """

    directory: Path
    axis: Axis
    correlations: pd.DataFrame
    failed: int


def sweep(
    config: str | Path | Mapping[str, Any], over: str | Axis, out: str | Path | None = None, **options: Any
) -> Sweep:
    """Run or resume a study at every value of a setting, and put the correlations side by side.

    Args:
        config: name of a preset, path of a YAML file, or a mapping.
        over: ``KEY[,KEY...]=VALUE,VALUE...`` or an ``Axis``.
        out: folder of the sweep; ``runs/<name>-<setting>`` by default.
        options: of ``acutance.run``; ``overrides`` are made before the swept ones.

    Returns:
        The table, which is also in ``sweep.csv``, drawn in ``figures/sweep-*``.

    Raises:
        UserError: for a mistake in any of the studies, and for a table in ``out`` that no sweep wrote, before the first
            is run.
        KeyboardInterrupt: after everything computed so far has been stored.
    """
    from acutance.report.page.figures import save_sweep_figures

    axis = Axis.parse(over) if isinstance(over, str) else over
    studies = _studies(config, axis, options.pop("overrides", {}), options.pop("executor", None))
    directory = Path(out) if out is not None else Path("runs") / f"{studies[0].name}-{axis.name}"
    # Of a version that kept no manifest: the folders of its runs tell that the table beside them is ours.
    written = RunDirectory(directory)
    written.take(ours=any(directory.glob(f"{axis.name}=*/{STORE}")), names=[written.file(SWEEP).name])
    reporter = options.pop("reporter", None) or Silent()
    runs: list[Run] = []
    for value, study in zip(axis.values, studies, strict=True):
        reporter.say(f"{axis.name} = {value}")
        runs.append(run_study(study, directory / folder(axis.name, value), reporter=reporter, **options))
    table = together(axis, [run.correlations for run in runs])
    written.put_tables({SWEEP: table})
    save_sweep_figures(table, axis.name, written.figures)
    return Sweep(directory, axis, table, sum(run.failed for run in runs))


def _studies(config: Any, axis: Axis, overrides: Any, executor: str | None) -> list[Study]:
    """Return the study at each value; an error names the value."""
    studies, common = [], parse_overrides(overrides)
    for value in axis.values:
        try:
            studies.append(load_config(config, {**common, **axis.overrides(value)}, executor=executor))
        except UserError as error:
            raise UserError(f"{axis.name} = {value}: {error.message}", error.hint) from None
    return studies


def folder(name: str, value: Any) -> str:
    """Return the name of the run directory of a value."""
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{name}={value}")


def together(axis: Axis, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return tables below each other, the swept value as first column."""
    import pandas as pd

    parts = [table.assign(**{axis.name: str(value) if isinstance(value, list | dict) else value})
             for value, table in zip(axis.values, tables, strict=True)]  # fmt: skip
    combined = pd.concat(parts, ignore_index=True)
    return combined[[axis.name, *(c for c in combined.columns if c != axis.name)]]
