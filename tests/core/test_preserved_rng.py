"""Every global random generator is left in the state it was in, whatever was drawn."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from acutance.system import kept
from acutance.system.kept import preserved_rng


def following():
    """What the generators would give next, in any order of kinds; they are left as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    drawn = [random.random(), np.random.randn(3).tolist(), np.random.random_sample(), torch.rand(1).item()]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return drawn


DRAWS = {
    "nothing": lambda: None,
    "python": random.random,
    "torch": lambda: torch.rand(3),
    "words": np.random.random_sample,
    "a normal number": np.random.randn,
    "two normal numbers": lambda: np.random.randn(2),
    "a seed": lambda: np.random.seed(3),
    # Words and their place are those of the state below, but for the normal number that is set aside.
    "the same words": lambda: (np.random.seed(7), np.random.randn()),
    "a state": lambda: np.random.set_state(np.random.RandomState(5).get_state()),
}


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("drawn", DRAWS)
def test_generators_go_on_as_if_nothing_was_drawn(drawn, before):
    np.random.seed(7)
    np.random.randn(before)
    for _ in range(2):
        wanted = following()
        with preserved_rng():
            DRAWS[drawn]()
        assert following() == wanted
        np.random.random_sample()


@pytest.mark.parametrize("before", [1, 2])
def test_a_state_between_is_not_taken_for_that_of_the_last_time(before):
    """After one normal number and after two the words are the same, and one number is set aside or none."""
    np.random.seed(7)
    np.random.randn(3 - before)
    with preserved_rng():
        np.random.random_sample()
    np.random.seed(7)
    np.random.randn(before)
    wanted = following()
    with preserved_rng():
        np.random.random_sample()
    assert following() == wanted


def test_another_bit_generator_is_left_in_its_state():
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.MT19937(3))
        wanted = following()
        with preserved_rng():
            np.random.random_sample()
        assert following() == wanted
    finally:
        np.random.set_bit_generator(own)


def test_the_words_are_asked_for_only_where_they_changed(monkeypatch):
    with preserved_rng():
        pass
    asked = []
    monkeypatch.setattr(kept, "_same", lambda a, b: asked.append(a is b) or a is b)
    with preserved_rng():
        pass
    assert asked == [True]


def test_where_memory_does_not_tell_states_are_asked_for(monkeypatch):
    monkeypatch.setattr(kept, "_memory_tells", lambda: False)
    wanted = following()
    with preserved_rng():
        np.random.randn(5)
    assert following() == wanted


def test_an_exception_leaves_them_too():
    wanted = following()
    with pytest.raises(ZeroDivisionError), preserved_rng():
        np.random.randn(5)
        raise ZeroDivisionError
    assert following() == wanted


def test_the_first_measure_of_a_process_draws_from_no_global_generator():
    """Libraries that are loaded late, as rich is, draw numbers as they are imported."""
    code = (
        "import random, torch, numpy as np, acutance\n"
        "random.seed(3), torch.manual_seed(3), np.random.seed(3)\n"
        "states = random.getstate(), torch.get_rng_state(), np.random.get_state()[2]\n"
        "model = torch.nn.Linear(4, 3); states = states[0], torch.get_rng_state(), states[2]\n"
        "acutance.measure('average_case', model, (torch.ones(8, 4), torch.arange(8) % 3), rho=0.1, draws=2)\n"
        "assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])\n"
        "assert np.random.get_state()[2] == states[2]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
