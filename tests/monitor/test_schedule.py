import math

import numpy as np
import pytest

from acutance import UserError
from acutance.monitor import Epochs, LogSpaced, Steps
from acutance.monitor.schedule import schedule_of


def visited(schedule, last, stride=1):
    steps = range(stride, last + 1, stride)
    return [step for step in steps if schedule.due(step - stride, step)]


def test_steps_are_multiples_also_where_steps_are_passed_over():
    assert visited(Steps(10), 35) == [10, 20, 30]
    assert visited(Steps(10), 36, stride=4) == [12, 20, 32]


@pytest.mark.parametrize("per_decade", [1, 3, 8, 20])
def test_log_spaced_steps_are_the_rounded_up_powers(per_decade):
    powers = {math.ceil(round(10 ** (k / per_decade), 9)) for k in range(4 * per_decade + 1)}
    assert visited(LogSpaced(per_decade), 10_000) == sorted(powers)


def test_epochs_are_due_when_they_end_alone():
    assert not visited(Epochs(2), 100)
    assert [epoch for epoch in range(1, 8) if Epochs(2).due_at_epoch(epoch)] == [2, 4, 6]
    assert not any(Steps(1).due_at_epoch(epoch) for epoch in range(5))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (50, Steps(50)), ("50", Steps(50)), ("50 steps", Steps(50)), ("step", Steps(1)), ("epoch", Epochs(1)),
        ("2 Epochs", Epochs(2)), ("log", LogSpaced()), ("log 4", LogSpaced(4)), (Epochs(3), Epochs(3)),
    ],
)  # fmt: skip
def test_what_people_write(said, meant):
    assert schedule_of(said) == meant


def test_a_function_of_the_step_is_asked_for_every_step_since():
    assert visited(schedule_of(lambda step: step in (3, 9)), 12, stride=4) == [4, 12]


@pytest.mark.parametrize("said", [0, -3, True, "0 steps", "log 0", "often", "", None, 2.5])
def test_what_is_no_schedule_is_refused_with_what_is(said):
    with pytest.raises(UserError, match=r"every.*number of steps"):
        schedule_of(said)


def test_a_number_of_numpy_is_a_number():
    assert schedule_of(np.int64(3)) == Steps(3)
