"""Images are given to convolutions in the layout they work in, where the model takes it; values and keys stay."""

from functools import partial

import pytest
import torch
from torch import nn

from acutance import LossSurface
from acutance.data.batch import channels_first, channels_last
from acutance.data.lazy import every_row
from acutance.training import train
from acutance.training.recipe import Recipe


class Viewing(nn.Module):
    """Relies on the layout of feature maps, as much older code does."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        maps = self.convolution(x).relu()
        return self.head(maps.view(len(maps), -1))


def flattening(channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    ).eval()  # fmt: skip


def data(channels=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, channels, 8, 8, generator=generator).to(dtype)
    return x, torch.randint(0, 3, (10,), generator=generator)


@pytest.fixture
def layouts():
    """Layouts of what the first convolution of a model was given, by its own words."""

    def watch(model):
        seen = []
        convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride()))
        return seen

    return watch


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("microbatch", [None, 4])
def test_values_are_those_of_the_layout_as_given(channels, microbatch, layouts):
    torch.manual_seed(0)
    model = flattening(channels)
    x, y = data(channels)
    seen = layouts(model)
    surface = LossSurface(model, (x, y), microbatch=microbatch)
    loss, gradient = surface.gradient(surface.w)
    assert seen[-1] == (64 * channels, 1, 8 * channels, channels)
    plain = nn.functional.cross_entropy(model(x).double(), y)
    expected = torch.autograd.grad(plain, list(model.parameters()))
    torch.testing.assert_close(loss, plain.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, torch.cat([g.reshape(-1) for g in expected]), rtol=1e-4, atol=1e-6)


def test_what_lies_in_files_is_laid_out_when_it_is_read(layouts):
    torch.manual_seed(0)
    model, (x, y) = flattening(), data()
    seen = layouts(model)
    lazily = LossSurface(model, (every_row(lambda rows: x[rows], len(x)), y), microbatch=4)
    assert torch.equal(lazily.loss(), LossSurface(model, (x, y), microbatch=4).loss())
    assert seen[-1] == (192, 1, 24, 3)


def test_a_model_that_relies_on_the_layout_gets_the_one_it_knows(layouts):
    torch.manual_seed(0)
    model, (x, y) = Viewing(), data()
    with pytest.raises(RuntimeError, match="view"):
        model(channels_last(x))
    seen = layouts(model)
    surface = LossSurface(model, (x, y))
    assert torch.equal(surface.loss(), nn.functional.cross_entropy(model(x).double(), y).detach())
    assert seen[-1] == x.stride()
    assert float(surface.gradient()[1].norm()) > 0


def test_second_derivatives_and_activations_see_the_layout_as_given(layouts):
    model, (x, y) = flattening(), data()
    seen = layouts(model)
    surface = LossSurface(model, (x, y))
    surface.loss()
    surface.hvp(torch.ones_like(surface.w))
    assert seen[-1] == x.stride()
    assert surface.activations("0")["0"].is_contiguous()
    assert surface.inputs.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_double_precision_and_other_inputs_stay(dtype):
    x, _ = data(dtype=dtype)
    words = torch.arange(6).view(2, 3)
    mixed = {"image": x, "words": words, "more": (x[:, 0], words)}
    found = channels_last(mixed)
    assert (found["image"].stride() == x.stride()) == (dtype == torch.float64)
    assert torch.equal(found["image"], x)
    assert found["words"] is words and found["more"][1] is words and found["more"][0].stride() == x[:, 0].stride()


def test_the_layout_of_the_users_tensor_names_no_other_noise():
    model, (x, y) = flattening(), data()
    assert LossSurface(model, (x, y)).digest == LossSurface(model, (channels_last(x), y)).digest


class Shortcut(nn.Module):
    """A 1x1 convolution with a stride beside a 3x3 one, as a ResNet's block has."""

    def __init__(self, width, stride=2, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.long = nn.Conv2d(width, 2 * width, 3, stride, 1)
        self.short = nn.Conv2d(width, 2 * width, 1, stride, groups=groups)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((self.long(x) + self.short(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("own", [channels_first, channels_last])
@pytest.mark.parametrize(
    ("model", "pixels"),
    [
        (partial(Shortcut, 4), False), (partial(Shortcut, 12), False), (partial(Shortcut, 16), True),
        (partial(Shortcut, 4, stride=1), True), (partial(Shortcut, 32, groups=4), False),
    ],
)  # fmt: skip
def test_narrow_shortcuts_see_images_channel_by_channel(model, pixels, own, layouts):
    """The library's gradient writes past its memory there; the process used to die after some passes."""
    torch.manual_seed(0)
    model, (x, y) = model(), data()
    x = x.repeat(8, 1, 1, 1)
    seen = layouts(model)
    surface = LossSurface(model, (own(x), y.repeat(8)))
    found = [surface.gradient(surface.w)[1] for _ in range(30)]
    assert seen[-1] == ((192, 1, 24, 3) if pixels else (192, 64, 8, 1))
    plain = nn.functional.cross_entropy(model(x), y.repeat(8))
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(plain, list(model.parameters()))])
    torch.testing.assert_close(found[-1], expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(g, found[0]) for g in found)


def test_what_is_read_later_is_laid_out_then():
    x, _ = data()
    lazily = channels_first(every_row(lambda rows: channels_last(x[rows]), len(x)))
    assert lazily.now().stride() == (192, 64, 8, 1) and torch.equal(lazily.now(), x)


@pytest.mark.parametrize(("width", "strides"), [(4, (192, 64, 8, 1)), (16, (192, 1, 24, 3))])
def test_training_lays_out_what_augmentations_leave(width, strides, layouts):
    torch.manual_seed(0)
    model, (x, y) = Shortcut(width), data()
    seen = layouts(model)
    recipe = Recipe(learning_rate=0.1, epochs=10, batch_size=10, sam_rho=0.1, augment=True, mixup=1.0, seed=0)
    train(model, x, y, recipe, lambda batch, generator: channels_last(batch))
    assert set(seen) == {strides}
