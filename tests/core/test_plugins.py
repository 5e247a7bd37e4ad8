"""Discovery: built-ins first, every failure isolated, recorded and quoted."""

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint, entry_points

import pytest

from acutance import UserError
from acutance.errors import Terminated
from acutance.plugins import KINDS, Catalog, Item, catalog, extended, load
from acutance.presentation import with_curve
from acutance.study.schema import study_schema


class Dist:
    def __init__(self, name, version="1.0"):
        self.name, self.version = name, version


def point(tmp_path, monkeypatch, source, dist="acme-foo", name="foo", module=None):
    """An entry point of a fake distribution whose plugin module has this source."""
    module = module or f"plug_{abs(hash((source, dist, name))):x}"
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint(name, module, "acutance")
    vars(entry).update(dist=Dist(dist))
    return entry


GOOD = """
from acutance import hookimpl
from acutance.measure import Measure
from acutance.spec import Spec
class GoodSpec(Spec):
    '''A spec.'''
class Good(Measure[GoodSpec]):
    '''Good.'''
    name = "{name}"
    def evaluate(self, surface, spec, rng):
        return 1.0
@hookimpl
def register_measures():
    return [Good]
"""

FAULTS = {
    "import": ("import", "import no_such_module_anywhere", "No module named"),
    "exit": ("import", "raise SystemExit(3)", "SystemExit: 3"),
    "argument": (
        "register",
        "from acutance import hookimpl\n@hookimpl\ndef register_measures(wrong): return []",
        "wrong",
    ),
    "misspelt": (
        "hookspec",
        "from acutance import hookimpl\n@hookimpl\ndef register_mesures(): return []",
        "did you mean 'register_measures'",
    ),
    "raises": (
        "collect",
        "from acutance import hookimpl\n@hookimpl\ndef register_measures(): raise RuntimeError('boom')",
        "boom",
    ),
    "not a class": (
        "collect",
        "from acutance import hookimpl\n@hookimpl\ndef register_measures(): return [42]",
        "is not a class",
    ),
    "abstract": (
        "collect",
        GOOD.format(name="x").replace("def evaluate", "def evaluated"),
        "does not define evaluate",
    ),
    "missing target": (
        "collect",
        "from acutance import hookimpl\n@hookimpl\ndef register_measures(): return ['acutance.measure:Nope']",
        "Nope",
    ),
    "no docstring": (
        "spec",
        GOOD.format(name="x").replace("'''A spec.'''", "p: int = 1"),
        "field 'p' has no docstring",
    ),
    "radius": (
        "spec",
        GOOD.format(name="x").replace("'''A spec.'''", "rho: float | str = 1.0\n    '''R.'''"),
        "field 'rho' may be a text: a radius is a number",
    ),
    "factory": (
        "spec",
        "import pydantic\n"
        + GOOD.format(name="x").replace("'''A spec.'''", "p: int = pydantic.Field(default_factory=int)\n    '''P.'''"),
        "default_factory",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_plugin_is_isolated(tmp_path, monkeypatch, fault):
    phase, source, message = FAULTS[fault]
    points = [*entry_points(group="acutance"), point(tmp_path, monkeypatch, source)]
    found = load(points)
    (problem,) = found.problems
    assert (problem.plugin, problem.dist, problem.phase) == ("foo", "acme-foo", phase)
    assert message in problem.error and "Traceback" in problem.traceback
    assert {"worst_case", "average_case"} <= {item.name for item in found.items("measures")}
    with pytest.raises(UserError, match=r"1 plugin problem\(s\): foo of acme-foo 1.0"):
        found.find("measures", "foo_measure")


def test_one_bad_class_does_not_hide_its_siblings(tmp_path, monkeypatch):
    source = GOOD.format(name="fine").replace("return [Good]", "return [42, Good]")
    found = load([*entry_points(group="acutance"), point(tmp_path, monkeypatch, source)])
    assert found.get("measures", "fine").name == "fine" and len(found.problems) == 1


def test_nobody_can_take_a_builtins_name(tmp_path, monkeypatch):
    thief = point(tmp_path, monkeypatch, GOOD.format(name="worst_case"), dist="aaa-first")
    found = load([thief, *entry_points(group="acutance")])
    assert found.find("measures", "worst_case").dist == "acutance"
    assert "is taken by acutance" in found.problems[0].error and "aaa-first" in str(found.problems[0])


def test_two_third_parties_may_share_a_short_name(tmp_path, monkeypatch):
    a = point(tmp_path, monkeypatch, GOOD.format(name="same"), dist="acme-a")
    b = point(tmp_path, monkeypatch, GOOD.format(name="same") + "#", dist="acme-b")
    found = load([*entry_points(group="acutance"), a, b])
    assert not found.problems
    assert found.find("measures", "acme-b/same").dist == "acme-b"
    with pytest.raises(UserError, match=r"ambiguous.*acme-a/same or acme-b/same"):
        found.find("measures", "same")


@pytest.mark.parametrize(
    ("rule", "loaded"),
    [("none", False), ("only:acme-foo", True), ("only:other", False), ("-acme-foo", False), ("", True)],
)
def test_switches(tmp_path, monkeypatch, rule, loaded):
    monkeypatch.setenv("ACUTANCE_PLUGINS", rule)
    found = load([*entry_points(group="acutance"), point(tmp_path, monkeypatch, GOOD.format(name="mine"))])
    names = {item.name for item in found.items("measures")}
    assert ("mine" in names) == loaded and "worst_case" in names


def test_a_switch_that_means_nothing_is_told(monkeypatch):
    monkeypatch.setenv("ACUTANCE_PLUGINS", "everything")
    with pytest.raises(UserError, match="is not understood"):
        load(entry_points(group="acutance"))


def test_heavy_imports_are_noticed(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from importlib.metadata import EntryPoint, entry_points
        from acutance.plugins import load
        class Dist: name, version = "acme", "1"
        e = EntryPoint("heavy", "heavy_plugin", "acutance"); vars(e).update(dist=Dist())
        c = load([*entry_points(group="acutance"), e])
        assert [p.heavy for p in c.plugins if p.dist == "acme"] == [("torch",)] or "torch" in [
            p for p in c.plugins if p.dist == "acme"][0].heavy
        assert all(not p.heavy for p in c.plugins if p.dist == "acutance")
        """
    )
    (tmp_path / "heavy_plugin.py").write_text("import torch")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_the_third_party_of_the_tests_is_a_plugin_like_any_other():
    found = catalog()
    assert isinstance(found, Catalog)
    assert found.find("measures", "weight_norm").id == "acme-toy/weight_norm"
    assert found.find("pools", "toy").version == "1.2"
    assert not found.problems


def test_hooks_that_are_calls_reach_plugins(tmp_path, monkeypatch, toy_config):
    """on_run_start, on_outcome, on_run_end."""
    from acutance.run.harness import run_study
    from acutance.study.config import load_config

    calls = []

    class Listener:
        from acutance import hookimpl

        @hookimpl
        def on_run_start(self, config, directory):
            calls.append(("start", config["title"]))

        @hookimpl
        def on_outcome(self, outcome):
            calls.append((outcome["kind"],))

        @hookimpl
        def on_run_end(self, summary):
            calls.append(("end", summary["failed"]))

    listener = Listener()
    catalog().manager.register(listener)
    try:
        run_study(load_config(toy_config), tmp_path, report=False)
    finally:
        catalog().manager.unregister(listener)
    assert calls[0] == ("start", "toy") and calls[-1] == ("end", 0)
    assert {("model",), ("parts",)} <= set(calls)


def test_a_hook_decides_what_becomes_of_a_failing_cell(tmp_path, toy_config):
    """on_cell_error: the first answer counts."""
    from acutance import hookimpl
    from acutance.hookspecs import Skip
    from acutance.run.harness import run_study
    from acutance.study.config import load_config

    class Forgiving:
        @hookimpl
        def on_cell_error(self, error, measure):
            return Skip("forgiven") if "moody" in measure else None

    forgiving = Forgiving()
    catalog().manager.register(forgiving)
    try:
        toy_config["measures"] = [{"name": "moody", "mood": "raise"}]
        done = run_study(load_config(toy_config), tmp_path, report=False)
    finally:
        catalog().manager.unregister(forgiving)
    moody = done.results[done.results["measure"].str.contains("moody")]
    assert (moody["status"] == "unsupported").all() and (moody["message"] == "forgiven").all()


def test_a_third_partys_executor_and_scaling_work_like_built_in_ones(tmp_path, toy_config):
    """register_executors, register_scalings."""
    from acutance.run.harness import run_study
    from acutance.study.config import load_config

    toy_config["measures"] = [
        {"name": "worst_case", "rho": 0.02, "scaling": "half"},
        {"name": "worst_case", "rho": 0.01, "scaling": "elementwise"},
    ]
    done = run_study(load_config(toy_config, executor="backwards"), tmp_path, report=False)
    worst = done.results[done.results["measure"] == "worst_case"]
    half, full = (worst[worst["spec.scaling"] == s].set_index("model")["value"] for s in ("half", "elementwise"))
    # Twice the radius in half the units is the same ball.
    assert half.to_numpy() == pytest.approx(full.loc[half.index].to_numpy(), rel=1e-5)


NAMED = """
from acutance import hookimpl
@hookimpl
def register_measures():
    return {table}
"""
LATE = GOOD.split("@hookimpl")[0].replace("from acutance import hookimpl\n", "import torch\n")


def named(tmp_path, monkeypatch, table, late):
    """A catalog of one plugin, and the module that it names: another one for every source, as for ``point``."""
    module = f"late_{abs(hash((table, late))):x}"
    (tmp_path / f"{module}.py").write_text(late)
    return load([point(tmp_path, monkeypatch, NAMED.format(table=table.replace("MODULE", module)))]), module


def test_what_is_registered_by_name_is_imported_when_it_is_looked_up(tmp_path, monkeypatch):
    found, module = named(tmp_path, monkeypatch, '{"late": "MODULE:Good"}', LATE.format(name="late"))
    (item,) = found.items("measures")
    assert item.id == "acme-foo/late" and module not in sys.modules and not found.problems
    assert found.find("measures", "late").target.name == "late" and module in sys.modules
    assert item.target is found.get("measures", "late")


@pytest.mark.parametrize("table,late,said", [
    ('{"late": "MODULE:Good"}', LATE.format(name="other"), "Good is called 'other'"),
    ('{"late": "MODULE:Goood"}', LATE.format(name="late"), "has no attribute 'Goood'"),
    ('{"late": "MODULE:Good"}', "raise SystemExit(3)", "SystemExit: 3"),
    ('{"late": "MODULE:Good"}', "import no_such_module_anywhere", "No module named"),
    ('{"late": "MODULE:Good"}', LATE.format(name="late").replace("def evaluate", "def value"), "does not define evaluate"),
    ('{"late": "MODULE:Good"}', LATE.format(name="late").replace("    '''A spec.'''", "    a: int = 1"), "docstring"),
])  # fmt: skip
def test_what_cannot_be_looked_up_is_one_sentence_and_a_problem_when_all_is_imported(
    tmp_path, monkeypatch, table, late, said
):
    found, _ = named(tmp_path, monkeypatch, table, late)
    assert not found.problems
    with pytest.raises(UserError, match=r"measure 'late' of acme-foo 1\.0 cannot be loaded") as told:
        _ = found.get("measures", "late")
    assert said in told.value.message and "ACUTANCE_PLUGINS=-acme-foo" in told.value.hint
    found.import_all()
    found.import_all()
    (problem,) = found.problems
    assert (problem.plugin, problem.phase) == ("late", "import") and problem.traceback and said in problem.error


ENDS = "import signal\nfrom acutance.errors import Terminated\nraise Terminated(signal.SIGTERM)"


@pytest.mark.parametrize("source", [
    ENDS, NAMED.format(table='["LATE:Good"]'), NAMED.format(table='__import__("LATE")'), NAMED.format(table='{"late": "LATE:Good"}'),
])  # fmt: skip
def test_a_signal_that_ends_the_program_is_no_fault_of_a_plugin(tmp_path, monkeypatch, source):
    (tmp_path / "late_ends.py").write_text(ENDS)
    monkeypatch.delitem(sys.modules, "late_ends", raising=False)
    with pytest.raises(Terminated):
        found = load([point(tmp_path, monkeypatch, source.replace("LATE", "late_ends"))])
        assert not found.problems
        found.get("measures", "late")


def test_a_name_without_a_place_is_a_problem_at_once(tmp_path, monkeypatch):
    table = '{"late": "MODULE", "good": "MODULE:Good"}'
    found, _ = named(tmp_path, monkeypatch, table, LATE.format(name="late"))
    assert [item.name for item in found.items("measures")] == ["good"]
    assert "of 'late' is not a text" in found.problems[0].error


def test_what_cannot_be_looked_up_stops_nothing_that_looks_all_up():
    broken = [Item(kind, "broken", "acme-broken", "1", "no_such_module_anywhere:Class") for kind in KINDS[:3]]
    with extended(broken) as found:
        assert [i.name for i in found.usable("measures")] == [i.name for i in found.items("measures")][:-1]
        assert "hessian_density" in with_curve()
        assert "worst_case" in json.dumps(study_schema(found))
        assert "ModuleNotFoundError" in found.problems[-1].error
