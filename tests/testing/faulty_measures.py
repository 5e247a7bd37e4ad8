"""Measures that each break one rule of the contract, and one that breaks none."""

import os
from typing import Literal

from pydantic import ConfigDict, PositiveFloat, field_validator

from acutance.errors import Unsupported
from acutance.measure import Cost, Estimate, Measure, Status, Traits
from acutance.spec import Spec


class FaultySpec(Spec):
    rho: PositiveFloat = 0.1
    """By how much the weights are stretched."""
    way: Literal["out", "in"] = "out"
    """Direction of the stretch."""


def stretched(surface, spec):
    factor = 1 + spec.rho if spec.way == "out" else 1 - spec.rho
    return float(surface.loss(factor * surface.w))


class Sound(Measure[FaultySpec]):
    """The rise of the loss when all weights are stretched by rho."""

    name = "sound"
    traits = Traits(invariant_to={"permutation"}, needs={"data"}, reference="these tests")

    def evaluate(self, surface, spec, rng):
        return stretched(surface, spec) - float(surface.loss())

    def passes(self, spec):
        return Cost(forwards=2)


class WithoutDocstring(Sound):
    pass


class WithoutReference(Sound):
    """Where it stands is not said."""

    traits = Traits(needs={"data"})


class StrangeTraits(Sound):
    """Needs something that nobody knows."""

    traits = Traits(needs={"data", "luck"}, reference="these tests")


class LabelOfAnotherMeasure(Sound):
    """Is called by a field that it does not have."""

    traits = Traits(needs={"data"}, reference="these tests", label="{scaling} stretch")


class LabelThatIsNoTemplate(Sound):
    """Is called by half a template."""

    traits = Traits(needs={"data"}, reference="these tests", label="stretch {rho")


class CurveWithoutAxes(Sound):
    """Says what one axis of its curve is."""

    traits = Traits(needs={"data"}, reference="these tests", curves={"profile": ("distance",)})


class DataOnTheWeightsLevel(Sound):
    """Says that it opens no data, and needs some."""

    traits = Traits(level="weights", needs={"data"}, reference="these tests")


class PassesUnknown(Sound):
    """Does not say what it costs."""

    def passes(self, spec):
        return None


class OpenSpec(FaultySpec):
    model_config = ConfigDict(extra="allow")


class AcceptsAnything(Sound):
    """A misspelt setting is ignored."""

    Spec = OpenSpec


class UndocumentedSpec(Spec):
    rho: float = 0.1


class FieldWithoutDocstring(Sound):
    """A field says nothing of itself."""

    Spec = UndocumentedSpec

    def evaluate(self, surface, spec, rng):
        return float(surface.loss())


class GrowingSpec(FaultySpec):
    @field_validator("rho")
    @classmethod
    def _grow(cls, rho):
        return 2 * rho


class GrowsOnTheWay(Sound):
    """Its settings change when they are read again."""

    Spec = GrowingSpec


class ProcessSpec(FaultySpec):
    process: int = os.getpid()
    """A default that another process does not share."""


class DefaultOfTheProcess(Sound):
    """Its schema is another one in every process."""

    Spec = ProcessSpec


class Raises(Sound):
    """Always fails."""

    def evaluate(self, surface, spec, rng):
        raise KeyError("nothing here")


class UnsupportedEverywhere(Sound):
    """Is defined nowhere."""

    def evaluate(self, surface, spec, rng):
        raise Unsupported("only on Sundays")


class UnsupportedWithoutReason(Sound):
    """Does not say where it is defined."""

    def evaluate(self, surface, spec, rng):
        if surface.w.numel() < 10:
            raise Unsupported("")
        return super().evaluate(surface, spec, rng)


class KeepsState(Sound):
    """Counts how often it was asked."""

    count = 0

    def evaluate(self, surface, spec, rng):
        self.count += 1
        return self.count * super().evaluate(surface, spec, rng)


class GlobalGenerator(Sound):
    """Draws from torch's global generator."""

    traits = Traits(stochastic=True, reference="these tests")

    def evaluate(self, surface, spec, rng):
        import torch

        noise = torch.randn(surface.w.shape).to(surface.w)
        return float(surface.loss(surface.w + spec.rho * noise)) - float(surface.loss())


class GlobalState(Sound):
    """Looks at the seed of torch's global generator without drawing from it."""

    def evaluate(self, surface, spec, rng):
        import torch

        return super().evaluate(surface, spec, rng) + torch.initial_seed()


class StochasticUndeclared(Sound):
    """Is random and does not say so."""

    def evaluate(self, surface, spec, rng):
        return float(surface.loss(surface.w + spec.rho * rng.normal("noise", 0, surface.w)))

    traits = Traits(needs={"data"}, reference="these tests")


class StochasticInName(Sound):
    """Says that it is random and is not."""

    traits = Traits(stochastic=True, reference="these tests")


class DependsOnMicrobatch(Sound):
    """Takes the microbatch for m."""

    def evaluate(self, surface, spec, rng):
        return super().evaluate(surface, spec, rng) / (surface.microbatch or surface.n)


class FirstBatchCounts(Sound):
    """Compares with the first batch that it saw."""

    def __init__(self):
        self.first = {}

    def evaluate(self, surface, spec, rng):
        value = super().evaluate(surface, spec, rng)
        # One entry for each model and dtype, so that only the data differ.
        key = (surface.w.numel(), str(surface.w.dtype), repr(spec), round(float(surface.w.norm()), 4))
        self.first.setdefault((key, surface.n), surface.digest)
        return value if self.first[key, surface.n] == surface.digest or surface.n > 10 else value + 1


class SpoilsTheMemo(Sound):
    """Changes what it memoised."""

    def evaluate(self, surface, spec, rng):
        import torch

        shared = surface.memo("stretch", lambda: torch.zeros(()))
        shared += 1
        return super().evaluate(surface, spec, rng) * float(shared)


