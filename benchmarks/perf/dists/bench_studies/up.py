"""The executor ray, started in full before it takes a job."""

from acutance_ray.executor import Ray


class RayUp(Ray):
    """Waits for all actors before the first job, so that their start is not timed."""

    name = "ray_up"

    def run(self, jobs):
        ray = self._connected()
        if not self._actors:
            self._actors = [self._actor() for _ in range(self.workers)]
            ray.wait([actor.waits_for for actor in self._actors], num_returns=self.workers)
        yield from super().run(jobs)
