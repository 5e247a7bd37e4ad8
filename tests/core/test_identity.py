"""Keys: what enters, what does not, and that they never change."""

import hashlib
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from models import MLP, mlp_data
from pydantic import ValidationError

from acutance import LossSurface, Spec, Streams
from acutance.data.fingerprint import digest_points, model_key
from acutance.own_code import source_digest
from acutance.plugins import catalog
from acutance.spec import canonical_json, cell_key, digest

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "keys.json").read_text())


def key(**changes):
    worst = catalog().get("measures", "worst_case")
    fields = {
        "measure": "acutance/worst_case", "version": 1, "spec": worst.Spec(rho=0.002), "model": "m" * 64,
        "data": "d" * 64, "surface": {"m": 128}, "seed": 0, "replicate": 0,
    }  # fmt: skip
    return cell_key(**{**fields, **changes})


def test_golden_keys():
    worst, average = (catalog().get("measures", n).Spec for n in ("worst_case", "average_case"))
    now = {
        "worst_case": key(),
        "worst_case part": key(batch=3),
        "worst_case full": key(spec=worst(rho=0.5, norm="l2", scaling="none", steps=7, restarts=2, start="zero")),
        "average_case": key(
            measure="acutance/average_case", spec=average(rho=0.1, norm="linf", draws=20, logit_norm=True)
        ),
        "points": digest_points(torch.arange(12.0).view(3, 4), torch.tensor([0, 1, 2])),
        "dict points": digest_points({"b": torch.ones(2), "a": torch.zeros(2, dtype=torch.long)}, torch.tensor([1, 0])),
        "model": model_key(
            "linear",
            torch.nn.Linear(2, 2).requires_grad_(False).apply(lambda m: [p.fill_(0.5) for p in m.parameters()]),
        ),
        "canonical": canonical_json({"b": [1, 2.5, -0.0, None, True], "a": "é"}),
    }
    assert now == GOLDEN


def test_golden_noise():
    like = torch.zeros(3, dtype=torch.float64)
    streams = Streams(0, "digest", 1, "acutance/worst_case", 0)
    assert streams.normal("l2", 0, like).tolist() == pytest.approx(
        [GOLDEN_NOISE[0], GOLDEN_NOISE[1], GOLDEN_NOISE[2]], abs=1e-6
    )


def test_signs_are_frozen_balanced_and_the_same_in_both_precisions():
    streams, like = Streams(0, "digest", 1, "acutance/hessian_trace", 0), torch.empty(1000, dtype=torch.float64)
    z = streams.signs("z", 0, like)
    assert z[:16].tolist() == GOLDEN_SIGNS
    assert z.abs().eq(1).all() and abs(float(z.mean())) < 0.15
    assert torch.equal(streams.signs("z", 0, like.float()).double(), z)
    assert torch.equal(streams.signs("z", 0, like[:70]), z[:70])
    assert not torch.equal(streams.signs("z", 1, like), z)
    out = torch.empty(1000)
    assert streams.signs("z", 0, out, out=out) is out and torch.equal(out.double(), z)


GOLDEN_SIGNS = [1, 1, 1, 1, -1, 1, -1, 1, -1, -1, -1, -1, 1, 1, -1, -1]
GOLDEN_NOISE = json.loads((Path(__file__).parents[1] / "golden" / "noise.json").read_text())


def test_what_differs_gives_another_key():
    worst = catalog().get("measures", "worst_case").Spec
    others = [
        key(), key(version=2), key(spec=worst(rho=0.001)), key(spec=worst(rho=0.002, steps=21)), key(model="x"),
        key(data="x"), key(surface={"m": 64}), key(seed=1), key(replicate=1), key(batch=0), key(batch=1),
        key(initial="x"), key(initial="x", batch=0),
    ]  # fmt: skip
    assert len(set(others)) == len(others)


def test_writing_a_default_changes_nothing():
    worst = catalog().get("measures", "worst_case").Spec
    assert key(spec=worst(rho=0.002, steps=20, norm="linf", scaling="elementwise")) == key()


def test_a_new_field_with_a_default_keeps_old_keys():
    class Old(Spec):
        rho: float
        """Radius."""

    class New(Old):
        extra: int = 3
        """New in version 2."""

    assert key(spec=Old(rho=1)) == key(spec=New(rho=1)) != key(spec=New(rho=1, extra=4))


