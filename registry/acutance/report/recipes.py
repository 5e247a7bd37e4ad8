"""Named recipes of figures: what each draws, and which figures of the paper it makes.

"The paper" is Andriushchenko et al. (2023), A Modern Look at the Relationship between Sharpness and Generalization. A
recipe makes a figure of the paper in the sense that the same panels come out of a study of the same models.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from acutance.errors import UserError, did_you_mean
from acutance.presentation import with_curve
from acutance.report.data import ReportData, column
from acutance.report.figures import FigureKey, save_drawn

GAP = "generalization_gap"


def _figures(*spans: int | tuple[int, int]) -> tuple[str, ...]:
    whole = [span if isinstance(span, tuple) else (span, span) for span in spans]
    return tuple(f"Figure {i}" for first, last in whole for i in range(first, last + 1))


class Recipe(ABC):
    """One way to draw a run.

    Attributes:
        name: on the command line, and how its files begin.
        paper: figures and tables of the paper that it makes.
        sweeps: for a recipe of sweeps: the swept setting.
    """

    name: ClassVar[str]
    paper: ClassVar[tuple[str, ...]] = ()
    sweeps: ClassVar[str] = ""

    def prepare(self, data: ReportData) -> ReportData:
        """Return the data with what this recipe needs beside the tables of the run."""
        return data

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return the figures of a run.

        Raises:
            UserError: when the run has nothing to draw: says what is missing.
        """
        return [FigureKey(self.name, level, definition) for level in data.levels for definition in data.definitions]

    @abstractmethod
    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return one figure."""


class Tau(Recipe):
    """Heat map of all correlations: Tables 1-4. As numbers: ``acutance results DIR --format latex``."""

    name = "tau"
    paper = ("Table 1", "Table 2", "Table 3", "Table 4")

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level."""
        return [FigureKey(self.name, level) for level in data.levels]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the heat map of a level."""
        from acutance.report.heatmap import tau_heatmap

        return tau_heatmap(data, key.level)


class Target(Recipe):
    """Sharpness against every target, radii as columns: Figures 2-5, 10-19, 21-28 and 33-44."""

    name = "target"
    paper = _figures((2, 5), (10, 19), (21, 28), (33, 44))

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the grid of a definition."""
        from acutance.report.scatter import scatter_grid

        return scatter_grid(data, key.level, key.what)


class Gap(Recipe):
    """Each test error and, beside it, the generalization gap on that split: Figures 8 and 9."""

    name = "gap"
    paper = _figures(8, 9)

    def columns(self, data: ReportData) -> list[str]:
        """Return the gaps of the study, each after the error it belongs to where that is a target too."""
        found: list[str] = []
        for target in data.targets:
            split = "test" if target == GAP else target[:-4] if target.endswith((".gap", "_gap")) else ""
            if split:
                found += [error for error in (f"{split}_error", f"{split}.error") if error in data.targets]
                found.append(target)
        return list(dict.fromkeys(found))

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition."""
        if not self.columns(data):
            raise UserError(
                f"--figure gap: {GAP} is not among the targets of the study", "add it to targets, or SPLIT.gap"
            )
        return super().keys(data)

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the columns of a definition, a row for each radius."""
        from acutance.report.scatter import scatter_grid

        return scatter_grid(data, key.level, key.what, self.columns(data), beside=True)


class Hyperparameter(Recipe):
    """Sharpness against attributes of the models, the learning rate say: Figures 1, 6 and 20.

    Drawn are the targets ``attr:NAME`` of the study, and the attribute that colours the points where it is a number.
    """

    name = "hyperparameter"
    paper = _figures(1, 6, 20)

    def attributes(self, data: ReportData) -> list[str]:
        """Return the attributes as targets."""
        found = dict.fromkeys(t for t in data.targets if t.startswith("attr:"))
        for name in (data.figures.get("colour"), data.figures.get("size")):
            at = column(data.models, name) if name else None
            if at and pd.api.types.is_numeric_dtype(data.models[at]) and data.models[at].dtype != bool:
                found[f"attr:{name}"] = None
        return list(found)

    def prepare(self, data: ReportData) -> ReportData:
        """Correlate with the attributes that are no targets of the study."""
        from acutance.analysis.tables import correlations

        missing = [name for name in self.attributes(data) if name not in data.targets]
        if not missing:
            return data
        config = data.config
        more = correlations(
            data.models, data.measured.drop(columns="definition"), targets=missing, groups=data.groups,
            within=config["within"], nonfinite="rank_max", seed=config["seed"],
        )  # fmt: skip
        return dataclasses.replace(data, correlations=pd.concat([data.correlations, more], ignore_index=True))

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition."""
        if not self.attributes(data):
            raise UserError(
                "--figure hyperparameter: the study names no attribute that is a number",
                "add attr:NAME to targets, or name one in figures: colour",
            )
        return super().keys(data)

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the grid of a definition, a row for each attribute."""
        from acutance.report.scatter import scatter_grid

        return scatter_grid(data, key.level, key.what, self.attributes(data))


