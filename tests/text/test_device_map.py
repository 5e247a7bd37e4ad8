"""Models of pools whose parts are put on devices and disks as they are loaded: values, ties, bad maps."""

import pytest
import torch
from published_text import tiny_bert, tiny_gpt2

import acutance
from acutance import LossSurface, UserError
from acutance.measure import Status
from acutance.study.config import load_config
from acutance_text import making
from acutance_text.causal import Causal, next_token
from acutance_text.revisions import Revisions, RevisionsSpec
from acutance_text.transformers_pool import PlacedSpec, Transformers

pytest.importorskip("accelerate")

IDS = torch.randint(1, 13, (4, 7), generator=torch.Generator().manual_seed(1))
PARTS = ("wte", "wpe", "drop", "h", "ln_f")
GPT2 = {
    "one device": {"": "cpu"},
    "auto": "auto",
    "disk": {"": "disk"},
    "a part on the disk": {f"transformer.{n}": "disk" if n == "h" else "cpu" for n in PARTS} | {"lm_head": "cpu"},
}


def opened(pool, folder, kind=PlacedSpec, **fields):
    spec = kind(path=str(folder), **fields)
    return pool().load(pool().entries(spec)[0], spec)


@pytest.fixture
def gpt2(tmp_path):
    tiny_gpt2().bfloat16().save_pretrained(tmp_path / "gpt" / "step10")
    return tmp_path / "gpt"


@pytest.mark.parametrize("place", GPT2)
@pytest.mark.parametrize("pool", ["causal", "hub_revisions"])
def test_values_are_those_of_the_model_in_one_place(place, pool, gpt2):
    make, kind = {"causal": (Causal, PlacedSpec), "hub_revisions": (Revisions, RevisionsSpec)}[pool]
    here, away = opened(make, gpt2, kind), opened(make, gpt2, kind, device_map=GPT2[place])
    assert {p.dtype for p in away.parameters()} == {torch.bfloat16} and not away.training
    assert any(p.is_meta for p in away.parameters()) == ("disk" in place)
    surfaces = [LossSurface(m, ({"input_ids": IDS}, IDS), loss=next_token, dtype="native") for m in (here, away)]
    for name, fields in {
        "average_case": {"rho": 0.1, "draws": 2, "scaling": "filter"},
        "directional_sharpness": {"direction": "random", "product": "loss", "scaling": "elementwise"},
    }.items():
        expected, found = (acutance.measure(name, surface, **fields) for surface in surfaces)
        assert (found.value, found.status) == (expected.value, expected.status) or found.status is not Status.OK
    names = [[slot.names for slot in surface.parameters.slots] for surface in surfaces]
    assert names[0] == names[1]  # ties are kept


def test_choices_and_names_of_classes_are_there(gpt2, tmp_path):
    choices = IDS.view(2, 2, 7)
    for place in GPT2.values():
        here, away = opened(Causal, gpt2), opened(Causal, gpt2, device_map=place)
        assert torch.equal(away(choices).logits, here(choices).logits) and here(choices).logits.shape == (2, 2, 7, 13)
    bert = tiny_bert(0)
    bert.config.id2label = {0: "no", 1: "maybe", 2: "yes"}
    bert.save_pretrained(tmp_path / "bert")
    model = opened(Transformers, tmp_path / "bert", device_map={"bert": "disk", "classifier": "cpu", "dropout": "cpu"})
    assert model.class_names == ("no", "maybe", "yes") and model.bert.pooler.dense.weight.is_meta
    surface = LossSurface(model, ({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, torch.arange(4) % 3))
    found = acutance.measure("gradient_norm", surface)
    assert found.status is Status.UNSUPPORTED and "opened without device_map" in found.message
    assert acutance.measure("basin_size", surface, draws=2).value > 0


def test_initial_weights_lie_in_one_place(gpt2):
    spec = PlacedSpec(path=str(gpt2), device_map={"": "disk"}, initial=str(gpt2 / "step10"))
    initial = Causal().initial(Causal().entries(spec)[0], spec)
    assert not any(p.is_meta for p in initial.parameters())


@pytest.mark.parametrize(
    "device_map,says",
    [
        ({"": "cuda:7"}, "device_map: the model is to lie on 'cuda:7', which is not there (cpu, disk"),
        ({"transformer": 9, "lm_head": "cpu"}, "module 'transformer' is to lie on '9', which is not there"),
        ({"": "gpu"}, "'gpu', which is not there"),
        ({}, "device_map: names no module"),
        ({"transfomer": "disk", "": "cpu"}, "the model has no module transfomer (it has transformer, lm_head)"),
        ({"transformer.h": "disk"}, "cannot be loaded with device_map"),
    ],
)
def test_a_map_that_does_not_fit_is_one_sentence(device_map, says, gpt2):
    with pytest.raises(UserError) as caught:
        opened(Causal, gpt2, device_map=device_map)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused(gpt2):
    from safetensors.torch import load_file, save_file

    file = gpt2 / "step10" / "model.safetensors"
    state = load_file(file)
    save_file({n: t for n, t in state.items() if "ln_f" not in n}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"does not fit the architecture.*ln_f"):
        opened(Causal, gpt2, device_map={"": "cpu"})


def test_without_accelerate_the_extra_is_named(gpt2, monkeypatch):
    monkeypatch.setattr(making, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        opened(Causal, gpt2, device_map="auto")
    assert "the extra 'dispatch'" in str(caught.value) and "device_map" in str(caught.value)


def test_a_study_names_the_place_of_a_wrong_map(toy_config):
    toy_config["pools"] = [{"name": "causal", "path": "x", "device_map": "cpu"}]
    with pytest.raises(UserError) as caught:
        load_config(toy_config)
    assert "pools.0.device_map" in str(caught.value)
