"""What training wrote down: whatever is wrong with a log is told with its place."""

import math

import needing
import pytest
import torch

import acutance
from acutance.errors import Unsupported, UserError
from acutance.io.training_log import read_training_log
from acutance.plugins import Item, extended

FILES = {
    "empty.csv": ("step,train_loss\n0,2\n10,\n", "no number in row 2 (step 10) of 'train_loss'"),
    "nan.csv": ("step,train_loss\n0,nan\n10,1\n", "no number in row 1 (step 0) of 'train_loss'"),
    "null.jsonl": ('{"step": 0, "train_loss": 2}\n{"step": 5}\n', "no number in row 2 (step 5) of 'train_loss'"),
    "text.csv": ("step,train_loss\n0,2\n10,abc\n", "'abc' in row 2 of 'train_loss': it is no number"),
    "text.jsonl": ('{"step": 0, "train_loss": "x"}\n', "'x' in row 1 of 'train_loss': it is no number"),
    "other.csv": ("step,loss\n0,2\n", "no column 'train_loss' (did you mean 'loss'?)"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_cell_without_a_number_is_told_by_row_and_column(tmp_path, name):
    text, message = FILES[name]
    (tmp_path / name).write_text(text)
    log = read_training_log(tmp_path / name)
    with pytest.raises(Unsupported) as found:
        log.column("train_loss")
    assert message.split(" (did")[0] in str(found.value)
    with extended([Item("measures", "last_train_loss", "acme-needs", "1.0", needing.LastLoss)]):
        told = acutance.measure("last_train_loss", torch.nn.Linear(2, 2), log=tmp_path / name)
    assert told.status == "unsupported" and message.split(" (did")[0] in told.message


def test_columns_with_gaps_are_there_for_who_asks_for_them(tmp_path):
    (tmp_path / "log.csv").write_text("step,train_loss,note\n0,2,a\n10,,b\n")
    log = read_training_log(tmp_path / "log.csv")
    assert log.columns["train_loss"][0] == 2 and math.isnan(log.columns["train_loss"][1])
    assert log.column("step") == (0.0, 10.0) and "note" not in log.columns
    (tmp_path / "same.csv").write_text("step,train_loss\n0,2\n10,\n")
    assert log.digest == read_training_log(tmp_path / "same.csv").digest


REFUSED = {
    "header.csv": ("step,train_loss\n", "it needs a row for each step"),
    "broken.jsonl": ('{"step": 0}\n{"step": 5,\n', "line 2, column 1"),
    "list.jsonl": ("[1, 2]\n", "line 1 is a list, no record"),
    "array.jsonl": ('[{"step": 0}, {"step": 1}]', "an array goes into a .json file"),
    "lists.json": ("[[0, 1], [1, 2]]", "item 1 is a list, no record"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_log_is_told_by_its_line(tmp_path, name):
    text, message = REFUSED[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as found:
        read_training_log(tmp_path / name)
    assert message in str(found.value)
