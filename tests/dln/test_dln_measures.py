"""The measures of diagonal linear networks on surfaces: values, what is told beside them, refusals, conduct."""

import copy
import json
import math
from functools import partial

import pytest
import torch
import yaml
from diagonals import LOSSES, c_of, network, points, weights
from models import MLP, assert_untouched, dense_hessian, mlp_data, snapshot
from torch import nn

import acutance
from acutance import LossSurface, Status, UserError
from acutance.plugins import catalog
from acutance.spec import canonical_json, validate
from acutance.study.plan import expand
from acutance.testing import conformance
from acutance_dln.measures import BetaNormSpec
from acutance_dln.network import DiagonalLinearNetwork

HESSIAN = ("dln_trace", "dln_top_eigenvalue")
SCALINGS = ("none", "elementwise", "balanced")


def surface_of(loss="half_squared_sum", kind="gaussian", n=9, d=6, noise=0.5, **more):
    net = network(d)
    return LossSurface(net, points(net, kind, n, noise), loss=loss, **more)


def rescaled(surface, c):
    return dense_hessian(surface) * torch.outer(c, c)


# -- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("loss", LOSSES)
def test_values_are_those_of_the_dense_hessian(loss, scaling, noise):
    surface = surface_of(loss, noise=noise)
    h = rescaled(surface, c_of(scaling, *weights(surface.model)))
    trace, top = (acutance.measure(name, surface, scaling=scaling) for name in HESSIAN)
    assert trace.value == pytest.approx(float(h.trace()), rel=1e-12)
    assert top.value == pytest.approx(float(torch.linalg.eigvalsh(h)[-1]), rel=1e-12)
    assert trace.stderr is top.stderr is None and trace.status is top.status is Status.OK


def test_any_other_scaling_serves_too():
    surface = surface_of()
    norms = torch.cat([p.norm().expand(6) for p in weights(surface.model)])
    h = rescaled(surface, norms)
    assert acutance.measure("dln_trace", surface, scaling="layer").value == pytest.approx(float(h.trace()))
    own = acutance.measure("dln_trace", surface, scaling="acutance_dln.scalings:balanced").value
    assert own == acutance.measure("dln_trace", surface, scaling="balanced").value


def test_the_default_is_elementwise():
    surface = surface_of()
    for name in HESSIAN:
        found = acutance.measure(name, surface)
        assert found.spec["scaling"] == "elementwise"
        assert found.value == acutance.measure(name, surface, scaling="elementwise").value


@pytest.mark.parametrize("pattern", ["u", "v", "all,!v", "u,v"])
def test_some_parameters_have_their_block(pattern):
    surface = surface_of()
    u, v = weights(surface.model)
    free = {"u": slice(0, 6), "v": slice(6, 12), "all,!v": slice(0, 6), "u,v": slice(0, 12)}[pattern]
    for scaling in SCALINGS:
        h = rescaled(surface, c_of(scaling, u, v))[free, free]
        trace, top = (acutance.measure(name, surface, scaling=scaling, parameters=pattern) for name in HESSIAN)
        assert trace.value == pytest.approx(float(h.trace()), rel=1e-12)
        assert top.value == pytest.approx(float(torch.linalg.eigvalsh(h)[-1]), rel=1e-12)
    restricted = LossSurface(surface.model, (surface.inputs, surface.targets), loss=surface.criterion, parameters="u")
    whole = acutance.measure("dln_trace", surface, parameters="u", scaling="balanced")
    assert acutance.measure("dln_trace", restricted, scaling="balanced").value == whole.value


def test_the_norm_of_beta():
    net = network()
    beta = net.beta.detach()
    for p in (1, 2, math.inf):
        found = acutance.measure("dln_beta_norm", net, p=p)
        assert found.value == pytest.approx(float(torch.linalg.vector_norm(beta, p)), rel=1e-14)
        assert found.cost.units == 0 and found.stderr is None
    assert acutance.measure("dln_beta_norm", net).value == pytest.approx(float(beta.abs().sum()))
    net.v = net.u  # beta = u^2 has a norm too
    assert acutance.measure("dln_beta_norm", net).value == pytest.approx(float(net.u.detach().square().sum()))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1", 1), ("1.0", 1), ("'2'", 2), ("2", 2), ("inf", "inf"), (".inf", "inf"), ("'inf'", "inf"), (".Inf", "inf")],
)
def test_the_order_of_the_norm_as_yaml_writes_it(written, meant):
    spec = validate(BetaNormSpec, yaml.safe_load(f"p: {written}"))
    assert spec.p == meant and type(spec.p) is type(meant)
    text = canonical_json(spec.full())
    assert BetaNormSpec.model_validate(json.loads(text)) == spec
    assert spec.canonical() == ({} if meant == 1 else {"p": meant})


