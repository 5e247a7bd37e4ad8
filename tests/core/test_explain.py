"""Results in words: what is said follows from the numbers, and nothing hostile gets through."""

import dataclasses
import io
import math
import pickle

import numpy as np
import pytest
import torch
from acme_toy.plugin import MoodySpec
from click.testing import CliRunner
from models import MLP, mlp_data
from rich.console import Console

import acutance
from acutance.cli import cli
from acutance.measure import Cost, Estimate, Status

HOSTILE = "<script>alert('x')</script>[bold]"


def shown(value):
    console = Console(file=io.StringIO(), width=200)
    console.print(value)
    return console.file.getvalue()


def measured(name="worst_case", **fields):
    return acutance.measure(name, MLP(), mlp_data(24), m=12, **({"rho": 0.1, "steps": 4} | fields))


def test_an_estimate_knows_its_measure_and_settings_but_is_equal_without_them():
    e = measured()
    assert e.measure == "acutance/worst_case" and e.spec["rho"] == 0.1 and e.spec["steps"] == 4
    plain = dataclasses.replace(e, measure="", spec=None)
    assert plain == e and "worst_case" not in repr(e) and repr(plain) == repr(e)
    assert pickle.loads(pickle.dumps(e)).explain() == e.explain()
    one = acutance.measure("worst_case", acutance.LossSurface(MLP(), mlp_data(24)), rho=0.1, steps=4)
    assert one.measure == e.measure


def test_the_explanation_says_what_the_numbers_are():
    e = measured()
    text = e.explain()
    settings = text.splitlines()[0].split("  [")[1].rstrip("]")
    told = dict(part.split(" = ") for part in settings.split(", "))
    # Every setting, a default too: what is measured cannot be read off the radius alone.
    assert told.keys() >= {"rho", "norm", "scaling", "logit_norm", "steps", "restarts", "start", "candidates", "mode"}
    assert (told["rho"], told["steps"], told["norm"], told["logit_norm"]) == ("0.1", "4", "linf", "false")
    assert text.startswith(f"worst_case = {e.value:.6g}  [{settings}]\nWorst-case sharpness in a ball")
    assert "A larger value means: sharper." in text
    assert f"from {e.extras['clean_loss']:.4g} to {e.extras['perturbed_loss']:.4g}" in text
    assert f"from {e.extras['clean_error']:.2%} to {e.extras['perturbed_error']:.2%}" in text
    low, high = min(e.per_batch), max(e.per_batch)
    assert (
        f"Mean over 2 m-batches, from {low:.4g} to {high:.4g}; standard error over batches {e.extras['batch_stderr']:.2g}"
        in text
    )
    assert f"{e.cost.forwards:,.0f} forward, {e.cost.backwards:,.0f} backward" in text and "Hessian" not in text
    assert "What to try" not in text and "no Monte-Carlo error" in text


def test_monte_carlo_error_and_an_uncertain_sign():
    e = acutance.measure("average_case", MLP(), mlp_data(24), rho=0.1, draws=8)
    assert f"Monte-Carlo standard error {e.stderr:.2g}, {e.stderr / abs(e.value):.1%} of the value." in e.explain()
    assert (
        "sign is not certain" in Estimate(1.0, 0.6).explain()
        and "sign is not certain" not in Estimate(1.0, 0.4).explain()
    )
    assert "standard error 0.5." in Estimate(0.0, 0.5).explain()


@pytest.mark.parametrize(
    ("half", "verdict"),
    [(1.0, "has converged"), (0.95, "had nearly converged"), (0.5, "had not converged: raise its steps")],
)
def test_convergence(half, verdict):
    text = Estimate(2.0, extras={"value_half": 2 * half, "radius_reached": 0.6}).explain()
    assert f"Half of the steps reached {half:.1%} of the value" in text and f"the search {verdict}" in text
    assert "inside the ball, at 60.0% of its radius" in text
    assert "on the boundary" in Estimate(2.0, extras={"radius_reached": 1.0}).explain()


def test_past_chance_level_nothing_has_converged():
    """A radius far too large: the loss of 10^3 says how outputs grow, whatever half of the steps had reached."""
    model, (x, _) = MLP(), mlp_data(24)
    y = model(x).argmax(1)  # so that the network is better than chance
    far, near = (
        acutance.measure("worst_case", model, (x, y), m=12, rho=rho, norm="l2", steps=8) for rho in (100.0, 1e-4)
    )
    assert near.chance == far.chance == pytest.approx(math.log(4)) and far.extras["perturbed_loss"] > 10 * far.chance
    assert "past chance level: the same answer for every input has a loss of 1.386" in far.explain()
    assert "converged" not in far.explain() and "past chance level this does not say" in far.explain()
    assert near.extras["clean_loss"] < near.chance and "chance level" not in near.explain()
    extras = {"clean_loss": 1.38, "perturbed_loss": 3815.0, "value_half": 3813.6, "radius_reached": 1.0}
    told = Estimate(3813.62, extras=extras, chance=1.386).explain()
    assert "from 1.38 to 3815" in told and "past chance level" in told and "has converged" not in told
    assert "has converged" in Estimate(3813.62, extras=extras).explain()  # chance is not known
    assert "has converged" in Estimate(3813.62, extras=extras | {"perturbed_loss": 1.385}, chance=1.386).explain()
    bad = Estimate(3813.62, extras=extras | {"clean_loss": 1.4}, chance=1.386).explain()
    assert "at chance level before anything is moved: its loss is 1.4" in bad and "radius is past" not in bad


