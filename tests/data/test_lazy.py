"""Inputs that are read when they are used: the same keys and values, and nothing read that nobody looks at."""

import threading

import pytest
import torch
from acme_toy.plugin import ToyData

from acutance import LossSurface
from acutance.data.batch import length_of, take_rows
from acutance.data.fingerprint import digest_points
from acutance.data.lazy import ahead, every_row, realised
from acutance.dataset import Split
from acutance.plugins import Item, catalog, extended
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.system.progress import Silent


class Lines(Silent):
    def __init__(self):
        self.read = {}

    def stage(self, name, total, items):
        self.name = name
        if name.startswith("reading"):
            self.read[name] = [0, items]

    def advance(self, work, items=0):
        if self.name in self.read:
            self.read[self.name][0] += items


@pytest.fixture
def numbers():
    return torch.randn(600, 3, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def seen():
    return []


@pytest.fixture
def lazy(numbers, seen):
    def read(rows):
        seen.append(len(rows))
        return numbers[rows]

    return every_row(read, len(numbers))


def test_rows_functions_and_parts(numbers, lazy, seen):
    assert len(lazy) == length_of(lazy) == 600
    rows = torch.tensor([5, 3, 3])
    assert torch.equal(realised(take_rows(take_rows(lazy, slice(10, 100)), rows)), numbers[rows + 10]) and seen == [3]
    doubled = lazy[:4].then(lambda x: 2 * x).then(lambda x: x + 1)
    assert torch.equal(doubled.now(), 2 * numbers[:4] + 1)
    seen.clear()
    assert torch.equal(torch.cat(list(lazy.chunks(250))), numbers) and seen == [250, 250, 100]
    assert realised(numbers) is numbers and list(ahead([])) == []


def test_the_digest_is_that_of_the_whole_tensor(numbers, lazy, seen):
    y = torch.arange(600)
    assert digest_points(lazy, y) == digest_points(numbers, y) and max(seen) < 600
    assert digest_points(lazy.then(lambda x: x.double()), y) == digest_points(numbers, y)
    assert digest_points(lazy.then(lambda x: -x), y) != digest_points(numbers, y)


def test_the_next_part_is_read_meanwhile_and_errors_arrive(numbers):
    started = threading.Event()

    def read(rows):
        if rows[0] == 10:
            started.set()
        if rows[0] == 20:
            raise ValueError("damaged")
        return numbers[rows]

    parts = every_row(read, 30).chunks(10)
    next(parts)
    assert started.wait(5)
    next(parts)
    with pytest.raises(ValueError, match="damaged"):
        next(parts)


@pytest.mark.parametrize("microbatch", [None, 7, 50])
def test_a_surface_sees_the_same(lazy, numbers, microbatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3))
    y = torch.arange(50) % 3
    eager = LossSurface(model, (numbers[:50], y), microbatch=microbatch)
    later = LossSurface(model, (lazy[:50], y), microbatch=microbatch)
    assert torch.equal(eager.logits(), later.logits()) and torch.equal(eager.loss(), later.loss())
    (a, g), (b, h) = eager.gradient(eager.w), later.gradient(later.w)
    assert torch.equal(a, b) and torch.equal(g, h) and eager.cost == later.cost
    v = torch.randn(eager.w.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(eager.hvp(v), later.hvp(v))


def test_a_study_has_the_same_keys_and_values_and_says_how_far_reading_is(toy_config, tmp_path):
    sizes = []

    class Later(ToyData):
        name = "later"

        def open(self, split):
            found = super().open(split)

            def read(rows):
                sizes.append((split, len(rows)))
                return found.inputs[rows]

            return Split(every_row(read, len(found)), found.targets, found.score)

    def table(name, folder, reporter):
        with extended([Item("datasets", "later", "acme-toy", "1.2", Later)]):
            study = load_config(toy_config | {"dataset": {"name": name}})
            return run_study(study, tmp_path / folder, report=False, reporter=reporter)

    reporter = Lines()
    plain, later = table("toy", "a", Silent()), table("later", "b", reporter)
    assert plain.computed == later.computed and later.failed == 0
    assert plain.results.equals(later.results)
    assert reporter.read == {f"reading {s}": [n, n] for s, n in (("test", 60), ("ood", 50), ("train", 40))}
    # The points of the surface were read alone, once: the driver, which needs them for the keys, and its worker share.
    assert sizes.count(("train", 32)) == 1


def test_splits_may_come_from_the_settings(toy_config):
    class Named(ToyData):
        @property
        def splits(self):
            return ("train", "test", "ood") if self.spec.shift == 0 else ("train", "test")

        name = "named"

    from acutance import UserError
    from acutance.study.schema import study_schema

    with extended([Item("datasets", "named", "acme-toy", "1.2", Named)]):
        load_config(toy_config | {"dataset": {"name": "named"}})
        with pytest.raises(UserError, match=r"targets\.1: unknown target 'ood.error'"):
            load_config(toy_config | {"dataset": {"name": "named", "shift": 1}})
        assert study_schema(catalog())["properties"]
