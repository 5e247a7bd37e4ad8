"""The pool trained on CIFAR-10: the paper's recipe, resumption after any epoch, and its parts on small files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cifar_layouts as layouts
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from acutance import UserError
from acutance.io.training_log import read_training_log
from acutance.plugins import catalog
from acutance.testing.core import examine
from acutance.training import initialised, train
from acutance.training import loop as training
from acutance.training.recipe import learning_rate_at
from acutance_vision.images.rand_augment import equalize, operations, rand_augment
from acutance_vision.pools.cifar import Cifar10Trained, Cifar10TrainedSpec, partly

RESNET = {"architecture": "resnet18", "width": 2, "stem_stride": 2}
VIT = {"architecture": "simple_vit", "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "patch": 8}


@pytest.fixture
def spec_of(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    layouts.batches_py(tmp_path / "data")
    small = {"root": str(tmp_path / "data"), "size": 12, "epochs": 3, "batch_size": 32}
    return lambda **settings: Cifar10TrainedSpec(**small | settings)


def entry_where(spec, **attributes):
    entries = Cifar10Trained().entries(spec)
    return next(e for e in entries if all(e.attributes[k] == v for k, v in attributes.items()))


# -- the recipe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "low", "high"), [("resnet18", 0.05, 5.0), ("simple_vit", 0.005, 0.5)])
def test_the_recipe_is_the_papers(architecture, low, high):
    pool, spec = Cifar10Trained(), Cifar10TrainedSpec(architecture=architecture)
    entries = pool.entries(spec)
    assert len(entries) == 200 and entries[7].id == f"{architecture}_007" and entries[7].train_set == "cifar10"
    recipes = [pool.recipe(spec, i) for i in range(200)]
    rates = sorted(r.learning_rate for r in recipes)
    assert low <= rates[0] < 1.3 * low and high / 1.3 < rates[-1] <= high
    # Log-uniform: as many below the geometric mean as above.
    assert 80 <= sum(r < (low * high) ** 0.5 for r in rates) <= 120
    assert {r.sam_rho for r in recipes} == {0.0, 0.05, 0.1} and {r.mixup for r in recipes} == {0.0, 0.5}
    assert all(80 <= sum(bool(getattr(r, name)) for r in recipes) <= 120 for name in ("mixup", "augment"))
    assert all((r.epochs, r.warmup, r.momentum, r.batch_size) == (200, 0.4, 0.9, 128) for r in recipes)
    assert spec.repeats == 2 and spec.augmentation == "randaugment" and spec.augmented_share == 1
    assert pool.entries(Cifar10TrainedSpec(architecture=architecture, size=3)) == list(entries[:3])
    assert len({r.seed for r in recipes}) == 200


def test_the_networks_are_those_of_the_released_files():
    for architecture, parameters in (("resnet18", 11_171_146), ("simple_vit", 19_176_458)):
        spec = Cifar10TrainedSpec(architecture=architecture)
        with torch.device("meta"):
            assert abs(sum(p.numel() for p in Cifar10Trained().network(spec).parameters()) / parameters - 1) < 0.02


def test_listing_needs_no_torch(tmp_path):
    code = (
        "import sys; from acutance.plugins import catalog; p = catalog().get('pools', 'cifar10_trained')();"
        "s = p.Spec(architecture='resnet18'); e = p.entries(s); assert len(p.missing(e, s)) == 200;"
        "assert not {'torch', 'numpy', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_that_change_the_weights_change_the_file(spec_of):
    first = Cifar10Trained().entries(spec_of(**RESNET))[0].path
    for change in (
        {"epochs": 4}, {"batch_size": 16}, {"repeats": 1}, {"augmentation": "standard"}, {"augmented_share": 0.5},
        {"precision": "bfloat16"}, {"train_points": 50}, {"width": 4}, {"learning_rate_max": 1.0}, {"seed": 1},
        {"weight_decay": 0.0},
    ):  # fmt: skip
        assert Cifar10Trained().entries(spec_of(**RESNET | change))[0].path != first
    assert Cifar10Trained().entries(spec_of(**RESNET, root="elsewhere"))[0].path == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "vgg"}, "architecture"),
        ({**VIT, "patch": 5}, "5 does not divide"),
        ({**VIT, "dim": 18}, "no multiple of 4"),
        ({**RESNET, "learning_rate_min": 9.0}, "above learning_rate_max"),
        ({**RESNET, "augmented_share": 0.0}, "augmented_share"),
    ],
)
def test_wrong_settings_are_told(spec_of, settings, message):
    with pytest.raises(ValueError, match=message):
        spec_of(**settings)


# -- training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [RESNET, VIT], ids=["resnet18", "simple_vit"])
def test_an_interrupted_training_ends_at_the_same_weights(spec_of, network, monkeypatch):
    pool, spec = Cifar10Trained(), spec_of(**network)
    entry = entry_where(spec, augment=True, mixup=True)
    whole = pool.build(entry, spec)
    expected = {name: tensor.clone() for name, tensor in load_file(entry.path).items()}
    assert whole["epochs"] == 3 and not whole["diverged"]
    written = Path(entry.log).read_bytes()

    remember = training._save_progress

    def stopped(path, *rest):
        remember(path, *rest)
        raise KeyboardInterrupt

    os.remove(entry.path)
    for k in range(3):  # stopped after every epoch
        monkeypatch.setattr(training, "_save_progress", stopped)
        with pytest.raises(KeyboardInterrupt):
            pool.build(entry, spec)
        left = entry.path.replace(".safetensors", ".epochs")
        assert torch.load(left, weights_only=True)["epoch"] == k + 1
    monkeypatch.setattr(training, "_save_progress", remember)
    again = pool.build(entry, spec)
    found = load_file(entry.path)
    assert all(torch.equal(t, found[n]) for n, t in expected.items()) and again["loss"] == whole["loss"]
    # What was written down goes on where it was, too.
    assert {*os.listdir(os.path.dirname(entry.path))} == {os.path.basename(file) for file in (entry.path, entry.log)}
    assert Path(entry.log).read_bytes() == written
    log, recipe = read_training_log(Path(entry.log)), pool._recipe_of(entry, spec)
    steps = log.column("step")
    assert len(steps) == 3 and steps == tuple(steps[0] * k for k in (1, 2, 3)) and log.column("epoch") == (1, 2, 3)
    assert log.column("train_loss")[-1] == whole["loss"] and min(log.column("gradient_norm")) > 0
    rates = [learning_rate_at(recipe, int(step) - 1, int(steps[-1])) for step in steps]
    assert log.column("learning_rate") == tuple(rates)
    with safe_open(entry.path, "pt") as file:
        assert json.loads(file.metadata()["recipe"])["sam_rho"] == entry.attributes["sam_rho"]
    model = pool.load(entry, spec)
    assert not model.training and model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    start = pool.initial(entry, spec)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), model.parameters()))


def test_what_another_training_left_is_refused(spec_of):
    pool, spec = Cifar10Trained(), spec_of(**RESNET)
    entry = pool.entries(spec)[0]
    left = entry.path.replace(".safetensors", ".epochs")
    pool.build(entry, spec)
    for content, message in (({"recipe": {}}, "another recipe"), ({"x": 1}, "cannot be read")):
        torch.save(content, left)
        with pytest.raises(UserError, match=message):
            pool.build(entry, spec)
    open(left, "wb").write(b"x")
    with pytest.raises(UserError, match=r"epochs: is no checkpoint \(delete it to train from the start\)"):
        pool.build(entry, spec)


def test_mixed_precision_keeps_weights_in_float32(spec_of):
    pool = Cifar10Trained()
    rate = {"learning_rate_min": 0.001, "learning_rate_max": 0.001}  # larger ones part ways within an epoch
    weights = {}
    for precision in ("float32", "bfloat16"):
        spec = spec_of(**VIT, **rate, precision=precision, epochs=1)
        entry = entry_where(spec, augment=False, mixup=False)
        pool.build(entry, spec)
        weights[precision] = torch.cat([p.detach().flatten() for p in pool.load(entry, spec).parameters()])
    start = torch.cat([p.detach().flatten() for p in pool.initial(entry, spec).parameters()])
    assert weights["bfloat16"].dtype == torch.float32
    off, moved = weights["bfloat16"] - weights["float32"], weights["float32"] - start
    assert 0 < float(off.norm() / moved.norm()) < 0.1


def test_each_image_is_seen_as_often_as_it_is_repeated(spec_of):
    spec = spec_of(**RESNET, epochs=1, batch_size=50)
    recipe = Cifar10Trained().recipe(spec, 0).model_copy(update={"augment": True, "mixup": 0.0, "sam_rho": 0.0})
    model = initialised(lambda: Cifar10Trained().network(spec), 0)
    x, seen = torch.arange(100.0).view(100, 1, 1, 1).expand(100, 3, 32, 32).clone(), []
    train(model, x, torch.zeros(100, dtype=torch.long), recipe, lambda b, g: seen.append(b[:, 0, 0, 0]) or b, repeats=3)
    assert [len(b) for b in seen] == [150, 150] and (torch.cat(seen).long().bincount() == 3).all()


def test_some_images_are_left_alone():
    x = torch.zeros(4000, 1)
    found = partly(lambda images, g: images + 1, 0.25)(x, torch.Generator().manual_seed(0))
    assert set(found.flatten().tolist()) == {0.0, 1.0} and 0.22 < float(found.mean()) < 0.28 and not x.any()
    assert partly(max, 1.0) is max


def test_the_pool_conforms(spec_of):
    spec = spec_of(**VIT, epochs=1)
    outcomes = list(examine(catalog().find("pools", "cifar10_trained"), spec=spec.model_dump(exclude_unset=True)).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 9


# -- RandAugment ------------------------------------------------------------------------------------------

THEIRS = (
    "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness Posterize Solarize "
    "AutoContrast Equalize"
).split()


@pytest.fixture(scope="module")
def images():
    x = torch.randint(0, 256, (50, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[0] = 7  # one value; few values; nearly one value; dark; a black channel
    x[1] = x[1] // 64 * 64
    x[2, :, :31] = 3
    x[3] = x[3].clamp(max=40)
    x[4, 0] = 0
    return x


@pytest.mark.parametrize("ours,theirs", list(zip(operations(), THEIRS, strict=True)))
def test_an_operation_on_a_batch_is_torchvisions_on_each_image(images, ours, theirs):
    from torchvision.transforms import InterpolationMode, autoaugment

    operation, signed = operations()[ours]
    magnitudes, signed_there = autoaugment.RandAugment()._augmentation_space(31, (32, 32))[theirs]
    assert signed == signed_there
    magnitude = float(magnitudes[14]) if magnitudes.ndim else 0.0
    for sign in (1, -1) if signed else (1,):
        expected = [autoaugment._apply_op(x, theirs, sign * magnitude, InterpolationMode.NEAREST, None) for x in images]
        # Factors that differ in the last bit round to the neighbouring grey value now and then.
        off = (operation(images, sign * 14 / 30).int() - torch.stack(expected).int()).abs()
        assert off.max() <= 1 and (off > 0).float().mean() < 0.01


def test_equalize_is_exact_on_every_kind_of_channel(images):
    from torchvision.transforms.functional import equalize as theirs

    assert torch.equal(equalize(images), torch.stack([theirs(x) for x in images]))


def test_every_image_draws_its_own_operations(images):
    same = images[5:6].expand(3000, -1, -1, -1).contiguous()
    found = rand_augment(same, torch.Generator().manual_seed(1), rounds=1)
    kinds = {x.numpy().tobytes() for x in found}
    # 14 operations, 9 of them in two directions; some may agree on one image.
    assert 20 <= len(kinds) <= 23
    alone = rand_augment(same[:1], torch.Generator().manual_seed(1), rounds=1)
    assert alone.shape == (1, 3, 32, 32) and alone.numpy().tobytes() in kinds
    assert torch.equal(found, rand_augment(same, torch.Generator().manual_seed(1), rounds=1))
    assert torch.equal(rand_augment(same, torch.Generator(), rounds=0), same)
