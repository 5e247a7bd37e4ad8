"""The compiled training of many diagonal linear networks, held against plain loops."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from acutance_dln.kernel import train


def problem(n=10, d=41, count=7, seed=0):
    """Points that a network can fit, initial weights, learning rates and seeds."""
    g = np.random.default_rng(seed)
    x = g.standard_normal((n, d)) / n**0.5
    y = x @ (g.standard_normal(d) * (g.random(d) < 0.4))
    u, v = 0.3 * g.standard_normal((2, count, d))
    return x, y, u, v, g.uniform(0.02, 0.1, count), np.arange(count, dtype=np.uint64) + 3


def splitmix(state):
    """(new state, output) of splitmix64, with Python's whole numbers."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return state, z ^ (z >> 31)


def plain(x, y, u, v, rate, factor, batch, seed, tolerance, max_steps):
    """One network, written out."""
    n, steps, state, rows = len(y), 0, int(seed), np.arange(len(y))
    while True:
        loss = factor / 2 * ((x @ (u * v) - y) ** 2).sum()
        if loss <= tolerance or steps >= max_steps or not np.isfinite(loss):
            return u, v, loss, steps
        if batch is not None:
            for i in range(n - 1, 0, -1):
                state, z = splitmix(state)
                rows[[i, z % (i + 1)]] = rows[[z % (i + 1), i]]
        for start in range(0, n, batch or n):
            chosen = np.arange(n) if batch is None else rows[start : start + batch]
            if steps < max_steps:
                g = factor * x[chosen].T @ (x[chosen] @ (u * v) - y[chosen])
                u, v, steps = u - rate * g * v, v - rate * g * u, steps + 1


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize(("n", "batch"), [(10, None), (12, None), (9, 1), (10, 4), (10, 10), (10, 50)])
def test_training_is_that_of_a_plain_loop(n, batch, factor):
    x, y, u, v, rates, seeds = problem(n)
    kept = u.copy(), v.copy()
    most = 900 * (n if batch == 1 else 1)
    found = train(x, y, u, v, rates, factor=factor, batch_size=batch, seeds=seeds, max_steps=most)
    assert np.array_equal(u, kept[0]) and np.array_equal(v, kept[1])
    for m in range(len(u)):
        a, b, loss, steps = plain(x, y, u[m], v[m], rates[m], factor, batch, seeds[m], 1e-5, most)
        assert found.steps[m] == steps and found.loss[m] == pytest.approx(loss, rel=1e-9)
        assert found.u[m] == pytest.approx(a, abs=1e-12) and found.v[m] == pytest.approx(b, abs=1e-12)
    assert (found.loss <= 1e-5).any() and len(set(found.steps.tolist())) > 3


@pytest.mark.parametrize("batch", [None, 4])
def test_a_network_does_not_depend_on_the_others(batch):
    """Nor on which of the two places it is trained in; d is no multiple of a vector's length."""
    x, y, u, v, rates, seeds = problem(count=9)
    options = {"batch_size": batch, "max_steps": 500}
    whole = train(x, y, u, v, rates, seeds=seeds, **options)
    for order in (np.arange(9)[::-1], np.array([4]), np.array([7, 2, 5])):
        part = train(x, y, u[order], v[order], rates[order], seeds=seeds[order], **options)
        for name in ("u", "v", "loss", "steps"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[order]), name


def test_torch_keeps_its_threads():
    x, y, u, v, rates, seeds = problem(count=11)
    for batch in (None, 3):
        train(x, y, u, v, rates, batch_size=batch, seeds=seeds, max_steps=40)
        assert torch.get_num_threads() == 1


THREADS = """
import sys; sys.path[:0] = {path!r}
import hashlib, numba, numpy as np
from test_kernel import problem, train
x, y, u, v, rates, seeds = problem(count=11)
for batch in (None, 3):
    for threads in (None, 1):
        t = train(x, y, u, v, rates, batch_size=batch, seeds=seeds, max_steps=400, threads=threads)
        print(hashlib.sha256(t.u.tobytes() + t.v.tobytes() + t.loss.tobytes() + t.steps.tobytes()).hexdigest())
assert numba.get_num_threads() == {threads}
"""


@pytest.mark.slow  # compiles anew
def test_the_number_of_threads_changes_no_bit():
    found = set()
    for threads in (1, 2):
        code = THREADS.format(path=[os.path.dirname(__file__)], threads=threads)
        environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
        out = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        found.add(out.stdout)
    assert len(found) == 1 and len(set(found.pop().split())) == 2


@pytest.mark.slow  # compiles anew
def test_it_compiles_where_nothing_can_be_written(tmp_path):
    """Without a place for numba's cache it is compiled anew, and says nothing."""
    code = (
        "import numba.core.caching as c\n"
        "for name in dir(c):\n"
        "    locator = getattr(c, name)\n"
        "    if name.endswith('Locator') and hasattr(locator, 'from_function'):\n"
        "        locator.from_function = classmethod(lambda cls, f, path: None)\n"
        "import numpy as np; from acutance_dln.kernel import train, _step\n"
        "one = np.ones((1, 2)); t = train(np.eye(2), np.ones(2), one, one, np.ones(1)); assert t.loss[0] == 0\n"
        "assert type(_step._cache).__name__ == 'NullCache'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_divergence_ends_training():
    x, y, u, v, _, seeds = problem()
    for batch in (None, 3):
        found = train(x, y, u, v, np.full(7, 50.0), batch_size=batch, seeds=seeds)
        assert not np.isfinite(found.loss).any() and (found.steps < 100).all()


def test_a_fitted_network_takes_no_step_and_none_may_be_allowed():
    x, y, u, v, rates, _ = problem()
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    found = train(x, y, np.ones((7, 41)), np.tile(beta, (7, 1)), rates)
    assert (found.steps == 0).all() and found.loss.max() < 1e-20
    none = train(x, y, u, v, rates, max_steps=0)
    assert (none.steps == 0).all() and np.array_equal(none.u, u)


def test_batches_need_an_order():
    x, y, u, v, rates, _ = problem()
    with pytest.raises(ValueError, match="need seeds"):
        train(x, y, u, v, rates, batch_size=2)
