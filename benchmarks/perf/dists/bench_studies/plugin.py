"""Cells that cost nothing or a given time, and the executor ray with its actors up before the first job."""

import time

from acutance import hookimpl
from acutance.measure import Measure, Traits
from acutance.spec import Spec


class PauseSpec(Spec):
    seconds: float = 0.0
    """How long a cell takes."""


class Pause(Measure[PauseSpec]):
    """A random number, after a pause; stochastic, so that each of its replicates is a cell by itself."""

    name = "pause"
    traits = Traits(level="weights", needs={"weights"}, stochastic=True, reference="these benchmarks")

    def evaluate(self, surface, spec, rng):
        time.sleep(spec.seconds)
        return 1.0


@hookimpl
def register_measures():
    return [Pause]


@hookimpl
def register_executors():
    return ["bench_studies.up:RayUp"]