class Lines(Recipe):
    """Tau with its interval against a number, one line a definition."""

    column: ClassVar[str]
    label: ClassVar[str]
    advice: ClassVar[str]
    logarithmic: ClassVar[bool] = True

    def table(self, data: ReportData) -> pd.DataFrame:
        """Return the correlations of definitions that have the number."""
        table = data.correlations
        if self.column not in table or table[self.column].isna().all():
            raise UserError(f"--figure {self.name}: no measure of this run has {self.label}", self.advice)
        return table[table[self.column].notna()]

    def panels(self, table: pd.DataFrame, name: str) -> dict[FigureKey, pd.DataFrame]:
        """Return the rows of each figure."""
        from acutance.report.sweeps import sweep_panels

        return sweep_panels(table, name, self.name)

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level and target."""
        return list(self.panels(self.table(data), self.column))

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the lines of a level and target."""
        return self.lines(self.panels(self.table(data), self.column)[key], key, self.column)

    def lines(self, rows: pd.DataFrame, key: FigureKey, name: str) -> Figure:
        """Return the figure of some rows."""
        from acutance.report.sweeps import panel_title, sweep_figure

        return sweep_figure(rows, name, panel_title(key, rows), self.label, self.logarithmic)


class Radii(Lines):
    """Tau with its interval against the radius, for every definition and target: Tables 1-4 as curves."""

    name = "radii"
    column = "spec.rho"
    label = "radius ρ"
    advice = "run a study of measures with rho"

    def panels(self, table: pd.DataFrame, name: str) -> dict[FigureKey, pd.DataFrame]:
        """Return the rows of each figure: a definition is one line, whatever its radius."""
        from acutance.report.sweeps import sweep_panels

        return sweep_panels(table, name, self.name, lambda row, namer: namer(row))


class Iterations(Lines):
    """Scatter plots for each number of steps of the search, and tau against it: Figure 30.

    Of a sweep over ``steps``, or a study that lists several.
    """

    name = "iterations"
    paper = _figures(30)
    sweeps = "steps"
    column = "spec.steps"
    label = "iterations"
    advice = "list several steps for a measure, or acutance sweep CONFIG --over measures.0.steps=5,20,50"

    def table(self, data: ReportData) -> pd.DataFrame:
        """Return the correlations of measures that have several numbers of steps."""
        table = super().table(data)
        if table[self.column].nunique() < 2:
            raise UserError("--figure iterations: all measures of this run have the same number of steps", self.advice)
        return table

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level and target, and one a definition of these."""
        from acutance.report.settings import of_run

        return [*super().keys(data), *of_run(data, self.sweeps, self.name)]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the lines of a level and target, or the scatter plots of a definition."""
        from acutance.report.settings import level_of, of_run, settings_figure

        scatters = of_run(data, self.sweeps, self.name)
        if key not in scatters:
            return super().draw(data, key)
        rows, title, target = scatters[key]
        return settings_figure(rows, self.label, title, level_of(key, data), target)


class M(Lines):
    """Scatter plots for each m of m-sharpness, and tau against it, of a sweep over ``surface.m``: Figures 31 and 32."""

    name = "m"
    paper = _figures(31, 32)
    sweeps = "m"
    column = "m"
    label = "m"
    advice = "acutance sweep CONFIG --over surface.m=32,64,128, and give the sweep's folder"

    def table(self, data: ReportData) -> pd.DataFrame:
        """Refuse a run: its surface has one m."""
        raise UserError("--figure m: all measures of a run have the same m", self.advice)


