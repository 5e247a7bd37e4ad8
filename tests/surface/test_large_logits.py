"""Logits of many classes in microbatches: none outlives its microbatch where a loss is a sum over them."""

import pytest
import torch
from live_memory import LiveBytes
from torch import nn

import acutance
from acutance import LossSurface
from acutance.checks import parts
from acutance.empirical import Error, Loss, TargetSpec
from acutance.errors import Unsupported, UserError

N, WIDTH, CLASSES, SIZE = 64, 4, 1000, 8
SHARPNESS = [
    ("average_case", {"rho": 0.1, "draws": 4}),
    ("average_case", {"rho": 0.1, "draws": 4, "logit_norm": True}),
    ("average_case", {"rho": 0.1, "draws": 4, "variance_reduction": "linear"}),
    ("worst_case", {"rho": 0.01, "steps": 4}),
    ("worst_case", {"rho": 0.01, "steps": 5, "mode": "released"}),
    ("sam_sharpness", {"rho": 0.1}),
    ("critical_sharpness", {}),
    ("basin_size", {"draws": 3}),
    ("basin_size", {"draws": 3, "of": "error"}),
    ("low_pass_filter", {"sigma": 0.1, "draws": 3}),
    ("local_energy", {"sigma": 0.1, "draws": 3}),
    ("pacbayes_flatness", {"draws": 3}),
    ("sharpness_flatness", {"steps": 3}),
    ("hessian_trace", {"probes": 2, "check_rho": 0.1}),
]


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, CLASSES)).to(dtype).eval()
    x = torch.randn(N, WIDTH, dtype=dtype)
    y = torch.where(torch.rand(N) < 0.5, model(x).argmax(1), torch.randint(CLASSES, (N,)))
    return model, (x, y)


def weighted(logits, targets):
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    return losses, (targets % 3 + 1).double()


def mean(logits, targets):
    return nn.functional.cross_entropy(logits, targets)


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(parts, "LARGE_LOGITS", 1)


def surfaces(**options):
    model, data = problem()
    return [LossSurface(model, data, microbatch=size, **options) for size in (None, SIZE, 24)]