@pytest.mark.parametrize("written", ["3", "0", "-.inf", ".nan", "true", "1.5", "one"])
def test_other_orders_are_refused(written):
    with pytest.raises(UserError, match=r"m\.p: .*(1, 2 or 'inf'|1, 2 or inf)"):
        validate(BetaNormSpec, yaml.safe_load(f"p: {written}"), "m")


def test_orders_are_swept():
    specs, mistakes = expand(BetaNormSpec, yaml.safe_load("p: [1, 2, .inf]"), "measures.0")
    assert [spec.p for spec in specs] == [1, 2, "inf"] and not mistakes


def test_batches_and_the_whole():
    """The trace of a sum grows with the points; the mean of lambda_max over batches is not that of the whole."""
    net = network()
    data = points(net, n=12, noise=0.3)
    trace, top = (
        partial(acutance.measure, name, net, data, m=4, loss="half_squared_sum", scaling="balanced") for name in HESSIAN
    )
    assert len(trace().per_batch) == 3
    assert trace(level="dataset").value == pytest.approx(3 * trace().value, rel=1e-12)
    assert top(level="dataset").value < 3 * top().value and trace().extras["identity_of"] == "||beta||_1"
    mean = partial(acutance.measure, "dln_trace", net, data, m=4, loss="mse")
    assert mean(level="dataset").value == pytest.approx(mean().value, rel=1e-12)


# -- what is told beside them -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_extras(loss):
    surface = surface_of(loss, kind="unit_columns", n=4)
    u, v = weights(surface.model)
    x, y = surface.inputs, surface.targets
    beta, r, kappa = u * v, x @ (u * v) - y, {"half_squared_sum": 1.0, "squared_sum": 2.0, "mse": 0.5}[loss]
    forms = {
        "balanced": (("||beta||_1", beta.abs().sum()), ("||beta||_inf", beta.abs().max())),
        "elementwise": (("||beta||_2^2", beta.norm() ** 2), ("||beta||_inf^2", beta.abs().max() ** 2)),
        "none": (
            ("sum (c_u^2 v^2 + c_v^2 u^2) / 2", (u * u + v * v).sum() / 2),
            ("max (c_u^2 v^2 + c_v^2 u^2) / 2", (u * u + v * v).max() / 2),
        ),
    }
    for scaling, expected in forms.items():
        c = c_of(scaling, u, v)
        for name, (words, number) in zip(HESSIAN, expected, strict=True):
            found = acutance.measure(name, surface, scaling=scaling)
            about = found.extras
            assert about["identity_of"] == words and about["identity"] == pytest.approx(float(number))
            assert about["factor"] == kappa and about["half"] == pytest.approx(found.value / 2 / kappa)
            assert about["residual_norm"] == pytest.approx(float(r.norm()))
            assert about["gradient_norm"] == pytest.approx(float((c * surface.gradient()[1]).norm()))
            assert about["loss"] == float(surface.loss()) and about["columns_off_unit"] < 1e-12
            assert ("columns_off_orthonormal" in about) is (name == "dln_top_eigenvalue")
            # Unit columns are enough for the trace, not for the largest eigenvalue.
            assert (about["half"] == pytest.approx(about["identity"])) is (name == "dln_trace")
            assert about.get("columns_off_orthonormal", 1) > 1 / 6
    restricted = LossSurface(surface.model, (x, y), loss=loss, parameters="u")
    for part in (
        acutance.measure("dln_trace", surface, scaling="balanced", parameters="u").extras,
        acutance.measure("dln_trace", restricted, scaling="balanced").extras,
    ):
        assert part["identity_of"].startswith("sum") and part["identity"] == pytest.approx(float(beta.abs().sum()) / 2)
        assert part["half"] == pytest.approx(part["identity"])


def test_at_a_minimum_with_orthonormal_columns_all_identities_hold():
    surface = surface_of(kind="orthonormal", noise=0)
    for name in HESSIAN:
        for scaling in SCALINGS:
            about = acutance.measure(name, surface, scaling=scaling).extras
            assert about["half"] == pytest.approx(about["identity"], rel=1e-12)
            assert about["residual_norm"] < 1e-14 and about["gradient_norm"] < 1e-14


# -- where they are not defined -----------------------------------------------------------------------------


