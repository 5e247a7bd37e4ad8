"""Models that one device does not hold: the values of the model in one place, the weights moved that are measured."""

import copy
import gc

import pytest
import torch
from torch import nn

import acutance
from acutance import UserError
from acutance.errors import Unsupported
from acutance.measure import Status
from acutance.model.functional import FunctionalModel
from acutance.numerics.draws import Streams
from acutance.surface.loss_surface import LossSurface

accelerate = pytest.importorskip("accelerate")

X, Y = torch.randint(0, 11, (16, 6), generator=torch.Generator().manual_seed(1)), torch.arange(16) % 11


class Tied(nn.Module):
    """Reads tokens, and writes with the weights that it reads with."""

    def __init__(self, tie=True):
        super().__init__()
        self.read, self.norm, self.mix = nn.Embedding(11, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.write = nn.Linear(8, 11, bias=False)
        if tie:
            self.write.weight = self.read.weight

    def forward(self, ids):
        return self.write(torch.tanh(self.mix(self.norm(self.read(ids).mean(1)))))


def net(tie=True, kind=torch.float32):
    torch.manual_seed(3)
    model = Tied(tie).to(kind).eval()
    model.norm.running_mean.normal_()
    return model


def on_disk(model, folder, **more):
    parts = dict.fromkeys([name for name, _ in model.named_children()], "disk")
    return accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=str(folder), **more)


WAYS = {
    "cpu": lambda model, folder: accelerate.cpu_offload(model),
    "cpu, with its buffers": lambda model, folder: accelerate.cpu_offload(model, offload_buffers=True),
    "disk": on_disk,
    "disk, with its buffers": lambda model, folder: on_disk(model, folder, offload_buffers=True),
    "a part on disk": lambda model, folder: accelerate.dispatch_model(
        model, {"read": "cpu", "write": "cpu", "norm": "cpu", "mix": "disk"}, offload_dir=str(folder)
    ),
    "hooks on one device": lambda model, folder: accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True),
    "loaded together": lambda model, folder: accelerate.cpu_offload(model, preload_module_classes=["Tied"]),
    "another hook before": lambda model, folder: accelerate.cpu_offload(
        accelerate.hooks.add_hook_to_module(model, accelerate.hooks.ModelHook())
    ),
}
CASES = {
    "average_case": {"rho": 0.2, "draws": 3, "scaling": "elementwise"},
    "basin_size": {"draws": 3, "drop": 0.2, "scaling": "filter"},
    "critical_sharpness": {"direction": "update"},
}


def pair(way, folder, kind=torch.float32):
    """Return the surfaces of a model and of its twin that was given away."""
    model = net(kind=kind)
    away = WAYS[way](copy.deepcopy(model), folder)
    surfaces = [LossSurface(m, (X, Y), dtype="native") for m in (model, away)]
    step = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(5)) * 0.1
            for name, p in model.named_parameters()}  # fmt: skip
    for surface in surfaces:
        surface.core.functional.update = lambda: step
    return surfaces


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_values_are_bitwise_those_of_the_model_in_one_place(way, kind, tmp_path):
    here, away = pair(way, tmp_path, kind)
    assert torch.equal(away.raw_logits(), here.raw_logits())
    assert [slot.names for slot in away.parameters.slots] == [slot.names for slot in here.parameters.slots]
    for name, fields in CASES.items():
        expected, found = (acutance.measure(name, surface, **fields) for surface in (here, away))
        assert found.value == expected.value or found.status is expected.status is not Status.OK
        assert found.status is expected.status and found.extras == expected.extras


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_that_are_evaluated_are_the_moved_ones(way, tmp_path):
    here, away = pair(way, tmp_path)
    noise = [s.piecewise_point().place(Streams(2).noise("normal", "z", 0, s.size), 0.5) for s in (here, away)]
    raws = [point.raw_logits() for point in noise]
    assert torch.equal(*raws) and not torch.allclose(raws[1], away.raw_logits(), rtol=0.1)
    moved = net()
    with torch.no_grad():
        for name, piece in noise[1].pieces.items():
            moved.get_parameter(name).copy_(piece)
    assert torch.equal(moved(X), raws[1])


