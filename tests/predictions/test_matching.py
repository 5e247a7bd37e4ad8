"""Neurons of two models that are matched by their weights: twins, chains alone, passes."""

import copy
import itertools

import numpy
import pytest
import torch
from pairs_of_models import IMAGES, KINDS, X, Y, by_hand, compared, conv_bn, mlp, trained
from torch import nn

from acutance import Status
from acutance.errors import Unsupported
from acutance.plugins import catalog
from acutance_predictions.pairs.chains import Moved, chain
from acutance_predictions.pairs.matching import _gains

MATCHED = {"alignment": "permutation"}


def deep(seed):
    layers = nn.Linear(6, 7), nn.Tanh(), nn.Sequential(nn.Linear(7, 5), nn.ReLU()), nn.Linear(5, 3)
    return trained(nn.Sequential(*layers), seed)


def flat(seed):
    """A convolution whose channels are read by a linear layer, four places each."""
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(16, 3)
    return trained(nn.Sequential(*layers), seed, IMAGES, KINDS)


def turned(model, seed=0):
    """Return the same function with the neurons of each hidden layer in another order, by hand."""
    twin = copy.deepcopy(model)
    g, order = torch.Generator().manual_seed(seed), None
    modules = [m for m in twin.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.BatchNorm2d)]
    with torch.no_grad():
        for i, module in enumerate(modules):
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(tensor[order].clone())
                continue
            if order is not None:
                w = module.weight
                grouped = w.reshape(w.shape[0], len(order), -1)[:, order]
                w.copy_(grouped.reshape(w.shape).clone())
            if i < len(modules) - 1:
                order = torch.randperm(module.weight.shape[0], generator=g)
                module.weight.copy_(module.weight[order].clone())
                module.bias.copy_(module.bias[order].clone())
    return twin


NETWORKS = {
    "mlp": (mlp, X, Y),
    "deep": (deep, X, Y),
    "conv_bn": (conv_bn, IMAGES, KINDS),
    "flat": (flat, IMAGES, KINDS),
}


@pytest.mark.parametrize("buffers", ["interpolated", "recalibrated"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_turned_twin_has_a_barrier_and_none_once_it_is_matched(kind, buffers):
    make, x, y = NETWORKS[kind]
    model = make(0)
    twin = turned(model)
    assert torch.allclose(model(x), twin(x), rtol=1e-10, atol=1e-12)
    apart, _ = compared((model, twin), (x, y), buffers=buffers)
    assert min(e.value for e in apart) > 0.01
    before = {k: v.clone() for k, v in twin.state_dict().items()}
    found, _ = compared((model, twin), (x, y), buffers=buffers, **MATCHED)
    assert [e.value for e in found] == pytest.approx([0, 0], abs=1e-12)
    assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_is_the_best_of_all_in_one_hidden_layer(seed):
    """Every order of 5 neurons by hand: the best product of weights has the barrier that is found."""
    a, b = mlp(0, width=5), mlp(seed, width=5)

    @torch.no_grad()
    def product(order):
        order = list(order)
        return float(
            (a[0].weight * b[0].weight[order]).sum() + (a[0].bias * b[0].bias[order]).sum()
            + (a[2].weight * b[2].weight[:, order]).sum()
        )  # fmt: skip

    best = list(max(itertools.permutations(range(5)), key=product))
    assert best != sorted(best)
    matched = copy.deepcopy(b)
    with torch.no_grad():
        matched[0].weight.copy_(b[0].weight[best])
        matched[0].bias.copy_(b[0].bias[best])
        matched[2].weight.copy_(b[2].weight[:, best])
    expected = by_hand(a, matched, X, Y)
    found, _ = compared((a, b), (X, Y), **MATCHED)
    assert found[0].value == pytest.approx(expected, rel=1e-9, abs=1e-13)
    assert found[0].value != pytest.approx(by_hand(a, b, X, Y), rel=1e-3)
    swapped, _ = compared((b, a), (X, Y), **MATCHED)
    assert swapped[0].value == pytest.approx(found[0].value, rel=1e-9, abs=1e-13)


def test_gains_of_normalization_take_part_and_statistics_do_not():
    """Where the weights say nothing the gains do, and running statistics never."""
    model = conv_bn(0)
    with torch.no_grad():
        for name, entry in model.named_parameters():
            entry.fill_(0.1)
            if name == "1.weight":
                entry.copy_(torch.tensor([1.0, 2, 3, 4]))
        twin = copy.deepcopy(model)
        twin[1].weight.copy_(torch.tensor([4.0, 3, 2, 1]))
        twin[1].running_mean.copy_(model[1].running_mean.flip(0))
        twin[1].running_var.copy_(model[1].running_var.flip(0))
    found, _ = compared((model, twin), (IMAGES, KINDS), **MATCHED)
    assert [e.value for e in found] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("buffers", ["interpolated", "recalibrated"])
def test_matched_networks_are_run_once_more(buffers):
    models = [conv_bn(seed) for seed in range(3)]
    _, surfaces = compared(models, (IMAGES, KINDS), grid=5, buffers=buffers, **MATCHED)
    measure = catalog().get("measures", "linear_barrier")
    spec = measure.Spec(grid=5, buffers=buffers, **MATCHED)
    made = sum(surface.cost.forwards for surface in surfaces)
    assert measure().passes_among(spec, 3).forwards * 3 * 40 == pytest.approx(made, rel=1e-12)


def test_a_chain_is_known_by_what_its_neurons_move():
    assert chain(conv_bn(0)) == [
        Moved(4, "0.weight", ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), "3.weight"),
        Moved(5, "3.weight", ("3.bias", "4.weight", "4.bias", "4.running_mean", "4.running_var"), "8.weight"),
    ]
    assert [moved.reader for moved in chain(deep(0))] == ["2.0.weight", "3.weight"]


class Skips(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + x[:, :3]


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3))


