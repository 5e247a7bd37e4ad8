"""Names of definitions: those of built-in measures are frozen, those of others follow their classes."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import pytest
from definitions_swept import definitions

from acutance.analysis.labels import definition_name, target_label
from acutance.measure import SharpnessSpec, Traits
from acutance.plugins import Item, catalog, extended
from acutance.presentation import UNKNOWN, Presentation, presentation, showing, with_curve
from acutance.spec import Spec, estimation, labelled

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "labels.json").read_text())


@pytest.mark.parametrize("through_csv", [False, True])
def test_built_in_definitions_are_called_as_ever(through_csv):
    found, rows = list(definitions()), [row for _, _, row in definitions()]
    if through_csv:
        rows = pd.read_csv(io.StringIO(pd.DataFrame(rows).to_csv(index=False)), keep_default_na=False, na_values=[""])
        rows = rows.to_dict("records")
    names = {}
    for (measure, settings, _), row in zip(found, rows, strict=True):
        names.setdefault(measure, []).append([settings, definition_name(row)])
    for measure, golden in GOLDEN.items():
        assert names[measure] == golden["names"]
        assert (
            definition_name({"measure": measure})
            == definition_name({"measure": f"acutance/{measure}"})
            == golden["bare"]
        )


def test_what_says_how_a_value_is_estimated_is_marked():
    marked = {item.name: sorted(presentation(item.id).estimation) for item in catalog().items("measures")}
    assert {name: marked[name] for name in GOLDEN} == {name: golden["estimation"] for name, golden in GOLDEN.items()}


def test_presentations_are_plain_data_and_come_back():
    for item in catalog().items("measures"):
        how = presentation(item.id)
        assert Presentation.of_json(json.loads(json.dumps(how.as_json()))) == how


def test_no_library_is_loaded_for_a_name():
    code = (
        "import sys; from acutance.presentation import presentation; assert presentation('worst_case').label; "
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


class RoughnessSpec(SharpnessSpec):
    window: Annotated[int, labelled(adds=" of {window}")] = 3
    """Width."""
    order: Annotated[float, labelled({"2": "two"}, adds=", p = {order}", always=True)] = 1.0
    """Order."""
    ranks: Annotated[tuple[int, ...], estimation(adds=", ranks {ranks}")] = ()
    """Ranks."""


def test_a_label_follows_the_marks_of_its_fields():
    how = Presentation.of(Traits(label="{scaling} roughness, {order}"), RoughnessSpec)
    with showing({"roughness": how}):

        def name(**settings):
            return definition_name({"measure": "roughness", **{f"spec.{k}": v for k, v in settings.items()}})

        assert name() == "roughness,"
        assert name(scaling="none", order=2.0, window=3, ranks="") == "standard roughness, two, p = two"
        assert name(window="3", ranks="1 2") == "roughness,, ranks 1 2"
        everything = name(order=1, window=4.0, logit_norm="True", norm_scale="released", ranks="7", parameters="a.*")
        assert everything == "roughness, 1 [a.*] of 4, logit-norm (released scale), p = 1, ranks 7"
        assert name(logit_norm=0.0, parameters="all") == "roughness,"


def test_a_measure_that_nothing_is_known_of_is_called_by_its_settings():
    assert presentation("nothing_of_the_kind") == UNKNOWN
    row = {"measure": "acme/x", "spec.p": 2.0, "spec.steps": 5, "spec.rho": 0.1}
    assert definition_name(row) == "acme/x (p=2.0)"
    # One that is known, but has no label, is not named by what it marks.
    with showing({"acme/x": Presentation(estimation=("p",))}):
        assert definition_name(row) == "acme/x"
    assert target_label("measure:acme/x(p=3)") == "x (p=3)"
    assert target_label("measure:acutance/hessian_trace") == "Hessian trace"


@pytest.mark.parametrize("traits", [None, Traits(curves=7), Traits(curves={"a": ("x",)})])
def test_a_measure_that_says_nonsense_is_shown_as_if_it_said_nothing(traits):
    item = Item("measures", "odd", "acme-odd", "1", type("Odd", (), {"traits": traits, "Spec": Spec}))
    with extended([item]):
        assert presentation("odd") == UNKNOWN


def test_measures_with_curves_are_found():
    assert with_curve("density") == ["hessian_density"] and "hessian_density" in with_curve() and not with_curve("x")
