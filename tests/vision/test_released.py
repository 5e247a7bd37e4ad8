"""The networks of the paper's released CIFAR-10 files: parameter names, and logits as independent forwards have them."""

import pytest
import torch
import torch.nn.functional as F
import yaml

from acutance.io.checkpoints import load_state, make_model, read_state
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance_vision.released import resnet18, simple_vit


def randomized(model, seed=0):
    """Return the model with statistics and affine parameters that a mistake could not hide behind."""
    g = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=g)
            value.copy_(noise.abs() + 0.5 if "running_var" in name else 0.2 * noise + (value if value.dim() < 2 else 0))
    return model.eval()


def test_a_vision_transformer_is_that_of_vit_pytorch():
    simple = pytest.importorskip("vit_pytorch.simple_vit")
    theirs = simple.SimpleViT(
        image_size=32, patch_size=4, num_classes=10, dim=48, depth=2, heads=4, mlp_dim=96, dim_head=64
    )
    ours = simple_vit(dim=48, depth=2, heads=4)
    names = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    if names.keys() != ours.state_dict().keys():
        pytest.skip("this release of vit-pytorch has other parameters than 0.40.2")
    assert names == {name: tuple(value.shape) for name, value in ours.state_dict().items()}
    randomized(theirs)
    load_state(ours, theirs.state_dict(), "theirs")
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_the_parameters_of_the_full_networks():
    vit = {name: tuple(value.shape) for name, value in simple_vit().state_dict().items()}
    assert vit["transformer.layers.5.0.to_qkv.weight"] == (3 * 16 * 64, 512)
    assert vit["transformer.layers.0.1.net.3.weight"] == (512, 1024) and vit["to_patch_embedding.1.weight"] == (512, 48)
    assert vit["linear_head.1.bias"] == (10,) and len(vit) == 2 + 6 * 10 + 4
    net = resnet18()
    assert sum(p.numel() for p in net.parameters()) == 11_172_170
    assert net.state_dict()["layer4.0.shortcut.0.weight"].shape == (512, 256, 1, 1)
    assert "layer1.0.shortcut.0.weight" not in net.state_dict() and "conv1.bias" not in net.state_dict()


def reference(state, x):
    """The pre-activation ResNet-18 from its state alone."""

    def normalized(x, name):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for layer in range(1, 5):
        for block in range(2):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            active = F.relu(normalized(x, f"{at}.bn1"))
            inner = F.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(F.relu(normalized(inner, f"{at}.bn2")), state[f"{at}.conv2.weight"], padding=1)
            projection = state.get(f"{at}.shortcut.0.weight")
            x = inner + (x if projection is None else F.conv2d(active, projection, stride=stride))
    x = F.avg_pool2d(F.relu(normalized(x, "bn")), 4).flatten(1)
    return F.linear(x, state["linear.weight"], state["linear.bias"])


def test_a_resnet_is_the_pre_activation_one():
    net = randomized(resnet18(width=4)).double()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(net(x), reference(net.state_dict(), x), rtol=1e-10)


def test_a_folder_of_released_files_is_a_study(tmp_path):
    """``{'last': state_dict}`` in .pth files, judged by one definition on images in class arrays."""
    g = torch.Generator().manual_seed(0)
    for i in range(4):
        state = randomized(resnet18(width=2), seed=i).state_dict()
        torch.save({"last": state, "epoch": 200}, tmp_path / f"net{i}.pth")
    images, labels = torch.randn(16, 3, 32, 32, generator=g), torch.arange(16) % 10
    import numpy as np

    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", inputs=images.numpy(), targets=labels.numpy())
    config = yaml.safe_load(f"""
format: 1
pools:
  - {{name: checkpoints, files: '{tmp_path}/*.pth', key: last, architecture: 'acutance_vision.released:resnet18', arguments: {{width: 2}}}}
dataset: {{name: arrays, files: {{train: '{tmp_path}/train.npz', test: '{tmp_path}/test.npz'}}}}
surface: {{points: 16, m: 8}}
targets: [test_error]
within: []
measures: [{{name: average_case, rho: 0.1, draws: 2}}]
""")
    run = run_study(load_config(config), tmp_path / "run", report=False)
    assert run.failed == 0 and run.models["admitted"].all() and len(run.models) == 4
    values = run.results[run.results["measure"] == "average_case"]
    assert (values["status"] == "ok").all() and values["value"].nunique() == 4
    direct = make_model("acutance_vision.released:resnet18", {"width": 2})
    load_state(direct, read_state(tmp_path / "net0.pth", "last"), "net0")
    error = (direct(images).argmax(1) != labels).double().mean()
    assert run.models.set_index("model")["target.test_error"].iloc[0] == pytest.approx(float(error))
