"""A coarser arithmetic for first-order passes: asked for by name, with its error stated, never for second derivatives."""

import pytest
import torch
from models import MLP, mlp_data

import acutance
from acutance import LossSurface, UserError
from acutance.study.surface_config import NATIVE_MOVES, SurfaceConfig
from acutance.workflows.calibration import levels_of


def single(**settings):
    x, y = mlp_data()
    return LossSurface(MLP().float(), (x.float(), y), **settings)


def test_bf16_is_coarser_and_says_by_how_much():
    exact, coarse = single(), single(arithmetic="bf16")
    difference = (coarse.loss() - exact.loss()).abs()
    assert 0 < float(difference) < 0.05 * float(exact.loss())
    assert torch.equal(coarse.rounding(), difference)
    assert coarse.raw_logits().dtype == torch.float32
    loss, gradient = coarse.gradient(coarse.w)
    assert torch.equal(loss, coarse.loss())
    assert not torch.equal(gradient, exact.gradient()[1])
    torch.testing.assert_close(gradient, exact.gradient()[1], rtol=0, atol=float(gradient.abs().max()) * 0.05)


def test_its_error_costs_one_forward_for_all_views_and_none_where_it_is_exact():
    exact, coarse = single(), single(arithmetic="bf16")
    assert float(exact.rounding()) == 0 and exact.cost.forwards == 0
    coarse.loss()
    before = coarse.cost.forwards
    plain, normalized = coarse.rounding(), coarse.transformed().rounding()
    assert coarse.cost.forwards - before == coarse.n
    assert float(plain) != float(normalized)


def test_second_derivatives_stay_exact():
    v = torch.ones_like(single().w)
    assert torch.equal(single(arithmetic="bf16").hvp(v), single().hvp(v))


def test_measures_run_on_it_and_find_nearly_the_same():
    for name, settings in (("worst_case", {"rho": 0.1, "steps": 5}), ("average_case", {"rho": 0.3, "draws": 20})):
        values = [acutance.measure(name, single(arithmetic=how), **settings).value for how in ("exact", "bf16")]
        assert values[0] != values[1]
        assert values[1] == pytest.approx(values[0], rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arithmetic": "bf61"}, "arithmetic: 'bf61' is unknown"),
        ({"arithmetic": "bf16", "dtype": "float64"}, "coarser than float32"),
        ({"arithmetic": "tf32", "device": "cpu"}, "arithmetic of GPUs"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        single(**settings)


def test_it_is_part_of_what_a_cell_is_but_not_of_a_target():
    coarse = SurfaceConfig(arithmetic="bf16")
    assert coarse.identity("batch")["arithmetic"] == "bf16"
    assert "arithmetic" not in SurfaceConfig().identity("batch")
    for scope in ("split", "weights"):
        assert coarse.identity(scope) == SurfaceConfig().identity(scope)


def test_how_native_weights_move_is_in_the_keys_of_what_moves_them_alone():
    native = SurfaceConfig(dtype="native")
    for scope in ("batch", "points"):
        assert native.identity(scope)["moves"] == NATIVE_MOVES and "moves" not in SurfaceConfig().identity(scope)
    for scope in ("split", "weights"):
        assert "moves" not in native.identity(scope)


def test_calibration_trusts_no_rise_that_is_smaller_than_the_error():
    coarse, exact = single(arithmetic="bf16"), single()
    assert levels_of(coarse).resolution == float(coarse.rounding()) > levels_of(exact).resolution
