"""acutance schema: every valid study passes, and every mistake gives one message at its place."""

import copy
import json
import re
from collections.abc import Callable

import jsonschema
import pydantic
import pytest
import yaml
from third_parties import ROOT

from acutance.cli import main
from acutance.errors import AcutanceWarning, UserError
from acutance.measure import Measure
from acutance.plugins import Catalog, Item, catalog
from acutance.spec import Spec
from acutance.study.config import FiguresConfig, StudyFile, load_config, presets
from acutance.study.schema import study_schema
from acutance.study.surface_config import SurfaceConfig


@pytest.fixture(scope="module")
def schema():
    return study_schema(catalog())


def mistakes(schema, study):
    """Return (path, message) of every error, without descending into alternatives."""
    errors = jsonschema.Draft7Validator(schema).iter_errors(study)
    return [(".".join(map(str, error.absolute_path)), error.message) for error in errors]


def studies():
    texts = {path.name: path.read_text() for path in presets().values()}
    texts |= {path.name: path.read_text() for path in sorted((ROOT / "benchmarks").glob("*.yaml"))}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for i, text in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S)):
            texts[f"{path.name}:{i}"] = text
    return {name: study for name, text in texts.items() if "measures" in (study := yaml.safe_load(text))}


@pytest.mark.parametrize("name", studies())
def test_every_preset_and_every_example_of_the_docs_is_valid(schema, name):
    assert mistakes(schema, studies()[name]) == []


def test_it_is_a_schema(schema, toy_config):
    jsonschema.Draft7Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    assert mistakes(schema, toy_config) == []
    # Alternatives of the kind that only say "nothing fits" are all gone.
    assert "anyOf" not in json.dumps(schema) and "oneOf" not in json.dumps(schema)


def test_it_follows_the_models(schema):
    assert schema["properties"].keys() == StudyFile.model_fields.keys()
    for section in (SurfaceConfig, FiguresConfig):
        assert schema["$defs"][section.__name__]["properties"].keys() == section.model_fields.keys()
    for kind in ("measures", "pools", "datasets", "executors"):
        for item in catalog().items(kind):
            described = schema["$defs"][f"{kind}.{item.dist}.{item.name}"]["properties"]
            extra = {"name", "points", "replicates"} if kind == "measures" else {"name"}
            assert described.keys() == item.target.Spec.model_fields.keys() | extra
            assert all(described[name]["description"] for name in item.target.Spec.model_fields)


def changed(study, path, value):
    study = copy.deepcopy(study)
    node = study
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return study


VALID = [
    ("measures.0.rho", 0.1),
    ("measures.0.rho", 1),
    ("measures.0.name", "acutance/worst_case"),
    ("measures.0.norm", ["l2", "linf"]),
    ("measures.0.ladder", [0.001, 0.002]),
    ("measures.0.ladder", [[0.001], [0.001, 0.002]]),
    ("measures.0.ladder", []),
    ("measures.0.scaling", ["none", "elementwise", "half", "acme-toy/half"]),
    ("measures.0.scaling", "acme_toy.plugin:half"),
    ("measures.0.parameters", ["all", "0.*"]),
    ("measures.0.replicates", 3),
    ("measures.2.replicates", 1),
    ("surface.batches", "partition"),
    ("surface.batches", {"sampled": 4}),
    ("surface.select", "first"),
    ("surface.loss", "mse"),
    ("surface.loss", "acme_toy.plugin:half"),
    ("surface.microbatch", None),
    ("surface.microbatch", 8),
    ("surface.split", "ood"),
    ("figures.marker", "wide"),
    ("figures.colour", None),
    ("executor", {"name": "processes", "workers": 2}),
    ("executor", {"name": "processes", "workers": None}),
    ("executor", {"name": "backwards"}),
    ("admit", {"train_error": {"max": 0.5, "min": None}}),
    ("requires", {"acutance": ">=0.1"}),
]


@pytest.mark.parametrize(("path", "value"), VALID)
def test_what_a_study_may_say_the_schema_allows(schema, toy_config, path, value):
    study = changed(toy_config, path, value)
    assert mistakes(schema, study) == []
    load_config(study)


