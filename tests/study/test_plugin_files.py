"""Plugins of one file beside a study: found, run by every executor, part of keys, refused in a sentence."""

import json
import re
import shutil
import textwrap

import pytest
from third_parties import python

import acutance
from acutance import plugin_files
from acutance.cli import main
from acutance.plugins import catalog
from acutance.run.jobs import receive
from acutance.study.config import load_config

SOURCE = '''
from acutance import hookimpl
from acutance.measure import Measure, Traits
from acutance.spec import Spec


class TimesSpec(Spec):
    """Settings of it."""

    power: float = 1.0
    """Of the norm."""


class Times(Measure[TimesSpec]):
    """A multiple of the norm of the weights."""

    name = "times_norm"
    traits = Traits(level="weights", larger_means="larger", needs={"weights"}, reference="by hand")

    def evaluate(self, surface, spec, rng):
        return 2 * float(surface.w.norm()) ** spec.power


@hookimpl
def register_measures():
    return [Times]
'''
STUDY = {
    "format": 1,
    "plugins": ["mine.py"],
    "pools": [{"name": "toy", "size": 3}],
    "dataset": {"name": "toy"},
    "surface": {"points": 16, "m": 8},
    "targets": ["test_error"],
    "within": ["architecture"],
    "measures": [{"name": "times_norm", "power": [1.0, 2.0]}, {"name": "weight_norm"}],
}


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """What one test's files register is unknown to the next."""
    monkeypatch.setattr(plugin_files, "_known", {})
    monkeypatch.setattr("acutance.plugins._adopted", {})


@pytest.fixture
def study(tmp_path):
    """A folder with a study and its plugin; the study's path."""
    import yaml

    (tmp_path / "mine.py").write_text(SOURCE)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def values(run, measure):
    rows = run.results[run.results["measure"] == measure]
    return [float(value) for value in rows["value"]]