@pytest.mark.parametrize("loss", ["cross_entropy", weighted, mean])
def test_losses_errors_and_gradients_are_those_of_logits_that_are_held(large, loss):
    whole, *others = surfaces(loss=loss)
    expected = whole.loss(), whole.errors(), whole.transformed().loss(), *whole.gradient()
    moved = whole.w + 0.01
    for part in others:
        torch.testing.assert_close(part.transformed().loss(), expected[2], rtol=1e-12, atol=0)
        assert part.core.keeps_logits == (loss is mean)
        torch.testing.assert_close(part.loss(), expected[0], rtol=1e-12, atol=0)
        assert torch.equal(part.errors(), expected[1])
        assert torch.equal(part.errors(moved), whole.errors(moved))
        torch.testing.assert_close(part.loss(moved), whole.loss(moved), rtol=1e-12, atol=0)
        torch.testing.assert_close(part.gradient()[1], expected[4], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(part.clean().raw, whole.clean().raw)
        torch.testing.assert_close(part.clean_gradient().raw, whole.clean().raw)


@pytest.mark.parametrize(("measure", "settings"), SHARPNESS, ids=lambda value: str(value))
def test_measures_have_the_values_and_extras_that_they_have_with_logits_that_are_held(monkeypatch, measure, settings):
    model, data = problem()
    found = []
    for limit in (1 << 40, 1):
        monkeypatch.setattr(parts, "LARGE_LOGITS", limit)
        surface = LossSurface(model, data, microbatch=SIZE)
        estimate = acutance.measure(measure, surface, **settings)
        assert surface.core.keeps_logits == (limit > 1)
        assert limit > 1 or surface.core.known.clean_logits is None
        found.append(estimate)
    held, streamed = found
    assert streamed.status == held.status and streamed.value == pytest.approx(held.value, rel=1e-9)
    assert streamed.extras.keys() == held.extras.keys()
    assert streamed.chance == (held.chance and pytest.approx(held.chance, rel=1e-9))
    for name, value in held.extras.items():
        if isinstance(value, float | int):
            assert streamed.extras[name] == pytest.approx(value, rel=1e-7, abs=1e-13), name
    assert streamed.cost.forwards <= held.cost.forwards + N


def test_one_pass_serves_both_targets_and_all_transforms(large):
    surface = surfaces()[1]
    loss, error = (target.evaluate(surface, TargetSpec(), None) for target in (Loss(), Error()))
    assert surface.cost.forwards == N and float(loss) == float(surface.restricted("0.*").loss())
    assert error.value == float(surface.errors().mean()) and error.extras == {"points": N}
    assert surface.cost.forwards == N
    surface.release()
    views = [surface, surface.transformed(), surface.transformed(norm_scale="released")]
    before = surface.cost.forwards
    together = [found.loss for found in surface.clean_together(views)]
    assert surface.cost.forwards == before + N
    assert [float(view.loss()) for view in views] == [float(one) for one in together]
    assert len({float(one) for one in together}) == 3


def test_other_targets_inputs_and_views_do_not_meet_what_a_pass_left(large):
    surface = surfaces()[1]
    first = surface.loss()
    other = surface.at_inputs(surface.inputs + 1)
    assert float(other.loss()) != float(first)
    with pytest.raises(Unsupported):
        surface.unlabelled().loss()
    assert surface.unlabelled().clean_logits().shape == (N, CLASSES)


def test_where_no_example_can_be_wrong_there_is_a_loss_alone(large):
    torch.manual_seed(0)
    model, x, y = nn.Linear(WIDTH, 3), torch.randn(N, WIDTH), torch.randn(N, 3)
    whole, part = (LossSurface(model, (x, y), loss="mse", microbatch=size) for size in (None, SIZE))
    assert float(part.loss()) == pytest.approx(float(whole.loss()), rel=1e-12)
    assert part.clean().note.numel() == 0 and not part.core.keeps_logits
    with pytest.raises(Unsupported, match="which examples are wrong"):
        part.errors()
    found = acutance.measure("average_case", part, rho=0.1, draws=3)
    assert found.value == pytest.approx(acutance.measure("average_case", whole, rho=0.1, draws=3).value, rel=1e-6)
    assert "clean_error" not in found.extras


def test_logits_of_a_point_that_has_moved_on_are_refused(large):
    surface = surfaces()[1]
    found = surface.moving_point().move(torch.zeros_like(surface.w)).value()
    with pytest.raises(UserError, match="logits of this pass were not kept"):
        _ = found.raw


def test_only_large_logits_are_let_go():
    assert all(surface.core.keeps_logits for surface in surfaces() if [surface.loss()])
    assert parts.LARGE_LOGITS == 1 << 28


def peak(examples, read):
    model, (x, y) = problem(torch.float32)
    surface = LossSurface(model, (x[:examples], y[:examples]), microbatch=SIZE)
    surface.check()
    surface.core.examined()  # what is looked at once a model is no part of a pass
    with LiveBytes() as live:
        read(surface)
    return live.peak


@pytest.mark.parametrize(
    "read",
    [
        lambda surface: Loss().evaluate(surface, TargetSpec(), None),
        lambda surface: Error().evaluate(surface, TargetSpec(), None),
        lambda surface: surface.gradient(),
        lambda surface: acutance.measure("average_case", surface, rho=0.1, draws=3),
        lambda surface: acutance.measure("basin_size", surface, draws=3),
    ],
    ids=["loss", "error", "gradient", "average_case", "basin_size"],
)
def test_eight_microbatches_take_the_memory_of_one(monkeypatch, read):
    logits = SIZE * CLASSES * 4
    monkeypatch.setattr(parts, "LARGE_LOGITS", 1 << 40)
    held = peak(N, read) - peak(4 * SIZE, read)
    assert held > 3 * logits
    monkeypatch.setattr(parts, "LARGE_LOGITS", 1)
    assert peak(N, read) - peak(4 * SIZE, read) < logits / 4
