"""Attributes and targets that come with the models instead of being measured."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml
from acme_toy.plugin import ToyPool
from click.testing import CliRunner

import acutance
from acutance.cli import cli
from acutance.run.harness import run_study
from acutance.run.store import Store
from acutance.study.attributes import read
from acutance.study.config import load_config
from acutance.study.targets import GivenTarget, parse_target

CSV = """\
model, depth,pretrained,family,score
toy0,2,true,a,0.5
toy1,3,False,a,1e-1

toy2,4,TRUE,b,
toy3,5,false,b,.25
toy4,6,true,"b, c",-3
toy5,7,true,a,inf
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "models.csv"
    path.write_text(CSV)
    return path


def run(config, out, **options):
    return run_study(load_config(config), out, report=False, **options)


def test_fields_are_numbers_truth_values_or_text(table):
    where, rows = read(table)
    assert where == str(table) and list(rows) == [f"toy{i}" for i in range(6)]
    assert rows["toy0"] == {"depth": 2, "pretrained": True, "family": "a", "score": 0.5}
    assert "score" not in rows["toy2"] and rows["toy3"]["score"] == 0.25 and rows["toy4"]["family"] == "b, c"
    assert rows["toy1"]["score"] == 0.1 and isinstance(rows["toy1"]["depth"], int) and math.isinf(rows["toy5"]["score"])
    frame = pd.DataFrame({"id": ["x"], "n": np.array([3]), "f": [np.nan], "b": [True]})
    assert read(frame)[1] == read(frame.set_index("id"))[1] == {"x": {"n": 3, "b": True}}


def test_attributes_recompute_nothing_and_serve_everywhere(toy_config, table, tmp_path):
    assert run(toy_config, tmp_path / "run").computed > 0
    toy_config |= {"groups": ["pretrained"], "within": ["family"], "targets": ["attr:depth", "test_error"]}
    toy_config["admit"] = {"attr:depth": {"max": 6}}
    toy_config["figures"] = {"colour": "depth", "marker": ["pretrained"]}
    joined = run(toy_config, tmp_path / "run", attributes=table)
    assert joined.computed == 0
    assert list(joined.models["attr.depth"]) == [2, 3, 4, 5, 6, 7]
    assert joined.models["reason"].iloc[5] == "attr:depth 7 > 6"
    assert set(joined.correlations["within"]) == {"family=a", "family=b", "family=b, c"}
    assert {"pretrained=0", "pretrained=1"} <= set(joined.correlations["group"])
    few = toy_config | {"targets": ["attr:depth"], "measures": toy_config["measures"][2:]}
    with_report = acutance.run(few, out=tmp_path / "run", attributes=table)
    assert with_report.computed == 0 and with_report.report.exists()
    assert "attr.learning_rate" in joined.models and not joined.models["attr.learning_rate"].isna().any()


def test_the_store_remembers_the_joined_description(toy_config, table, tmp_path):
    run(toy_config, tmp_path / "run", attributes=table)
    store = Store(tmp_path / "run" / "acutance.db", write=False)
    (row,) = store._connection.execute("SELECT description FROM model WHERE entry = 'toy4'").fetchall()
    store.close()
    assert '"depth": 6' in row[0] and '"learning_rate": 0.5' in row[0]


def test_a_pool_never_sees_what_is_joined(toy_config, tmp_path, monkeypatch):
    seen = []
    load = ToyPool.load
    monkeypatch.setattr(
        ToyPool, "load", lambda self, entry, spec: seen.append(entry.attributes) or load(self, entry, spec)
    )
    run(toy_config, tmp_path, attributes={f"toy{i}": {"learning_rate": 9.0} for i in range(6)})
    assert seen and all(attributes["learning_rate"] != 9.0 for attributes in seen)


class Lines:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def stage(self, *_):
        pass

    def advance(self, *_):
        pass


def test_what_does_not_match_is_said(toy_config, tmp_path):
    lines = Lines()
    table = {"toy0": {"depth": 1, "learning_rate": 7}, "toy1": {"depth": 2}, "else": {"depth": 3}}
    done = run(toy_config, tmp_path, attributes=table, reporter=lines, limit=4)
    text = "\n".join(lines.said)
    assert "1 rows name no model of the study: else" in text
    assert "2 models have no row: toy2, toy3" in text and "replaces attributes of the pool: learning_rate" in text
    assert list(done.models["attr.learning_rate"])[:2] == [7, 0.2]


