"""The search for a crossing: its number of steps, exactly and at worst; brackets, ladders, walls and noise."""

import math
import random

import pytest

from acutance_classic.flatness.crossing import MOST, Crossing, bisections, narrowings
from acutance_classic.flatness.parabolas import line, parabola

SMOOTH = {
    "line": lambda t: t - 1,
    "parabola": lambda t: (t * t + t) / 2 - 1,
    "third power": lambda t: t**3 - 1,  # the mean slope of a loss with a fourth power
    "saturating": lambda t: 2 * t / (1 + t) - 1,
    "falls first": lambda t: 1.5 * t * t - t / 2 - 1,
}


def wall(t):
    return math.inf if t > 1 else -1.0


def searched(excess, start, rtol, zero=None, slope=None):
    """A search, held to what it promises of its bracket."""
    search = Crossing(excess, start, rtol, zero, slope)
    step = search.find()
    low, high = search.low, search.high
    assert low[1] <= 0 < high[1] or not math.isfinite(high[1])
    assert low[0] <= step <= high[0] <= low[0] * (1 + rtol) * (1 + 1e-12)
    assert all(excess(t) == v or math.isnan(v) for t, v in (low, high))
    return search


def whole_ladder(excess, start):
    """How many steps doublings, or halvings, take to a bracket."""
    risen = [not excess(start) <= 0]
    while risen[-1] == risen[0]:
        risen.append(not excess(start * (0.5 if risen[0] else 2.0) ** len(risen)) <= 0)
    return len(risen)


# -- how many steps, exactly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtol", [0.5, 0.05, 1e-3, 1e-6])
@pytest.mark.parametrize(
    ("start", "known", "alone"), [(1 / 250, 5, 6), (1 / 97, 5, 6), (1 / 7, 5, 5), (1 / 1.6, 3, 4), (1.3, 3, 4), (40.0, 5, 9)]
)  # fmt: skip
def test_a_straight_excess_takes_the_same_few_steps_at_any_tolerance(start, known, alone, rtol):
    # The start, a rung far up, the next one, and a step on either side of the crossing that three points foresee.
    for zero, count in ((-1.0, known), (None, alone)):
        search = searched(SMOOTH["line"], start, rtol, zero)
        assert len(search.steps) <= count and (rtol > 0.1 or len(search.steps) == count)
        assert line(search.low, search.high) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("start", [0.01, 0.9, 1.5, 3.0, 50.0])
def test_a_parabola_with_its_slope_is_solved_from_one_step(start):
    # The excess of a rise of a quadratic: what is known at 0 and one point are the whole of it.
    search = searched(SMOOTH["parabola"], start, 1e-6, zero=-1.0, slope=0.5)
    assert len(search.steps) == {0.01: 5, 0.9: 3, 1.5: 3, 3.0: 4, 50.0: 5}[start]


COUNTS = {
    ("parabola", 0.05): (4, 4, 4, 5), ("parabola", 1e-6): (4, 4, 4, 5),
    ("third power", 0.05): (5, 11, 5, 6), ("third power", 1e-6): (7, 12, 7, 8),
    ("saturating", 0.05): (7, 8, 6, 8), ("saturating", 1e-6): (9, 9, 7, 10),
    ("falls first", 0.05): (6, 6, 4, 5), ("falls first", 1e-6): (6, 6, 4, 5),
}  # fmt: skip


@pytest.mark.parametrize(("name", "rtol"), list(COUNTS))
def test_smooth_excesses_take_about_as_many(name, rtol):
    starts = (1 / 250, 1 / 30, 1.3, 3.3)
    assert tuple(len(searched(SMOOTH[name], start, rtol, -1.0).steps) for start in starts) == COUNTS[name, rtol]


def test_a_tolerance_costs_the_logarithm_of_its_digits():
    assert [narrowings(rtol) for rtol in (2.0, 0.5, 0.05, 1e-3, 1e-6, 1e-12)] == [0, 1, 3, 4, 5, 6]


