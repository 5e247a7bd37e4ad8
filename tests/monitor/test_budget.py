import pytest

from acutance import UserError
from acutance.monitor.budget import Budget


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("share", [0.05, 0.5, 2])
def test_measuring_stays_within_its_share_of_training(share):
    clock = Clock()
    budget = Budget(share, clock)
    cost, made = None, 0
    for _ in range(1000):
        clock.now += 1.0
        if budget.allows(cost):
            with budget.spent() as taken:
                clock.now += 3.0
            cost = taken[0]
            made += 1
        # The first, whose cost nobody knew, must be earned before the second is made.
        assert made <= 1 or budget.measuring <= share * budget.training
    assert cost == 3.0
    assert budget.training == pytest.approx(1000)
    assert made == pytest.approx(min(1000, share * 1000 / 3), abs=1)


def test_what_fits_in_exactly_is_allowed():
    clock = Clock()
    budget = Budget(0.5, clock)
    clock.now = 8.0
    assert budget.allows(4.0) and not budget.allows(4.0 + 1e-9)


def test_without_a_share_all_is_allowed_and_still_counted():
    clock = Clock()
    budget = Budget(None, clock)
    with pytest.raises(RuntimeError), budget.spent():
        clock.now = 5.0
        raise RuntimeError
    assert budget.measuring == 5.0 and budget.allows(1e9)


@pytest.mark.parametrize("share", [0, -1, "5%", float("nan"), float("inf")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(UserError, match=r"budget: .* 0\.05"):
        Budget(share)
