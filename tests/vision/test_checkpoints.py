"""Pools of checkpoints: own files, timm, and the published layouts of Steiner et al. and Wortsman et al."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from published_vision import NAME, SCRATCH, TINY, clip_state, write_jax
from torch import nn
from torch.nn import functional as F

from acutance import UserError
from acutance.plugins import catalog

timm = pytest.importorskip("timm")

VIT = "timm:vit_tiny_patch16_224"
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def pool(name, **fields):
    made = catalog().get("pools", name)
    return made(), made.Spec(**fields)


def linear(inputs=4, classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


@pytest.fixture
def folder(tmp_path):
    from safetensors.torch import save_file

    states = {}
    for i in range(3):
        torch.manual_seed(i)
        states[i] = linear().state_dict()
    (tmp_path / "a").mkdir()
    save_file(states[0], tmp_path / "a" / "one.safetensors")
    torch.save({"ema": {"model": {f"net.{k}": v for k, v in states[1].items()}}}, tmp_path / "a" / "two.pt")
    np.savez(tmp_path / "three.npz", **{k: v.numpy() for k, v in states[2].items()})
    return tmp_path, states


ARCHITECTURE = f"{__name__}:linear"


def test_a_table_may_name_what_training_wrote_down(folder):
    path, _ = folder
    (path / "list.csv").write_text("path,log\na/one.safetensors,logs/one.csv\nthree.npz,\n")
    made, spec = pool("checkpoints", files=str(path / "list.csv"), architecture=ARCHITECTURE)
    one, three = made.entries(spec)
    assert one.log == str(path / "logs" / "one.csv") and three.log is None and one.attributes == {}


def test_a_table_or_a_setting_names_where_training_began(folder, monkeypatch):
    path, states = folder
    (path / "list.csv").write_text("path,initial,lr\na/one.safetensors,three.npz,1\na/two.pt,,2\n")
    settings = {"files": str(path / "list.csv"), "architecture": ARCHITECTURE}
    made, spec = pool("checkpoints", **settings)
    one, two = made.entries(spec)
    assert one.attributes == {"lr": 1} and made.initial(two, spec) is None
    assert torch.equal(made.initial(one, spec)[1].weight, states[2]["1.weight"])
    monkeypatch.chdir(path)
    made, spec = pool("checkpoints", initial="a/one.safetensors", **settings)
    one, two = made.entries(spec)
    starts = [made.initial(entry, spec)[1].weight for entry in (one, two)]
    assert torch.equal(starts[0], states[2]["1.weight"]) and torch.equal(starts[1], states[0]["1.weight"])
    made, spec = pool("checkpoints", initial="none.pt", **settings)
    with pytest.raises(UserError, match=r"none\.pt"):
        made.initial(made.entries(spec)[1], spec)


def test_a_table_of_files_of_every_format(folder):
    path, states = folder
    (path / "list.csv").write_text(
        "path,run,step,train_loss,target.test_error,published,arg.classes\n"
        "a/one.safetensors,7,100,0.5,0.25,0.3,3\nthree.npz,7,200,,,,\n"
    )
    made, spec = pool("checkpoints", files=str(path / "list.csv"), architecture=ARCHITECTURE, targets=("published",))
    one, three = made.entries(spec)
    assert (one.id, one.run, one.step, three.id) == ("one", "7", 100, "three")
    assert one.attributes == {"run": "7", "step": 100, "train_loss": 0.5}
    assert one.targets == {"test_error": 0.25, "published": 0.3} and three.targets == {}
    assert one.architecture == f"{ARCHITECTURE}(classes=3)"
    for entry, i in ((one, 0), (three, 2)):
        found = made.load(entry, spec)
        assert not found.training and all(torch.equal(v, states[i][k]) for k, v in found.state_dict().items())


def test_a_pattern_a_key_and_a_prefix(folder):
    path, states = folder
    made, spec = pool("checkpoints", files=f"{path}/**/*.pt", architecture=ARCHITECTURE, key="ema.model", prefix="net.")
    (two,) = made.entries(spec)
    assert two.id == "two"
    # The same file may hold other states: nothing is remembered by its path.
    assert two.path is None
    # Nor by that of an index, which stays the same when its parts do not.
    (path / "parts.csv").write_text("path\nmodel.safetensors.index.json\n")
    _, listed = pool("checkpoints", files=str(path / "parts.csv"), architecture=ARCHITECTURE)
    assert [entry.path for entry in made.entries(listed)] == [None]
    assert torch.equal(made.load(two, spec).state_dict()["1.weight"], states[1]["1.weight"])
    for wrong, message in ((spec.model_copy(update={"key": "ema.modle"}), "has no 'modle' of key.*'model'"),
                           (spec.model_copy(update={"prefix": "nat."}), "no name begins with 'nat.'.*net.1.weight")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            made.load(two, wrong)


@pytest.mark.parametrize(
    "text,message",
    [
        ("file\nx.pt\n", "has no column 'path'.*its columns are: file"),
        ("path,run\nx.pt\n", "line 2 has 1 fields, the header 2"),
        ("path\n", "has no rows"),
        ("path,id\nx.pt,a\ny.pt,a\n", "line 3: 'a' is there already"),
        ("path,step\nx.pt,late\n", "line 2, column 'step': 'late'"),
        ("path,target.error\nx.pt,low\n", "line 2, column 'target.error': \"low\" is no number"),
        ("path,architecture\nx.pt,resnet\n", "'resnet' is no architecture"),
        ("path\nx.txt\n", "x.txt: is of no known format"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_by_line(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    made, spec = pool("checkpoints", files=str(tmp_path / "list.csv"), architecture=ARCHITECTURE)
    with pytest.raises(UserError, match=message):
        made.entries(spec)


def test_missing_files_and_other_architectures(folder):
    path, _ = folder
    for files, message in ((f"{path}/no.csv", "no such file"), (f"{path}/*.pth", "no such file"), (str(path), r"write .*/\*\.pt")):  # fmt: skip
        made, spec = pool("checkpoints", files=files, architecture=ARCHITECTURE)
        with pytest.raises(UserError, match=message):
            made.entries(spec)
    made, spec = pool("checkpoints", files=f"{path}/three.npz", architecture=ARCHITECTURE, arguments={"classes": 2})
    with pytest.raises(UserError, match=r"shape: 1.weight is \(3, 4\), the model has \(2, 4\)"):
        made.load(made.entries(spec)[0], spec)


def test_a_model_that_does_not_fit_does_not_stop_the_run(folder, toy_config, tmp_path):
    from acutance.run.harness import run_study
    from acutance.study.config import load_config

    path, _ = folder
    torch.save({"other": torch.zeros(2)}, path / "bad.pt")
    (path / "list.csv").write_text("path\nbad.pt\n")
    pools = [
        *toy_config["pools"],
        {"name": "checkpoints", "files": str(path / "list.csv"), "architecture": ARCHITECTURE},
    ]
    run = run_study(
        load_config({**toy_config, "pools": pools, "measures": [{"name": "weight_norm"}]}),
        tmp_path / "run",
        report=False,
    )
    row = run.models.set_index("model").loc["bad"]
    assert not row["admitted"] and "missing: 1.weight, 1.bias" in row["reason"]
    assert run.models["admitted"].sum() > 0


def test_normalization_is_timms_and_shared():
    made, spec = pool("timm", models=("resnet18", "vit_tiny_patch16_224"), pretrained=False, preprocess="timm")
    first, second = (made.preprocess(entry, spec) for entry in made.entries(spec))
    assert first.mean == pytest.approx((0.485, 0.456, 0.406)) and second.std == (0.5, 0.5, 0.5)
    assert made.preprocess(made.entries(spec)[0], spec) == first != second
    assert torch.allclose(second(IMAGES), IMAGES * 2 - 1)
    assert made.preprocess(made.entries(spec)[0], spec.model_copy(update={"preprocess": "none"})) is None


def test_timm_by_pattern(monkeypatch, tmp_path):
    made, spec = pool("timm", models=("vit_tiny_patch16_???",), pretrained=False, num_classes=4)
    assert [entry.id for entry in made.entries(spec)] == ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]
    entry = made.entries(spec)[0]
    assert entry.attributes["input_size"] == 224 and entry.attributes["family"] == "vit"
    a, b = made.load(entry, spec), made.load(entry, spec)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters())) and a.head.out_features == 4
    with pytest.raises(UserError, match="timm has no model 'vit_tony'"):
        made.entries(spec.model_copy(update={"models": ("vit_tony",)}))
    monkeypatch.setattr("acutance_vision.pools.timm._cached", lambda name: False)
    with pytest.raises(UserError, match=r"not in the hub's local cache.*allow_download"):
        made.load(entry, spec.model_copy(update={"pretrained": True}))


def test_torchvision_by_name():
    pytest.importorskip("torchvision")
    from acutance.io.checkpoints import make_model

    assert make_model("torchvision:resnet18", {"num_classes": 3}).fc.out_features == 3
    with pytest.raises(UserError, match=r"torchvision has no model 'resnet81'.*resnet18"):
        make_model("torchvision:resnet81", {})


@pytest.fixture
def vit():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **TINY).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_steiners_files(vit, tmp_path):
    write_jax(vit, tmp_path / f"{NAME}.npz")
    write_jax(vit, tmp_path / f"{SCRATCH}.npz")
    (tmp_path / "Ti_16-i1k.npz").write_bytes(b"")
    (tmp_path / "index.csv").write_text(f"name,adapt_filename,adapt_final_test\nx,{NAME},0.78\n")
    made, spec = pool("steiner_augreg", root=str(tmp_path), architecture=VIT, arguments=TINY)
    scratch, entry = made.entries(spec)
    assert entry.id == NAME and entry.targets == {"test_error": pytest.approx(0.22)} and scratch.targets == {}
    assert entry.attributes == {
        "pretraining": "i21k", "augmentation": "medium1", "augmentation_group": "medium", "strength": 2, "epochs": 300,
        "weight_decay": 0.1, "dropout": 0.0, "stochastic_depth": 0.0, "regularized": False, "learning_rate": 0.001,
        "finetune_learning_rate": 0.01, "finetune_steps": 20000, "resolution": 224,
    }  # fmt: skip
    assert scratch.attributes["regularized"] is True and scratch.attributes["strength"] == 1
    assert [e.id for e in made.entries(spec.model_copy(update={"pretraining": "i1k"}))] == [SCRATCH]
    with torch.no_grad():
        assert torch.allclose(made.load(entry, spec)(IMAGES), vit(IMAGES), atol=1e-5)
    made, own = pool("checkpoints", files=str(tmp_path / f"{NAME}.npz"), architecture=VIT, arguments=TINY)
    with torch.no_grad():
        assert torch.allclose(made.load(made.entries(own)[0], own)(IMAGES), vit(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"head/kernel": np.zeros((24, 7), "f")}, r"shape: head/kernel is \(24, 7\), the model has \(24, 5\)"),
        ({"cls": None}, "missing: cls"),
        ({"Transformer/encoderblock_2/LayerNorm_0/bias": np.zeros(24, "f")}, "unexpected: Transformer/encoderblock_2"),
        ({"embedding/kernel": None}, "no array embedding/kernel"),
    ],
)
def test_what_timms_loader_would_pass_over_is_refused(vit, tmp_path, changes, message):
    write_jax(vit, tmp_path / f"{NAME}.npz", **changes)
    made, spec = pool("steiner_augreg", root=str(tmp_path), architecture=VIT, arguments=TINY)
    with pytest.raises(UserError, match=message):
        made.load(made.entries(spec)[0], spec)


def clip_forward(state, images, d=32, heads=4, depth=2):
    """The published forward pass, sequence first, with torch's own attention."""
    s = {k.removeprefix("model.visual."): v for k, v in state.items()}
    x = F.conv2d(images, s["conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([s["class_embedding"].expand(len(x), 1, d), x], 1) + s["positional_embedding"]
    x = F.layer_norm(x, (d,), s["ln_pre.weight"], s["ln_pre.bias"]).transpose(0, 1)
    for i in range(depth):
        b = {k.removeprefix(f"transformer.resblocks.{i}."): v for k, v in s.items()}
        attention = nn.MultiheadAttention(d, heads)
        attention.load_state_dict({k.removeprefix("attn."): v for k, v in b.items() if k.startswith("attn.")})
        h = F.layer_norm(x, (d,), b["ln_1.weight"], b["ln_1.bias"])
        x = x + attention(h, h, h, need_weights=False)[0]
        h = F.linear(F.layer_norm(x, (d,), b["ln_2.weight"], b["ln_2.bias"]), b["mlp.c_fc.weight"], b["mlp.c_fc.bias"])
        x = x + F.linear(h * torch.sigmoid(1.702 * h), b["mlp.c_proj.weight"], b["mlp.c_proj.bias"])
    f = F.layer_norm(x[0], (d,), s["ln_post.weight"], s["ln_post.bias"]) @ s["proj"]
    f = f / f.norm(dim=-1, keepdim=True)
    return F.linear(f, state["classification_head.weight"], state["classification_head.bias"])


def test_clips_visual_tower_gives_its_logits(tmp_path):
    state = clip_state()
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "model_3.pt")
    (tmp_path / "hparam_info.json").write_text(
        json.dumps({"model_0": {"info": "x"}, "model_3": {"aug": "rand-m4-n2", "lr": 1e-5}})
    )
    arguments = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4}
    made, spec = pool("clip_soups", root=str(tmp_path), arguments=arguments)
    start, entry = made.entries(spec)
    assert start.attributes == {} and entry.attributes["randaugment_operations"] == 2
    with torch.no_grad():
        model = made.load(entry, spec)
        assert torch.allclose(model(IMAGES), clip_forward(state, IMAGES), atol=1e-5)
    kept = [v for k, v in state.items() if k.startswith(("model.visual", "classification"))]
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in kept)
    with pytest.raises(UserError, match=r"model_0.pt: no such file"):
        made.load(start, spec)
    torch.save({"model.visual.conv1.weight": torch.zeros(1)}, tmp_path / "model_0.pt")
    with pytest.raises(UserError, match=r"has no model.visual.class_embedding"):
        made.load(start, spec)


def test_the_published_settings_and_results_of_the_soups():
    shared = [parent / "shared" / "data" / "model_soups" for parent in Path(__file__).parents]
    root = next((path for path in shared if path.is_dir()), None)
    if root is None:
        pytest.skip("the published files are not here")
    made, spec = pool("clip_soups", root=str(root))
    entries = made.entries(spec)
    assert [e.id for e in entries] == [f"model_{i}" for i in range(72)]
    assert entries[0].targets["test_error"] == pytest.approx(1 - 0.75574)
    assert "learning_rate" not in entries[0].attributes and all("learning_rate" in e.attributes for e in entries[1:])