class Shifted(DiagonalLinearNetwork):
    """Another function with the same parameters."""

    def forward(self, x):
        return super().forward(x) + 1


class Column(DiagonalLinearNetwork):
    """The same function with a class axis of one."""

    def forward(self, x):
        return super().forward(x)[:, None]


class Biased(DiagonalLinearNetwork):
    """The same function, and a parameter that could change it."""

    def __init__(self, u, v):
        super().__init__(u, v)
        self.bias = nn.Parameter(torch.zeros(1).double())

    def forward(self, x):
        return super().forward(x) + self.bias


def unsupported(name, surface, **fields):
    found = acutance.measure(name, surface, **fields)
    assert found.status is Status.UNSUPPORTED and math.isnan(found.value)
    return found.message


def test_other_models_are_unsupported():
    for name in HESSIAN:
        message = unsupported(name, LossSurface(MLP(), mlp_data()))
        assert "diagonal linear networks" in message and "this model is MLP" in message
    assert "this norm is that of diagonal linear networks" in unsupported("dln_beta_norm", LossSurface(MLP(), None))


@pytest.mark.parametrize("name", HESSIAN)
def test_surfaces_without_a_closed_form_are_unsupported(name):
    net = network()
    x, y = points(net)
    assert "one output" in unsupported(name, surface_of(), logit_norm=True)
    assert "one output" in unsupported(name, surface_of().transformed())
    message = unsupported(name, LossSurface(net, (x, y), loss=lambda f, t: (f - t).abs().mean()))
    assert "a function, <lambda>: choose half_squared_sum, squared_sum, mse" in message
    classes = LossSurface(net, (x, torch.zeros(9).long()))
    assert "the loss is cross_entropy" in unsupported(name, classes)
    with pytest.raises(acutance.UserError, match="an example has 1 outputs, but targets of shape"):
        acutance.measure(name, LossSurface(net, (x, y[:, None].expand(9, 2)), loss="mse"))
    assert "inputs that are one tensor of shape (n, 6)" in unsupported(name, LossSurface(net, ((x,), y), loss="mse"))
    assert "(Shifted) are others" in unsupported(name, LossSurface(Shifted(*weights(net)), (x, y), loss="mse"))
    biased = LossSurface(Biased(*weights(net)), (x, y), loss="mse")
    assert "this model (Biased) has bias too" in unsupported(name, biased)
    assert "(Biased) has bias too" in unsupported("hessian_trace", biased, scaling="balanced")
    net.v = net.u
    assert "one parameter" in unsupported(name, LossSurface(net, (x, y), loss="mse"))


def test_a_column_of_outputs_and_targets_is_the_same():
    net = network()
    x, y = points(net, noise=0.3)
    column = LossSurface(Column(*weights(net)), (x, y[:, None]), loss="mse")
    for name in HESSIAN:
        assert (
            acutance.measure(name, column).value == acutance.measure(name, LossSurface(net, (x, y), loss="mse")).value
        )


def test_mistakes_of_the_user_are_told():
    with pytest.raises(UserError, match="matches no parameter"):
        acutance.measure("dln_trace", surface_of(), parameters="w")
    with pytest.raises(UserError, match="unknown scaling"):
        acutance.measure("dln_trace", surface_of(), scaling="balancd")


def test_a_dense_eigensolver_has_its_limit(monkeypatch):
    from acutance_dln import estimate

    monkeypatch.setattr(estimate, "LARGEST", 11)
    message = unsupported("dln_top_eigenvalue", surface_of())
    assert "the Hessian of 12 parameters" in message and "hessian_top_eigenvalue" in message
    assert acutance.measure("dln_trace", surface_of()).status is Status.OK


def test_what_overflows_is_nonfinite():
    large = torch.full((3,), 1e160, dtype=torch.float64)
    big = DiagonalLinearNetwork(large, 1 / large)
    surface = LossSurface(big, (torch.ones(4, 3).double(), torch.zeros(4).double()), loss="mse")
    for name in HESSIAN:
        found = acutance.measure(name, surface, scaling="none")
        assert found.status is Status.NONFINITE and "overflows" in found.message
        assert acutance.measure(name, surface, scaling="balanced").status is Status.OK


# -- conduct ------------------------------------------------------------------------------------------------


def test_one_pass_serves_them_all():
    surface = surface_of()
    costs = [acutance.measure(name, surface, scaling=scaling).cost for name in HESSIAN for scaling in SCALINGS]
    assert [c.forwards for c in costs] == [9, 0, 0, 0, 0, 0] and not any(c.backwards or c.hvps for c in costs)
    for name in HESSIAN:
        measure = catalog().measure(name)
        passes = measure.passes(measure.Spec())
        assert (passes.forwards, passes.backwards, passes.hvps) == (1, 0, 0)


