"""A dataset, a pool and measures, small enough to test the whole harness in seconds."""

import os
import time

from acutance import hookimpl
from acutance.dataset import Dataset, Split
from acutance.errors import Unsupported, UserError
from acutance.measure import Cost, Estimate, Measure, Traits
from acutance.pool import ModelEntry, ModelPool
from acutance.spec import Spec


class ToyDataSpec(Spec):
    classes: int = 3
    """Number of classes."""
    shift: int = 0
    """Added to the labels, to make them wrong."""


class ToyData(Dataset[ToyDataSpec]):
    """Gaussian blobs."""

    name = "toy"
    splits = ("train", "test", "ood", "empty")

    def open(self, split):
        import torch

        if split not in self.splits:
            raise UserError(f"toy has no split '{split}'")
        n = {"train": 40, "test": 60, "ood": 50, "empty": 0}[split]
        g = torch.Generator().manual_seed(self.splits.index(split))
        y = torch.randint(0, self.spec.classes, (n,), generator=g)
        x = torch.randn(n, 4, generator=g) + 1.5 * torch.nn.functional.one_hot(y, 4)
        return Split(x, y + self.spec.shift)


class ToyPoolSpec(Spec):
    size: int = 6
    """Number of models."""
    fault: str = ""
    """nan, missing, class, kill or initial: what is wrong with model 1."""


class ToyPool(ModelPool[ToyPoolSpec]):
    """Small perceptrons fitted by a few gradient steps."""

    name = "toy"

    def entries(self, spec):
        return [
            ModelEntry(
                id=f"toy{i}",
                attributes={"learning_rate": 0.1 * (i + 1), "wide": i % 2 == 0},
                architecture="toy",
                train_set="toy",
            )
            for i in range(spec.size)
        ]

    def initial(self, entry, spec):
        import torch
        from torch import nn

        i = int(entry.id[3:])
        if i == 1 and spec.fault == "initial":
            raise FileNotFoundError("the initial weights of toy1 are gone")
        if i == 2 and spec.fault == "initial":
            return None
        g = torch.Generator().manual_seed(i)
        hidden = 6
        model = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=g) * 0.5)
        return model

    def load(self, entry, spec):
        import torch
        from torch import nn

        i = int(entry.id[3:])
        if i == 1 and spec.fault == "missing":
            raise FileNotFoundError("toy1.pt is gone")
        if i == 1 and spec.fault == "kill":
            os.kill(os.getpid(), 9)
        model = self.initial(entry, ToyPoolSpec())
        data = ToyData().open("train")
        for _ in range(3 * i + 5):
            loss = nn.functional.cross_entropy(model(data.inputs), data.targets)
            for p, grad in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
                p.data -= 0.5 * grad
        if i == 1 and spec.fault == "nan":
            model[0].weight.data[0, 0] = float("nan")
        return model.eval()


class WeightNormSpec(Spec):
    p: float = 2.0
    """Order of the norm."""


class WeightNorm(Measure[WeightNormSpec]):
    """The p-norm of the weights."""

    name = "weight_norm"
    traits = Traits(level="weights", larger_means="larger", needs={"weights"}, reference="linear algebra")

    def evaluate(self, surface, spec, rng):
        return float(surface.w.norm(spec.p))


class DistanceSpec(Spec):
    """No settings."""


class Distance(Measure[DistanceSpec]):
    """The distance of the weights from their initial values."""

    name = "toy_distance"
    traits = Traits(
        level="weights", larger_means="farther", needs={"weights", "initial_weights"}, reference="linear algebra"
    )

    def evaluate(self, surface, spec, rng):
        return float((surface.w - surface.w0).norm())


class BetaSpec(Spec):
    p: float = 1.0
    """Order of the norm."""


class Beta(Measure[BetaSpec]):
    """The p-norm of beta = u v of a diagonal linear network; defined on no other model."""

    name = "toy_beta"
    traits = Traits(
        level="weights",
        larger_means="larger",
        needs={"weights"},
        invariant_to={"rescaling"},
        reference="linear algebra",
    )

    def evaluate(self, surface, spec, rng):
        parts = surface.unflatten(surface.w)
        if set(parts) != {"u", "v"}:
            raise Unsupported("beta is that of a diagonal linear network, whose parameters are u and v")
        return float((parts["u"] * parts["v"]).norm(spec.p))


class BetaSlope(Measure[BetaSpec]):
    """The p-norm of the gradient in u of a diagonal linear network."""

    name = "toy_beta_slope"
    traits = Traits(needs={"data", "gradient"}, reference="linear algebra")

    def evaluate(self, surface, spec, rng):
        if {name for name, *_ in surface.layers} != {"u", "v"}:
            raise Unsupported("the model is no diagonal linear network, with parameters u and v")
        return float(surface.unflatten(surface.gradient()[1])["u"].norm(spec.p))

    def passes(self, spec):
        return Cost(forwards=1, backwards=1)


class CountSpec(Spec):
    """No settings."""


class Count(Measure[CountSpec]):
    """The number of points of the surface."""

    name = "count"
    traits = Traits(level="dataset", reference="arithmetic")

    def evaluate(self, surface, spec, rng):
        surface.loss()
        return float(surface.n)


class Place(Measure[CountSpec]):
    """Where it is evaluated: the number of devices its process sees."""

    name = "place"
    traits = Traits(level="weights", needs={"weights"}, reference="these tests")

    def evaluate(self, surface, spec, rng):
        import torch

        time.sleep(0.2)  # long enough for every worker to get some
        devices, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Estimate(1.0, extras={"devices": devices, "visible": visible, "process": os.getpid()})


class MoodySpec(Spec):
    mood: str = "fine"
    """fine, raise, nan, unsupported, slow, hang, die; weights, inputs or targets: what it changes."""
    flag: str = ""
    """A file whose existence changes the mood to fine."""


class Moody(Measure[MoodySpec]):
    """Returns the clean loss, or fails in the way it is told."""

    name = "moody"
    traits = Traits(stochastic=False, reference="the toy of these tests")

    def evaluate(self, surface, spec, rng):
        if not (spec.flag and os.path.exists(spec.flag)):
            if spec.mood == "raise":
                raise RuntimeError("moody today")
            if spec.mood == "nan":
                return float("nan")
            if spec.mood == "unsupported":
                raise Unsupported("not on a Tuesday")
            if spec.mood == "slow":
                time.sleep(0.12)
            if spec.mood == "hang":
                time.sleep(600)
            if spec.mood == "weights":
                surface.w.data.mul_(2)
                raise RuntimeError("and falls over")
            if spec.mood == "inputs":
                surface.inputs.mul_(2)
            if spec.mood == "targets":
                surface.targets.numpy()[:2] = surface.targets.numpy()[:2][::-1].copy() * 0
            if spec.mood == "die":
                os.kill(os.getpid(), 9)
            if spec.mood == "memory" and (surface.microbatch or surface.n) > 4:
                raise MemoryError("out of memory")
        return Estimate(float(surface.loss()), extras={"microbatch": surface.microbatch or 0})


@hookimpl
def register_measures():
    return [WeightNorm, Moody, Count, Place, Distance, Beta, BetaSlope]


@hookimpl
def register_pools():
    return [ToyPool]


@hookimpl
def register_datasets():
    return [ToyData]


def half(surface):
    """c = |w| / 2."""
    return surface.w.abs() / 2


@hookimpl
def register_scalings():
    return {"half": "acme_toy.plugin:half"}


@hookimpl
def register_executors():
    return ["acme_toy.backwards:Backwards"]
