"""Compiled walks make the very iterates, and the very points, that torch makes."""

import pytest
import torch
from models import MLP, mlp_data

import acutance
from acutance import LossSurface
from acutance.numerics import slopes, units, walks
from acutance.numerics.balls import ball
from acutance.numerics.slopes import Slope
from acutance.numerics.units import Magnitudes
from acutance.numerics.walks import Destination, compiled, walker

P = 4099  # neither of vectors of the processor nor of runs of sums


@pytest.fixture(autouse=True)
def every_vector_is_long(monkeypatch):
    monkeypatch.setattr(units, "LARGE", 1)
    monkeypatch.setattr(walks, "SHARE", 1500)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    return request.param


def vectors(dtype):
    """(w with zeros, x, iterate before, gradient in parts with zeros and NaN)."""
    w, x, before, g = torch.randn(4, P, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
    w, g = w.clone(), g.clone()
    w[::5], g[::7], g[11] = 0, 0, torch.nan
    return w, 0.02 * x, 0.02 * before, g


def moved(w, c, x):
    return w + x if c is None else torch.addcmul(w, c, x)


UNITS = {"none": lambda w: None, "given": lambda w: w.roll(1), "magnitudes": Magnitudes}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.25, 0.3])
def test_the_box_is_walked_bitwise_as_torch_does(dtype, unit, in_place, momentum):
    w, x, before, g = vectors(dtype)
    c = UNITS[unit](w)
    held = w.abs() if unit == "magnitudes" else c
    region, parts = ball("linf", 0.03), list(g.split([1, 2500, P - 2501]))
    wanted = torch.empty_like(x)
    region.advance(x, before, Slope(parts, held), 0.004, momentum, wanted)
    to = Destination(w, c, torch.empty_like(w))
    out = before.clone() if in_place else torch.empty_like(x)
    region.advance(x, out if in_place else before, Slope(parts, held), 0.004, momentum, out, to)
    assert torch.equal(out, wanted) and to.reached is out
    assert torch.equal(to.point, moved(w, held, wanted))
    assert float(out.abs().max()) == pytest.approx(0.03)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.25])
@pytest.mark.parametrize("rho", [1.0, 100.0], ids=["on the sphere", "inside"])
def test_the_euclidean_ball_is_walked_as_torch_does(dtype, unit, in_place, momentum, rho):
    w, x, before, g = vectors(dtype)
    g[11] = 1.0
    c = UNITS[unit](w)
    held = w.abs() if unit == "magnitudes" else c
    region, parts = ball("l2", rho), list(g.split([1, 2500, P - 2501]))
    x, before = x * (0.9 / float(x.norm())), before * (0.8 / float(before.norm()))
    wanted = torch.empty_like(x)
    double = [one.double() for one in parts]
    region.advance(
        x.double(), before.double(), Slope(double, None if held is None else held.double()), 0.2, momentum,
        exact := torch.empty_like(x, dtype=torch.float64),
    )  # fmt: skip
    region.advance(x, before, Slope(parts, held), 0.2, momentum, wanted)
    to = Destination(w, c, torch.empty_like(w))
    out = before.clone() if in_place else torch.empty_like(x)
    region.advance(x, out if in_place else before, Slope(parts, held), 0.2, momentum, out, to)
    close = {"rtol": 0, "atol": 1e-7 if dtype is torch.float32 else 1e-15}
    torch.testing.assert_close(out.double(), exact, **close)
    torch.testing.assert_close(out, wanted, **close)
    assert torch.equal(to.point, moved(w, held, out)) and to.reached is out