@pytest.mark.parametrize("way", WAYS)
def test_the_model_works_afterwards_as_before(way, tmp_path):
    model = net()
    away = WAYS[way](copy.deepcopy(model), tmp_path)
    before = away(X)
    hooks = {name: vars(m).get("_hf_hook") for name, m in away.named_modules()}
    devices = {name: p.device for name, p in away.named_parameters()}
    surface = LossSurface(away, (X, Y), dtype="native")
    acutance.measure("average_case", surface, rho=0.5, draws=2)
    with pytest.raises(ZeroDivisionError), surface.piecewise_point().held():
        raise ZeroDivisionError
    assert torch.equal(away(X), before)
    assert {name: p.device for name, p in away.named_parameters()} == devices
    assert all(vars(m).get("_hf_hook") is hooks[name] for name, m in away.named_modules())


def test_a_pass_that_fails_half_way_leaves_nothing_behind(tmp_path):
    model = WAYS["cpu"](net(), tmp_path)
    surface = LossSurface(model, (X, Y), dtype="native")
    clean, mix = surface.raw_logits(), model.mix
    handle = mix.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LossSurface(model, (X, Y), dtype="native").raw_logits()
    handle.remove()
    assert torch.equal(surface.raw_logits(), clean) and torch.equal(model(X), net()(X))


def test_outputs_and_the_last_layer_are_those_of_the_model_in_one_place(tmp_path):
    here, away = pair("disk", tmp_path)
    assert torch.equal(away.last_layer().features, here.last_layer().features)
    assert torch.equal(away.last_layer().weight, here.last_layer().weight)


@pytest.mark.parametrize("way", ["cpu", "disk", "a part on disk"])
def test_what_needs_a_vector_says_where_the_weights_lie(way, tmp_path):
    _, away = pair(way, tmp_path)
    place = "disk" if "disk" in way else "cpu"
    with pytest.raises(Unsupported, match=rf"vector of all weights.*offloaded \({place}\).*without device_map"):
        _ = away.w
    for name, fields in {"worst_case": {"rho": 0.1}, "path_norm": {}, "gradient_norm": {}}.items():
        estimate = acutance.measure(name, away, **fields)
        assert estimate.status is Status.UNSUPPORTED and "all weights" in estimate.message


def test_other_types_than_the_stored_ones_are_refused(tmp_path):
    away = WAYS["cpu"](net(kind=torch.bfloat16), tmp_path)
    for wanted in (None, torch.float32):
        with pytest.raises(UserError, match=r"offloaded \(cpu\).*bfloat16.*float32 was asked for.*dtype: native"):
            FunctionalModel(away, dtype=wanted)
    assert FunctionalModel(WAYS["cpu"](net(), tmp_path), dtype=torch.float32).weights.native
    assert FunctionalModel(WAYS["cpu"](net().double(), tmp_path)).dtype is torch.float64
    with pytest.raises(UserError, match="float64 was asked for"):
        FunctionalModel(WAYS["cpu"](net(), tmp_path), dtype=torch.float64)


def test_hooks_on_one_device_allow_vectors(tmp_path):
    here, away = (LossSurface(m, (X, Y)) for m in (net(), WAYS["hooks on one device"](net(), tmp_path)))
    assert torch.equal(away.gradient()[1], here.gradient()[1])
    assert torch.equal(away.hvp(here.w), here.hvp(here.w))


@pytest.mark.parametrize("offload", [accelerate.cpu_offload, accelerate.disk_offload])
def test_ties_that_offloading_forgets_are_refused_and_other_weights_are_not(offload, tmp_path):
    more = (str(tmp_path),) if offload is accelerate.disk_offload else ()
    if more:
        model = offload(net(), *more)
    else:  # from another device each weight comes as a copy of its own
        model = offload(net(), state_dict={name: tensor.clone() for name, tensor in net().state_dict().items()})
    with pytest.raises(UserError, match=r"'?read.weight.*write.weight.*equal values.*dispatch_model"):
        FunctionalModel(model)
    apart = net(tie=False)
    with torch.no_grad():
        apart.mix.weight.fill_(0.1)
        apart.write.weight[:8, :] = 0.1
    assert len(FunctionalModel(offload(apart, *((str(tmp_path / "b"),) if more else ()))).slots) == 6


def test_hooks_that_move_or_round_the_weights_themselves_are_refused():
    model, _ = accelerate.cpu_offload_with_hook(net(), "cpu")
    with pytest.raises(UserError, match=r"the model has accelerate's hook CpuOffload.*remove_hook_from_module"):
        FunctionalModel(model)
    model = net()
    accelerate.big_modeling.attach_layerwise_casting_hooks(model, torch.bfloat16, torch.float32)
    with pytest.raises(UserError, match=r"module '.*' has accelerate's hook LayerwiseCastingHook"):
        FunctionalModel(model)


