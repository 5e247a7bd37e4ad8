"""The path norm against all paths counted one by one, and against the source's formula on a network without bias."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import acutance
from acutance import LossSurface, Status, UserError
from acutance.testing.models import ConvBN, conv_data, seeded


def drawn(model, seed=0):
    """The model in float64, every parameter and every statistic of batch normalization drawn anew."""
    model, generator = model.double().eval(), seeded(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return model


def points(*shape, n=5, classes=3):
    generator = seeded(9)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=generator)


def value(model, data, **settings):
    found = acutance.measure("path_norm", model, data, **settings)
    assert found.status is Status.OK, found.message
    return found.value


def message(model, data, **settings):
    found = acutance.measure("path_norm", model, data, **settings)
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    return found.message


def every_path(layers):
    """Sum over all paths from an input or a bias to an output of the product of squared weights, one by one.

    Args:
        layers: (weight (out, in), bias (out,) or None) of each layer, first to last.
    """
    total = 0.0
    for first, (weight, bias) in enumerate(layers):
        sizes = [len(w) for w, _ in layers[first:]]
        for way in itertools.product(*map(range, sizes)):
            rest = math.prod(layers[first + k + 1][0][b, a] ** 2 for k, (a, b) in enumerate(itertools.pairwise(way)))
            starts = [weight[way[0], i] ** 2 for i in range(weight.shape[1])] if first == 0 else []
            starts += [] if bias is None else [bias[way[0]] ** 2]
            total += sum(starts) * rest
    return total


def as_dense(layer, size):
    """(matrix, bias) of a convolution of images of this size."""
    basis = torch.eye(layer.in_channels * size * size, dtype=torch.float64).view(-1, layer.in_channels, size, size)
    linear = F.conv2d(basis, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    places = linear[0, 0].numel()
    bias = None if layer.bias is None else layer.bias.detach().repeat_interleave(places).numpy()
    return linear.flatten(1).detach().T.numpy(), bias


def arrays(*layers):
    return [(m.weight.detach().numpy(), None if m.bias is None else m.bias.detach().numpy()) for m in layers]


def test_a_perceptron_is_all_its_paths():
    model = drawn(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.LeakyReLU(), nn.Linear(2, 3)))
    assert value(model, points(3)) == pytest.approx(every_path(arrays(*model[::2])), rel=1e-12)


def test_without_bias_it_is_the_product_of_squared_matrices():
    model = drawn(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)))
    product = np.square(model[2].weight.detach().numpy()) @ np.square(model[0].weight.detach().numpy())
    assert value(model, points(3, classes=2)) == pytest.approx(product.sum(), rel=1e-13)


def test_a_layer_by_itself():
    layer = drawn(nn.Linear(3, 4))
    assert value(layer, points(3)) == pytest.approx(every_path(arrays(layer)), rel=1e-13)


class Convolutional(nn.Module):
    """conv -> BN -> ReLU -> mean over places -> linear."""

    def __init__(self, bias):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 2, padding=1, stride=2, bias=bias), nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalization_is_folded_and_pooling_keeps_its_weights(bias):
    model = drawn(Convolutional(bias))
    scale = model.bn.weight / (model.bn.running_var + model.bn.eps).sqrt()
    folded = nn.Conv2d(2, 2, 2, padding=1, stride=2).double()
    with torch.no_grad():
        folded.weight.copy_(model.conv.weight * scale[:, None, None, None])
        folded.bias.copy_(((model.conv.bias if bias else 0) - model.bn.running_mean) * scale + model.bn.bias)
    w, b = as_dense(folded, 3)
    places = len(w) // 2
    # Each place goes to the mean with weight 1/places, which is no parameter: a path carries it once, unsquared.
    pool = np.kron(np.eye(2), np.ones((1, places))) / math.sqrt(places)
    expected = every_path([(w, b), (pool, None), *arrays(model.fc)])
    assert value(model, points(2, 3, 3)) == pytest.approx(expected, rel=1e-12)


class Residual(nn.Module):
    """A sum with what went in, in place as torchvision has it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out, self.relu = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2), nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        y = self.drop(self.b(self.relu(self.a(x))))
        y += x
        return self.out(torch.flatten(self.relu(y), 1).view(x.size(0), -1))


