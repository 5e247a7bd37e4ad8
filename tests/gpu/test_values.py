"""The device changes no value, no weight and no noise."""

import copy

import pytest
import torch
from models import MLP, Attention, assert_untouched, conv_data, mlp_data, positive_eps, snapshot, token_data

import acutance
from acutance import LossSurface, Streams
from acutance.measure import Status
from acutance.plugins import catalog
from acutance.spec import validate

pytestmark = pytest.mark.gpu

CASES = {"mlp": (MLP, mlp_data), "conv": (positive_eps, conv_data), "attention": (Attention, token_data)}
SETTINGS = {
    "worst_case": [{"rho": 0.2, "norm": norm, "steps": 5} for norm in ("l2", "linf")],
    "average_case": [{"rho": 0.2, "norm": norm, "draws": 6} for norm in ("l2", "linf")],
}
AMONG_MODELS = [item.name for item in catalog().items("measures") if item.target.traits.level == "pool"]
# Why these: float64 sums taken in another order differ by 1e-16 of their terms, a thousandfold after a search that
# follows its own gradients. In float32 a forward differs by about 1e-6 of the logits, and a sharpness of the size of
# the loss, as here, inherits that ten- to hundredfold. Both hold with TF32 off, which the surface sees to.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def required(item):
    """Return settings of a registered measure: those above, or its defaults with the required fields guessed by type."""
    if item.name in SETTINGS:
        return SETTINGS[item.name]
    guesses = {float: 0.1, int: 2, bool: False}
    fields = item.target.Spec.model_fields.items()
    found = {}
    for name, field in fields:
        if field.is_required():
            kinds = [kind for kind in guesses if kind in (field.annotation, *getattr(field.annotation, "__args__", ()))]
            found[name] = guesses[kinds[0]] if kinds else field.annotation.__args__[0]
    return [found]


def measures():
    """Return the measures of one model, with settings."""
    own = [item for item in catalog().items("measures") if item.dist == "acutance"]
    return [(item.name, settings) for item in own if item.name not in AMONG_MODELS for settings in required(item)]


def test_every_registered_measure_has_settings():
    for name, settings in measures():
        validate(catalog().get("measures", name).Spec, settings, name)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A training log."""
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("step,epoch,train_loss,gradient_norm\n10,1,2.0,3.0\n20,2,1.0,2.0\n30,3,0.5,1.0\n")
    return path


def beside(case, log):
    """Return what some measures need beside the model and the points."""
    build, data = CASES[case]
    initial = {name: 0.5 * value for name, value in build().state_dict().items()}
    return {"initial": initial, "validation": data(64, seed=99), "log": log}


def value(name, settings, case, device, dtype, log):
    build, data = CASES[case]
    return acutance.measure(name, build(), data(), device=device, dtype=dtype, **beside(case, log), **settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name, settings", measures(), ids=str)
def test_values_are_those_of_the_cpu(name, settings, case, dtype, log):
    there = value(name, settings, case, "cuda", dtype, log)
    here = value(name, settings, case, "cpu", dtype, log)
    assert there.status is here.status
    if here.status is not Status.OK:
        pytest.skip(here.message)
    scale = max(abs(here.value), float(here.extras.get("clean_loss", 0.0)))
    assert there.value == pytest.approx(here.value, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype] * scale)
    assert there.cost == here.cost


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name, settings", measures(), ids=str)
def test_a_model_on_the_device_is_bitwise_what_it_was(name, settings, case, log):
    build, data = CASES[case]
    model = build().cuda().train()
    before, generator = snapshot(model), torch.cuda.get_rng_state()
    acutance.measure(name, model, data(), **beside(case, log), **settings)
    assert_untouched(model, before)
    assert torch.equal(torch.cuda.get_rng_state(), generator)


def test_measures_among_models_have_the_values_of_the_cpu(tmp_path):
    models = []
    for seed in range(6):
        torch.manual_seed(seed)
        models.append(MLP().apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None))
    tables = []
    for device in ("cpu", "cuda"):
        run = acutance.study(
            models, mlp_data(200), measures=AMONG_MODELS, test=mlp_data(400, seed=3), device=device, report=False,
            surface={"validation": "test"}, out=tmp_path / device,
        )  # fmt: skip
        tables.append(run.results.set_index(["model", "measure"]).sort_index())
    here, there = tables
    assert {name.split("/")[-1] for _, name in here.index} >= set(AMONG_MODELS) and (here["status"] == "ok").any()
    assert there["status"].equals(here["status"])
    assert there["value"].to_numpy() == pytest.approx(here["value"].to_numpy(), rel=1e-10, nan_ok=True)


CALLS: list[int] = []  # not the model's own: what a pass leaves on a model is put back


class Fragile(MLP):
    """Breaks in a later forward."""

    def forward(self, x):
        CALLS.append(1)
        if len(CALLS) > 3:
            raise RuntimeError("broken")
        return super().forward(x)


@pytest.mark.parametrize("name", SETTINGS)
def test_and_after_an_exception(name):
    CALLS.clear()
    model = Fragile().cuda()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="broken"):
        acutance.measure(name, model, mlp_data(), **(SETTINGS[name][0] | {"worst_case": {"steps": 50}, "average_case": {"draws": 50}}[name]))  # fmt: skip
    assert_untouched(model, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_noise_is_the_same_on_both_devices(kind, dtype):
    streams = Streams(0, "digest", 3, "acutance/average_case", 1)
    here, there = torch.empty(1000, dtype=dtype), torch.empty(1000, dtype=dtype, device="cuda")
    for k in (0, 7):
        found = getattr(streams, kind)("x", k, there)
        assert found.device.type == "cuda" and found.dtype == dtype
        assert torch.equal(found.cpu(), getattr(streams, kind)("x", k, here))
    for k, found in enumerate(streams.draws(kind, "x", range(9), there, out=there)):
        assert found is there and torch.equal(found.cpu(), getattr(streams, kind)("x", k, here))


def test_float32_convolutions_keep_their_precision():
    """TF32, on by default in convolutions, keeps 10 bits: errors of 1e-3."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(16, 64, 3), torch.nn.ReLU(), torch.nn.Conv2d(64, 10, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )  # fmt: skip
    x, y = torch.randn(16, 16, 16, 16), torch.randint(0, 10, (16,))
    exact = LossSurface(copy.deepcopy(model), (x, y), dtype="float64")
    found = LossSurface(model, (x, y), device="cuda", dtype="float32")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        v = torch.randn(exact.w.numel(), generator=torch.Generator().manual_seed(1))
        pairs = [
            (found.logits(), exact.logits()),
            (found.gradient()[1], exact.gradient()[1]),
            (found.hvp(v.cuda()), exact.hvp(v.double())),
        ]
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    for there, here in pairs:
        assert float((there.cpu().double() - here).norm() / here.norm()) < 1e-5