def test_offloaded_weights_that_are_gone_are_named(tmp_path):
    model = on_disk(net(), tmp_path)
    (tmp_path / "mix.weight.dat").unlink()
    with pytest.raises(UserError, match=r"weights of 'mix.weight' cannot be read.*mix.weight.dat.*offload it again"):
        FunctionalModel(model)


def test_weights_on_meta_that_no_hook_loads_have_no_values():
    model = WAYS["cpu"](net(), None)
    accelerate.hooks.remove_hook_from_module(model.norm)
    model.norm.weight = nn.Parameter(torch.empty(8, device="meta"))
    with pytest.raises(UserError, match=r"parameter 'norm.weight' has no values"):
        FunctionalModel(model)


def test_a_module_that_puts_the_stored_weights_back_is_refused(tmp_path):
    model = WAYS["cpu"](net(), tmp_path)
    stored = net().mix.weight.detach()

    def loading(x):
        vars(model.mix)["_parameters"]["weight"] = nn.Parameter(stored)
        return nn.functional.linear(x, model.mix.weight, model.mix.bias)

    vars(model.mix)["_old_forward"] = loading
    with pytest.raises((UserError, Unsupported), match=r"mix.weight|puts another 'weight'"):
        acutance.measure("average_case", LossSurface(model, (X, Y), dtype="native"), rho=0.1, draws=2)


def test_weights_on_disk_are_mapped_and_not_copied(tmp_path):
    big = nn.Sequential(nn.Linear(500, 1000), nn.Linear(1000, 3)).eval()
    model = on_disk(big, tmp_path)
    gc.collect()
    functional = FunctionalModel(model)
    files = {line.split()[-1] for line in open("/proc/self/maps") if str(tmp_path) in line}
    assert {f"{tmp_path}/{name}.dat" for name in ("0.weight", "1.weight")} <= files
    assert functional.size == 500 * 1000 + 1000 + 3003


def test_a_write_to_offloaded_weights_is_seen(tmp_path):
    model = WAYS["cpu"](net(), tmp_path)
    surface = LossSurface(model, (X, Y), dtype="native")
    surface.raw_logits()
    hook = vars(model.mix)["_hf_hook"]
    hook.weights_map["weight"].add_(1)
    with pytest.raises(UserError, match="written to"):
        surface.raw_logits()


def transformers_folder(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=11, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder, max_shard_size="10KB")
    return transformers.AutoModelForCausalLM


@pytest.mark.parametrize("where", ["disk", "parts"])
def test_device_map_of_transformers(where, tmp_path):
    auto = transformers_folder(tmp_path / "model")
    parts = {f"transformer.{name}": "cpu" for name in ("wte", "wpe", "ln_f", "h.0")}
    device_map = {"": "disk"} if where == "disk" else {**parts, "lm_head": "cpu", "transformer.h.1": "disk"}
    models = [
        auto.from_pretrained(tmp_path / "model"),
        auto.from_pretrained(tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / "away")),
    ]
    from acutance_text.next_token import next_token

    surfaces = [LossSurface(m, ({"input_ids": X}, X), loss=next_token, dtype="native") for m in models]
    assert surfaces[1].size == surfaces[0].size and len(surfaces[1].parameters.slots) == 28
    assert torch.equal(surfaces[0].raw_logits(), surfaces[1].raw_logits())
    for name, fields in list(CASES.items())[:1]:
        here, away = (acutance.measure(name, surface, **fields) for surface in surfaces)
        assert away.value == here.value and away.status is Status.OK


@pytest.mark.gpu
@pytest.mark.parametrize("hooks", [True, False])
def test_parts_on_two_devices(hooks):
    model, away = net(tie=False), net(tie=False)
    if hooks:
        away = accelerate.dispatch_model(away, {"read": 0, "norm": "cpu", "mix": "cpu", "write": 0})
    else:
        away.write.cuda().register_forward_pre_hook(lambda module, given: (given[0].cuda(),))
    surfaces = [LossSurface(m, (X, Y), dtype="native") for m in (model, away)]
    assert torch.allclose(surfaces[1].raw_logits().cpu(), surfaces[0].raw_logits(), atol=1e-5)
    for name, fields in list(CASES.items())[:2]:
        here, there = (acutance.measure(name, surface, **fields) for surface in surfaces)
        assert there.value == pytest.approx(here.value, rel=1e-3)
    with pytest.raises(Unsupported, match=r"lie on|offloaded"):
        _ = surfaces[1].w
