"""The vector c of every strategy against its definition, and a user's own function as one more."""

import itertools

import pytest
import torch
from models import MLP, Attention, ConvBN, conv_data, mlp_data, token_data

import acutance
from acutance import LossSurface, UserError, scaling
from acutance.plugins import catalog
from acutance.spec import validate
from acutance.study.config import load_config

SURFACES = {"mlp": (MLP, mlp_data), "conv": (ConvBN, conv_data), "attention": (Attention, token_data)}


@pytest.fixture(params=SURFACES)
def surface(request):
    model, data = SURFACES[request.param]
    return LossSurface(model(), data())


def entry_by_entry(surface, rule):
    """c with one scalar computation for every weight."""
    found = torch.empty_like(surface.w)
    for name, _, shape, place in surface.layers:
        p = surface.w[place].view(shape)
        out = torch.empty(shape, dtype=p.dtype)
        for index in itertools.product(*(range(n) for n in shape)):
            out[index] = rule(name, p, index)
        found[place] = out.reshape(-1)
    return found


RULES = {
    "elementwise": lambda name, p, i: p[i].abs(),
    "elementwise_eta": lambda name, p, i: p[i].abs() + 0.01 if "weight" in name else 1.0,
    "filter": lambda name, p, i: p[i[0]].square().sum().sqrt(),
    "layer": lambda name, p, i: p.square().sum().sqrt(),
}


@pytest.mark.parametrize("name", RULES)
def test_c_is_its_definition(surface, name):
    c = scaling.vector(surface, name)
    assert c.shape == surface.w.shape
    assert torch.allclose(c, entry_by_entry(surface, RULES[name]), rtol=1e-14, atol=0)


def test_c_of_some_parameters_is_that_part_of_c(surface):
    pattern = surface.layers[0][0]
    part = surface.restricted(pattern)
    for name in RULES:
        assert torch.equal(scaling.vector(part, name), scaling.vector(surface, name)[surface.layers[0][3]])


def test_none_is_no_vector(surface):
    assert scaling.vector(surface, "none") is None


def test_every_registered_strategy_is_tested():
    elsewhere = {"balanced"}  # tests/dln
    assert {i.name for i in catalog().items("scalings") if i.dist == "acutance"} == {"none", *RULES, *elsewhere}


@pytest.mark.parametrize("name", RULES)
def test_the_measures_use_it(name):
    """To first order in rho the worst case is rho ||c * grad||_1, for any c."""
    surface = LossSurface(MLP(), mlp_data())
    c, (_, g) = scaling.vector(surface, name), surface.gradient()
    rho = 1e-6
    found = acutance.measure("worst_case", surface, rho=rho, norm="linf", scaling=name)
    assert found.value / rho == pytest.approx(float((c * g).abs().sum()), rel=1e-4)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own, with a name of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_{tmp_path.name.replace('-', '_')}"
    path = tmp_path / f"{name}.py"
    path.write_text(
        "def doubled(surface):\n    return 2 * surface.w.abs()\n"
        "def short(surface):\n    return surface.w[1:]\n"
        "def negative(surface):\n    return surface.w - 1e3\n"
        "def listed(surface):\n    return [1.0]\n"
        "value = 3\n"
    )
    return name, path


def test_an_own_function_is_a_scaling(own):
    name, _ = own
    surface = LossSurface(MLP(), mlp_data())
    # Twice the units at half the radius are the same ball.
    a = acutance.measure("average_case", surface, rho=0.05, scaling=f"{name}:doubled", draws=5)
    b = acutance.measure("average_case", surface, rho=0.1, scaling="elementwise", draws=5)
    assert a.value == pytest.approx(b.value, rel=1e-10)


def test_the_key_of_an_own_function_holds_its_source(own):
    name, path = own
    spec = validate(catalog().get("measures", "average_case").Spec, {"rho": 0.1, "scaling": f"{name}:doubled"})
    before = spec.canonical()
    assert len(before["scaling_source"]) == 64
    path.write_text(path.read_text() + "# changed\n")
    assert spec.canonical()["scaling_source"] != before["scaling_source"]
    assert "scaling_source" not in validate(type(spec), {"rho": 0.1, "scaling": "layer"}).canonical()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", r"gave shape \(\d+,\) \(it must return a tensor of shape"),
        ("negative", "gave negative or non-finite entries"),
        ("listed", "gave list"),
        ("value", "is int, not a function"),
        ("nothing", "cannot be imported"),
    ],
)
def test_what_is_wrong_with_an_own_function_is_told(own, function, message):
    surface = LossSurface(MLP(), mlp_data())
    with pytest.raises(UserError, match=message):
        acutance.measure("average_case", surface, rho=0.1, scaling=f"{own[0]}:{function}", draws=2)


def test_a_config_names_its_own_function(own, toy_config):
    toy_config["measures"] = [{"name": "average_case", "rho": 0.1, "scaling": [f"{own[0]}:doubled", "filter"]}]
    assert len(load_config(toy_config).measures) == 2
    toy_config["measures"] = [{"name": "average_case", "rho": 0.1, "scaling": "no_such_module:f"}]
    with pytest.raises(UserError, match=r"measures.0.scaling: 'no_such_module:f': there is no module"):
        load_config(toy_config)


@pytest.mark.parametrize("name,fields", [("average_case", {"draws": 3}), ("worst_case", {"steps": 3})])
@pytest.mark.parametrize("kind", ["elementwise", "none", "layer"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_radius_that_the_weights_do_not_resolve_is_said_to_be_one(name, fields, kind, dtype):
    surface = LossSurface(MLP(), mlp_data(), dtype=dtype)
    c = scaling.vector(surface, kind)
    least = torch.finfo(surface.w.dtype).eps / 2 * float(surface.w.norm())
    least /= float((torch.ones_like(surface.w) if c is None else c).norm())
    assert scaling.resolution(surface, kind) == pytest.approx(least, rel=1e-5)
    found = [acutance.measure(name, surface, rho=f * least, scaling=kind, **fields) for f in (0.1, 0.9, 1.1, 1e3)]
    assert [str(e.status) for e in found] == ["not_converged"] * 2 + ["ok"] * 2
    assert "lost in their rounding" in found[0].message and ("or dtype float64" in found[0].message) == (
        dtype == "float32"
    )


def test_half_way_to_the_resolution_nothing_moves_and_above_it_all_does():
    surface = LossSurface(MLP(), mlp_data(), dtype="float32")
    for factor, low, high in ((0.49, 0, 0), (0.75, 0.2, 0.8), (1.01, 1, 1)):
        moved = surface.w + factor * scaling.resolution(surface, "elementwise") * surface.w.abs()
        assert low <= float((moved != surface.w).float().mean()) <= high


def test_weights_of_zero_are_resolved_whatever_the_radius():
    model = torch.nn.Linear(6, 4)
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    surface = LossSurface(model, mlp_data(), dtype="float64")
    assert scaling.resolution(surface, "elementwise") == scaling.resolution(surface, "none") == 0
