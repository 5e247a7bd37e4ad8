"""Radii from a rise S(rho) alone: where it is resolved, where it has a share of the way to chance level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PER_DECADE = 10  # points of the grid on which the ends of a window are sought
LOWEST, HIGHEST = -12 * PER_DECADE, 8 * PER_DECADE  # 1e-12 ... 1e8
DIGITS = 100.0  # a rise is resolved when it is this many times the error of the loss
SIGMAS = 2.0  # ... and this many Monte-Carlo standard errors
SHARES = (0.02, 0.1, 0.3, 1.0)  # of the rise from the clean loss to chance level
CLOSE = 0.05  # relative: a rise this close to a share has it
LOOKS = 12  # radii that are looked at for one share, after those of the window
# Two grids of decades from end to end, ten points a decade halved four times for each, and the ends themselves.
SPARE = (HIGHEST - LOWEST) // PER_DECADE + 1  # decades down to a first share that the smallest radius has passed
WINDOW_LOOKS = 2 * ((HIGHEST - LOWEST) // PER_DECADE + 2 + (PER_DECADE - 1).bit_length())

Rise = Callable[[float], tuple[float, float]]  # rho -> (S(rho), its standard error)


@dataclass(frozen=True)
class Levels:
    """What bounds the rise of one loss.

    Attributes:
        clean: the loss at w*.
        chance: the loss of an answer that does not look at the input.
        resolution: what rounding of the outputs does to the loss.
    """

    clean: float
    chance: float
    resolution: float


@dataclass(frozen=True)
class Reached:
    """Where the rise of one definition on one model has one share of the way to chance level.

    Attributes:
        share: of the rise from the clean loss to chance level.
        radius: 0 where the share is too small to be resolved, infinity where it is not reached.
        note: why there is no radius, or what is odd about it.
    """

    share: float
    radius: float
    note: str = ""


@dataclass(frozen=True)
class Window:
    """The useful radii of one definition on one model.

    Attributes:
        low: smallest radius whose rise is resolved; None when there is none.
        high: largest radius whose perturbed loss is below chance; None when there is none.
        note: why an end is missing.
        radii: the radius of each share that was asked for.
    """

    low: float | None
    high: float | None
    note: str = ""
    radii: tuple[Reached, ...] = field(default=(), compare=False)


def radius(i: int) -> float:
    """Return point i of the logarithmic grid."""
    return float(f"{10 ** (i / PER_DECADE):.6g}")


def window(rise: Rise, levels: Levels, start: float) -> Window:
    r"""Return the useful radii of one definition on one model.

    .. math:: S(\rho) \ge \max(100\, \epsilon_L, 2\, se(\rho)), \qquad L(w^*) + S(\rho) < L_{chance}

    with :math:`\epsilon_L` the resolution of the loss: brackets grow by decades from ``start``, then bisection on a
    grid of ten points a decade. S is taken to grow with the radius.

    Args:
        rise: S and its standard error, remembered; a value that is not finite counts as destroyed.
        levels: clean loss, chance level and resolution.
        start: a radius to begin at.
    """

    def destroyed(i: int) -> bool:
        value, _ = rise(radius(i))
        return not (levels.clean + value < levels.chance)

    def resolved(i: int) -> bool:
        value, stderr = rise(radius(i))
        return not value < max(DIGITS * levels.resolution, SIGMAS * stderr)

    if not levels.clean < levels.chance:
        return Window(None, None, "the clean loss is at chance level already")
    first = round(PER_DECADE * math.log10(start))
    above = _first_where(destroyed, min(max(first, LOWEST), HIGHEST))
    if above is None:
        return Window(None, None, f"chance level is not reached below {radius(HIGHEST):g}")
    high = above - 1
    if high < LOWEST:
        return Window(None, None, f"chance level is reached below {radius(LOWEST):g}")
    if not resolved(high):
        return Window(None, radius(high), "the rise is not resolved at any radius below chance level")
    low = _first_where(resolved, high)
    return Window(radius(low if low is not None else high), radius(high))


def _first_where(condition: Callable[[int], bool], start: int) -> int | None:
    """Return the smallest point where a condition holds that stays true once it does; None where it never does."""
    if condition(start):
        true, false = start, start - PER_DECADE
        while condition(false):
            true, false = false, false - PER_DECADE
            if false < LOWEST:
                return LOWEST if condition(LOWEST) else _between(condition, LOWEST, true)
    else:
        true, false = start + PER_DECADE, start
        while not condition(true):
            true, false = true + PER_DECADE, true
            if true > HIGHEST:
                return None
    return _between(condition, false, true)


def _between(condition: Callable[[int], bool], false: int, true: int) -> int:
    while true - false > 1:
        middle = (true + false) // 2
        true, false = (middle, false) if condition(middle) else (true, middle)
    return true


# -- shares of the rise ---------------------------------------------------------------------------------------


class CachedRise:
    """A rise that remembers every radius it was asked for: each is evaluated once."""

    def __init__(self, rise: Rise) -> None:
        self.rise, self.evaluated = rise, dict[float, tuple[float, float]]()

    def __call__(self, rho: float) -> tuple[float, float]:
        """Return S(rho) and its standard error; a value that is not finite counts as an infinite rise."""
        if rho not in self.evaluated:
            value, stderr = self.rise(rho)
            self.evaluated[rho] = (value if math.isfinite(value) else math.inf, stderr)
        return self.evaluated[rho]


def at_share(looked: CachedRise, levels: Levels, share: float) -> Reached:
    r"""Return the smallest radius known to have a share of the rise to chance level.

    .. math:: S(\rho) = s\,(L_{chance} - L(w^*)), \qquad S(\rho) \ge \max(100\, \epsilon_L, 2\, se(\rho))

    The first two neighbours among the radii looked at between which S passes the share are a bracket; in it secants in
    (log rho, log S), exact for a power law, take turns with bisection in log rho, ``LOOKS`` times at most, until S is
    within 5 % of the share. S need not grow with the radius: what it does otherwise is said.

    Args:
        looked: S, with the radii that the search for the window looked at.
        levels: clean loss, chance level and resolution.
        share: s, above 0 and at most 1.
    """
    target = share * (levels.chance - levels.clean)
    low, high = _bracket(looked, target)
    if high is None:
        return Reached(share, math.inf, "is not reached at any radius looked at")
    if low is None:
        return Reached(share, 0.0, "is passed already at the smallest radius looked at")
    best = _nearest(looked, low, high, target)
    for look in range(LOOKS):
        if abs(looked(best)[0] - target) <= CLOSE * target:
            break
        middle = _inside(looked, low, high, target, secant=look % 2 == 0)
        low, high = (middle, high) if looked(middle)[0] < target else (low, middle)
        best = _nearest(looked, low, high, target)
    value, stderr = looked(best)
    if target < max(DIGITS * levels.resolution, SIGMAS * stderr):
        return Reached(share, 0.0, "is less than the loss resolves")
    if abs(value - target) > CLOSE * target:
        return Reached(share, math.inf, "is jumped over")
    falls = any(rho > best and at < (1 - CLOSE) * target for rho, (at, _) in looked.evaluated.items())
    return Reached(share, best, "is lost again at a larger radius: the rise does not grow throughout" if falls else "")


def _bracket(looked: CachedRise, target: float) -> tuple[float | None, float | None]:
    """Return neighbours among the radii looked at between which the rise first passes the target.

    Where the smallest one is past it, smaller ones are looked at, by decades to the end of the grid.
    """
    radii = sorted(looked.evaluated)
    high = next((rho for rho in radii if looked(rho)[0] >= target), None)
    if high is None:
        return None, None
    if high > radii[0]:
        return radii[radii.index(high) - 1], high
    low = high / 10
    while looked(low)[0] >= target:
        if low <= radius(LOWEST):
            return None, low
        low, high = low / 10, low
    return low, high


def _nearest(looked: CachedRise, low: float, high: float, target: float) -> float:
    return min((low, high), key=lambda rho: abs(looked(rho)[0] - target))


def _inside(looked: CachedRise, low: float, high: float, target: float, secant: bool) -> float:
    """Return a radius inside a bracket, by the secant in logarithms where both rises have one, else halfway."""
    below, above = looked(low)[0], looked(high)[0]
    part = 0.5
    if secant and below > 0 and math.isfinite(above):
        part = math.log(target / below) / math.log(above / below)
    return low * math.pow(high / low, min(max(part, 0.01), 0.99))


def median_radius(radii: Sequence[float]) -> float:
    """Return the geometric median; 0 and infinity are below and above every radius, and win beside one."""
    ordered, n = sorted(radii), len(radii)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    if low == high:
        return low
    if high == math.inf:
        return high
    return math.sqrt(low) * math.sqrt(high)  # 0 beside one that has a radius


def most_looks(shares: int) -> int:
    """Return how many radii are looked at, at most, for one definition on one model."""
    return WINDOW_LOOKS + SPARE + LOOKS * shares
