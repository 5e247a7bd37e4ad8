"""Data sets and pools that read the user's files pass the conformance kit on small files."""

import json

import cifar_layouts as layouts
import numpy as np
import pytest
import torch
from PIL import Image
from published_vision import NAME, SCRATCH, TINY, clip_state, write_jax

from acutance.plugins import catalog
from acutance.testing.core import examine
from acutance_vision.images.corruption_names import CORRUPTIONS

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


def checkpoints(root):
    linear = torch.nn.Linear(4, 3)
    for i in range(2):
        torch.save(linear.state_dict(), root / f"{i}.pt")
    return {
        "files": f"{root}/*.pt", "architecture": "torch.nn:Linear", "arguments": {"in_features": 4, "out_features": 3}
    }  # fmt: skip


def timm_models(root):
    return {"models": ["resnet10t", "lcnet_035"], "pretrained": False, "num_classes": 3}


def augreg(root):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", **TINY)
    for name in (NAME, SCRATCH):
        write_jax(model, root / f"{name}.npz")
    return {"root": str(root), "architecture": "timm:vit_tiny_patch16_224", "arguments": TINY}


def soups(root):
    for i in range(2):
        torch.save(clip_state(), root / f"model_{i}.pt")
    return {
        "root": str(root),
        "arguments": {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4},
    }


MADE = {
    "cifar10": lambda root: cifar(root, 10), "cifar100": lambda root: cifar(root, 100),
    "cifar10c": lambda root: published(root, 10), "cifar100c": lambda root: published(root, 100),
    "imagefolder": imagefolder, "imagenet": imagenet, "arrays": arrays, "huggingface": huggingface,
    "torchvision": torchvision,
}  # fmt: skip


POOLS = {"checkpoints": checkpoints, "timm": timm_models, "steiner_augreg": augreg, "clip_soups": soups}
# The list of timm's models is timm, which imports torch.
EXCEPT = {"timm": ["entries_are_cheap"]}


SLOW = pytest.param("pools", "timm", marks=pytest.mark.slow)  # each fresh process imports all of timm


@pytest.mark.parametrize(
    ("kind", "name"), [*(("datasets", d) for d in MADE), *(("pools", p) for p in POOLS if p != "timm"), SLOW]
)
def test_what_reads_files_conforms(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    spec = (MADE | POOLS)[name](tmp_path / "data")
    outcomes = list(examine(catalog().find(kind, name), spec=spec).run())
    failed = [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert [check for check, _ in failed] == EXCEPT.get(name, []), failed
    assert sum(o.state == "passed" for o in outcomes) >= 8
