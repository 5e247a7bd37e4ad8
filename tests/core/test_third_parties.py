"""Every way in which a third party's plugin goes wrong stays its own: installed ones, found on the path."""

import json
import re
import textwrap
from contextlib import ExitStack
from importlib.metadata import entry_points

import pytest
from models import MLP, assert_untouched, mlp_data, snapshot
from third_parties import distribution, plugin, python

import acutance
from acutance import Status
from acutance.plugins import catalog, extended, load
from acutance.run.harness import run_study
from acutance.run.jobs import Part, Parts, Passes, read_outcome, write
from acutance.study.config import load_config
from acutance.surface.evaluation import evaluate_family
from acutance.system.ending import Terminated

MEASURE = """
from acutance import hookimpl
from acutance.measure import Estimate, Measure
from acutance.spec import Spec

class MineSpec(Spec):
    p: {type} = {default}
    '''A field.'''

class Mine(Measure[MineSpec]):
    '''Mine.'''
    name = "{name}"

    def evaluate(self, surface, spec, rng):
        {body}

@hookimpl
def register_measures():
    return [Mine]
"""


def source(body="return 1.0", name="mine", type="float", default="2.0", more=""):
    return MEASURE.format(body=body, name=name, type=type, default=default) + textwrap.dedent(more)


def loaded(points, monkeypatch, *folders):
    catalog()  # the process's own is loaded before the path is changed, and stays clean
    for folder in folders:
        monkeypatch.syspath_prepend(str(folder))
    return load([*entry_points(group="acutance"), *points])


