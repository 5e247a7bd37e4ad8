"""Networks that classify all of their points rightly: what measures of margins and of kept accuracy are defined on."""

from dataclasses import dataclass, replace

import torch

from acutance.testing.problems import PROBLEMS
from acutance.testing.twins import TWINS


@dataclass(frozen=True)
class OwnLabels:
    """The points of a problem, with the classes that its model predicts for labels."""

    of: str

    def __call__(self):
        problem = PROBLEMS[self.of]
        inputs, _ = problem.data()
        with torch.no_grad():
            return inputs, problem.surface().raw_logits().argmax(1)


FITTED = {
    name: replace(PROBLEMS[name], name=f"fitted {name}", data=OwnLabels(name)) for name in ("relu_mlp", "attention")
}
SURFACES = [replace(twin, original=FITTED[twin.original.name]) for twin in TWINS if twin.original.name in FITTED]