def test_one_combination_is_bitwise_that_of_torch(dtype):
    """The factors follow from inner products, whose sums differ in the last places; the rest is the same."""
    w, x, before, g = vectors(dtype)
    to = Destination(w, Magnitudes(w), torch.empty_like(w))
    out = torch.empty_like(x)
    walker([g], x, to, 0.1).sphere(before, out, (0.9, -0.2, 0.04), first=False)
    torch.testing.assert_close(
        out, (before * -0.2).add_(g * w.abs(), alpha=0.04).add_(x, alpha=0.9), rtol=0, atol=0, equal_nan=True
    )
    walker([g], x, to, 0.1).sphere(before, out, (0.9, 0.0, 0.04), first=True)
    torch.testing.assert_close(out, x.add(g * w.abs(), alpha=0.04).mul_(0.9), rtol=0, atol=0, equal_nan=True)


def test_products_are_those_of_double_precision_from_any_number_of_threads(dtype):
    w, x, before, g = vectors(dtype)
    g[11] = 1.0
    to = Destination(w, Magnitudes(w), torch.empty_like(w))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(walker(list(g.split(3000)), x, to, 0.1).products(before))
            out = torch.empty_like(x)
            ball("linf", 0.03).advance(x, before, Slope(list(g.split(3000)), w.abs()), 0.004, 0.25, out, to)
    finally:
        torch.set_num_threads(threads)
    u, y, b = (g * w.abs()).double(), x.double(), before.double()
    exact = [float(torch.dot(*pair)) for pair in ((u, u), (y, u), (b, u), (y, y), (y, b), (b, b))]
    assert found[0] == found[1]
    scale = [float(p.norm() * q.norm()) for p, q in ((u, u), (y, u), (b, u), (y, y), (y, b), (b, b))]
    for one, wanted, size in zip(found[0], exact, scale):
        assert one == pytest.approx(wanted, abs=size * 1e-14)


def test_torch_walks_where_nothing_is_gained_or_the_walk_would_be_another(monkeypatch):
    w, x, _, g = vectors(torch.float32)
    to = Destination(w, None, torch.empty_like(w))
    assert walker([g], x, to, 0.1) is not None
    assert walker([g], x, None, 0.1) is None
    assert walker([g], x, to, torch.tensor(0.1)) is None
    assert walker([g.double()], x, to, 0.1) is None
    assert walker([g.half()], x.half(), Destination(w.half(), None, w.half()), 0.1) is None
    assert walker([g[::2]], x, to, 0.1) is None
    assert walker([g.to("meta")], x.to("meta"), to, 0.1) is None
    monkeypatch.setattr(units, "LARGE", P + 1)
    assert walker([g], x, to, 0.1) is not None  # a step in fewer calls is worth it for short vectors too


def test_without_numba_or_with_another_rounding_torch_walks(monkeypatch):
    fresh = compiled.__wrapped__
    code = fresh(torch.float32)
    assert code is not None and fresh(torch.float64) is code
    rounded = code.move

    def off(w, unit, x, scale, point, kind):
        rounded(w, unit, x, scale, point, kind)
        point[-1] *= 1 + 2e-7

    monkeypatch.setattr(code, "move", off)
    assert fresh(torch.float32) is None
    monkeypatch.setattr(walks, "kernels", lambda: None)
    assert fresh(torch.float32) is None


@pytest.mark.parametrize("norm,rho", [("l2", 0.3), ("linf", 0.05)])
@pytest.mark.parametrize("scaling", ["none", "elementwise"])
@pytest.mark.parametrize("start", ["random", "zero", "screened"])
def test_a_search_has_the_same_value_compiled_or_not(norm, rho, scaling, start, monkeypatch):
    fields = {"norm": norm, "rho": rho, "scaling": scaling, "start": start, "steps": 30}
    made = []
    name = "sphere" if norm == "l2" else "box"
    walk = getattr(walks.Walker, name)
    monkeypatch.setattr(walks.Walker, name, lambda *args, **named: (made.append(1), walk(*args, **named))[1])
    found = acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), **fields)
    monkeypatch.setattr(walks, "compiled", lambda dtype: None)
    count = len(made)
    wanted = acutance.measure("worst_case", LossSurface(MLP(), mlp_data()), **fields)
    assert len(made) == count >= 29
    same = {"rel": 1e-12} if norm == "l2" else {"rel": 0, "abs": 0}
    assert found.value == pytest.approx(wanted.value, **same)
    assert found.extras["radius_reached"] == pytest.approx(wanted.extras["radius_reached"], **same)
    assert found.cost == wanted.cost


