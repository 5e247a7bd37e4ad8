"""An executor that takes the last job first."""

from acutance.run.executors import Executor
from acutance.spec import Spec


class BackwardsSpec(Spec):
    """No settings."""


class Backwards(Executor[BackwardsSpec]):
    """Jobs in reverse order, in this process."""

    name = "backwards"

    def run(self, jobs):
        from acutance.run.worker import execute

        for job in reversed(list(jobs)):
            yield from execute(job)