def test_models_stay_as_they_were():
    net = network().train()
    net.u.requires_grad_(False)
    net.v.grad = torch.ones(6).double()
    surface = LossSurface(net, points(net, noise=0.4), loss="mse")
    before = snapshot(net)
    for name in HESSIAN:
        for fields in ({}, {"scaling": "balanced"}, {"parameters": "u"}, {"logit_norm": True}):
            acutance.measure(name, surface, **fields)
    acutance.measure("dln_beta_norm", surface)
    assert_untouched(net, before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("name", HESSIAN)
def test_microbatches_and_single_precision(name, scaling):
    value = acutance.measure(name, surface_of(), scaling=scaling).value
    for size in (1, 4, 9):
        assert acutance.measure(name, surface_of(microbatch=size), scaling=scaling).value == value
    single = acutance.measure(name, surface_of(dtype="float32"), scaling=scaling)
    assert single.value == pytest.approx(value, rel=1e-5) and single.status is Status.OK
    # The rounded weights and points are taken as they are; only they are rounded.
    rounded = copy.deepcopy(surface_of().model).float().double()
    exact = LossSurface(
        rounded, tuple(t.float().double() for t in points(network(), noise=0.5)), loss="half_squared_sum"
    )
    assert single.value == pytest.approx(acutance.measure(name, exact, scaling=scaling).value, rel=1e-6)


SPECS = [{}, {"scaling": "balanced"}]


def expected(which):
    def value(surface, spec):
        if not isinstance(surface.model, DiagonalLinearNetwork):
            return None
        h = rescaled(surface, c_of(spec.scaling, *weights(surface.model)))
        return float(h.trace() if which == "trace" else torch.linalg.eigvalsh(h)[-1])

    return value


def norm_of(surface, spec):
    model = surface.model
    return float(model.beta.detach().norm(float(spec.p))) if isinstance(model, DiagonalLinearNetwork) else None


TestTrace = conformance("dln_trace", spec=SPECS, expected=expected("trace"))
TestTopEigenvalue = conformance("dln_top_eigenvalue", spec=SPECS, expected=expected("top"))
TestBetaNorm = conformance("dln_beta_norm", spec=[{"p": p} for p in (1, 2, "inf")], expected=norm_of)


def test_the_kit_passes_without_a_note_but_for_other_models():
    for kit in (TestTrace, TestTopEigenvalue, TestBetaNorm):
        for outcome in kit.examination.run():
            assert outcome.state != "failed", outcome.message
            assert (
                outcome.state == "passed"
                or "GPU" in outcome.message
                or "level weights" in outcome.message
                or ("stochastic" in outcome.message)
            ), outcome.message
            assert all("not defined, and so not checked" in note for note in outcome.notes), outcome.notes


def test_a_study_of_them(tmp_path):
    nets = {f"net{seed}": network(seed=seed) for seed in range(4)}
    data = points(network(seed=0), "unit_columns", n=8, noise=0.1)
    run = acutance.study(
        models=nets | {"other": nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)).double()},
        data=data,
        targets={"test_loss": [1.0, 2.0, 3.0, 4.0, 5.0]},
        measures=[
            {"name": "dln_trace", "scaling": ["balanced", "none"]},
            {"name": "dln_top_eigenvalue", "scaling": "balanced"},
            {"name": "dln_beta_norm", "p": [1, math.inf]},
        ],
        surface={"loss": "half_squared_sum", "m": 8, "points": 8, "dtype": "float64"},
        out=tmp_path,
        report=False,
    )
    table = run.results
    assert set(table.loc[table["model"].str.contains("other") & table["measure"].str.contains("dln"), "status"]) == {
        "unsupported"
    }
    fine = table[table["status"] == "ok"]
    for seed in range(4):
        rows = fine[fine["model"].str.endswith(f"net{seed}")]
        trace = rows[(rows["measure"].str.contains("dln_trace")) & (rows["spec.scaling"] == "balanced")]["value"]
        norms = rows[rows["measure"].str.contains("dln_beta_norm")]
        assert set(norms["spec.p"].astype(str)) <= {"1", "1.0", "inf"}
        l1 = norms[norms["spec.p"].astype(str) != "inf"]["value"]
        assert float(trace.iloc[0]) / 2 == pytest.approx(float(l1.iloc[0]), rel=1e-10)
