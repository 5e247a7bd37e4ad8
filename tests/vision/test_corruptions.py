"""The common corruptions: what each does in a case with a known answer, and the published files."""

import math
from pathlib import Path

import cifar_layouts as layouts
import numpy as np
import pytest
import torch

from acutance import UserError
from acutance.data.lazy import Lazy
from acutance.plugins import catalog
from acutance_vision.images import common_corruptions, corruption_blurs, corruption_weather
from acutance_vision.images.common_corruptions import Draws, corrupted, table
from acutance_vision.images.corruption_names import CORRUPTIONS, SEVERITIES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def images():
    """Smooth pictures with an edge, neither dark nor bright: what corruptions do to them grows with severity."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    phase = torch.linspace(0, 6, 12).view(-1, 1, 1, 1) + torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
    waves = 0.45 + 0.2 * torch.sin(4 * row + 3 * column + phase) + 0.15 * (row + 0.3 * column + 0.1 * phase.sin() > 0)
    return (waves * 255).round().to(torch.uint8)


def test_all_have_five_severities_and_the_published_names():
    assert tuple(table()) == CORRUPTIONS and len(CORRUPTIONS) == 15
    assert all(len(parameters) == 5 for _, parameters in table().values())
    for kind, severity in (("noise", 1), ("fog", 0), ("fog", 6)):
        with pytest.raises(ValueError, match="no corruption"):
            corrupted(kind, severity, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1))


# Elastic transformation bends less and ripples more as it becomes severe; glass blur smooths what it has scattered.
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_is_corrupted_the_same_whatever_the_others_are(kind, images):
    indices = torch.arange(12) + 100
    torch.manual_seed(3)
    whole = corrupted(kind, 5, images, indices)
    state = torch.get_rng_state()
    chosen = torch.tensor([7, 2])
    assert torch.equal(corrupted(kind, 5, images[chosen], indices[chosen]), whole[chosen])
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.dtype == torch.uint8 and whole.shape == images.shape
    distance = [
        float((corrupted(kind, s, images, indices).float() - images.float()).square().mean()) for s in SEVERITIES
    ]
    assert min(distance) > 0.3
    if kind not in ("elastic_transform", "glass_blur", "frost"):
        assert distance[4] > 1.3 * distance[0]


def test_random_ones_differ_between_images_and_severities(images):
    same = images[:1].expand(2, 3, 32, 32)
    for kind in ("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
                 "elastic_transform"):  # fmt: skip
        first, second = corrupted(kind, 3, same, torch.tensor([0, 1]))
        assert not torch.equal(first, second), kind
    for kind in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"):
        first, second = corrupted(kind, 3, same, torch.tensor([0, 1]))
        assert torch.equal(first, second), kind


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_published_strength(severity):
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    level = 128 / 255
    parameters = {kind: table()[kind][1][severity - 1] for kind in ("gaussian_noise", "shot_noise", "impulse_noise")}

    def noisy(kind):
        return corrupted(kind, severity, grey, torch.arange(40)).double() / 255

    assert float(noisy("gaussian_noise").std()) == pytest.approx(parameters["gaussian_noise"], rel=0.02)
    shot = noisy("shot_noise")
    assert float(shot.std()) == pytest.approx(math.sqrt(level / parameters["shot_noise"]), rel=0.03)
    assert float(shot.mean()) == pytest.approx(level, abs=2e-3)
    impulse = noisy("impulse_noise")
    hit = (impulse - level).abs() > 1e-6
    assert float(hit.double().mean()) == pytest.approx(parameters["impulse_noise"], rel=0.08)
    assert set(impulse[hit].tolist()) == {0.0, 1.0} and float(impulse[hit].mean()) == pytest.approx(0.5, abs=0.04)


def test_brightness_and_contrast_are_exact():
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    x[0, :, 0, 0] = 0
    import colorsys

    found = common_corruptions.brightness(x, None, 0.3)
    for i in range(5):
        for place in ((0, 0), (3, 4)):
            h, s, v = colorsys.rgb_to_hsv(*x[i, :, place[0], place[1]].tolist())
            expected = colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1))
            assert found[i, :, place[0], place[1]].tolist() == pytest.approx(expected, abs=1e-6)
    weak = common_corruptions.contrast(x, None, 0.15)
    assert torch.allclose(weak.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    assert torch.allclose(weak.std((2, 3)), 0.15 * x.std((2, 3)), atol=1e-6)


def test_blurs_keep_a_constant_and_spread_a_point():
    draws = Draws([str(i) for i in range(4)])
    flat, point = torch.full((4, 3, 32, 32), 0.4), torch.zeros(4, 3, 32, 32)
    point[:, :, 16, 16] = 1
    functions = {k: table()[k] for k in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform")}
    for kind, (function, parameters) in functions.items():
        for one in parameters:
            assert torch.allclose(function(flat, draws, one), flat, atol=1e-5), kind
    # A disk of radius 1 is a cross of five pixels, whose edge is smoothed by little here.
    spread = corruption_blurs.defocus_blur(point, draws, (1, 0.2))[0, 0, 14:19, 14:19]
    cross = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]) / 5
    assert torch.allclose(spread, cross, atol=1e-5)
    # Along the x axis: half a Gaussian to one side.
    line = corruption_blurs.streak(point[:1], 6, 2.0, torch.zeros(1))[0, 0, 16]
    half = torch.exp(-(torch.arange(13.0) ** 2) / 8)
    assert torch.allclose(line[4:17].flip(0), half / half.sum(), atol=1e-5) and float(line[17:].sum()) == 0
    # Enlarging twice: the middle half fills the image, corners on corners.
    ramp = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    middle = corruption_blurs.zoomed(ramp, 2.0)[0, 0, 0]
    assert torch.allclose(middle, 15.5 + (torch.arange(32.0) - 15.5) / 2, atol=1e-4)


def test_glass_shows_neighbours_above_and_to_the_left():
    row = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(3, 1, 32, 32) / 1024
    seen = corruption_blurs.glass_blur(row, Draws(["a", "b", "c"]), (0.05, 1, 1))
    moved = ((row - seen) * 1024).round().long()
    assert set(moved.unique().tolist()) == {0, 1, 32, 33} and (moved[:, :, :2] == 0).all()
    counts = torch.stack([(moved[:, 0, 2:, 2:] == k).double().mean() for k in (0, 1, 32, 33)])
    assert torch.allclose(counts, torch.full((4,), 0.25, dtype=torch.float64), atol=0.04)


def test_an_affine_map_without_shift_is_the_identity_and_corners_go_where_they_should():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(corruption_blurs.elastic_transform(x, Draws(["a", "b"]), (0, 0, 0)), x, atol=1e-5)

    class Shift:
        def uniform(self, low, high, *shape):
            return torch.tensor([2.0, 3.0]).expand(2, *shape)

    moved = corruption_blurs.elastic_transform(x, Shift(), (0, 0, 1))
    assert torch.allclose(moved[:, :, 3:, 2:], x[:, :, :-3, :-2], atol=1e-4)


def test_plasma_fills_the_range_and_is_rougher_for_a_smaller_decay():
    def roughness(decay):
        field = corruption_weather.plasma(Draws([str(i) for i in range(30)]), 32, decay)
        assert field.shape == (30, 32, 32) and field.amin() == 0 and field.amax() == 1
        return float((field[:, 1:] - field[:, :-1]).abs().mean())

    assert roughness(3.0) < roughness(2.0) < roughness(1.2)


def test_fog_keeps_the_largest_value_and_hides_the_rest(images):
    x = images.float() / 255
    foggy = corruption_weather.fog(x, Draws([str(i) for i in range(12)]), (1.5, 1.75))
    assert (foggy <= x.amax((1, 2, 3), keepdim=True) + 1e-6).all()
    assert float((foggy - foggy.mean((2, 3), keepdim=True)).std()) < 1.2 * float(x.std())


@pytest.fixture
def cifar10(tmp_path):
    layouts.batches_py(tmp_path / "data" / "cifar10")
    target = catalog().get("datasets", "cifar10")
    return lambda **fields: target(target.Spec(root=str(tmp_path / "data" / "cifar10"), **fields))


def test_corrupted_splits_are_made_once_and_normalized(cifar10, cache):
    dataset = cifar10(severity=3)
    split = dataset.open("fog")
    images, labels, rows = dataset._corruptible
    assert isinstance(split.inputs, Lazy) and torch.equal(split.targets, labels)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (dataset.spec.mean, dataset.spec.std))
    assert torch.equal(images, dataset._test[0][rows]) and torch.bincount(labels).tolist() == [4] * 10
    expected = corrupted("fog", 3, images, rows).float() / 255
    assert torch.allclose(split.inputs.now(), (expected - mean) / std, atol=1e-6)
    files = list(cache.rglob("*.npy"))
    assert [f.name for f in files] == ["fog-3.npy"] and not list(cache.rglob("*.partial"))
    before = files[0].stat().st_mtime_ns
    assert torch.equal(cifar10(severity=3).open("fog").inputs.now(), split.inputs.now())
    assert files[0].stat().st_mtime_ns == before
    whole = files[0].read_bytes()
    files[0].unlink()  # what is mapped now must not be cut short in place
    files[0].write_bytes(whole[:1000])
    assert torch.equal(cifar10(severity=3).open("fog").inputs.now(), split.inputs.now())
    assert files[0].read_bytes() == whole


def test_all_severities_and_all_types_together(cifar10):
    dataset = cifar10(corruption_points=10)
    one = dataset.open("contrast")
    assert len(one) == 50 and torch.bincount(one.targets).tolist() == [5] * 10
    alone = [cifar10(corruption_points=10, severity=s).open("contrast").inputs.now() for s in SEVERITIES]
    assert torch.equal(one.inputs.now(), torch.cat(alone))
    together = cifar10(corruption_points=10, severity=1).open("corruptions")
    assert len(together) == 150
    place = CORRUPTIONS.index("contrast") * 10
    assert torch.equal(together.inputs[place : place + 10].now(), alone[0])
    # The same image has the same noise in a smaller set.
    few = cifar10(corruption_points=4, severity=1).open("snow").inputs.now()
    assert torch.equal(few, cifar10(corruption_points=10, severity=1).open("snow").inputs[:4].now())


@pytest.fixture
def cifar10c(tmp_path):
    root = tmp_path / "data" / "CIFAR-10-C"
    layouts.cifar_c(root, CORRUPTIONS)
    target = catalog().get("datasets", "cifar10c")
    plain = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
    return lambda **fields: target(target.Spec(corrupted_root=str(root), **plain, **fields))


def marks(split):
    """(kind, severity, row) of every image."""
    return split.inputs.now()[:, :, 0, 0].round().int()


def test_published_files_are_read_in_their_order(cifar10c):
    split = cifar10c().open("fog")
    found = marks(split)
    assert len(split) == 150 and (found[:, 0] == CORRUPTIONS.index("fog")).all()
    assert found[:, 1].tolist() == [s for s in SEVERITIES for _ in range(30)]
    assert found[:, 2].tolist() == list(range(30)) * 5
    assert split.targets.tolist() == (list(range(30)) * 5 and [i % 10 for i in range(30)] * 5)
    second = cifar10c(severity=2).open("corruptions")
    assert len(second) == 15 * 30 and (marks(second)[:, 1] == 2).all()
    assert marks(second)[:, 0].tolist() == [k for k in range(15) for _ in range(30)]
    few = cifar10c(severity=2, corruption_points=5).open("snow")
    assert marks(few)[:, 2].tolist() == [0, 1, 2, 3, 4] and few.targets.tolist() == [0, 1, 2, 3, 4]


def test_the_choice_of_the_released_code(tmp_path):
    root = tmp_path / "CIFAR-10-C"
    layouts.cifar_c(root, ["fog"], n=1010)
    target = catalog().get("datasets", "cifar10c")
    spec = target.Spec(corrupted_root=str(root), mean=(0, 0, 0), std=(1 / 255,) * 3, selection="released")
    split = target(spec).open("fog")
    assert len(split) == 1000 and (marks(split)[:, 1] == 5).all()
    assert marks(split)[:, 2].tolist() == [i % 256 for i in range(1000)]


def test_train_and_test_are_those_of_cifar10(cifar10c, tmp_path, monkeypatch):
    (_, y), _ = layouts.batches_py(tmp_path / "data" / "cifar10")
    monkeypatch.setenv("ACUTANCE_DATA", str(tmp_path / "data"))
    target = catalog().get("datasets", "cifar10c")
    assert target().open("train").targets.tolist() == y.tolist() and len(target().open("fog")) == 150


def test_published_files_that_are_wrong_are_told(cifar10c, tmp_path):
    root = tmp_path / "data" / "CIFAR-10-C"
    np.save(root / "fog.npy", np.zeros((10, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"fog.npy: holds uint8 of shape \(10, 32, 32, 3\), not uint8 of shape \(150"):
        cifar10c().open("fog")
    np.save(root / "snow.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"snow.npy: cannot be read as .npy"):
        cifar10c().open("snow")
    Path(root / "frost.npy").unlink()
    with pytest.raises(UserError, match=r"frost.npy: no such file"):
        cifar10c().open("frost")
    np.save(root / "labels.npy", np.arange(150) % 10 // 2)
    np.save(root / "labels.npy", np.random.default_rng(0).permutation(150) % 10)
    with pytest.raises(UserError, match="does not repeat the same labels"):
        cifar10c().open("contrast")
    np.save(root / "labels.npy", np.full(150, 10))
    with pytest.raises(UserError, match="labels outside 0 to 9"):
        cifar10c().open("contrast")
    np.save(root / "labels.npy", np.zeros((2, 3)))
    with pytest.raises(UserError, match="is no list of labels"):
        cifar10c().open("contrast")