def only_problem(found):
    (problem,) = found.problems
    assert {"worst_case", "average_case", "weight_norm"} <= {item.name for item in found.items("measures")}
    assert "Traceback" in problem.traceback
    return problem


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that adds one measure to what this process has installed, for as long as the test runs."""

    def install(body):
        # A name of its own for each test, since a module of the same name would be found in sys.modules.
        name = f"acme-{tmp_path.name.replace('_', '-')}"
        found = loaded(plugin(tmp_path, name, source(body)), monkeypatch, tmp_path)
        assert not found.problems
        item = found.find("measures", "mine")
        stack.enter_context(extended([item]))
        return item

    with ExitStack() as stack:
        yield install


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "evaluate must return an Estimate or a number, not NoneType"),
        ("return '0.5'", "evaluate must return an Estimate or a number, not str"),
        ("return [1.0, 2.0]", "evaluate must return an Estimate or a number, not list"),
        ("return surface.w[:2]", r"evaluate must return an Estimate or a number, not Tensor of shape \(2,\)"),
        ("raise RuntimeError('boom')", "boom"),
        ("return 1 / 0", "division by zero"),
        ("return surface.no_such_method()", "no_such_method"),
        ("import sys; sys.exit(3)", r"called sys.exit\(3\)"),
        ("raise GeneratorExit", r"measure '.*' raised GeneratorExit$"),
        ("return Estimate(1.0, extras={'e': {1}})", "extra 'e' is a set, which is no number"),
    ],
)
def test_a_measure_that_fails_at_evaluate(tmp_path, toy_config, installed, body, message):
    item = installed(body)
    surface = acutance.LossSurface(MLP(), mlp_data())
    asked = item.id, item.target(), surface, [item.target.Spec()]
    if "extras" in body:
        (estimate,) = evaluate_family(*asked, seed=0, batch=0)
        assert estimate.status is Status.FAILED and message in estimate.message
    else:
        with pytest.raises(Exception, match=message):
            evaluate_family(*asked, seed=0, batch=0)
    toy_config["measures"] = [{"name": "mine"}, {"name": "weight_norm"}]
    toy_config["pools"][0]["size"] = 2
    done = run_study(load_config(toy_config), tmp_path / "run", report=False)
    rows = done.results.set_index("measure")
    mine, others = rows.loc["mine"], rows.drop("mine")
    assert (mine["status"] == "failed").all() and mine["message"].str.contains(message).all() and done.failed == 2
    assert (others["status"] == "ok").all() and others["value"].notna().all()


def test_a_signal_that_ends_the_program_is_no_fault_of_a_measure(installed):
    installed("from acutance.system.ending import Terminated; raise Terminated(15)")
    with pytest.raises(Terminated):
        acutance.measure("mine", MLP(), mlp_data())


@pytest.mark.parametrize(
    "body", ["return 3", "return True + 2", "return surface.w.new_tensor(3.0)", "return Estimate(3.0)"]
)
def test_numbers_of_any_make_are_values(installed, body):
    installed(body)
    assert acutance.measure("mine", MLP(), mlp_data()).value == 3.0


def test_a_measure_that_fails_half_way_leaves_the_model_and_the_noise_alone(installed):
    installed("surface.gradient(surface.w + 1); import torch; torch.rand(3); raise RuntimeError('half way')")
    model = MLP()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="half way"):
        acutance.measure("mine", model, mlp_data())
    assert_untouched(model, before)


def test_a_name_taken_twice_within_one_distribution(tmp_path, monkeypatch):
    found = loaded(plugin(tmp_path, "acme-twice", source().replace("[Mine]", "[Mine, Mine]")), monkeypatch, tmp_path)
    assert "measure name 'mine' of acme-twice 1.0 is taken by acme-twice 1.0" in only_problem(found).error
    assert found.find("measures", "mine").dist == "acme-twice"


def test_two_third_parties_with_one_name_are_told_apart(tmp_path, toy_config):
    """Both stay; the short name is refused, with both owners; the canonical ids run side by side."""
    for dist, value in (("acme-a", 1.0), ("acme-b", 2.0)):
        plugin(tmp_path, dist, source(f"return {value}"))
    assert not python("-m", "acutance", "--strict-plugins", "list", path=[tmp_path], forked=True).stderr
    ambiguous = python("-m", "acutance", "show", "mine", path=[tmp_path], forked=True, code=2).stderr
    assert "'mine' is ambiguous" in ambiguous and "acme-a/mine or acme-b/mine" in ambiguous
    study = {**toy_config, "measures": [{"name": "acme-a/mine"}, {"name": "acme-b/mine"}]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    arguments = ("run", tmp_path / "study.json", "--out", tmp_path / "run", "--no-report", "--limit", "1")
    python("-m", "acutance", *arguments, path=[tmp_path], forked=True)
    rows = json.loads(
        python(
            "-m", "acutance", "results", tmp_path / "run", "--table", "results", "--json", path=[tmp_path], forked=True
        ).stdout
    )
    values = {row["measure"]: row["value"] for row in rows}
    assert {values[name] for name in values if name.startswith("acme")} == {1.0, 2.0}


@pytest.mark.parametrize("bound", [">=99", "<0.1", "==0.0.1"])
def test_a_plugin_made_for_another_acutance_is_left_out_and_says_so(tmp_path, monkeypatch, bound):
    # Its code is not even imported: it may use what this version does not have.
    points = plugin(tmp_path, "acme-new", "raise AssertionError", requires=["torch>=2", f"acutance{bound}"])
    problem = only_problem(loaded(points, monkeypatch, tmp_path))
    assert f"it needs acutance{bound}, this is {acutance.__version__}: pip install" in problem.error
    assert problem.phase == "import"


@pytest.mark.parametrize(
    "requires",
    [
        ["acutance>=0.0.1"],
        ["acutance"],
        ["acutance[demo]>=0.0.1,<99"],
        ["acutance>=99; extra == 'future'"],
        ["acutance-x>=99"],
        [],
    ],
)
def test_a_plugin_made_for_this_acutance_is_loaded(tmp_path, monkeypatch, requires):
    found = loaded(plugin(tmp_path, "acme-fits", source(), requires=requires), monkeypatch, tmp_path)
    assert not found.problems and found.find("measures", "mine").dist == "acme-fits"


def test_a_study_may_require_a_newer_plugin(tmp_path, toy_config):
    plugin(tmp_path, "acme-old", source(), version="1.1")
    study = {**toy_config, "requires": {"acme-old": ">=1.2"}, "measures": [{"name": "mine"}]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    told = python("-m", "acutance", "check", tmp_path / "study.json", path=[tmp_path], forked=True, code=2).stderr
    assert "requires.acme-old: needs >=1.2, installed is 1.1" in told and "pip install 'acme-old>=1.2'" in told


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("acme_gone:no_such_attribute", "has no attribute 'no_such_attribute'"),
        ("acme_gone.no_such_module", "No module named 'acme_gone.no_such_module'"),
        ("no_such_package", "No module named 'no_such_package'"),
    ],
)
def test_an_entry_point_to_nothing(tmp_path, monkeypatch, value, message):
    (tmp_path / "acme_gone.py").write_text("")
    points = distribution(tmp_path, "acme-gone", {"gone": value}).entry_points
    problem = only_problem(loaded(points, monkeypatch, tmp_path))
    assert (problem.plugin, problem.phase) == ("gone", "import") and message in problem.error


@pytest.mark.parametrize(
    ("type", "default"),
    [("list", "[]"), ("list[float]", "[0.1]"), ("dict", "{}"), ("set", "{1}")],
)
def test_a_mutable_default_is_refused(tmp_path, monkeypatch, type, default):
    found = loaded(plugin(tmp_path, "acme-list", source(type=type, default=default)), monkeypatch, tmp_path)
    problem = only_problem(found)
    assert problem.phase == "spec" and "field 'p' has a mutable default" in problem.error
    with pytest.raises(acutance.UserError, match="unknown measure 'mine'"):
        found.find("measures", "mine")


def test_of_two_versions_on_the_path_the_first_counts(tmp_path):
    """As for any import; doctor names the one that is hidden."""
    for version in ("2.0", "1.0"):
        plugin(tmp_path / version, "acme-foo", source(f"return {version}"), version=version)
    for first, other in (("1.0", "2.0"), ("2.0", "1.0")):
        path = [tmp_path / first, tmp_path / other]
        listed = json.loads(
            python("-m", "acutance", "--strict-plugins", "list", "--json", path=path, forked=True).stdout
        )
        assert [row["version"] for row in listed["measures"] if row["id"] == "acme-foo/mine"] == [first]
        code = "import acutance, sys; sys.path.insert(0, 'tests'); from models import *; print(acutance.measure('mine', MLP(), mlp_data()).value)"
        assert python("-c", code, path=path, forked=True).stdout.strip() == first


def test_a_pool_and_a_dataset_that_fail_take_nothing_else_with_them(tmp_path, toy_config):
    """Also when the fault is not in a measure: the study is refused or its models are, in a sentence."""
    plugin(
        tmp_path,
        "acme-broken",
        """
        from acutance import hookimpl
        from acutance.dataset import Dataset
        from acutance.pool import ModelEntry, ModelPool
        from acutance.spec import Spec

        class NoSpec(Spec):
            '''No settings.'''

        class Pool(ModelPool[NoSpec]):
            '''Cannot load.'''
            name = "unloadable"
            def entries(self, spec):
                return [ModelEntry(id="a", architecture="x"), ModelEntry(id="b", architecture="x")]
            def load(self, entry, spec):
                raise OSError("the disk is gone")

        @hookimpl
        def register_pools():
            return [Pool]
        """,
    )
    study = {
        **toy_config,
        "pools": [*toy_config["pools"], {"name": "unloadable"}],
        "measures": [{"name": "weight_norm"}],
    }
    study["targets"], study["groups"], study["figures"] = ["test_error"], [], {}
    (tmp_path / "study.json").write_text(json.dumps(study))
    arguments = ("run", tmp_path / "study.json", "--out", tmp_path / "run", "--no-report")
    done = python("-m", "acutance", *arguments, path=[tmp_path], forked=True, code=1)
    assert "6 of 8 models compared" in done.stdout
    models = python(
        "-m", "acutance", "results", tmp_path / "run", "--table", "models", path=[tmp_path], forked=True
    ).stdout
    assert models.count("the disk is gone") == 2


EXTRAS = {
    "0.5": 0.5, "None": None, "'a'": "a", "[1, (2, None)]": [1, [2, None]], "{'b': {'c': [1]}}": {"b": {"c": [1]}},
    "numpy.float32(0.5)": 0.5, "numpy.int64(3)": 3, "numpy.bool_(True)": True, "numpy.array(2.0)": 2.0,
    "numpy.arange(2)": [0, 1], "surface.w.new_tensor(2.0)": 2.0, "surface.w.new_ones(1, 2)": [[1.0, 1.0]],
    "{1}": "set", "[{1}]": "set", "1j": "complex", "numpy.complex64(1)": "complex64", "b'x'": "bytes",
    "numpy.datetime64('2026-01-01')": "datetime64", "pathlib.Path('x')": "PosixPath", "object()": "object",
}  # fmt: skip


def test_what_stands_beside_a_value_is_plain_or_costs_its_own_cell(installed):
    item = installed("import numpy, pathlib; return Estimate(1.0, extras={'e': eval(HOW)})")
    evaluate = item.target.evaluate.__globals__
    surface = acutance.LossSurface(MLP(), mlp_data())

    def evaluated(how):
        evaluate["HOW"] = how
        (found,) = evaluate_family(item.id, item.target(), surface, [item.target.Spec()], seed=0, batch=0)
        part = read_outcome(write(Parts(job="", measure=item.id, split="train", batch=0, device="cpu", seconds=0.0,
            cost=Passes(0, 0, 0), parts=(Part.of(0, found),)))).parts[0]  # fmt: skip
        assert (part.status, part.extras, part.stderr) == (found.status, found.extras, found.stderr)
        return found

    for how, expected in EXTRAS.items():
        found = evaluated(how)
        if isinstance(expected, str) and how != "'a'":
            assert (
                found.status == "failed" and f"measure '{item.id}': extra 'e' is a {expected}, which" in found.message
            )
        else:
            assert found.status == "ok" and found.extras == {"e": expected}, how
            assert type(found.extras["e"]) is type(expected)


@pytest.mark.parametrize("body,told", [
    ("numpy.float32(2), numpy.float64(0.5)", ""), ("surface.w.new_tensor(2.0), surface.w.new_tensor(0.5)", ""),
    ("2, 0.5, 'ok', None", ""), ("2.0, 0.5, extras=[1]", "extras is a list"),
    ("2.0, 0.5, extras={(1,): 2}", r"extra '\(1,\)' has a tuple as a name"),
])  # fmt: skip
def test_values_of_any_make_are_sent(installed, body, told):
    item = installed(f"import numpy; return Estimate({body})")
    surface = acutance.LossSurface(MLP(), mlp_data())
    (found,) = evaluate_family(item.id, item.target(), surface, [item.target.Spec()], seed=0, batch=0)
    if told:
        assert found.status == "failed" and re.search(told, found.message)
    else:
        assert (found.value, found.stderr, found.status, found.message) == (2.0, 0.5, "ok", "")
        assert type(found.value) is type(found.stderr) is float
