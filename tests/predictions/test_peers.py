"""Peers: pairs counted one by one, the published equations solved in another way, and pools with a known line."""

import itertools
import resource
import time

import numpy as np
import pytest
import torch
from scipy.stats import linregress, norm
from torch import nn

import acutance
from acutance import Status
from acutance.numerics.draws import Streams
from acutance.peers import Peer
from acutance.plugins import catalog
from acutance.spec import validate
from acutance.surface.beside import VALIDATION
from acutance_predictions.plugin import FAMILIES


class Columns(nn.Module):
    """A table of one-hot logits, looked up by the input."""

    def __init__(self, classes, k):
        super().__init__()
        self.w = nn.Parameter(5 * nn.functional.one_hot(torch.as_tensor(classes), k).double() + 0.25)

    def forward(self, x):
        return self.w[x.long().flatten()]


def compared(name, classes, beside=None, y=None, k=10, **fields):
    """Return the values of a pool measure on models that predict these classes on the points, and beside them.

    ``k``: how many classes there are; or of each model.
    """
    peers = []
    for i, own in enumerate(classes):
        n, m = len(own), 0 if beside is None else len(y)
        wide = k if isinstance(k, int) else k[i]
        model = Columns(np.concatenate([own, beside[i]]) if m else own, wide)
        surface = acutance.LossSurface(model, (torch.arange(n).double()[:, None], torch.zeros(n, dtype=torch.long)))
        if m:
            x = torch.arange(n, n + m).double()[:, None]
            other = acutance.LossSurface(model, (x, torch.as_tensor(y)))
            surface.core.companions[VALIDATION] = lambda other=other: other
        peers.append(Peer.of(f"m{i}", surface.unlabelled()))
    target = catalog().get("measures", name)
    return target().evaluate_pool(peers, validate(target.Spec, fields, name), Streams("test"))


def pool(models=12, n=4000, k=10, seed=0, shift=0.5, noise=0.0):
    """Models that err independently with probabilities of their own; what they err to is one of the other classes."""
    g = np.random.default_rng(seed)
    skill = np.linspace(0.6, 2.2, models)
    found = []
    for level in (skill, skill - shift + noise * g.normal(size=models)):
        y = g.integers(k, size=n)
        hard = g.normal(size=n)
        right = np.stack([hard + g.normal(size=n) < s * np.sqrt(2) for s in level])
        found.append((np.where(right, y, (y + 1 + g.integers(k - 1, size=(models, n))) % k), y))
    return found


def test_disagreement_is_the_share_of_points_with_another_class_averaged_over_the_others():
    classes = np.random.default_rng(0).integers(10, size=(5, 40))
    found = compared("disagreement", classes)
    for i, estimate in enumerate(found):
        shares = {f"m{j}": np.mean([a != b for a, b in zip(classes[i], classes[j], strict=True)])
                  for j in range(5) if j != i}  # fmt: skip
        assert estimate.value == pytest.approx(np.mean(list(shares.values())), rel=1e-14)
        assert estimate.extras["partners"] == pytest.approx(shares)
    assert [e.value for e in compared("disagreement", [classes[0], classes[0]])] == [0, 0]


def peer(name, logits):
    return Peer(name, torch.tensor(logits), None, None, None)


