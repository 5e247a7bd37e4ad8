"""A measure with one fault fails exactly the check that looks for it, whose message says what to do."""

import sys
from pathlib import Path

import pytest
import torch

# Beside this file, where a fresh process finds them too.
sys.path.insert(0, str(Path(__file__).parent))

import faulty_heavy
import faulty_measures as faulty
from shortlist import one_for_each_check

from acutance.measure import Cost, Estimate, Traits
from acutance.plugins import Item
from acutance.testing import examine

FAULTS = [
    (faulty.WithoutDocstring, "name_doc_and_reference", "has no docstring: give the formula"),
    (faulty.WithoutReference, "name_doc_and_reference", "traits.reference is empty: say where"),
    (faulty.StrangeTraits, "traits_are_known_words", "unknown words luck: known are weights"),
    (faulty.LabelOfAnotherMeasure, "is_shown_by_its_own_fields", "'{scaling} stretch', has scaling: write {FIELD} with one of rho, way"),
    (faulty.LabelThatIsNoTemplate, "is_shown_by_its_own_fields", "has braces around what is no name"),
    (faulty.CurveWithoutAxes, "is_shown_by_its_own_fields", "traits.curves['profile'] is ('distance',): say what both axes are"),
    (faulty.DataOnTheWeightsLevel, "traits_are_known_words", "level weights opens no data, but needs has data: choose level"),
    (faulty.PassesUnknown, "passes_and_vectors_are_known", "gave None: return Cost"),
    (faulty.AcceptsAnything, "spec_is_closed_and_documented", "accepts fields it does not know"),
    (faulty.FieldWithoutDocstring, "spec_is_closed_and_documented", "field 'rho' has no docstring under it"),
    (faulty.GrowsOnTheWay, "spec_round_trips", "make its validators accept what full() writes, unchanged"),
    (faulty.DefaultOfTheProcess, "schema_is_stable", "the schema of ProcessSpec differs between two processes"),
    (faulty.Raises, "evaluates", "evaluate raised KeyError: 'nothing here' on problem 'quadratic'"),
    (faulty.UnsupportedEverywhere, "evaluates", "(only on Sundays): pass surfaces=[...]"),
    (faulty.UnsupportedWithoutReason, "evaluates", "Unsupported was raised without a reason on problem 'quadratic'"),
    (faulty.KeepsState, "same_seed_same_value", "draw all noise from rng, and keep no state"),
    (faulty.GlobalGenerator, "leaves_global_generators_alone", "moved the global generator of torch"),
    (faulty.GlobalState, "leaves_global_generators_alone", "depends on the global random state"),
    (faulty.StochasticUndeclared, "other_seeds_matter_where_declared", "write stochastic=True"),
    (faulty.StochasticInName, "other_seeds_matter_where_declared", "write stochastic=False"),
    (faulty.DependsOnMicrobatch, "microbatch_changes_nothing", "microbatch is memory, not meaning"),
    (faulty.FirstBatchCounts, "order_of_batches_does_not_matter", "keep nothing from one evaluation to the next"),
    (faulty.SpoilsTheMemo, "order_of_batches_does_not_matter", "something memoised was changed"),
    (faulty.LooksAtTheFirstExample, "order_of_examples_does_not_matter", "a function of the set of its examples"),
    (faulty.SinglePrecisionOff, "float32_agrees_with_float64", "accumulate sums and differences of losses in float64"),
    (faulty.KnowsItsProcess, "survives_a_fresh_process", "nothing that was set in this process may enter"),
    (faulty.ManyDisagree, "evaluate_many_equals_evaluate", "evaluate_many may share passes, never change values"),
    (faulty.FalseInvariance, "declared_invariances_hold", "traits claims invariance to rescaling, but"),
    (faulty.MovesTheSurface, "leaves_everything_as_it_was", "evaluate changed the surface's w"),
    (faulty.MovesTheModel, "leaves_everything_as_it_was", "evaluate changed parameter '"),
    (faulty.LeavesGradients, "leaves_everything_as_it_was", "evaluate changed grad of '"),
    (faulty.LeavesEvaluationMode, "leaves_everything_as_it_was", "training flag of 'the model'"),
    (faulty.SwitchesGradients, "leaves_everything_as_it_was", "evaluate changed grad mode"),
    (faulty.RestoresOnlyInPeace, "leaves_everything_as_it_was_after_an_exception", "put it back in a finally clause"),
    (faulty.HvpUndeclared, "needs_are_declared", "calls surface.hvp, but needs does not name hvp: add it"),
    (faulty.GradientUndeclared, "needs_are_declared", "calls surface.gradient, but needs does not name gradient"),
    (faulty.SlopeUndeclared, "needs_are_declared", "calls surface.moving_point().gradient, but needs does not name gradient"),
    (faulty.SearchUndeclared, "needs_are_declared", "calls surface.perturbed, but needs does not name gradient"),
    (faulty.DataUndeclared, "needs_are_declared", "calls surface.loss, but needs does not name data"),
    (faulty.StartUndeclared, "needs_are_declared", "calls surface.w0, but needs does not name initial_weights"),
    (faulty.HiddenCost, "all_passes_are_booked", "not by calling surface.model"),
    (faulty.NeedsDataInName, "all_passes_are_booked", "take data out of needs"),
    (faulty.DividesByZero, "finite_or_honest", "evaluate raised ZeroDivisionError"),
    (faulty.NothingToSay, "finite_or_honest", "with status not_converged and no message"),
    (faulty.FailsInSilence, "finite_or_honest", "status budget on"),
    (faulty.NanInExtras, "estimates_are_json", "extras['slope'] on"),
    (faulty.NegativeError, "estimates_are_json", "give a float that is not negative"),
    (faulty_heavy.Heavy, "import_is_light", "importing faulty_heavy imports numpy: move these imports into the functions"),
]  # fmt: skip