# -- and at worst --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtol", [0.05, 1e-3, 1e-9])
@pytest.mark.parametrize("start", [1 / 250, 1 / 1.6, 1.3, 40.0])
def test_at_a_wall_it_is_bisection(start, rtol):
    bisection = bisections(math.log(2), math.log1p(rtol))
    for excess in (wall, lambda t: math.nan if t > 1 else -1.0):
        assert len(searched(excess, start, rtol, -1.0).steps) - whole_ladder(excess, start) - bisection in (0, 1)
    # A jump of finite height is not told from a slope: it may be a few less.
    jump = searched(lambda t: 1.0 if t > 1 else -1.0, start, rtol, -1.0)
    assert -2 <= len(jump.steps) - whole_ladder(wall, start) - bisection <= 1


def drawn(generator):
    """An excess with one crossing: powers, saturation, kinks, plateaus, cliffs, ends of the numbers."""
    power, bend, cliff = (
        math.exp(generator.uniform(-2, 2)),
        generator.uniform(0, 30),
        generator.choice([0, 1, 1e9, math.inf]),
    )
    plateau, kind = generator.uniform(0, 1), generator.randrange(5)
    at = math.exp(generator.uniform(-12, 12))

    def excess(t):
        x = t / at
        base = min(x, 1e30) ** power - 1
        if kind == 0:
            return base
        if kind == 1:
            return (x - 1) / (1 + bend * x)
        if kind == 2:
            return base if x <= 1 else base + cliff
        if kind == 3:
            return -1.0 if x < plateau else min(base, 1.0)
        return (1 if base > 0 else -1) * abs(base) ** 0.2

    return excess


def test_no_excess_with_one_crossing_takes_more_than_the_ladder_bisection_and_one():
    generator, slack = random.Random(0), []
    for _ in range(5000):
        excess, start = drawn(generator), math.exp(generator.uniform(-12, 12))
        rtol, zero = generator.choice([0.5, 0.05, 1e-3, 1e-6, 1e-12]), generator.choice([-1.0, None])
        search = searched(excess, start, rtol, zero, generator.choice([None, 1.0, 0.0]) if zero else None)
        most = whole_ladder(excess, start) + bisections(math.log(2), math.log1p(rtol)) + 1
        assert len(search.steps) <= most
        slack.append(most - len(search.steps))
    assert min(slack) == 0 and sum(slack) / len(slack) > 8


def test_no_noise_makes_narrowing_longer_than_bisection_and_one(monkeypatch):
    widths, narrow = [], Crossing._narrow  # noqa: SLF001

    def noted(self):
        widths.append((self._width(), len(self.points)))
        narrow(self)

    monkeypatch.setattr(Crossing, "_narrow", noted)
    generator = random.Random(1)
    for k in range(2000):
        excess, level = drawn(generator), math.exp(generator.uniform(-20, 5))
        shaken = {}

        def noisy(t, excess=excess, level=level, shaken=shaken, k=k):
            return shaken.setdefault(t, excess(t) + level * random.Random(f"{k} {t!r}").gauss(0, 1))

        rtol = generator.choice([0.5, 0.05, 1e-3, 1e-6])
        search = Crossing(noisy, math.exp(generator.uniform(-12, 12)), rtol, generator.choice([-1.0, None]))
        if search.find() is None:
            continue
        width, before = widths[-1]
        assert search.low[1] <= 0 < search.high[1] and search.high[0] <= search.low[0] * (1 + rtol) * (1 + 1e-12)
        assert len(search.steps) - before <= bisections(width, math.log1p(rtol)) + 1
    assert len(widths) > 1600


# -- ladders -------------------------------------------------------------------------------------------------------