def test_a_residual_sum_adds_its_paths():
    model = drawn(Residual()).train()
    through = every_path(arrays(model.a, model.b, model.out))
    beside = every_path([*arrays(model.out)]) - np.square(model.out.bias.detach().numpy()).sum()
    data = points(3, classes=2)
    before = data[0].clone()
    assert value(model, data) == pytest.approx(through + beside, rel=1e-12)
    assert torch.equal(data[0], before) and model.training


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ),
        nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4, affine=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
        ),
        nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
    ],
    ids=["transposed", "max pooling", "linear"],
)
def test_other_layers_against_a_pass_of_the_squared_model(model):
    model = drawn(model)
    data = points(2, 3, 3)
    # Squares put into the model itself, behind normalization whose own scale has moved into the layer before.
    squared = [m for m in model if not isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    plain = nn.Sequential(*[type(m)(*_arguments(m)) if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) else m
                            for m in squared]).double()  # fmt: skip
    for mine, theirs in zip(plain, squared, strict=True):
        if list(mine.parameters()):
            _fold_into(mine, theirs, model)
    assert torch.allclose(plain(data[0]), model(data[0]))
    with torch.no_grad():
        for p in plain.parameters():
            p.square_()
        expected = float(plain(torch.ones(1, 2, 3, 3, dtype=torch.float64)).sum())
    assert value(model, data) == pytest.approx(expected, rel=1e-12)


def _arguments(m):
    if isinstance(m, nn.Linear):
        return m.in_features, m.out_features
    return m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, *((0, m.groups) if m.transposed else ())


@torch.no_grad()
def _fold_into(mine, theirs, model):
    """Find weight and bias of a layer with its normalization from what they do: the map is affine."""
    behind = list(model)[list(model).index(theirs) + 1 :]
    norm = behind[0] if behind and isinstance(behind[0], nn.BatchNorm1d | nn.BatchNorm2d) else nn.Identity()
    mine.load_state_dict(theirs.state_dict())
    if isinstance(norm, nn.Identity):
        return
    zero, one = (
        torch.full((1, norm.num_features, *[1] * (2 * isinstance(norm, nn.BatchNorm2d))), v).double()
        for v in (0.0, 1.0)
    )
    shift = norm(zero).flatten()
    scale = norm(one).flatten() - shift
    axis = 1 if isinstance(mine, nn.ConvTranspose2d) else 0
    for o in range(len(scale)):
        if axis == 0:
            mine.weight[o] *= scale[o]
        else:
            group, place = divmod(o, len(scale) // mine.groups)
            rows = mine.in_channels // mine.groups
            mine.weight[group * rows : (group + 1) * rows, place] *= scale[o]
    mine.bias.copy_(mine.bias * scale + shift)


def test_rescaling_what_normalization_undoes_changes_nothing():
    model, data = ConvBN(), conv_data()
    before = value(model, data)
    with torch.no_grad():
        model.conv1.weight[1] *= 7
        model.conv1.bias[1] *= 7
        model.bn1.running_mean[1] *= 7
        model.bn1.running_var[1] *= 49
        model.fc.weight[:, 2] *= 5
        model.bn2.weight[2] /= 5
        model.bn2.bias[2] /= 5
    assert value(model, data) == pytest.approx(before, rel=1e-12)


def test_the_whole_network_counts_whatever_is_free():
    model, data = ConvBN(), conv_data()
    surface = LossSurface(model, data, parameters="fc.*")
    assert acutance.measure("path_norm", surface).value == value(model, data)
    assert acutance.measure("path_norm", model, data).cost.forwards == len(data[1])


def test_over_the_margin():
    model = drawn(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)))
    x, _ = points(3, n=30)
    logits = model(x).detach().numpy()
    y = torch.from_numpy(logits.argmax(1))
    lead = np.sort(logits, 1)
    gamma = np.percentile(lead[:, -1] - lead[:, -2], 10)
    assert value(model, (x, y), margin=True) == pytest.approx(value(model, (x, y)) / gamma**2, rel=1e-12)
    assert "10th percentile of the output margins" in message(model, (x, (y + 1) % 3), margin=True)


