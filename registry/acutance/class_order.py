"""Which output of a model means what: the model's own words for its outputs against those of the dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acutance.errors import UserError

if TYPE_CHECKING:
    from acutance.dataset import Dataset


def require_order(model: Any, name: str, dataset: Dataset[Any]) -> None:
    """Refuse a model that has the classes of a dataset in another order: its errors would be above chance.

    A model may carry ``class_names``, words for its outputs; a dataset may have ``labels``. Upper and lower case are
    the same. Where one of them says nothing, or the words are others, nothing can be told.

    Args:
        model: a module, as its pool loaded it.
        name: of the model, for the message.
        dataset: an instance.

    Raises:
        UserError: when the words are the same and their order is another.
    """
    given = tuple(getattr(model, "class_names", ()))
    # Not asked before, since a dataset may have to read a file for its words.
    wanted = dataset.labels if given else ()
    ours, theirs = [word.casefold() for word in wanted], [word.casefold() for word in given]
    if ours == theirs or sorted(ours) != sorted(theirs):
        return
    hint = "reorder the rows of its last layer and the names in its config"
    if "labels" in type(dataset.spec).model_fields:
        spelled = dict(zip(ours, wanted, strict=True))
        hint = f"write dataset.labels: [{', '.join(spelled[word] for word in theirs)}], or {hint}"
    raise UserError(f"model {name} gives ({', '.join(given)}), dataset {dataset.name} has ({', '.join(wanted)})", hint)