def test_specs_are_frozen_and_closed():
    worst = catalog().get("measures", "worst_case").Spec(rho=1)
    with pytest.raises(ValidationError):
        worst.rho = 2
    for bad in (float("nan"), object()):
        with pytest.raises(ValueError, match="no canonical form"):
            canonical_json({"a": bad})


def test_digest_of_points_ignores_precision_and_device_but_not_content():
    x, y = mlp_data()
    assert digest_points(x.float(), y) == digest_points(x.float().double(), y.int())
    assert digest_points(x, y) != digest_points(x, y.flip(0))
    assert digest_points(x, y) != digest_points(x[:, :5], y)
    assert LossSurface(MLP(), (x.float(), y)).digest == LossSurface(MLP(), (x.float(), y), dtype="float32").digest


def test_model_keys_follow_the_weights_only():
    a, b = MLP(), MLP()
    assert model_key("mlp", a) == model_key("mlp", b)
    with torch.no_grad():
        b.layers[0].weight[0, 0] += 1e-12
    assert model_key("mlp", a) != model_key("mlp", b)
    assert model_key("mlp", a) != model_key("other", a)


def test_noise_is_named_by_its_purpose_and_made_once_for_all_precisions():
    streams = Streams(0, "data", 0, "measure", 0)
    single, double = torch.zeros(1000), torch.zeros(1000, dtype=torch.float64)
    assert torch.equal(streams.normal("a", 0, single).double(), streams.normal("a", 0, double))
    assert not torch.equal(streams.normal("a", 0, single), streams.normal("a", 1, single))
    assert not torch.equal(streams.normal("a", 0, single), streams.normal("b", 0, single))
    assert not torch.equal(streams.normal("a", 0, single), Streams(1, "data", 0, "measure", 0).normal("a", 0, single))
    u = streams.uniform("a", 0, torch.zeros(20000))
    assert (
        u.min() >= -1
        and u.max() <= 1
        and abs(float(u.mean())) < 0.02
        and float(u.var()) == pytest.approx(1 / 3, abs=0.01)
    )
    z = streams.normal("a", 0, torch.zeros(20000))
    assert abs(float(z.mean())) < 0.03 and float(z.std()) == pytest.approx(1, abs=0.02)


def test_digest_is_stable_under_key_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


# -- functions of one's own: the file that defines them ------------------------------------------------------


def package(tmp_path, monkeypatch, **files):
    root = tmp_path / "borrowed"
    root.mkdir()
    for name, text in {"__init__": "", **files}.items():
        (root / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "borrowed", raising=False)  # that of another test
    importlib.invalidate_caches()
    return root


@pytest.mark.parametrize("how", ["from borrowed.losses import mine", "from .losses import other as mine"])
def test_a_function_taken_from_another_file_has_the_digest_of_that_file(tmp_path, monkeypatch, how):
    root = package(tmp_path, monkeypatch, losses="def mine(): ...\nother = mine\n", pools=f"{how}\n")
    first = source_digest("borrowed.pools:mine")
    assert first == source_digest("borrowed.losses:mine")
    (root / "pools.py").write_text(f"{how}\nPOOL = 2\n")
    assert source_digest("borrowed.pools:mine") == first != source_digest("borrowed.pools:POOL")
    (root / "losses.py").write_text("def mine(): return 2\nother = mine\n")
    assert source_digest("borrowed.pools:mine") == source_digest("borrowed.losses:mine") != first
    (root / "pools.py").write_text(f"{how}\ndef mine(): ...\n")
    assert source_digest("borrowed.pools:mine") == hashlib.sha256((root / "pools.py").read_bytes()).hexdigest()


def test_modules_that_take_a_function_from_each_other_or_from_nowhere_have_a_digest(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, a="from .b import f\n", b="from .a import f\n", c="from nowhere_at_all import f\n")
    assert source_digest("borrowed.a:f") and source_digest("borrowed.c:f")
    package_init = tmp_path / "borrowed" / "__init__.py"
    package_init.write_text("from .a import f\nfrom .d import g\n")
    (tmp_path / "borrowed" / "d.py").write_text("def g(): ...\n")
    assert source_digest("borrowed:g") == source_digest("borrowed.d:g")


def test_the_loss_of_the_next_token_is_that_of_its_own_file():
    assert source_digest("acutance_text.causal:next_token") == source_digest("acutance_text.next_token:next_token")
    assert source_digest("acutance_text.causal:next_token") != source_digest("acutance_text.causal:Causal")
