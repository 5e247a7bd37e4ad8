"""Recipes of figures: one a file, registered by name like measures are."""

from acutance.report.keys import FigureKey
from acutance.report.recipes.base import ANY, Recipe, printed

__all__ = ["ANY", "FigureKey", "Recipe", "printed"]
