"""Training: determinism, schedule, SAM, mixup."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from models import MLP, mlp_data
from torch import nn

from acutance import UserError
from acutance.training.loop import initialised, mixed, sam_gradient, train
from acutance.training.recipe import Recipe, learning_rate_at, log_uniform, uniform


def recipe(**changes):
    return Recipe(**{"learning_rate": 0.1, "epochs": 3, "batch_size": 8, "weight_decay": 0.0, **changes})


def noisy(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator).to(x)


@pytest.mark.parametrize("settings", [{}, {"sam_rho": 0.1}, {"mixup": 0.5, "augment": True}])
def test_the_same_recipe_gives_the_same_weights(settings):
    models = [initialised(MLP, 1) for _ in range(2)]
    before = torch.get_rng_state()
    logs = [train(m, *mlp_data(), recipe(**settings), noisy) for m in models]
    assert torch.equal(torch.get_rng_state(), before)
    assert logs[0].loss == logs[1].loss and not logs[0].diverged and logs[0].epochs == 3
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(a, b)
    other = initialised(MLP, 1)
    train(other, *mlp_data(), recipe(**settings, seed=1), noisy)
    assert not torch.equal(next(other.parameters()), next(models[0].parameters()))


def test_training_lowers_the_loss():
    model, (x, y) = MLP(), mlp_data()
    first = F.cross_entropy(model(x), y).item()
    train(model, x, y, recipe(epochs=60))
    assert F.cross_entropy(model(x), y).item() < 0.3 * first
    assert not model.training


def test_the_schedule_rises_over_40_percent_and_falls_to_zero():
    r = recipe(learning_rate=1.0)
    rates = [learning_rate_at(r, step, 100) for step in range(100)]
    assert rates[39] == 1.0 == max(rates) and rates[0] == pytest.approx(1 / 40)
    assert rates[19] == pytest.approx(0.5) and all(x > 0 for x in rates)
    assert rates[99] == pytest.approx(1 / 61) and rates == sorted(rates[:40]) + sorted(rates[40:], reverse=True)
    assert learning_rate_at(recipe(warmup=0.0), 0, 10) == pytest.approx(0.1 * 10 / 11)


def test_plain_steps_are_torchs_sgd():
    ours, theirs = MLP(), MLP()
    x, y = mlp_data()
    r = recipe(epochs=4, batch_size=24, weight_decay=0.01)
    train(ours, x, y, r)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1, momentum=0.9, weight_decay=0.01)
    for epoch in range(4):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(epoch))
        optimizer.param_groups[0]["lr"] = learning_rate_at(r, epoch, 4)
        optimizer.zero_grad()
        F.cross_entropy(theirs(x[order]), y[order]).backward()
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b)


def test_sam_takes_the_gradient_at_the_ascended_point():
    a = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    w = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    model = nn.Module()
    model.w = w
    value = sam_gradient(model, [w], lambda: 0.5 * w @ a @ w, 0.5)
    g = a @ torch.tensor([1.0, 1.0], dtype=torch.float64)
    expected = a @ (torch.tensor([1.0, 1.0], dtype=torch.float64) + 0.5 * g / g.norm())
    torch.testing.assert_close(w.grad, expected)
    assert value == 2.5 and torch.equal(w.data, torch.ones(2, dtype=torch.float64))


def test_sam_updates_batch_norm_statistics_once():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)).double().train()
    twin = copy.deepcopy(model)
    x, y = mlp_data()
    sam_gradient(model, list(model.parameters()), lambda: F.cross_entropy(model(x), y), 0.5)
    twin(x)
    for name, buffer in twin.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name]), name
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm1d))


def test_mixup_mixes_inputs_and_labels_alike():
    g = torch.Generator().manual_seed(0)
    x, y = torch.arange(6.0)[:, None].expand(6, 3), torch.arange(6)
    for _ in range(20):
        z, first, second, lam = mixed(x, y, 0.5, g)
        torch.testing.assert_close(z[:, 0], lam * first + (1 - lam) * second)
    lams = torch.tensor([mixed(x, y, 0.5, g)[3] for _ in range(2000)])
    # Beta(1/2, 1/2): mean 1/2, variance 1/8.
    assert float(lams.mean()) == pytest.approx(0.5, abs=0.03) and float(lams.var()) == pytest.approx(0.125, abs=0.01)
    assert mixed(x, y, 0.0, g)[3] == 1.0


def test_a_diverging_run_stops_and_says_so():
    model, (x, y) = MLP(torch.exp), mlp_data()
    log = train(model, x * 100, y, recipe(learning_rate=1e6, epochs=50))
    assert log.diverged and log.epochs < 50 and not math.isfinite(log.loss)


def test_augmentation_must_be_given():
    with pytest.raises(UserError, match="no augmentation is given"):
        train(MLP(), *mlp_data(), recipe(augment=True))


def test_named_numbers_are_uniform_and_stable():
    values = [uniform("pool", 0, i, "lr") for i in range(4000)]
    assert sum(values) / 4000 == pytest.approx(0.5, abs=0.02) and max(values) < 1 and min(values) >= 0
    assert uniform("pool", 0, 3, "lr") == values[3] != uniform("pool", 1, 3, "lr")
    assert log_uniform(0.01, 1, 0.5) == 0.1 and log_uniform(0.01, 1, 0.0) == 0.01
