"""What a training log says: against sums and interpolation by numpy, on logs of epochs and of steps."""

import json
import re

import numpy as np
import pytest
from torch import nn

import acutance
from acutance import Status, UserError

EPOCHS = {"step": [10, 20, 30, 40], "epoch": [1, 2, 3, 4], "train_loss": [2.0, 1.25, 0.5, 0.125],
          "gradient_norm": [4.0, 3.0, 1.0, 0.5]}  # fmt: skip


def measured(tmp_path, name, log, **fields):
    """Return the value of a measure for a model with this log, {column: numbers}; None for an empty cell."""
    path = tmp_path / "log.jsonl"
    rows = (dict(zip(log, row, strict=True)) for row in zip(*log.values(), strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return acutance.measure(name, nn.Linear(2, 2), log=path, **fields)


def test_the_sum_of_the_losses_and_the_mean_gradient_norm_over_all_epochs_or_the_last(tmp_path):
    found = measured(tmp_path, "sum_of_training_losses", EPOCHS)
    assert found.value == 3.875 and found.extras["epochs"] == 4 and found.cost.units == 0
    assert measured(tmp_path, "sum_of_training_losses", EPOCHS, last=2).value == 0.625
    assert measured(tmp_path, "gradient_norm_along_training", EPOCHS).value == 2.125
    assert measured(tmp_path, "gradient_norm_along_training", EPOCHS, last=1).value == 0.5
    few = measured(tmp_path, "sum_of_training_losses", EPOCHS, last=5)
    assert few.status is Status.UNSUPPORTED and "4 epochs, fewer than the last 5" in few.message


def test_a_log_of_steps_counts_each_epoch_with_its_mean_and_one_without_epochs_row_by_row(tmp_path):
    g = np.random.default_rng(0)
    losses = g.random(12)
    epochs = (np.arange(12) + 1) / 4
    log = {"step": range(12), "epoch": epochs.tolist(), "train_loss": losses.tolist()}
    expected = losses.reshape(3, 4).mean(1)
    assert measured(tmp_path, "sum_of_training_losses", log).value == pytest.approx(expected.sum(), rel=1e-14)
    assert measured(tmp_path, "sum_of_training_losses", log, last=1).value == pytest.approx(expected[2], rel=1e-14)
    del log["epoch"]
    assert measured(tmp_path, "sum_of_training_losses", log).value == pytest.approx(losses.sum(), rel=1e-14)


def test_the_loss_at_a_step_or_epoch_is_interpolated_and_ends_with_the_log(tmp_path):
    for at in (10, 10.5, 20, 33, 40):
        expected = np.interp(at, EPOCHS["step"], EPOCHS["train_loss"])
        assert measured(tmp_path, "loss_at_step", EPOCHS, at=at).value == pytest.approx(expected, rel=1e-14)
        place = at / 10
        assert measured(tmp_path, "loss_at_step", EPOCHS, at=place, of="epoch").value == pytest.approx(expected)
    for at in (9, 41):
        outside = measured(tmp_path, "loss_at_step", EPOCHS, at=at)
        assert outside.status is Status.UNSUPPORTED and f"from step 10 to 40, not to {at}" in outside.message
    # Rows of one epoch count with their mean.
    twice = {"step": [1, 2, 3], "epoch": [1, 1, 2], "train_loss": [3.0, 1.0, 0.5]}
    assert measured(tmp_path, "loss_at_step", twice, at=1, of="epoch").value == 2.0
    assert measured(tmp_path, "loss_at_step", twice, at=1.5, of="epoch").value == 1.25


@pytest.mark.parametrize(
    ("name", "change", "fields", "message"),
    [
        ("gradient_norm_along_training", {"gradient_norm": None}, {}, "no column 'gradient_norm'"),
        ("sum_of_training_losses", {"train_loss": [1.0, None, 1.0, 1.0]}, {}, "no number in row 2"),
        ("sum_of_training_losses", {"epoch": [1, None, 3, 4]}, {}, "no number in row 2 .* of 'epoch'"),
        ("loss_at_step", {"epoch": [1, 3, 2, 4]}, {"at": 2, "of": "epoch"}, "'epoch' of the log .* falls"),
        ("loss_at_step", {"epoch": None}, {"at": 2, "of": "epoch"}, "no column 'epoch'"),
    ],
)
def test_what_the_log_does_not_say_has_no_value(tmp_path, name, change, fields, message):
    log = {column: cells for column, cells in (EPOCHS | change).items() if cells is not None}
    found = measured(tmp_path, name, log, **fields)
    assert found.status is Status.UNSUPPORTED and re.search(message, found.message), found.message


def test_without_a_log_there_is_no_value_and_wrong_settings_are_refused(tmp_path):
    found = acutance.measure("sum_of_training_losses", nn.Linear(2, 2))
    assert found.status is Status.UNSUPPORTED and "names no log" in found.message
    for name, fields in (("sum_of_training_losses", {"last": 0}), ("loss_at_step", {"at": -1}), ("loss_at_step", {})):
        with pytest.raises(UserError, match=r"last|at"):
            measured(tmp_path, name, EPOCHS, **fields)


def test_epochs_that_are_sums_of_fractions_end_where_they_should(tmp_path):
    for parts in (10, 49):
        epochs, at = [], 0.0
        for _ in range(2 * parts):
            at += 1 / parts
            epochs.append(at)
        log = {"step": range(2 * parts), "epoch": epochs, "train_loss": [1.0] * parts + [3.0] * parts}
        assert measured(tmp_path, "sum_of_training_losses", log).value == 4.0
        assert measured(tmp_path, "sum_of_training_losses", log, last=1).value == 3.0


def test_epochs_that_fall_or_are_left_out_are_told(tmp_path):
    falls = {"step": [1, 2, 3], "epoch": [1, 2, 1], "train_loss": [3.0, 2.0, 1.0]}
    assert "'epoch'" in measured(tmp_path, "sum_of_training_losses", falls).message
    left = {"step": [1, 2, 3], "epoch": [1, 3, 4], "train_loss": [3.0, 2.0, 1.0]}
    found = measured(tmp_path, "sum_of_training_losses", left)
    assert found.status is Status.UNSUPPORTED and "no row of epoch 2" in found.message
    assert measured(tmp_path, "sum_of_training_losses", left, last=2).value == 3.0
