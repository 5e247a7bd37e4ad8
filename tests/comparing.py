"""A third party whose measures compare models: by what they predict, and by their weights; used by run/test_peers.py."""

from typing import Annotated, Literal

from acutance import hookimpl
from acutance.measure import Cost, Estimate, PoolMeasure, Traits, Unsupported
from acutance.peers import over_partners
from acutance.spec import Spec, labelled


class NoSettings(Spec):
    """None."""


class Disagreement(PoolMeasure[NoSettings]):
    r"""Share of points of which another model predicts another class, over all others: no targets are looked at."""

    name = "disagreement_of_toys"
    traits = Traits(
        level="pool", larger_means="apart", needs={"peers", "unlabeled"}, invariant_to={"rescaling"},
        reference="Jiang et al. 2022", symbol="D",
    )  # fmt: skip

    def evaluate_pool(self, peers, spec, rng):
        import torch

        assert all(peer.targets is None for peer in peers)
        classes = torch.stack([peer.logits.argmax(1) for peer in peers])
        return over_partners((classes[:, None] != classes).double().mean(2), peers)


class Apart(PoolMeasure[NoSettings]):
    """Euclidean distance of the weights, over all others."""

    name = "weights_apart"
    traits = Traits(level="pool", larger_means="apart", needs={"peers", "weights"}, reference="geometry")

    def evaluate_pool(self, peers, spec, rng):
        import torch

        w = torch.stack([peer.surface().w.double() for peer in peers])
        return over_partners((w[:, None] - w).norm(dim=2), peers)


class Halfway(PoolMeasure[NoSettings]):
    """Loss in the middle between the weights of two models, over all others."""

    name = "loss_halfway"
    traits = Traits(level="pool", needs={"peers", "data", "weights"}, reference="arithmetic")

    def evaluate_pool(self, peers, spec, rng):
        surfaces = [peer.surface() for peer in peers]
        return over_partners([[float(a.loss((a.w + b.w) / 2)) for b in surfaces] for a in surfaces], peers)

    def passes(self, spec):
        return Cost(forwards=3)

    def passes_among(self, spec, models):
        return Cost(forwards=models)  # its outputs are those of one pair, of itself with itself


class Alike(PoolMeasure[NoSettings]):
    """Mean distance of the last features from those of another model."""

    name = "features_apart"
    traits = Traits(
        level="pool", larger_means="apart", needs={"peers", "unlabeled", "activations"}, reference="geometry"
    )

    def evaluate_pool(self, peers, spec, rng):
        f = [peer.features().double() for peer in peers]
        return over_partners([[float((a - b).norm(dim=1).mean()) for b in f] for a in f], peers)


class OddSpec(Spec):
    how: Annotated[Literal["raises", "few", "text", "none", "undefined", "harm", "targets", "noise"], labelled()] = (
        "raises"
    )
    """What it does."""


class Odd(PoolMeasure[OddSpec]):
    """Goes wrong as it is told to."""

    name = "odd"
    traits = Traits(level="pool", needs={"peers", "data"}, reference="none", stochastic=True)

    def evaluate_pool(self, peers, spec, rng):
        values = [Estimate(float(i)) for i in range(len(peers))]
        match spec.how:
            case "raises":
                raise ZeroDivisionError("nothing to divide by")
            case "few":
                return values[1:]
            case "text":
                return [Estimate(1.0, extras={"where": {1, 2}})] * len(peers)
            case "none":
                return None
            case "undefined":
                raise Unsupported("these models are not comparable")
            case "harm":
                for peer in peers:
                    peer.logits.zero_()
                    peer.targets.zero_()
            case "targets":
                return [float(peer.targets.sum()) for peer in peers]
            case "noise":
                return [float(rng.normal("x", 0, peers[0].logits).sum())] * len(peers)
        return values


@hookimpl
def register_measures():
    return [Disagreement, Apart, Halfway, Alike, Odd]