# Two of the checks ask a fresh process; starting it for every fault would take most of the time.
SLOW = {"survives_a_fresh_process", "import_is_light", "schema_is_stable"}


def failures(target, tried):
    examination = examine(Item("measures", target.name, "acme-faulty", "1.0", target))
    names = [name for name in examination.checks if name not in SLOW or name in tried]
    outcomes = [examination.outcome(name) for name in names]
    return {o.check.name: o for o in outcomes if o.state == "failed"}, outcomes


@pytest.fixture(autouse=True)
def gradients_stay_on():
    """One of the faults is to switch them off for the whole process."""
    with torch.set_grad_enabled(True):
        yield


def test_the_measure_that_the_faults_are_made_from_is_sound():
    faulty_ones, outcomes = failures(faulty.Sound, {"survives_a_fresh_process", "schema_is_stable"})
    assert not faulty_ones
    assert [o.check.name for o in outcomes if o.state == "skipped" and o.check.name != "gpu_agrees_with_cpu"] == [
        "closed_forms_are_met"
    ]


@pytest.mark.parametrize(
    ("target", "check", "message"),
    one_for_each_check(FAULTS, lambda fault: fault[1]),
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_fault_fails_exactly_the_check_that_looks_for_it(target, check, message):
    failed, outcomes = failures(target, {check})
    assert {name: o.message for name, o in failed.items()}.keys() == {check}, {n: o.message for n, o in failed.items()}
    assert message in failed[check].message
    assert isinstance(failed[check].error, AssertionError) and len(failed[check].message) < 500
    for outcome in outcomes:
        if check in outcome.check.after:
            assert outcome.state == "skipped" and f"it rests on {check}" in outcome.message


def test_every_check_that_can_fail_is_tried_by_a_fault():
    from acutance.testing.measures import CHECKS

    never = {"standard_error_is_given", "gpu_agrees_with_cpu"}  # a note; needs a GPU
    assert {check.name for check in CHECKS} - never - {check for _, check, _ in FAULTS} == {"closed_forms_are_met"}


def test_notes_say_what_is_not_wrong():
    def notes(target, check):
        return examine(Item("measures", target.name, "acme-faulty", "1.0", target)).outcome(check).notes

    class Costly(faulty.Sound):
        def passes(self, spec):
            return Cost(forwards=5, hvps=1)

    class SometimesGradient(faulty.Sound):
        def evaluate(self, surface, spec, rng):
            return float(surface.gradient()[0]) if spec.way == "in" else super().evaluate(surface, spec, rng)

    class Idle(faulty.Sound):
        traits = Traits(needs={"data", "hvp"}, reference="these tests")

    class Swallows(faulty.Sound):
        def evaluate(self, surface, spec, rng):
            try:
                return super().evaluate(surface, spec, rng)
            except RuntimeError:
                return 0.0

    class WithError(faulty.Sound):
        def evaluate(self, surface, spec, rng):
            return Estimate(super().evaluate(surface, spec, rng), stderr=0.1)

    assert (
        "says 5 forwards where 2 were made, 1 Hessian-vector products where 0 were made"
        in notes(Costly, "all_passes_are_booked")[0]
    )
    assert "with {way: in} the measure calls surface.gradient" in notes(SometimesGradient, "needs_are_declared")[0]
    assert "needs names hvp, which was not called" in notes(Idle, "needs_are_declared")[0]
    assert "swallowed" in notes(Swallows, "leaves_everything_as_it_was_after_an_exception")[0]
    assert "deterministic, but with a stderr" in notes(WithError, "standard_error_is_given")[0]