MISTAKES = [
    ("measures.0.name", "worst_cas", "measures.0.name", "'worst_cas' is not one of"),
    ("measures.0.name", ..., "measures.0", "'name' is a required property"),
    ("measures.0", "worst_case", "measures.0", "is not of type 'object'"),
    ("measures.0.rho", -1, "measures.0.rho", "-1 is less than or equal to the minimum of 0"),
    ("measures.0.rho", [0.1, -1], "measures.0.rho.1", "-1 is less than or equal to the minimum of 0"),
    ("measures.0.rho", "x", "measures.0.rho", "'x' is not of type 'number'"),
    ("measures.0.rho", [0.1, "x"], "measures.0.rho.1", "'x' is not of type 'number'"),
    ("measures.0.rho", [], "measures.0.rho", r"non-empty|too short"),
    ("measures.0.rho", [[0.1]], "measures.0.rho.0", "is not of type 'number'"),
    ("measures.0.rho", ..., "measures.0", "'rho' is a required property"),
    ("measures.0.rhoo", 1, "measures.0", "'rhoo' was unexpected"),
    ("measures.0.norm", "l3", "measures.0.norm", r"'l3' is not one of \['l2', 'linf'\]"),
    ("measures.0.norm", 3, "measures.0.norm", "3 is not one of"),
    ("measures.0.steps", 2.5, "measures.0.steps", "2.5 is not of type 'integer'"),
    ("measures.0.ladder", [0.001, -1], "measures.0.ladder.1", "-1 is less than or equal"),
    ("measures.0.ladder", [[0.001], [-1]], "measures.0.ladder.1.0", "-1 is less than or equal"),
    ("measures.0.scaling", "elementwize", "measures.0.scaling", "'elementwize' is not one of"),
    ("measures.0.scaling", ["none", "elementwize"], "measures.0.scaling.1", "'elementwize' is not one of"),
    ("measures.0.scaling", "no function:at all", "measures.0.scaling", "does not match"),
    ("measures.0.scaling", 3, "measures.0.scaling", "3 is not one of"),
    ("measures.0.replicates", 0, "measures.0.replicates", "0 is less than the minimum of 1"),
    ("measures.0.replicates", [1, 2], "measures.0.replicates", "is not of type 'integer'"),
    ("measures.2.replicates", 2, "measures.2.replicates", "2 is greater than the maximum of 1"),
    ("measures", [], "measures", r"non-empty|too short"),
    ("pools.0.name", "mnist_resnett", "pools.0.name", "'mnist_resnett' is not one of"),
    ("pools.0.sizes", 3, "pools.0", "'sizes' was unexpected"),
    ("pools.0.size", [3, 4], "pools.0.size", "is not of type 'integer'"),
    ("dataset.name", "mnist", "dataset.name", "'mnist' is not one of"),
    ("dataset", "mnist5k", "dataset", "'mnist5k' is not of type 'object'"),
    ("surface.m", 0, "surface.m", "0 is less than or equal to the minimum of 0"),
    ("surface.split", "digits", "surface.split", "'digits' is not one of"),
    ("surface.dtype", "float16", "surface.dtype", "'float16' is not one of"),
    ("surface.batches", "partitions", "surface.batches", "'partition' was expected"),
    ("surface.batches", {"sampled": 0}, "surface.batches.sampled", "0 is less than or equal"),
    ("surface.batches", {"samples": 3}, "surface.batches", None),
    ("surface.select", 3, "surface.select", r"3 is not one of \['balanced', 'first'\]"),
    ("surface.loss", "hinge", "surface.loss", "'hinge' is not one of"),
    ("surface.microbatch", "all", "surface.microbatch", "'all' is not of type 'integer'"),
    ("surface.point", 8, "surface", "'point' was unexpected"),
    ("targets", [], "targets", r"non-empty|too short"),
    ("targets", "test_error", "targets", "is not of type 'array'"),
    ("admit", {"train_error": {"maxx": 1}}, "admit.train_error", "'maxx' was unexpected"),
    ("admit", {"train_error": 0.1}, "admit.train_error", "0.1 is not of type 'object'"),
    ("within", ..., "", "'within' is a required property"),
    ("format", 2, "format", "1 was expected"),
    ("format", "1", "format", "1 was expected"),
    ("seed", -1, "seed", "-1 is less than the minimum of 0"),
    ("executor", {"name": "procesess"}, "executor.name", "'procesess' is not one of"),
    ("executor", {"name": "processes", "workers": 0}, "executor.workers", "0 is less than or equal"),
    ("figures.marker", 3, "figures.marker", "3 is not of type 'array'"),
    ("figures.marker", ["wide", 3], "figures.marker.1", "3 is not of type 'string'"),
    ("extra", 1, "", "'extra' was unexpected"),
]


@pytest.mark.parametrize(("path", "value", "place", "message"), MISTAKES)
def test_a_mistake_gives_one_message_at_its_place(schema, toy_config, path, value, place, message):
    study = changed(toy_config, path, value)
    found = mistakes(schema, study)
    if message is None:  # the wrong name of the one required field: unknown, and missing
        assert {where for where, _ in found} == {place}
    else:
        ((where, said),) = found
        assert where == place and re.search(message, said), found
    with pytest.raises(UserError):
        load_config(study)


def test_three_mistakes_give_three_messages(schema, toy_config):
    study = changed(changed(toy_config, "measures.0.rho", [0.1, -1]), "measures.1.name", "average")
    study = changed(study, "surface.m", 0)
    assert {place for place, _ in mistakes(schema, study)} == {"measures.0.rho.1", "measures.1.name", "surface.m"}


def test_the_toy_of_the_tests_is_in_it_and_its_splits_are_known(schema, toy_config):
    assert "acme-toy/weight_norm" in schema["properties"]["measures"]["items"]["properties"]["name"]["enum"]
    other = {**toy_config, "dataset": {"name": "mnist5k"}, "surface": {"split": "digits"}}
    assert mistakes(schema, other) == []


def item(kind, name, dist, target):
    return Item(kind, name, dist, "1", target)


