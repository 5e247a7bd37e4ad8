"""All measures of the outputs of one model, beside its forwards; and what a pool of 200 models agrees on."""

import torch
from torch import nn

from acutance import LossSurface, Streams
from acutance.measure import Cost
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.surface.beside import VALIDATION
from acutance.surface.evaluation import evaluate_family

POINTS, CLASSES = 10_000, 1000
ESTIMATES = ("average_confidence", "difference_of_confidences", "average_thresholded_confidence", "cot")
CALIBRATION = ("expected_calibration_error", "negative_log_likelihood", "brier_score", "temperature")
CONFIDENCE = ("mean_confidence", "prediction_entropy", "confidence_margin", "mano", "nuclear_norm")


class Table(nn.Module):
    """Logits that are looked up, so that a forward costs next to nothing."""

    def __init__(self, logits):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("logits", logits)

    def forward(self, x):
        return self.scale * self.logits[x[:, 0].long()]


def looked_up(n, classes, seed, skill=2.0):
    """Return (logits, labels) of n points that a model knows something of; labels are those of every seed."""
    y = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(1000))
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=g)
    logits[torch.arange(n), y] += 2 * skill * torch.rand(n, generator=g)
    return logits, y


def test_all_measures_of_the_outputs(timed):
    """Thirteen measures on 10^4 points and as many validation points of 1000 classes: one forward of each."""
    logits, y = looked_up(2 * POINTS, CLASSES, 0)
    model, x = Table(logits), torch.arange(2 * POINTS).float()[:, None]
    ours, beside = slice(POINTS), slice(POINTS, None)

    def work():
        surface = LossSurface(model, (x[ours], y[ours]))
        validation = LossSurface(model, (x[beside], y[beside]))
        surface.core.companions[VALIDATION] = lambda: validation
        for name in (*CONFIDENCE, *CALIBRATION, *ESTIMATES):
            measure = catalog().measure(name)
            (found,) = evaluate_family(name, measure, surface, [measure.Spec()], seed=0, batch=0)
            assert found.status == "ok", (name, found.message)
        assert surface.cost.units == Cost(forwards=2 * POINTS).units  # those of the validation points are booked here

    work()  # what numba compiles, it keeps
    timed(work, rounds=3, bound=2.0, points=POINTS, classes=CLASSES)


def test_agreements_of_200_models(timed):
    """All pairwise disagreements of 200 models on 10^4 points, and the line that they make with validation points."""
    peers = []
    for i in range(200):
        logits, y = looked_up(2 * POINTS, 10, i, skill=1 + i / 100)
        x = torch.arange(2 * POINTS).float()[:, None]
        model = Table(logits)
        surface = LossSurface(model, (x[:POINTS], y[:POINTS]))
        validation = LossSurface(model, (x[POINTS:], y[POINTS:]))
        surface.core.companions[VALIDATION] = lambda validation=validation: validation
        peers.append(Peer.of(f"m{i}", surface.unlabelled()))

    def work():
        for name in ("disagreement", "agreement_on_the_line"):
            measure = catalog().measure(name)
            assert len(measure.evaluate_pool(peers, measure.Spec(), Streams("benchmark"))) == len(peers)

    timed(work, rounds=3, bound=10.0, models=len(peers), points=POINTS)
