"""A trainer's own count beside that of a monitor that has seen trainings before."""

import pytest

from acutance.monitor.continued import Counted


class Counting:
    """What of a monitor counts."""

    def __init__(self, steps, epochs):
        self.step_count, self.epoch_count = steps, epochs

    def load_state_dict(self, state):
        self.step_count, self.epoch_count = state["step"], state["epoch"]


def test_a_second_training_counts_on_from_the_first():
    monitor = Counting(8, 2)
    counted = Counted(monitor)
    counted.anew()
    assert (counted.steps, counted.epochs) == (8, 2)
    monitor.step_count, monitor.epoch_count = 11, 3
    counted.at(3, 1)  # where both counts agree nothing is set back
    assert (counted.steps, counted.epochs) == (8, 2) and (monitor.step_count, monitor.epoch_count) == (11, 3)


@pytest.mark.parametrize("step", [2, 4])
def test_a_trainer_that_is_elsewhere_has_the_count_of_its_own(step):
    """A checkpoint of the trainer alone, which knows nothing of a training before."""
    monitor = Counting(8, 2)
    counted = Counted(monitor)
    counted.anew()
    monitor.step_count = 11
    counted.at(step, 1)
    assert (counted.steps, counted.epochs) == (0, 0) and (monitor.step_count, monitor.epoch_count) == (step, 1)


def test_a_monitor_set_from_the_same_checkpoint_keeps_what_lay_before():
    monitor = Counting(11, 3)
    counted = Counted(monitor)
    counted.loaded(3, 1)
    assert (counted.steps, counted.epochs) == (8, 2)
    counted.at(3, 1)
    assert (monitor.step_count, monitor.epoch_count) == (11, 3)
