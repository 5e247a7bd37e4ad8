"""How the kit compares values that state an error of their own."""

import math

import pytest

from acutance.measure import Estimate, Status
from acutance.testing.measure_subject import same


def value(number, error=None, status=Status.OK):
    extras = {} if error is None else {"product_error": error}
    message = "" if status is Status.OK else "the steps disagree"
    return Estimate(number, status=status, message=message, extras=extras)


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (value(1.0 + 1e-7), True),
        (value(1.01), False),
        (value(1.01, 0.02), True),
        (value(1.03, 0.02), False),
        (value(1.2, 0.5), False),  # ok, and off by half of it
        (value(1.2, math.nan), False),
        (value(1.01, -0.02), False),
        (value(1.2, 0.5, Status.NOT_CONVERGED), True),
        (value(1.2, 0.1, Status.NOT_CONVERGED), False),
        (value(1.0, None, Status.NOT_CONVERGED), False),
        (value(1.0, None, Status.UNSUPPORTED), False),
    ],
)
def test_values_are_the_same_within_what_they_state(other, equal):
    for reference in (value(1.0), value(1.0, 1e-9)):
        assert same(other, reference, 1e-6) is same(reference, other, 1e-6) is equal


def test_what_both_state_adds_up():
    assert same(value(1.0, 0.02), value(1.03, 0.02), 1e-6)
    assert not same(value(1.0, 0.01), value(1.03, 0.01), 1e-6)