class LooksAtTheFirstExample(Sound):
    """Takes the first example for all."""

    def evaluate(self, surface, spec, rng):
        return float(surface.losses()[0])


class SinglePrecisionOff(Sound):
    """Is a tenth larger in single precision."""

    def evaluate(self, surface, spec, rng):
        import torch

        factor = 1.1 if surface.w.dtype == torch.float32 else 1.0
        return factor * super().evaluate(surface, spec, rng)


class KnowsItsProcess(Sound):
    """Is another value in another process."""

    def evaluate(self, surface, spec, rng):
        return super().evaluate(surface, spec, rng) + os.getpid()


class ManyDisagree(Sound):
    """Its values in a list are those of the largest radius."""

    def evaluate_many(self, surface, specs, rng):
        largest = max(specs, key=lambda spec: spec.rho)
        return [Estimate(self.evaluate(surface, largest, rng)) for _ in specs]


class FalseInvariance(Sound):
    """Claims what does not hold."""

    traits = Traits(invariant_to={"rescaling"}, reference="these tests")

    def evaluate(self, surface, spec, rng):
        return float(surface.w.norm()) + float(surface.loss())


class MovesTheSurface(Sound):
    """Leaves the surface's weights where it moved them."""

    def evaluate(self, surface, spec, rng):
        clean = float(surface.loss())
        surface.w.mul_(1 + spec.rho)
        return float(surface.loss(surface.w)) - clean


class MovesTheModel(Sound):
    """Leaves the model's parameters changed."""

    def evaluate(self, surface, spec, rng):
        import torch

        with torch.no_grad():
            next(surface.model.parameters()).mul_(1.01)
        return super().evaluate(surface, spec, rng)


class LeavesGradients(Sound):
    """Leaves .grad behind."""

    def evaluate(self, surface, spec, rng):
        import torch

        for p in surface.model.parameters():
            p.grad = torch.zeros_like(p)
        return super().evaluate(surface, spec, rng)


class LeavesEvaluationMode(Sound):
    """Leaves the model in evaluation mode, though it was training."""

    def evaluate(self, surface, spec, rng):
        surface.model.eval()
        return super().evaluate(surface, spec, rng)


class SwitchesGradients(Sound):
    """Leaves gradients switched off."""

    def evaluate(self, surface, spec, rng):
        import torch

        torch.set_grad_enabled(False)
        return super().evaluate(surface, spec, rng)


class RestoresOnlyInPeace(Sound):
    """Puts everything back unless something fails."""

    def evaluate(self, surface, spec, rng):
        before = surface.w.clone()
        surface.w.mul_(1 + spec.rho)
        value = float(surface.loss(surface.w))
        surface.w.copy_(before)
        return value - float(surface.loss())


class HvpUndeclared(Sound):
    """Uses curvature without saying so."""

    def evaluate(self, surface, spec, rng):
        return float(surface.w @ surface.hvp(surface.w))


class GradientUndeclared(Sound):
    """Uses the gradient, on a view, without saying so."""

    def evaluate(self, surface, spec, rng):
        return float(surface.transformed(True).gradient()[1].norm()) if surface.classifies else 0.0


class SlopeUndeclared(Sound):
    """Uses the gradient at a moving point without saying so."""

    def evaluate(self, surface, spec, rng):
        point = surface.transformed(True).moving_point() if surface.classifies else None
        return float(point.move(surface.w, 0.1).gradient().gradient.norm()) if point else 0.0


class SearchUndeclared(Sound):
    """Searches without saying so."""

    def evaluate(self, surface, spec, rng):
        return float(surface.perturbed().value(surface.w)[0])


class DataUndeclared(Sound):
    """Says that weights are enough, and looks at the loss."""

    traits = Traits(needs={"weights"}, reference="these tests")


class StartUndeclared(Sound):
    """Looks at the initial weights without saying so."""

    def evaluate(self, surface, spec, rng):
        return super().evaluate(surface, spec, rng) + float((surface.w - surface.w0).norm())


class HiddenCost(Sound):
    """Calls the model behind the surface's back."""

    def evaluate(self, surface, spec, rng):
        import torch

        if isinstance(surface.inputs, torch.Tensor) and not list(surface.model.buffers()):
            with torch.no_grad():
                surface.model(surface.inputs.to(next(surface.model.parameters()).dtype))
        return super().evaluate(surface, spec, rng)


class NeedsDataInName(Sound):
    """Says that it needs data and passes none."""

    def evaluate(self, surface, spec, rng):
        return float(surface.w.norm())


class DividesByZero(Sound):
    """Raises where the loss is flat."""

    def evaluate(self, surface, spec, rng):
        return 1 / float(surface.loss()) if surface.w.numel() > 10 else float(surface.loss())


class NothingToSay(Sound):
    """Has no finite value and does not say why."""

    def evaluate(self, surface, spec, rng):
        value = super().evaluate(surface, spec, rng)
        return value if value == value and value != 0 else Estimate(float("nan"), status=Status.NOT_CONVERGED)


class FailsInSilence(Sound):
    """Has a bad status and no message."""

    def evaluate(self, surface, spec, rng):
        value = super().evaluate(surface, spec, rng)
        return value if value else Estimate(0.0, status=Status.BUDGET)


class NanInExtras(Sound):
    """Stores what JSON does not know."""

    def evaluate(self, surface, spec, rng):
        return Estimate(super().evaluate(surface, spec, rng), extras={"slope": float("nan")})


class NegativeError(Sound):
    """Its standard error is negative."""

    def evaluate(self, surface, spec, rng):
        return Estimate(super().evaluate(surface, spec, rng), stderr=-0.1)