def hooked():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].register_forward_hook(lambda module, given, out: out.roll(1, 1))
    return model


def tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


OTHERS = {
    "shares weights": tied,
    "Skips": lambda: Skips(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
    "LayerNorm": lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
    "Softmax": lambda: nn.Sequential(nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 3)),
    "twice": shared,
    "hooks": hooked,
    "no hidden layer": lambda: nn.Sequential(nn.Linear(6, 3)),
}


@pytest.mark.parametrize("found", OTHERS)
def test_other_networks_are_not_matched(found):
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(OTHERS[found]().double().eval())
    values, _ = compared(models, (X, Y), **MATCHED)
    assert {e.status for e in values} == {Status.UNSUPPORTED}
    assert all("alignment: none" in e.message and found in e.message for e in values)
    plain, _ = compared(models, (X, Y))
    assert {e.status for e in plain} == {Status.OK}


def test_layers_that_read_a_row_of_places_are_refused_and_never_another_function():
    """Neurons of a row of places do not lie together after a Flatten: what is seen by running the matched network."""
    from acutance_predictions.pairs import chains

    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double().eval())
    points = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64), Y
    assert len(chains.chain(models[0])) == 1
    values, _ = compared(models, points, **MATCHED)
    assert {e.status for e in values} == {Status.UNSUPPORTED} and "another function" in values[0].message


def test_gains_are_the_products_of_all_that_is_trained_and_of_no_statistics():
    """Every entry by hand: makers, biases, normalization and readers of two channels; statistics say nothing."""
    first, _ = chain(conv_bn(0))
    one, two = ({k: v.detach() for k, v in conv_bn(seed).state_dict().items()} for seed in (0, 1))
    two["1.running_mean"] = two["1.running_mean"] + 100
    names = "0.weight", "0.bias", "1.weight", "1.bias"
    for (i, j), gain in numpy.ndenumerate(_gains(first, one, two)):
        expected = sum(float((one[name][i] * two[name][j]).sum()) for name in names)
        assert gain == pytest.approx(expected + float((one["3.weight"][:, i] * two["3.weight"][:, j]).sum()), rel=1e-12)


def test_channels_of_groups_are_not_matched():
    with pytest.raises(Unsupported, match="convolution '2' has groups"):
        chain(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3)))
