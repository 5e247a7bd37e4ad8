"""Measures on points of a split of their own: one study measures on several, and keeps them apart everywhere."""

import pandas as pd
import pytest
from third_parties import plugin

import acutance
from acutance import UserError
from acutance.plugins import load
from acutance.run.harness import run_study
from acutance.study.config import load_config


@pytest.fixture
def study(three_models):
    return three_models | {
        "pools": [{"name": "toy", "size": 5}],
        "measures": [
            {"name": "loss", "points": ["train", "test"]},
            {"name": "average_case", "rho": 0.1, "draws": 2, "points": ["ood", "train"]},
            {"name": "weight_norm", "points": ["train", "test", "ood"]},
        ],
        "figures": {},
    }


def test_a_value_is_that_of_its_split(study, tmp_path):
    run = run_study(load_config(study), tmp_path, report=False)
    rows = run.results[run.results["measure"] == "loss"]
    assert list(rows["split"]) == ["train", "test"] * 5
    assert list(rows["spec.points"].fillna("")) == ["", "test"] * 5
    item = acutance.catalog().find("datasets", "toy").target
    pool = acutance.catalog().find("pools", "toy").target()
    entry = pool.entries(pool.Spec(size=5))[1]
    test = item(item.Spec()).open("test")
    from acutance.data.points import select

    chosen = select(test.targets, 32, "balanced")
    expected = acutance.measure(
        "loss", pool.load(entry, pool.Spec(size=5)), (test.inputs[chosen], test.targets[chosen])
    )
    assert rows[(rows["model"] == "toy1") & (rows["split"] == "test")]["value"].item() == expected.value
    # Without data there are no points to choose: one cell a model.
    assert len(run.results[run.results["measure"] == "weight_norm"]) == 5
    # The same measure on its own points is another definition, in every table.
    table = pd.read_csv(tmp_path / "correlations.csv")
    assert list(table["spec.points"].fillna("")) == ["ood", "", ""] and set(table["n"]) == {5}


def test_only_what_is_missing_is_computed_and_keys_of_before_stay(study, tmp_path):
    average = {"name": "average_case", "rho": 0.1, "draws": 2}
    before = study | {"measures": [average]}
    assert run_study(load_config(before), tmp_path, report=False).computed == 10
    # On the study's own split it is the measure that it was.
    assert run_study(load_config(before | {"measures": [average | {"points": "train"}]}), tmp_path).computed == 0
    assert run_study(load_config(before | {"measures": [average | {"points": ["test"]}]}), tmp_path).computed == 5
    page = (tmp_path / "report.html").read_text()
    assert " on test, ρ = 0.1</td>" in page


def test_the_values_are_those_of_a_study_of_that_split(study, tmp_path):
    there = study | {"measures": [{"name": "average_case", "rho": 0.1, "draws": 2, "points": "test"}]}
    here = there | {"measures": [{"name": "average_case", "rho": 0.1, "draws": 2}]}
    here["surface"] = here["surface"] | {"split": "test"}
    values = [
        run_study(load_config(which), tmp_path / name, report=False).results.query("measure == 'average_case'")["value"]
        for name, which in (("there", there), ("here", here))
    ]
    assert list(values[0]) == list(values[1])


def test_a_measure_on_other_points_may_be_a_target(study):
    study["targets"] = ["measure:loss(points=test)"]
    assert load_config(study).targets[0].settings == (("points", "test"),)
    study["targets"] = ["measure:loss"]
    with pytest.raises(UserError, match=r"'measure:loss' is 2 of the study's measures"):
        load_config(study)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("tset", r"measures\.0\.points: unknown split 'tset'.*did you mean 'test'"),
        (["train", "no"], r"measures\.0\.points\.1: unknown split 'no'"),
        (3, r"measures\.0\.points: give the name of a split, got 3"),
        ([], r"measures\.0\.points: the list is empty"),
    ],
)
def test_a_split_that_is_none_is_told(study, points, message):
    study["measures"] = [{"name": "loss", "points": points}]
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_config(study)


def test_rows_of_a_file_are_those_of_one_split(study, tmp_path):
    (tmp_path / "rows.txt").write_text("\n".join(map(str, range(32))))
    study["surface"] = study["surface"] | {"select": {"indices": str(tmp_path / "rows.txt")}}
    with pytest.raises(UserError, match=r"lists rows of split 'train', and a measure is asked for on points of 'test'"):
        run_study(load_config(study), tmp_path / "run")


def test_no_measure_has_a_field_of_that_name(tmp_path, monkeypatch):
    source = """
    from acutance import hookimpl
    from acutance.measure import Measure
    from acutance.spec import Spec
    class Own(Spec):
        points: int = 1
        '''How many.'''
    class Mine(Measure[Own]):
        '''Counts.'''
        name = "mine"
        def evaluate(self, surface, spec, rng):
            return 1.0
    @hookimpl
    def register_measures():
        return [Mine]
    """
    points = plugin(tmp_path, "acme-points", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = load(points).problems
    assert "field 'points' is what every measure has in a study: call it something else" in problem.error


def test_a_split_with_fewer_points_is_told_with_the_measure(study, tmp_path):
    item = acutance.catalog().find("datasets", "toy").target
    n = len(item(item.Spec()).open("ood"))
    wide = study | {"surface": {**study["surface"], "points": n + 1}}
    if len(item(item.Spec()).open("train")) <= n:
        pytest.skip("the toy's splits are of one size")
    asked = wide | {"measures": [{"name": "average_case", "rho": 0.1, "draws": 2, "points": "ood"}]}
    message = rf"measure 'average_case' with points: ood: surface.points: {n + 1} points, but .*split 'ood' has {n}"
    with pytest.raises(UserError, match=message):
        run_study(load_config(asked), tmp_path, report=False)
