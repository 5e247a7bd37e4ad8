"""The linear classifier of Figure 1: no error at any scale, and what depends on the scale."""

import math

import pytest
import torch

import acutance
from acutance import LossSurface, UserError
from acutance.run.harness import run_study
from acutance.study.config import load_config
from acutance.testing import conformance
from acutance_dln.linear import LinearScale, LinearScaleSpec, LinearSeparable, LinearSeparableSpec, classifier

TestPool = conformance("linear_scale", kind="pool", spec={"size": 2})
TestDataset = conformance("linear_separable", kind="dataset")


def model(scale=1.0, **spec):
    settings = LinearScaleSpec(**spec)
    entries = {e.attributes["scale"]: e for e in LinearScale().entries(settings)}
    return LinearScale().load(entries[scale], settings)


def test_every_model_is_right_about_every_point_with_the_margin():
    data = LinearSeparable(LinearSeparableSpec(train_points=500, margin=0.7))
    for split, n in (("train", 500), ("test", 4096)):
        points = data.open(split)
        assert points.inputs.shape == (n, 20) and points.inputs.dtype == torch.float64
        logits = points.inputs @ classifier(data.spec).T
        top = logits.topk(2, dim=1).values
        assert bool((logits.argmax(1) == points.targets).all()) and float((top[:, 0] - top[:, 1]).min()) >= 0.7
        assert points.targets.unique().numel() == 10
        for scale in (2.0**-5, 1.0, 2.0**5):
            assert bool((model(scale)(points.inputs).argmax(1) == points.targets).all())
    train, test = (set(map(tuple, data.open(s).inputs[:, :2].tolist())) for s in ("train", "test"))
    assert not train & test


def test_the_scales_are_powers_of_two():
    entries = LinearScale().entries(LinearScaleSpec(size=4, smallest=-1))
    assert [e.attributes["scale"] for e in entries] == [0.5, 1.0, 2.0, 4.0]
    torch.testing.assert_close(model(4.0).weight, 4 * model(1.0).weight, rtol=0, atol=0)


@pytest.mark.parametrize("fields", [
    {"name": "worst_case", "norm": "l2", "rho": 0.5}, {"name": "worst_case", "norm": "linf", "rho": 0.02},
    {"name": "average_case", "rho": 0.2, "draws": 5}, {"name": "hessian_trace", "probes": 5},
])  # fmt: skip
def test_with_normalized_logits_sharpness_does_not_know_the_scale(fields):
    points = LinearSeparable().open("train")
    data = points.inputs[:64], points.targets[:64]
    values = {}
    for logit_norm in (True, False):
        surfaces = [LossSurface(model(scale), data) for scale in (0.25, 1.0, 8.0)]
        settings = {k: v for k, v in fields.items() if k != "name"}
        values[logit_norm] = [
            acutance.measure(fields["name"], s, logit_norm=logit_norm, **settings).value for s in surfaces
        ]
    assert len(set(values[True])) == 1
    assert max(values[False]) > 1.5 * min(values[False]) and all(math.isfinite(v) for v in values[False])


@pytest.mark.parametrize("fields,message", [
    ({"margin": 50.0}, "dataset.margin: fewer than 1% of the points"),
    ({"classes": 1}, "classes"),
])  # fmt: skip
def test_tasks_that_cannot_be(fields, message):
    with pytest.raises((UserError, ValueError), match=message):
        LinearSeparable(LinearSeparableSpec(**fields)).open("train")


def test_the_preset_at_small_effort(tmp_path):
    study = load_config(
        "linear_scale", {"surface.points": 128, "pools.0.size": 5, "measures.0.draws": 10}, executor="serial"
    )
    run = run_study(study, tmp_path / "run", report=False)
    assert run.failed == 0 and run.models["admitted"].all()
    scale = run.correlations[run.correlations["target"] == "attr:scale"]
    assert (scale.loc[scale["spec.logit_norm"].astype(bool), "tau"] == 0).all()
    strong = scale[(scale["measure"] == "average_case") & ~scale["spec.logit_norm"].astype(bool)]
    assert (strong.set_index("spec.rho")["tau"].loc[[0.4, 0.8]] == 1).all()