def test_a_file_beside_a_study_is_found_from_anywhere(study, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = load_config(study)
    file = found.plugin_files[0]
    assert {m.item.id for m in found.measures if m.item.name == "times_norm"} == {
        f"mine.py@{file.digest[:16]}/times_norm"
    }
    assert found.resolved["plugins"] == [str(study.parent / "mine.py")]
    # A study without it does not know its measure, and its config has no such section.
    without = {name: value for name, value in STUDY.items() if name != "plugins"}
    with pytest.raises(acutance.UserError, match="unknown measure 'times_norm'"):
        load_config(without)
    assert "plugins" not in load_config(without | {"measures": [{"name": "weight_norm"}]}).resolved


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_values_are_those_of_the_file_and_are_recorded(study, executor):
    out = study.parent / "run"
    run = acutance.run(study, out=out, executor=executor, report=False)
    norms = values(run, "weight_norm")
    expected = [2 * n for n in norms] + [2 * n**2 for n in norms]
    assert sorted(values(run, "times_norm")) == pytest.approx(sorted(expected)) and run.failed == 0
    recorded = json.loads((out / "environment.json").read_text())["plugin_files"]
    assert recorded == {str(study.parent / "mine.py"): f"sha256:{plugin_files.read(study.parent / 'mine.py').digest}"}
    assert acutance.run(study, out=out, report=False).computed == 0
    # The config that the run has written is a study again.
    assert acutance.run(out / "config.yaml", out=out, report=False).computed == 0


def test_a_file_that_changed_is_computed_anew_and_said(study, capsys):
    out = study.parent / "run"
    first = acutance.run(study, out=out, report=False)
    (study.parent / "mine.py").write_text(SOURCE.replace("2 * float", "3 * float"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["run", str(study), "--out", str(out), "--no-report"])
    printed = capsys.readouterr()
    assert ended.value.code == 0
    told = " ".join((printed.out + printed.err).split())  # a terminal's width breaks lines
    assert re.search(r"note: \S*mine\.py has changed since the run before", told)
    again = acutance.run(study, out=out, report=False)
    assert again.computed == 0  # by the command before
    assert sorted(values(again, "times_norm")) == pytest.approx([1.5 * v for v in sorted(values(first, "times_norm"))])
    assert values(again, "weight_norm") == values(first, "weight_norm")
    # As it was: its values are there still.
    (study.parent / "mine.py").write_text(SOURCE)
    back = acutance.run(study, out=out, report=False)
    assert back.computed == 0 and values(back, "times_norm") == values(first, "times_norm")


def test_a_job_carries_the_file(study, monkeypatch):
    found = load_config(study)
    name = found.measures[0].item.id
    text = json.dumps({"measure": name, "files": plugin_files.carried(json.dumps({"measure": name}))})
    shutil.rmtree(study.parent)  # a worker elsewhere does not have it
    monkeypatch.setattr(plugin_files, "_known", {})
    monkeypatch.setattr("acutance.plugins._adopted", {})
    plugin_files.items.cache_clear()
    with pytest.raises(acutance.UserError):
        catalog().find("measures", name)
    receive(text)
    assert catalog().find("measures", name).target.Spec.model_fields["power"].description == "Of the norm."
    assert plugin_files.carried('{"measure": "acutance/worst_case"}') == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"plugins.0: .*mine.py: no such file"),
        ("def f(:\n", r"mine.py: is no plugin: SyntaxError"),
        ("raise RuntimeError('not today')\n", r"mine.py: is no plugin: RuntimeError: not today"),
        ("x = 1\n", r"mine.py: registers nothing"),
        ("from acutance import hookimpl\n@hookimpl\ndef register_measurs(): return []\n", r"there is no hook 'register_measurs'"),
        (SOURCE.replace('    """Of the norm."""\n', ""), r"field 'power' has no docstring"),
        (SOURCE.replace("times_norm", "worst_case"), r"the measure name 'worst_case' is taken by acutance"),
        (SOURCE + "\n@hookimpl\ndef on_run_end(directory): pass\n", r"has the hook 'on_run_end'"),
        ("from acutance import hookimpl\n@hookimpl\ndef register_scalings(): return {'mine': 'a:b'}\n", r"registers the scaling 'mine'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plugin_is_refused_in_a_sentence(study, source, message):
    path = study.parent / "mine.py"
    path.unlink() if source is None else path.write_text(source)
    with pytest.raises(acutance.UserError, match=message) as told:
        load_config(study)
    assert len(str(told.value).splitlines()) == 1


def test_two_files_that_register_one_name_are_refused(study):
    (study.parent / "other.py").write_text(SOURCE + "# another\n")
    with pytest.raises(acutance.UserError, match=r"other.py: the measure name 'times_norm' is taken by mine.py@"):
        load_config(study, {"plugins": ["mine.py", "other.py"]})
    # The same file twice is one.
    assert len(load_config(study, {"plugins": ["mine.py", "mine.py"]}).plugin_files) == 2
    (study.parent / "notes.txt").write_text(SOURCE)
    with pytest.raises(acutance.UserError, match=r"plugins.0: .*notes.txt: is no Python file"):
        load_config(study, {"plugins": ["notes.txt"]})


def test_verbs_without_a_study_take_the_file_as_an_option(study):
    file = study.parent / "mine.py"
    done = python("-m", "acutance", "list", "measures", "--plugin", file, "--json", forked=True).stdout
    (row,) = [row for row in json.loads(done)["measures"] if row["name"] == "times_norm"]
    assert row["dist"].startswith("mine.py@") and row["summary"] == "A multiple of the norm of the weights."
    shown = python("-m", "acutance", "show", "times_norm", "--plugin", file, forked=True).stdout
    assert "Of the norm." in shown
    schema = json.loads(python("-m", "acutance", "schema", "--plugin", file, forked=True).stdout)
    assert "times_norm" in json.dumps(schema)
    code = textwrap.dedent("import torch\ndef net():\n    return torch.nn.Linear(2, 1, bias=False)\n")
    (study.parent / "nets.py").write_text(code)
    arguments = ("nets:net", "--plugin", file, "--measure", "times_norm", "--set", "power=2", "--json")
    done = python("-m", "acutance", "measure", *arguments, path=[study.parent], forked=True).stdout
    assert json.loads(done)["times_norm"]["value"] > 0
    done = python("-m", "acutance", "list", "--plugin", study.parent / "none.py", code=2, forked=True)
    assert "none.py: no such file" in done.stderr


def test_the_kit_knows_the_file_in_fresh_processes_too(study):
    file = study.parent / "mine.py"
    shown = python("-m", "acutance", "conform", "times_norm", "--plugin", file, "--json", forked=True).stdout
    states = {check["name"]: check["state"] for check in json.loads(shown)["checks"]}
    assert {states[name] for name in ("import_is_light", "schema_is_stable", "survives_a_fresh_process")} == {"passed"}
