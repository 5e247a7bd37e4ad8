"""What classes are called, by a model and by a dataset: the same names in another order are a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acutance.dataset import Dataset
from acutance.errors import UserError


def refuse_other_order(names: Sequence[str], dataset: Dataset[Any]) -> None:
    """Compare the names of a model's outputs with those of a dataset's labels; other names say nothing.

    Raises:
        UserError: where the two are the same names in different orders: every error would be wrong.
    """
    mine, theirs = [name.casefold() for name in names], [name.casefold() for name in dataset.class_names]
    if mine != theirs and sorted(mine) == sorted(theirs):
        raise UserError(
            f"the outputs of the model are {', '.join(names)} in this order, "
            f"the labels of dataset '{dataset.name}' are {', '.join(dataset.class_names)}",
            "write dataset.labels in the model's order, where the dataset has that setting",
        )
