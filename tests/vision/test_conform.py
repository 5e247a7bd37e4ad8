"""Data sets that read the user's files pass the conformance kit on small files."""

import json

import cifar_layouts as layouts
import numpy as np
import pytest
from PIL import Image

from acutance.plugins import catalog
from acutance.testing.core import examine
from acutance_vision.corruption_names import CORRUPTIONS

IDS = ["n01440764", "n01443537", "n01484850"]
SMALL = {"size": 16, "crop_pct": 1}


def pictures(root, classes):
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (20, 20), (40 * k, 20 * i, 90)).save(root / name / f"{i}.png")


def cifar(root, classes):
    (layouts.batches_py if classes == 10 else layouts.cifar100_python)(root)
    return {"root": str(root), "severity": 5, "corruption_points": classes}


def published(root, classes):
    layouts.cifar_c(root / "c", CORRUPTIONS, n=classes, classes=classes)
    return cifar(root, classes) | {"corrupted_root": str(root / "c")}


def imagefolder(root):
    pictures(root / "train", ["a", "b", "c"])
    pictures(root / "test", ["a", "b", "c"])
    return {"root": str(root)} | SMALL


def imagenet(root):
    names = ("train", "val", "v2", "r", "sketch", "a")
    for name in names:
        pictures(root / name, ["0", "1", "2"] if name == "v2" else IDS)
    pictures(root / "objectnet", ["chair", "bread"])
    (root / "map.json").write_text(json.dumps({"chair": [0, 1], "bread": [2]}))
    places = {name: str(root / name) for name in (*names[2:], "objectnet")}
    return {"root": str(root), "objectnet_map": str(root / "map.json")} | places | SMALL


def arrays(root):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.savez(root / "a.npz", x_train=x, y_train=np.arange(6) % 3, x_test=-x, y_test=np.arange(6) % 3)
    return {"files": {"train": str(root / "a.npz"), "test": str(root / "a.npz")}}


def huggingface(root):
    for part in ("train", "test"):
        pictures(root / part, ["a"])
        rows = [json.dumps({"image": f"{part}/a/{i}.png", "label": i}) for i in range(2)]
        (root / f"{part}.jsonl").write_text("\n".join(rows))
    return {"path": str(root)} | SMALL


def torchvision(root):
    return {"source": "FakeData", "train": {"size": 4, "num_classes": 2}, "test": {"size": 3, "num_classes": 2}} | SMALL


MADE = {
    "cifar10": lambda root: cifar(root, 10), "cifar100": lambda root: cifar(root, 100),
    "cifar10c": lambda root: published(root, 10), "cifar100c": lambda root: published(root, 100),
    "imagefolder": imagefolder, "imagenet": imagenet, "arrays": arrays, "huggingface": huggingface,
    "torchvision": torchvision,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_data_sets_of_files_conform(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    item = catalog().find("datasets", name)
    examination = examine(item, spec=MADE[name](tmp_path / "data"))
    outcomes = list(examination.run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 9