def test_the_chance_level_costs_no_pass_and_is_that_of_the_loss():
    surface = acutance.LossSurface(MLP(), mlp_data(24))
    for fields in ({}, {"logit_norm": True}, {"parameters": "layers.0.*"}):
        before = surface.cost
        e = acutance.measure("worst_case", surface, rho=0.1, steps=4, **fields)
        assert (surface.cost - before).forwards == pytest.approx(e.cost.forwards)
        assert e.chance is not None and (e.chance == pytest.approx(math.log(4))) != ("logit_norm" in fields)
    assert acutance.measure("hessian_trace", surface, probes=2).chance is None
    assert dataclasses.replace(e, chance=None) == e and "chance" not in repr(e)


@pytest.mark.parametrize("status", list(Status))
def test_every_end_says_what_to_try(status):
    e = Estimate.without_value(status, "it was so") if status != "ok" else Estimate(1.0)
    text = e.explain()
    if status == "ok":
        assert text.startswith("value = 1") and "try" not in text
    else:
        assert text.startswith(f"value = no value ({status}: it was so)") and f"What to try: {status.advice}." in text
        assert "Monte-Carlo" not in text


def test_an_infinite_value_and_a_measure_that_is_not_installed():
    e = dataclasses.replace(Estimate(math.inf), measure="gone/away", spec={"p": 2})
    assert e.explain().startswith("away = inf (nonfinite: the loss overflowed") and "[p = 2]" in e.explain()
    assert Estimate(3.0, cost=Cost(hvps=1234)).explain().endswith("1,234 Hessian-vector product.")


def test_what_fails_in_the_harness_says_of_what_it_is():
    from acme_toy.plugin import Moody

    from acutance.surface.evaluation import evaluate_family

    surface = acutance.LossSurface(MLP(), mlp_data(24))
    for mood, status in (("raise", Status.FAILED), ("unsupported", Status.UNSUPPORTED)):
        (e,) = evaluate_family("acme-toy/moody", Moody(), surface, [MoodySpec(mood=mood)], seed=0, batch=0, catch=True)
        assert (e.status, e.measure, e.spec["mood"]) == (status, "acme-toy/moody", mood)
        assert f"mood = {mood}" in e.explain()


def test_nothing_hostile_gets_through():
    e = dataclasses.replace(Estimate.without_value(Status.FAILED, HOSTILE), measure="a/" + "<b>", spec={"<i>": HOSTILE})
    page = e._repr_html_()
    assert "<script" not in page and "<b>" not in page and "<i>" not in page and "&lt;script&gt;" in page
    assert HOSTILE in shown(e)
    k = dataclasses.replace(acutance.kendall_tau([1, 2, 3], [1, 2, 3]), note=HOSTILE)
    assert "<script" not in k._repr_html_() and HOSTILE in shown(k)


def test_kendalls_tau():
    k = acutance.kendall_tau(np.arange(12), np.random.default_rng(0).permutation(12))
    assert k.line == f"tau-a = {k.tau:+.3f} [{k.low:+.3f}, {k.high:+.3f}], p = {k.p:.4g}, n = 12"
    assert shown(k).strip() == k.line
    assert "not defined" in acutance.kendall_tau([1.0, 1, 1, 1], [1, 2, 3, 4], variant="b").line


def test_a_surface_in_one_line_makes_no_pass():
    surface = acutance.LossSurface(MLP(), mlp_data(24))
    line = f"LossSurface({surface.w.numel():,} free parameters, n = 24, cross_entropy, float64, cpu)"
    assert repr(surface) == line and surface.cost.forwards == 0
    loss = float(surface.loss())
    assert f"cross_entropy = {loss:.6g}, float64" in repr(surface)
    assert "logit-normalized" in repr(surface.transformed(True))
    assert f"({surface.restricted('layers.0.*').w.numel()} free" in repr(surface.restricted("layers.0.*"))
    own = acutance.LossSurface(MLP(), mlp_data(24), loss=torch.nn.functional.cross_entropy)
    assert "n = 24, cross_entropy, float64" in repr(own)
    assert "n = 0" in repr(acutance.LossSurface(MLP(), None))


def test_a_run(toy_config, tmp_path):
    toy_config["pools"][0]["size"] = 4
    run = acutance.run(toy_config | {"title": HOSTILE}, out=tmp_path / "<b>", report=False)
    assert repr(run) == (
        f"Run({tmp_path / '<b>'}: 4 of 4 models compared, 5 definitions, {run.computed} cells computed, 0 without a number)"
    )
    assert repr(run) in shown(run)
    page = run._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;" in page and page.count("<tr") == 1 + 10
    assert "adaptive worst-case ℓ∞, ρ = 0.01" in page and "the 10 largest of 15 correlations" in page
    assert "report.html" not in page
    run.report.write_text("")
    assert 'href="' in run._repr_html_()


def test_the_option_of_the_command_line(tmp_path):
    import json

    arguments = [
        "measure",
        "toy/toy2",
        "--data",
        "toy",
        "--measure",
        "worst_case",
        "--measure",
        "error",
        "-m",
        "20",
        "--explain",
    ]
    options = ["--set", "rho=0.1"]
    both = CliRunner().invoke(cli, [*arguments, *options], standalone_mode=False)
    assert isinstance(both.exception, acutance.UserError)  # an error has no radius
    one = [a for a in arguments if a not in ("error",)]
    del one[one.index("worst_case") + 1]
    done = CliRunner().invoke(cli, [*one, *options], standalone_mode=False)
    assert done.exception is None and done.output.startswith("worst_case = ") and "m-batches" in done.output
    as_json = json.loads(CliRunner().invoke(cli, [*one, *options, "--json"], standalone_mode=False).output)
    assert as_json["worst_case"]["explanation"] == done.output.rstrip("\n")