def test_models_without_finite_outputs_are_no_partners():
    measure = catalog().get("measures", "disagreement")()
    a, b, nan = [[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]], [[1.0, float("nan")], [0.0, 1.0]]
    found = measure.evaluate_pool([peer("a", a), peer("b", b), peer("c", nan)], None, None)
    assert [e.value for e in found[:2]] == [0.5, 0.5] and found[2].status is Status.NONFINITE
    assert found[0].extras["undefined"] == 1


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ([[1.0, 2.0, 3.0]] * 2, "model odd has 3 classes, and no other one has as many to compare (model a has 2)"),
        ([[1.0], [2.0]], "at least two logits a point, the outputs of model odd have shape (2, 1)"),
        ([1.0, 2.0], "at least two logits a point, the outputs of model odd have shape (2,)"),
        ([[[1.0, 2.0]] * 3] * 2, "at least two logits a point, the outputs of model odd have shape (2, 3, 2)"),
    ],
)
def test_a_model_with_other_outputs_costs_itself_alone(odd, message, place):
    measure = catalog().get("measures", "disagreement")()
    three = [peer("a", [[1.0, 2.0], [2.0, 1.0]]), peer("b", [[1.0, 2.0], [1.0, 2.0]]), peer("c", [[2.0, 1.0]] * 2)]
    alone = measure.evaluate_pool(three, None, None)
    found = measure.evaluate_pool([*three[:place], peer("odd", odd), *three[place:]], None, None)
    own = found.pop(place)
    assert own.status is Status.UNSUPPORTED and message in own.message
    assert [e.value for e in found] == [e.value for e in alone] == [0.5, 0.75, 0.75]
    assert all(e.status is Status.OK and e.extras["undefined"] == 1 for e in found)


def test_models_are_compared_with_those_of_as_many_classes():
    measure = catalog().get("measures", "disagreement")()
    a, b = [[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]]
    wide = [[[*row, 0.0] for row in one] for one in (a, b)]
    found = measure.evaluate_pool([peer("a", a), peer("A", wide[0]), peer("b", b), peer("B", wide[1])], None, None)
    assert [e.value for e in found] == [0.5] * 4 and list(found[1].extras["partners"]) == ["B"]
    odd = measure.evaluate_pool([peer("a", a), peer("b", [[1.0, 2.0, 3.0]] * 2)], None, None)
    assert {e.status for e in odd} == {Status.UNSUPPORTED} and "model a has 2 classes" in odd[0].message
    none = measure.evaluate_pool([peer("a", [[1.0]]), peer("b", [[2.0]])], None, None)
    assert all("at least two logits" in e.message for e in none)


def by_hand(points, validation, y):
    """Return probits of agreements on the points and beside, for each pair, and of validation accuracies."""
    pairs = list(itertools.combinations(range(len(points)), 2))
    a, v = (norm.ppf([np.mean(c[i] == c[j]) for i, j in pairs]) for c in (points, validation))
    return pairs, a, v, norm.ppf([np.mean(c == y) for c in validation])


def refused(message, *arguments, **fields):
    found = compared("agreement_on_the_line", *arguments, **fields)
    assert all(e.status is Status.UNSUPPORTED and message in e.message for e in found), found


def test_the_line_of_the_agreements_maps_the_accuracies():
    (validation, y), (points, _) = pool()
    pairs, a, v, known = by_hand(points, validation, y)
    line = linregress(v, a)
    found = compared("agreement_on_the_line", points, validation, y)
    for estimate, u in zip(found, known, strict=True):
        assert estimate.value == pytest.approx(1 - norm.cdf(line.slope * u + line.intercept), rel=1e-10)
        assert estimate.extras["validation_error"] == pytest.approx(1 - norm.cdf(u), rel=1e-9)
    assert found[0].extras["r2"] == pytest.approx(line.rvalue**2, rel=1e-10)
    assert found[0].extras["pairs"] == len(pairs) and found[0].extras["left_out"] == 0


def test_accuracies_that_fit_all_pairs_solve_the_published_equations():
    (validation, y), (points, _) = pool()
    pairs, a, v, known = by_hand(points, validation, y)
    slope = linregress(v, a).slope
    system = np.zeros((len(pairs), len(points)))
    right = np.empty(len(pairs))
    for row, (i, j) in enumerate(pairs):
        system[row, [i, j]] = 0.5
        right[row] = a[row] + slope * ((known[i] + known[j]) / 2 - v[row])
    expected = 1 - norm.cdf(np.linalg.lstsq(system, right)[0])
    found = compared("agreement_on_the_line", points, validation, y, variant="pairs")
    assert [e.value for e in found] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variant", ["single", "pairs"])
