"""The recipes that are registered and what each draws of a run; one that fails is left out alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from acutance.errors import UserError, as_errors, caught, in_words, warn
from acutance.plugins import Item, catalog
from acutance.report.data import ReportData
from acutance.report.keys import FigureKey
from acutance.report.recipes.base import Recipe
from acutance.report.shown import shown

T = TypeVar("T")
Say = Callable[[str], None]


def recipe(name: str) -> Recipe:
    """Return a recipe by the name that it is registered under.

    Raises:
        UserError: for an unknown one, and one that cannot be loaded.
    """
    return recipe_of(catalog().find("figures", name))


def recipe_of(item: Item) -> Recipe:
    """Return a recipe as it is registered."""
    instance: Recipe = item.target()
    return instance


@dataclass(frozen=True)
class Drawing:
    """What one recipe draws of a run.

    Attributes:
        item: the recipe as it is registered.
        data: the tables as the recipe prepared them.
        keys: the figures; they bear the name by which the recipe is found, which tells apart recipes of one name.
    """

    item: Item
    data: ReportData
    keys: tuple[FigureKey, ...]

    @classmethod
    def of(cls, item: Item, data: ReportData, page: bool = False, say: Say = warn) -> Drawing:
        """Return what there is to draw.

        Args:
            item: a recipe.
            data: what is shown of a run.
            page: whether for the page, or since somebody asked for it.
            say: told of a key that is given twice.

        Raises:
            UserError: when there is nothing that was asked for.
        """
        with as_errors("the recipe"):
            instance = recipe_of(item)
            prepared = instance.prepare(data.whole)
            drawn_from = data if prepared is data.whole else shown(prepared)
            keys = _keys(instance.keys_of_page(drawn_from) if page else instance.keys(drawn_from))
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            named = ", ".join(filter(None, twice[1:])) or "the whole run"
            say(f"figure '{item.name}' of {item.dist} {item.version} gives one key twice, and is drawn once: {named}")
        return cls(item, drawn_from, tuple(dict.fromkeys(called(item, key) for key in keys)))

    def failure(self, errors: Sequence[Exception]) -> str:
        """Return in one sentence why figures could not be drawn."""
        share = f" ({len(errors)} of {len(self.keys)} figures)" if len(errors) < len(self.keys) else ""
        return failure(self.item, errors[0]) + share


def failure(item: Item, error: BaseException) -> str:
    """Return in one sentence why a recipe could not be drawn."""
    return f"figure '{item.name}' of {item.dist} {item.version} could not be drawn: {in_words(error)}"


def _keys(given: object) -> list[FigureKey]:
    """Return the keys that a recipe gave.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"keys must return FigureKeys, not {type(given).__name__}")
    keys = list(given)
    for key in keys:
        if not isinstance(key, FigureKey) or not all(isinstance(part, str) for part in key):
            raise TypeError(f"keys must return FigureKeys of texts, not {key!r}")
    return keys


def called(item: Item, key: FigureKey) -> FigureKey:
    """Return a figure under the name by which its recipe is found here."""
    return key._replace(recipe=catalog().names(item)[0])


def of_report(data: ReportData, say: Say = warn) -> list[Drawing]:
    """Return what the recipes that are on the page draw of a run; one that fails is told and left out."""
    drawings = []
    for item in catalog().items("figures"):
        with caught() as errors:
            if recipe_of(item).page:
                drawings.append(Drawing.of(item, data, page=True, say=say))
        for error in errors:
            say(failure(item, error))
    return drawings


def attempt(draw: Callable[[ReportData, FigureKey], T], data: ReportData, key: FigureKey) -> T | Exception:
    """Return a figure, or what a recipe raised instead."""
    try:
        with as_errors("the recipe"):
            return draw(data, key)
    except Exception as error:
        return error


def without_failures(
    drawings: Sequence[Drawing], outcomes: Mapping[FigureKey, T | Exception], say: Say, required: bool = False
) -> dict[FigureKey, T]:
    """Return what could be drawn, and tell of the rest.

    Raises:
        UserError: when something is required and nothing could be drawn.
    """
    drawn = {key: figure for key, figure in outcomes.items() if not isinstance(figure, Exception)}
    for part in drawings:
        errors = [error for key in part.keys if isinstance(error := outcomes[key], Exception)]
        if errors and required and not drawn:
            raise UserError(part.failure(errors)) from errors[0]
        if errors:
            say(part.failure(errors))
    return drawn
