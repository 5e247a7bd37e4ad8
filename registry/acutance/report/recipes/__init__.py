"""Recipes of figures: one a file, registered by name like measures are."""

from acutance.report.recipes.base import ANY, FigureKey, Recipe, printed

__all__ = ["ANY", "FigureKey", "Recipe", "printed"]
