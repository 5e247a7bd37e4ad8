"""A third party whose measures ask for all that a measure may ask for, and whose pool has it; used by run/test_needs.py."""

import json
from pathlib import Path

from acme_toy.plugin import ToyPool

from acutance import hookimpl
from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.spec import Spec


class NoSettings(Spec):
    """None."""


class Rise(Measure[NoSettings]):
    """By how much the loss on the validation points is above that on the points."""

    name = "rise_on_validation"
    traits = Traits(level="dataset", needs={"data", "validation"}, reference="subtraction")

    def evaluate(self, surface, spec, rng):
        return float(surface.companion("validation").clean().loss - surface.clean().loss)

    def passes(self, spec):
        return Cost(forwards=2)


class LastLoss(Measure[NoSettings]):
    """The training loss that was written down last."""

    name = "last_train_loss"
    traits = Traits(level="weights", needs={"trajectory"}, reference="a table")

    def evaluate(self, surface, spec, rng):
        return surface.training_log().column("train_loss")[-1]


class Step(Measure[NoSettings]):
    """Length of the next step."""

    name = "step_length"
    traits = Traits(needs={"update", "gradient"}, reference="calculus")

    def evaluate(self, surface, spec, rng):
        step = surface.update()
        return Estimate(float(step.vector.double().norm()), extras={"step": step.source})

    def passes(self, spec):
        return Cost(forwards=1, backwards=1)


class InputNorm(Measure[NoSettings]):
    """Mean norm of the derivative of an example's loss by its inputs."""

    name = "input_gradient_norm"
    traits = Traits(needs={"input_gradient"}, reference="calculus")

    def evaluate(self, surface, spec, rng):
        return float(surface.input_gradient().double().flatten(1).norm(dim=1).mean())

    def passes(self, spec):
        return Cost(forwards=1, backwards=1)


class Confidence(Measure[NoSettings]):
    """Mean of the largest probability."""

    name = "confidence"
    traits = Traits(level="dataset", needs={"unlabeled"}, reference="Hendrycks & Gimpel 2017")

    def evaluate(self, surface, spec, rng):
        return float(surface.clean_logits().double().softmax(1).amax(1).mean())

    def shares(self, spec):
        return "logits"


class LoggedSpec(Spec):
    size: int = 4
    """Number of models."""
    logs: str = ""
    """Folder of the logs; empty for none."""
    momentum: float = 0.0
    """Factor of the step that the optimizer would take; 0: it is not known."""


class Logged(ToyPool):
    """Toy models with what their training wrote down, and the optimizer's next step."""

    name = "logged"
    Spec = LoggedSpec

    def entries(self, spec):
        entries = super().entries(spec)
        if not spec.logs:
            return entries
        return [entry.model_copy(update={"log": f"{spec.logs}/{entry.id}.jsonl"}) for entry in entries]

    def load(self, entry, spec):
        return super().load(entry, ToyPool.Spec())

    def update(self, entry, spec):
        import torch

        if not spec.momentum:
            return None
        named = self.load(entry, spec).named_parameters()
        return {name: torch.full_like(p, spec.momentum).detach() for name, p in named}


def write_logs(folder, losses):
    """Write one log a model: the losses of its steps."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for i, column in enumerate(losses):
        rows = [json.dumps({"step": 10 * k, "train_loss": loss, "note": "x"}) for k, loss in enumerate(column)]
        (folder / f"toy{i}.jsonl").write_text("\n".join(rows))


@hookimpl
def register_measures():
    return [Rise, LastLoss, Step, InputNorm, Confidence]


@hookimpl
def register_pools():
    return [Logged]