# -- where it has no meaning -----------------------------------------------------------------------------------


class Of(nn.Module):
    """A linear layer and what a function makes of its outputs."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function

    def forward(self, x):
        return self.function(self.linear(x))


def own(x):
    return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "'1' (LayerNorm) is not positively homogeneous"),
        (nn.Sequential(nn.Linear(3, 3), nn.GELU()), "'1' (GELU) is not positively homogeneous"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.BatchNorm1d(3)), "'2' follows no linear layer of its own"),
        (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), "'0' follows no linear layer of its own"),
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)), "statistics of the batch"),
        (Of(torch.tanh), "'tanh' is not positively homogeneous"),
        (Of(lambda x: x * x), "'mul' is not positively homogeneous"),
        (Of(lambda x: x - x.relu()), "'sub' is not positively homogeneous"),
        (Of(lambda x: x + 1), "a constant is added (add)"),
        (Of(lambda x: F.pad(x, (0, 1), "constant", 2.0)), "a constant is added (pad)"),
        (Of(own), "the model cannot be traced"),
        (Of(lambda x: {"logits": x}["logits"].softmax(1)), "'softmax' is not positively homogeneous"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "computed from other parameters"),
    ],
)
def test_what_is_no_sum_over_paths_is_refused_by_name(model, told):
    assert told in message(model.double(), points(3))


def test_a_parameter_outside_of_layers_is_refused():
    class Shifted(Of):
        def __init__(self):
            super().__init__(None)
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return self.linear(x) + self.shift

    assert "'shift' is used outside of a linear layer" in message(Shifted().double(), points(3))


def test_attention_and_tokens_are_refused():
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double()
    assert message(nn.Sequential(model, nn.Flatten(), nn.Linear(8, 3)).double(), points(2, 4))
    tokens = torch.randint(0, 7, (5, 2), generator=seeded(0))
    embed = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    assert "(Embedding)" in message(embed, (tokens, torch.zeros(5).long()))


def test_a_model_that_computes_something_else_than_its_graph_is_refused():
    model = drawn(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    model[0].register_forward_hook(lambda module, given, output: output * 2)
    assert "does not give the model's logits" in message(model, points(3))


def test_padding_with_zeros_and_sums_of_lists_are_paths():
    model = drawn(Of(lambda x: sum([F.pad(x, (1, 1)).relu(), F.pad(x, (1, 1))])))
    w, b = arrays(model.linear)[0]
    assert value(model, points(3, classes=5)) == pytest.approx(2 * (np.square(w).sum() + np.square(b).sum()), rel=1e-12)


def test_settings_that_make_no_sense():
    with pytest.raises(UserError, match=r"path_norm\.margin"):
        acutance.measure("path_norm", nn.Linear(3, 3), points(3), margin="yes")


def test_targets_are_looked_at_for_the_margin_alone():
    model = drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    x, y = points(4)
    assert value(model, (x, None)) == value(model, (x, y))
    with pytest.raises(UserError, match="'path_norm' needs targets"):
        acutance.measure("path_norm", model, (x, None), margin=True)
    # One output has paths like any other, and no cross-entropy: (column, 1) and squares add up by hand.
    one = drawn(nn.Sequential(nn.Linear(2, 1)))
    expected = (one[0].weight.square().sum() + one[0].bias.square().sum()).item()
    assert value(one, (x[:, :2], (y > 1).double())) == pytest.approx(expected, rel=1e-12)