class Pairwise(Recipe):
    """Measures against each other, as a matrix of tau and, for few, of scatter plots: Figures 7 and 29.

    Of a sweep: each measure at the first value of the setting against itself at the others (``report/between.py``).
    """

    name = "pairwise"
    paper = _figures(7, 29)

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one or two figures a level."""
        from acutance.report.pairwise import PANELS, pair_values

        sizes = {level: pair_values(data, level).shape[1] for level in data.levels}
        if max(sizes.values(), default=0) < 2:
            raise UserError(
                "--figure pairwise: the run has fewer than two measures with values", "add measures to the study"
            )
        keys = [FigureKey(self.name, level) for level, size in sizes.items() if size > 1]
        return keys + [FigureKey(self.name, level, "scatter") for level, size in sizes.items() if 1 < size <= PANELS]

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the matrix of a level."""
        from acutance.report.pairwise import scatter_matrix, tau_matrix

        return scatter_matrix(data, key.level) if key.what == "scatter" else tau_matrix(data, key.level)


class Curve(Recipe):
    """Every curve that a measure gives beside its value; the report shows them."""

    name = "curve"

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a definition that has curves."""
        found = [key for key in super().keys(data) if len(data.curve_rows(key.level, key.what))]
        if not found:
            raise UserError(f"--figure {self.name}: no measure of this run has curves", _with("curves", with_curve()))
        return found

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the curves of a definition."""
        from acutance.report.curves import curve_figure

        return curve_figure(data, key.level, key.what)


class Density(Recipe):
    """Spectral densities of the rescaled Hessian, a panel a definition, a line a model; not in the paper."""

    name = "density"

    def definitions(self, data: ReportData, level: str) -> list[str]:
        """Return the definitions that have densities."""
        rows = {name: data.curve_rows(level, name) for name in data.definitions}
        return [name for name, found in rows.items() if "density" in set(found["curve"])]

    def keys(self, data: ReportData) -> list[FigureKey]:
        """Return one figure a level."""
        found = [FigureKey(self.name, level) for level in data.levels if self.definitions(data, level)]
        if not found:
            raise UserError(
                "--figure density: no measure of this run has a spectral density", _with("one", with_curve("density"))
            )
        return found

    def draw(self, data: ReportData, key: FigureKey) -> Figure:
        """Return the densities of a level."""
        from acutance.report.curves import density_figure

        return density_figure(data, key.level, self.definitions(data, key.level))


def _with(what: str, measures: list[str]) -> str:
    """Return which measures would give what is missing."""
    return f"add {' or '.join(measures)} to the measures" if measures else f"no measure that is installed gives {what}"


_ALL: tuple[Recipe, ...] = (
    Tau(), Target(), Gap(), Hyperparameter(), Radii(), Pairwise(), Iterations(), M(), Density(), Curve(),
)  # fmt: skip
RECIPES: dict[str, Recipe] = {found.name: found for found in _ALL}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        UserError: for an unknown one.
    """
    if name not in RECIPES:
        raise UserError(f"--figure: there is no recipe '{name}'", did_you_mean(name, list(RECIPES)))
    return RECIPES[name]


def save_sweep(
    table: pd.DataFrame, runs: Mapping[str, ReportData], name: str, recipe: Recipe, folder: Path
) -> list[Path]:
    """Write the figures of a sweep as PNG and PDF and return the PNGs; those of an earlier sweep go.

    Args:
        table: of a sweep.
        runs: value of the setting -> the tables of its run.
        name: the swept setting.
        recipe: one of sweeps.
        folder: made when it is not there.

    Raises:
        UserError: for a recipe that is not of this sweep.
    """
    if not isinstance(recipe, Lines) or recipe.sweeps != name:
        known = ", ".join([found.name for found in _ALL if found.sweeps == name] + ["pairwise"])
        raise UserError(
            f"--figure {recipe.name}: this is a sweep over {name}",
            f"recipes of such a sweep: {known}; or give the folder of one of its runs",
        )
    from acutance.report.settings import of_sweep, settings_figures

    drawn = {key: recipe.lines(rows, key, name) for key, rows in recipe.panels(table, name).items()}
    if len(runs) > 1:
        drawn |= settings_figures(of_sweep(runs, recipe.name), recipe.label)
    return save_drawn(drawn, folder)