MISTAKES = [
    ("name,a\nx,1\n", r"has no column 'model' or 'id' \(its columns are: name, a\)"),
    ("", r"has no column 'model' or 'id'"),
    ("model,a\n", r"has no rows"),
    ("model,a\ntoy0,1\ntoy0,2\n", r"model 'toy0' is there twice"),
    ("model,a,a\ntoy0,1,2\n", r"column 'a' is there twice"),
    ("model,a\ntoy0,1,2\n", r"line 2 has 3 fields, the header 2"),
    ("model,a\n,1\n", r"line 2 names no model"),
    ("model,a\nx,1\ny,1\n", r"none of its models is in the study, e\.g\. x, y \(the study's models are: toy0, toy1"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_bad_table_is_one_sentence(toy_config, tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(acutance.UserError, match=message) as error:
        run(toy_config, tmp_path / "run", attributes=path)
    assert str(path) in str(error.value)


def test_other_bad_sources(toy_config, tmp_path):
    with pytest.raises(acutance.UserError, match="no such file"):
        run(toy_config, tmp_path, attributes=tmp_path / "none.csv")
    with pytest.raises(acutance.UserError, match="attributes: int is not understood"):
        run(toy_config, tmp_path, attributes=3)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(acutance.UserError, match="cannot be read"):
        run(toy_config, tmp_path, attributes=tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("section", "value"),
    [("targets", ["attr:deph"]), ("groups", ["deph"]), ("within", ["deph"]), ("admit", {"attr:deph": {}})],
)
def test_a_name_without_an_attribute_is_told_before_anything_is_computed(toy_config, tmp_path, section, value):
    toy_config[section] = value
    with pytest.raises(acutance.UserError, match=rf"{section}: no model has 'deph' \(did you mean 'depth'"):
        run(toy_config, tmp_path, attributes={"toy0": {"depth": 1}})
    assert not Store(tmp_path / "acutance.db").models()


def test_the_option_of_the_command_line(toy_config, table, tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(toy_config | {"groups": ["pretrained"]}))
    options = ["--out", str(tmp_path / "run"), "--no-report", "--attributes", str(table)]
    done = CliRunner().invoke(cli, ["run", str(tmp_path / "study.yaml"), *options], standalone_mode=False)
    assert done.exception is None and "pretrained" in (tmp_path / "run" / "correlations.csv").read_text()


# -- given targets ----------------------------------------------------------------------------------------


def test_a_name_is_measured_where_it_can_be_and_given_otherwise():
    assert parse_target("test_error", ("train", "test"), {"test_error"}).terms == ((1, "error", "test"),)
    assert parse_target("given:test_error", ("train", "test"), {"test_error"}) == GivenTarget(
        "given:test_error", "test_error"
    )
    assert parse_target("test_error", ("train",), {"test_error"}) == GivenTarget("test_error", "test_error")
    assert parse_target("generalization_gap", ("train",), {"generalization_gap"}).given == "generalization_gap"
    assert len(parse_target("generalization_gap", ("train", "test"), {"generalization_gap"}).terms) == 2
    for name in ("given:score", "score"):
        with pytest.raises(acutance.UserError, match="unknown target"):
            parse_target(name, ("train", "test"))


def test_a_pool_may_bring_published_values(toy_config, tmp_path, monkeypatch):
    entries = ToyPool.entries
    published = {f"toy{i}": 0.1 * i for i in range(5)}
    monkeypatch.setattr(
        ToyPool, "entries",
        lambda self, spec: [
            e.model_copy(update={"targets": {"test_error": published[e.id], "score": 1.0} if e.id in published else {}})
            for e in entries(self, spec)
        ],
    )  # fmt: skip
    toy_config["targets"] = ["test_error", "given:test_error", "score"]
    done = run(toy_config, tmp_path)
    assert list(done.models["target.given:test_error"])[:5] == list(published.values())
    assert math.isnan(done.models["target.given:test_error"].iloc[5])
    assert not done.models["target.test_error"].isna().any()
    rows = done.correlations.query("group == 'all'").set_index("target")
    assert set(rows.loc["given:test_error"]["n"]) == {5} and set(rows.loc["test_error"]["n"]) == {6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("groups=[wid]", "groups: no model has 'wid'"),
        ("within=[wid]", "within: no model has 'wid'"),
        ("figures.colour=wid", r"figures\.colour: no model has 'wid'"),
        ("figures.marker=[wid]", r"figures\.marker: no model has 'wid'"),
        ("figures.size=target.nope", r"figures\.size: no model has 'target\.nope'"),
    ],
)
def test_check_finds_an_attribute_that_no_model_has(change, message, tmp_path):
    from acutance.cli.check_ import estimate
    from acutance.study.config import load_config

    study = load_config("mnist", [change])
    with pytest.raises(acutance.UserError, match=message):
        estimate(study)
    table = tmp_path / "a.csv"
    name = estimate(load_config("mnist"))["models"] and load_config("mnist").pools[0]
    entry = name.item.target().entries(name.spec)[0]
    table.write_text(f"model,wid\n{entry.id},1\n")
    if "nope" not in change:
        assert any("have no row" in note for note in estimate(study, attributes=table)["warnings"])
    estimate(load_config("mnist", ["figures.colour=target.test_error"]))