def test_a_long_search_in_float32_has_the_same_value_compiled_or_not(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 90), torch.nn.Tanh(), torch.nn.Linear(90, 5))
    data = torch.randn(32, 20), torch.randint(0, 5, (32,))
    found = []
    for code in (walks.compiled, lambda dtype: None):
        monkeypatch.setattr(walks, "compiled", code)
        surface = LossSurface(model, data)
        found.append(acutance.measure("worst_case", surface, norm="l2", rho=1.0, steps=60, scaling="none").value)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_a_point_is_reached_once(dtype):
    w, x, *_ = vectors(dtype)
    to = Destination(w, None, torch.empty_like(w))
    to.reached = x
    assert not to.taken(x.clone())  # another one of the same numbers
    to.reached = x
    assert to.taken(x) and not to.taken(x)


@pytest.mark.parametrize("unit", UNITS)
def test_points_are_moved_bitwise_as_torch_does(dtype, unit, monkeypatch):
    w, x, *_ = vectors(dtype)
    c = UNITS[unit](w)
    held = w.abs() if unit == "magnitudes" else c
    wanted = torch.add(w, x, alpha=-0.3) if c is None else torch.addcmul(w, held, x, value=-0.3)
    assert torch.equal(walks.moved(w, c, x, -0.3, torch.empty_like(w)), wanted)
    assert torch.equal(walks.moved_along(w, c, x.split(999), -0.3, torch.empty_like(w)), wanted)
    monkeypatch.setattr(units, "LARGE", P + 1)
    monkeypatch.setattr(slopes, "BLOCK", 1000)
    assert torch.equal(walks.moved(w, c, x, -0.3, torch.empty_like(w)), wanted)
    assert torch.equal(walks.moved_along(w, c, x.split(999), -0.3, torch.empty_like(w)), wanted)
    g = vectors(dtype)[3]
    assert torch.equal(Slope([g], c).flat().nan_to_num(), (g if c is None else g * held).nan_to_num())
    walked = torch.cat([gi.clone() for gi, _ in Slope(g.split(1500), c).walk()])
    assert torch.equal(walked.nan_to_num(), (g if c is None else g * held).nan_to_num())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("how", ["compiled", "by torch"])
def test_noise_is_confined_to_the_coordinates_that_move(dtype, unit, how, monkeypatch):
    w, noise, *_ = vectors(dtype)
    c = UNITS[unit](w)
    if how == "by torch":
        monkeypatch.setattr(walks, "compiled", lambda dtype: None)
        monkeypatch.setattr(slopes, "BLOCK", 1000)
    held = torch.ones_like(w) if c is None else w.abs() if unit == "magnitudes" else c
    wanted = noise.clone().masked_fill_(held == 0, 0.0)
    count, squared = walks.confined(noise, c)
    assert torch.equal(noise, wanted) and not bool((noise.signbit() & (noise == 0)).any())
    assert int(count) == int((wanted != 0).sum()) == (P if c is None else P - len(w[::5]))
    assert float(squared) == pytest.approx(float(wanted.double().square().sum()), rel=1e-6)
    point = ball("l2", 0.5).random(vectors(dtype)[1], 0.3, c)
    assert float(point.norm()) == pytest.approx(0.5 * 0.3 ** (1 / int(count)), rel=1e-5)
    assert bool((point[held == 0] == 0).all())
    inside = ball("linf", 0.5).random(vectors(dtype)[1], 0.3, c)
    assert torch.equal(inside, wanted * 0.5)