def test_the_first_crossing_is_found_where_what_is_passed_over_is_not_as_foreseen():
    def bumpy(t, beyond):
        if t < 3:
            return t / 100 - 1
        return 0.5 if t < 5 else beyond * (t / 100 - 1)

    # At 32, far up, the excess is twice what the line through 0 and 1 foresees, then risen: either leads back to the bump.
    for beyond in (2.0, -1.0):
        search = searched(lambda t: bumpy(t, beyond), 1.0, 0.01, -1.0)  # noqa: B023
        assert search.steps[:4] == [1.0, 32.0, 2.0, 4.0] and search.high[0] == pytest.approx(3, rel=0.01)
    # As foreseen it is passed over, as a bump between two rungs is.
    assert searched(lambda t: bumpy(t, 1.0), 1.0, 0.01, -1.0).high[0] == pytest.approx(100, rel=0.01)


def test_from_a_risen_start_the_way_down_is_short_where_the_excess_is_finite():
    # Of an infinite one nothing is foreseen; of a finite one steps of 4, 16 and 256 leave enough for bisection.
    finite = searched(SMOOTH["line"], 1000.0, 1e-3, -1.0)
    assert finite.steps[:3] == [1000.0, 250.0, 15.625] and len(finite.steps) == 5
    assert len(searched(wall, 1000.0, 1e-3, -1.0).steps) == 11 + bisections(math.log(2), math.log1p(1e-3))


def test_a_bracket_is_found_from_either_side_and_its_end_may_be_infinite():
    for start in (1e-4, 1e4, 3.0):
        assert Crossing(lambda t: t**2 - 9, start, 1e-8).find() == pytest.approx(3, rel=1e-12)
        assert Crossing(lambda t: t**2 - 9, start, 1e-8, zero=-9.0, slope=0.0).find() == pytest.approx(3, rel=1e-12)
    assert Crossing(lambda t: math.inf if t > 5 else -1.0, 1.0, 1e-9).find() == pytest.approx(5, rel=1e-8)
    assert Crossing(lambda t: float(t > 3), 1.0, 0.0).find() == pytest.approx(3, rel=1e-14)


def test_without_a_bracket_the_missing_end_is_told():
    for zero in (None, -1.0):
        above, below = Crossing(lambda t: 1.0, 1.0, 0.1, zero), Crossing(lambda t: -1.0, 1.0, 0.1, zero)
        assert above.find() is None and above.low is None and len(above.steps) == MOST
        assert below.find() is None and below.high is None and len(below.steps) == MOST


# -- parabolas -----------------------------------------------------------------------------------------------------


def test_parabolas_go_through_their_points():
    def f(t):
        return 2 * t * t - 3 * t - 5  # zero at -1 and 2.5

    for nodes in ([0.5, 3.0, 1.0], [1.0, 0.5, 4.0], [0.0, 7.0, 2.0]):
        found = parabola([(t, f(t)) for t in nodes])
        assert [found.at(t) for t in (0.1, 5.0)] == pytest.approx(
            [f(0.1), f(5.0)]
        ) and found.crossing() == pytest.approx(2.5)
    for tangent in ([(0.0, -5.0), (0.0, -5.0), (1.0, f(1))], [(1.0, f(1)), (0.0, -5.0), (0.0, -5.0)]):
        assert parabola(tangent, -3.0).crossing() == pytest.approx(2.5)
    assert parabola([(0.0, -1.0), (2.0, -0.5)]).crossing() == 4.0
    # Falls for ever; has its top below zero; is known at one point alone; twice the same without a tangent.
    for nodes in (
        [(0.0, -1.0), (1.0, -2.0), (2.0, -3.0)],
        [(0.0, -1.0), (1.0, -0.5), (2.0, -1.0)],
        [(1.0, -1.0)],
        [(0.0, -1.0)] * 3,
    ):
        assert parabola(nodes).crossing() is None
    assert line((1.0, -1.0), (2.0, 3.0)) == 1.25 and line((1.0, -1.0), (2.0, math.inf)) == 1.5