def test_errors_under_a_shift_are_found_where_the_line_holds(variant):
    (validation, y), (points, truth) = pool()
    found = compared("agreement_on_the_line", points, validation, y, variant=variant)
    errors = np.array([np.mean(c != truth) for c in points])
    estimated = np.array([e.value for e in found])
    plain = np.array([e.extras["validation_error"] for e in found])
    assert np.abs(estimated - errors).mean() < 0.25 * np.abs(plain - errors).mean()


def test_a_line_that_does_not_hold_is_refused():
    (validation, y), (points, _) = pool(noise=1.0)
    refused("lie on no line", points, validation, y)
    loose = compared("agreement_on_the_line", points, validation, y, least_r2=0.0)
    assert all(e.status is Status.OK for e in loose)


@pytest.mark.parametrize("variant", ["single", "pairs"])
def test_pairs_that_always_agree_have_no_probit_and_are_left_out(variant):
    (validation, y), (points, _) = pool(models=6)
    points, validation = np.vstack([points, points[:1]]), np.vstack([validation, validation[:1]])
    found = compared("agreement_on_the_line", points, validation, y, variant=variant)
    assert found[0].extras["left_out"] == 1 and found[0].value == pytest.approx(found[6].value, rel=1e-9)
    perfect = np.vstack([validation[:6], y[None]])
    last = compared("agreement_on_the_line", points, perfect, y, variant=variant, least_r2=0)[6]
    assert last.status is Status.UNSUPPORTED and "no place on the line" in last.message


def test_too_few_pairs_and_equal_agreements_are_refused():
    (validation, y), (points, _) = pool(models=2)
    refused("needs 3 pairs", points, validation, y)
    a = np.zeros(12, dtype=int)
    ring = np.stack([a, a, a])
    ring[0, :4] = ring[1, 4:8] = ring[2, 8:] = 1
    refused("agree equally often", ring, ring, a)


@pytest.mark.parametrize("variant", ["single", "pairs"])
def test_models_of_other_classes_have_a_line_of_their_own(variant):
    (validation, y), (points, _) = pool()
    expected = [e.value for e in compared("agreement_on_the_line", points, validation, y, variant=variant)]
    wide = [10] * 12 + [12] * 13 + [11]
    rows = [*range(12), *range(12), 0, 3]
    order = np.random.default_rng(0).permutation(26)
    chosen = [rows[i] for i in order]
    mixed = compared(
        "agreement_on_the_line", points[chosen], validation[chosen], y, [wide[i] for i in order], variant=variant
    )
    found = dict(zip(order.tolist(), mixed, strict=True))
    assert [found[i].value for i in range(12)] == pytest.approx(expected, rel=1e-9)
    # In the other group a model is there twice, which is one pair less on the line, and more of the others.
    assert found[12].extras["left_out"] == 1 and found[0].extras["left_out"] == 0
    assert (
        found[25].status is Status.UNSUPPORTED and "has 11 classes, and no other one has as many" in found[25].message
    )


def test_two_hundred_models_take_little_time_and_memory():
    from acutance_predictions.agreement_line_numerics import estimates_of_line
    from acutance_predictions.pool_numerics import agreements, predicted

    g = torch.Generator().manual_seed(0)
    logits = [torch.randn(10_000, 10, generator=g) for _ in range(200)]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    names = [str(i) for i in range(200)]
    classes = predicted(logits, names).classes
    table = agreements(classes)
    beside = predicted(logits[::-1], names).classes
    found = estimates_of_line(classes, beside, torch.zeros(10_000, dtype=torch.long), "pairs", 0.0)
    assert time.process_time() - start < 5 and len(found) == 200 and table.shape == (200, 200)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 2**18  # in KiB


def test_what_estimates_an_error_says_so():
    names = {name for family in FAMILIES.values() for name in family}
    said = {name for name in names if catalog().get("measures", name).traits.estimates == "error"}
    assert said >= {"average_confidence", "difference_of_confidences", "average_thresholded_confidence", "cot",
                    "disagreement", "agreement_on_the_line"}  # fmt: skip
    assert not said & {"mano", "nuclear_norm", "mean_confidence"}