def with_items(*items):
    found = Catalog(catalog().manager)
    for entry in (*(i for k in ("pools", "datasets", "executors") for i in catalog().items(k)), *items):
        found.add(entry)
    return found


def measure(fields, name="mine"):
    """A measure class with a spec of these annotated fields."""
    spec = pydantic.create_model("MineSpec", __base__=Spec, **fields)

    class Mine(Measure[spec]):
        """Mine."""

        def evaluate(self, surface, spec, rng):
            return 1.0

    Mine.name = name
    return Mine


def study_with(toy_config, **settings):
    return {**toy_config, "measures": [settings]}


def test_an_ambiguous_short_name_is_not_offered(toy_config):
    mine = measure({})
    found = study_schema(with_items(item("measures", "mine", "acme-a", mine), item("measures", "mine", "acme-b", mine)))
    assert mistakes(found, study_with(toy_config, name="acme-a/mine")) == []
    ((place, said),) = mistakes(found, study_with(toy_config, name="mine"))
    assert place == "measures.0.name" and "['acme-a/mine', 'acme-b/mine']" in said


class Inner(pydantic.BaseModel):
    """A nested section; two plugins may use one name for different ones."""

    model_config = pydantic.ConfigDict(extra="forbid")
    depth: int = 1


def test_settings_of_any_shape(toy_config):
    other = pydantic.create_model("Inner", width=(float, 1.0), __config__=pydantic.ConfigDict(extra="forbid"))
    a = measure({"inner": (Inner | None, None), "pair": (tuple[int, str], (1, "x")), "mixed": (int | str, 0)})
    b = measure({"inner": (other, other())})
    found = study_schema(with_items(item("measures", "a", "acme-a", a), item("measures", "b", "acme-b", b)))
    jsonschema.Draft7Validator.check_schema(found)
    for settings in (
        {"name": "a", "inner": {"depth": 2}},
        {"name": "a", "inner": [None, {"depth": 2}]},
        {"name": "a", "pair": [1, "x"]},
        {"name": "a", "mixed": [1, "x"]},
        {"name": "b", "inner": {"width": 2.5}},
    ):
        assert mistakes(found, study_with(toy_config, **settings)) == []
    for settings, place in (
        ({"name": "a", "inner": {"width": 2.5}}, "measures.0.inner"),
        ({"name": "b", "inner": {"depth": 2}}, "measures.0.inner"),
        ({"name": "a", "inner": [None, {"depth": "x"}]}, "measures.0.inner.1.depth"),
        ({"name": "a", "pair": ["x", "x"]}, "measures.0.pair.0"),
        ({"name": "a", "mixed": [1, None]}, "measures.0.mixed.1"),
    ):
        assert [where for where, _ in mistakes(found, study_with(toy_config, **settings))] == [place]


def test_a_spec_that_no_schema_can_say_is_left_unchecked_with_a_warning(toy_config):
    odd = measure({"odd": (Callable, len)})
    with pytest.warns(AcutanceWarning, match="acme-odd/odd: its settings are left unchecked"):
        found = study_schema(with_items(item("measures", "odd", "acme-odd", odd)))
    assert mistakes(found, study_with(toy_config, name="odd", odd=3)) == []


def call(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == code


def test_the_verb_writes_and_says_what_to_put_on_top(tmp_path, monkeypatch, capsys, schema):
    monkeypatch.chdir(tmp_path)
    call("schema")
    assert json.loads(capsys.readouterr().out) == schema
    call("schema", "--write")
    assert capsys.readouterr().out.splitlines()[-1] == "# yaml-language-server: $schema=acutance.schema.json"
    assert json.loads((tmp_path / "acutance.schema.json").read_text()) == schema
    (tmp_path / "sub").mkdir()
    call("schema", "--write", "sub")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"# yaml-language-server: $schema={tmp_path}/sub/acutance.schema.json"
    call("schema", "--write", "mine.json")
    assert capsys.readouterr().out.splitlines()[-1].endswith("$schema=mine.json") and (tmp_path / "mine.json").exists()
    call("schema", "--write", "no/such/folder/x.json", code=2)
    assert "cannot be written" in capsys.readouterr().err


def test_the_line_on_top_is_a_comment_to_acutance(tmp_path, toy_config):
    path = tmp_path / "study.yaml"
    path.write_text("# yaml-language-server: $schema=acutance.schema.json\n" + yaml.safe_dump(toy_config))
    assert load_config(path).file.title == "toy"


def test_settings_of_a_dataset_that_a_pool_names_are_values_lists_or_mappings(schema):
    pool = schema["$defs"]["pools.acutance.causal_trained"]["properties"]["settings"]
    validator = jsonschema.Draft7Validator({**pool, "$defs": schema["$defs"]})
    for value in (
        {"block": 64, "lower": True, "files": {"train": ["a.txt", "b.txt"], "test": "c.txt"}},
        {"files": ["a"]},
    ):
        assert not list(validator.iter_errors(value))
    for value in ({"files": {"train": 3}}, {"files": [3]}, {"block": None}, 3):
        assert len(list(validator.iter_errors(value))) == 1
