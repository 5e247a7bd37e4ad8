"""Sinks: every cell that a run computes, once it is stored and in that order; one that fails costs itself alone."""

import asyncio
import json
import math
import os
import signal

import pandas as pd
import pytest
import yaml
from forked import run_forked
from third_parties import plugin

from acutance import UserError, hookimpl
from acutance.io.jsonl import Jsonl, JsonlSpec
from acutance.io.written import CHANGED, STRANGE, foreign, growing
from acutance.plugins import Item, _item, catalog, extended
from acutance.run.harness import run_study
from acutance.run.hooks import Hook, first_answer
from acutance.run.sinks import Sinks, files_of
from acutance.run.store import Store
from acutance.sink import Sink
from acutance.spec import Spec
from acutance.study.config import load_config
from acutance.system.ending import STORED, Terminated, what_is_left
from acutance.system.progress import Silent


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def study(three_models):
    return three_models | {"measures": [{"name": "weight_norm", "p": [1, 2]}, {"name": "moody", "mood": "nan"}]}


def test_what_a_run_computes_is_what_a_file_of_lines_has(study, tmp_path):
    run = run_study(load_config(study, sinks=["jsonl"]), tmp_path, report=False)
    rows = lines(tmp_path / "results.jsonl")
    # The same columns and cells as the table, in the order in which they were stored: targets first.
    results = pd.read_csv(tmp_path / "results.csv")
    assert len(rows) == len(results) == run.computed and rows[0]["measure"] == "error"
    named = {(r["model"], r["measure"], r["split"], r.get("spec.p")): r for r in rows}
    for told in results.to_dict("records"):
        p = told["spec.p"] if told["measure"] == "weight_norm" else None
        row = named[told["model"], told["measure"], told["split"], p]
        assert row["status"] == told["status"] and set(row) <= set(results.columns)
        assert row["value"] == (told["value"] if math.isfinite(told["value"]) else None)
    assert {row["status"] for row in rows if row["measure"] == "moody"} == {"nonfinite"}
    # Nothing new: no line.
    assert run_study(load_config(study, sinks=["jsonl"]), tmp_path, report=False).computed == 0
    assert lines(tmp_path / "results.jsonl") == rows


def test_sinks_are_no_part_of_keys_of_the_config_or_of_what_is_out_of_date(study, tmp_path):
    run_study(load_config(study), tmp_path, report=False)
    before = {name: (tmp_path / name).read_bytes() for name in ("config.yaml", ".outputs", "correlations.csv")}
    changed = load_config(study | {"sinks": [{"name": "jsonl", "file": "mine.jsonl"}]})
    assert run_study(changed, tmp_path, report=False).computed == 0
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert lines(tmp_path / "mine.jsonl") == []


@pytest.mark.parametrize("sinks,message", [
    ([{"name": "jsonk"}], r"sinks.0.name: unknown sink 'jsonk'.*'jsonl'"),
    ([{"name": "jsonl"}, {"name": "jsonl", "file": "../x.jsonl"}], r"sinks.1.file: .*match pattern"),
    ({"name": "jsonl"}, r"sinks: Input should be a valid list"),
])  # fmt: skip
def test_a_mistake_is_told_with_its_place(study, sinks, message):
    with pytest.raises(UserError, match=message):
        load_config(study | {"sinks": sinks})


def test_a_row_is_a_line_that_a_broken_one_before_it_does_not_spoil(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"value": 1}\n{"val')
    for value in (2.0, math.inf):
        sink = Jsonl(JsonlSpec(file="a.jsonl"))
        sink.open(tmp_path, {})
        sink.write({"value": value, "model": "ä"})
        assert (tmp_path / "a.jsonl").read_bytes().endswith(b"}\n")  # at once
        sink.close()
    assert (tmp_path / "a.jsonl").read_text().splitlines() == [
        '{"value": 1}', '{"val', '{"value": 2.0, "model": "ä"}', '{"value": null, "model": "ä"}'
    ]  # fmt: skip


class Mine(Sink[Spec]):
    """Keeps its rows, and fails where it is told to."""

    name = "mine"
    at = ""
    kept: list = []
    closed = 0

    def open(self, directory, config):
        assert config == {"targets": ["error"]}
        config["targets"].clear()
        self.fail("open")

    def write(self, row):
        self.kept.append(row)
        self.fail("write")

    def close(self):
        type(self).closed += 1
        self.fail("close")

    def fail(self, where):
        if self.at == where:
            raise {"open": SystemExit(1), "write": GeneratorExit(), "close": OSError("full")}[where]


class Other(Mine):
    """Another."""

    name = "other"
    at = ""


@pytest.mark.parametrize("at,rows,closed", [("", 2, 1), ("open", 0, 0), ("write", 1, 1), ("close", 2, 1)])
def test_one_that_fails_is_told_once_and_costs_itself_alone(tmp_path, monkeypatch, at, rows, closed):
    for one in (Mine, Other):
        monkeypatch.setattr(one, "kept", [])
        monkeypatch.setattr(one, "closed", 0)
    monkeypatch.setattr(Mine, "at", at)
    said = []
    chosen = [(Item("sinks", one.name, "acme", "1", one), Spec()) for one in (Mine, Other)]
    config = {"targets": ["error"]}
    with Sinks(chosen, tmp_path, config, said.append) as sinks:
        for i in range(2):
            sinks.write({"value": i})
    assert config == {"targets": ["error"]}
    assert (len(Mine.kept), Mine.closed) == (rows, closed) and (len(Other.kept), Other.closed) == (2, 1)
    assert len(said) == bool(at)
    told = {"": "", "close": "could not be closed: OSError: full"}.get(at, "gets nothing more: RuntimeError: it ")
    assert not at or said[0].startswith(f"sink 'mine' of acme 1 {told}")
    monkeypatch.setattr(Mine, "at", "")
    with pytest.raises(KeyboardInterrupt), Sinks(chosen, tmp_path, {"targets": ["error"]}, said.append):
        raise KeyboardInterrupt
    assert Mine.closed == closed + 1


@pytest.mark.parametrize("end", [Terminated(signal.SIGTERM), KeyboardInterrupt()])
def test_a_signal_while_one_is_at_work_waits_until_all_have_had_their_turn(tmp_path, monkeypatch, end):
    turns = []

    def ends(self, *_):
        turns.append(self.name)
        if self.at == "raise":
            raise end

    for one in (Mine, Other):
        monkeypatch.setattr(one, "write", ends)
        monkeypatch.setattr(one, "close", ends)
    said = []
    chosen = [(Item("sinks", one.name, "acme", "1", one), Spec()) for one in (Mine, Other)]
    with pytest.raises(type(end)), Sinks(chosen, tmp_path, {"targets": ["error"]}, said.append) as sinks:
        monkeypatch.setattr(Mine, "at", "raise")
        sinks.write({})
    assert turns == ["mine", "other"] * 2 and not said  # the row, and the close


def test_a_signal_meanwhile_costs_no_cell_of_the_same_batch_its_row(study, tmp_path, monkeypatch):
    class Ends(Mine):
        """Gets the signal with the first row of a measure."""

        name, kept = "ends", []

        def open(self, directory, config):
            pass

        def write(self, row):
            self.kept.append((row["measure"], row.get("spec.p")))
            if row["measure"] == "weight_norm" and row["spec.p"] == 1:
                raise Terminated(signal.SIGTERM)

    with extended([Item("sinks", "ends", "acme", "1", Ends)]), pytest.raises(Terminated) as told:
        run_study(load_config(study, sinks=["ends", "jsonl"]), tmp_path, report=False)
    assert Ends.kept[-2:] == [("weight_norm", 1), ("weight_norm", 2)]
    assert len(lines(tmp_path / "results.jsonl")) == len(Ends.kept) == len(Store(tmp_path / "acutance.db").cells())
    assert what_is_left(told.value) == f": {STORED}"


def test_a_file_of_somebody_else_is_refused_before_the_run_begins(study, tmp_path):
    asked, path = load_config(study, sinks=["jsonl"]), tmp_path / "results.jsonl"
    path.write_text("mine\n")
    with pytest.raises(UserError, match=r"results\.jsonl is there, and acutance did not write it .*move the file away"):
        run_study(asked, tmp_path, report=False)
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"] and path.read_text() == "mine\n"
    path.unlink()
    computed = run_study(asked, tmp_path, report=False).computed
    run_study(asked, tmp_path, report=False)
    assert len(lines(path)) == computed
    with path.open("a") as file:
        file.write("mine\n")
    with pytest.raises(UserError, match=r"results\.jsonl was changed since acutance wrote it"):
        run_study(asked, tmp_path, report=False)


def test_a_file_that_grows_is_ours_whatever_a_kill_leaves(tmp_path):
    def grow(text):
        with growing(tmp_path, ["a.jsonl", "never.jsonl"]):
            (tmp_path / "a.jsonl").write_text(text)
            assert not foreign(tmp_path, ["a.jsonl", "never.jsonl"], ours=False)
            return (tmp_path / ".written.json").read_text()

    killed = grow("1")
    (tmp_path / "a.jsonl").write_text("2")
    (tmp_path / "never.jsonl").write_text("2")
    assert foreign(tmp_path, ["a.jsonl"], ours=False) == f"a.jsonl {CHANGED}"
    assert foreign(tmp_path, ["never.jsonl"], ours=False) == f"never.jsonl {STRANGE}"
    (tmp_path / ".written.json").write_text(killed)
    assert not foreign(tmp_path, ["a.jsonl"], ours=False)


def test_one_that_fails_to_say_its_files_has_none():
    class Silent(Mine):
        """Says nothing."""

        name, files = "silent", None

    assert files_of([(Item("sinks", "x", "acme", "1", one), Spec()) for one in (Silent, Mine)]) == []
    assert files_of([(Item("sinks", "jsonl", "acutance", "1", Jsonl), JsonlSpec(file="a.jsonl"))]) == ["a.jsonl"]


def test_a_row_is_given_when_it_is_stored(study, tmp_path):
    seen = []

    class Watching(Sink[Spec]):
        """Looks into the store."""

        name = "watching"

        def open(self, directory, config):
            self.store = Store(directory / "acutance.db", write=False)
            assert config["seed"] == 0

        def write(self, row):
            seen.append((len(self.store.cells()), row["measure"]))
            row.clear()  # a copy

        def close(self):
            self.store.close()

    with extended([Item("sinks", "watching", "acme", "1", Watching)]):
        run = run_study(load_config(study, sinks=["watching", "jsonl"]), tmp_path, report=False)
    assert [count for count, _ in seen] == sorted(count for count, _ in seen) and seen[-1][0] == run.computed
    assert all(count > i for i, (count, _) in enumerate(seen))
    assert [row["measure"] for row in lines(tmp_path / "results.jsonl")] == [measure for _, measure in seen]


SOURCE = """
import os, signal
from acutance import hookimpl
from acutance.sink import Sink
from acutance.spec import Spec

class WireSpec(Spec):
    after: int = 0
    '''Rows after which it asks for the end; 0: never.'''

class Wire(Sink[WireSpec]):
    '''Writes names of models to a file.'''
    name = "wire"
    def open(self, directory, config):
        self.rows, self.file = 0, open(directory / "wire.txt", "a")
    def write(self, row):
        self.rows += 1
        print(row["model"], row["measure"], row.get("spec.p"), file=self.file, flush=True)
        if self.rows == self.spec.after:
            os.kill(os.getpid(), signal.SIGTERM)
    def close(self):
        print("closed", file=self.file, flush=True)

@hookimpl
def register_sinks():
    return [Wire]
"""


def test_a_third_partys_sink_in_a_run_that_is_broken_off_and_goes_on(study, tmp_path):
    plugin(tmp_path / "dist", "acme-wire", SOURCE)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"sinks": [{"name": "wire", "after": 3}]}))
    path = os.pathsep.join([str(tmp_path / "dist"), os.environ["PYTHONPATH"]])

    def acutance(*arguments):
        return run_forked("-m", "acutance", *arguments, env={**os.environ, "PYTHONPATH": path})

    run = ("run", tmp_path / "study.yaml", "--out", tmp_path / "run", "--no-report", "--sink", "jsonl")
    assert acutance(*run).returncode == 128 + signal.SIGTERM
    told = (tmp_path / "run" / "wire.txt").read_text().splitlines()
    assert len(told) >= 4 and told[-1] == "closed"
    acutance(*run, "--set", "sinks.0.after=0")
    # Every cell once, over both runs; what was stored when the signal came was given to all.
    told = [line for line in (tmp_path / "run" / "wire.txt").read_text().splitlines() if line != "closed"]
    rows = lines(tmp_path / "run" / "results.jsonl")
    results = pd.read_csv(tmp_path / "run" / "results.csv")
    assert len(told) == len(set(told)) == len(results) == len(rows)
    assert len({(r["model"], r["measure"], r.get("spec.p")) for r in rows}) == len(rows)
    listed = acutance("list", "sinks").stdout.splitlines()
    assert any(line.split()[:3] == ["wire", "acme-wire", "1.0"] for line in listed)
    shown = acutance("show", "wire").stdout
    assert "acme-wire/wire 1.0  (sink)" in shown and "sinks: [{name: wire}]" in shown


def test_a_class_that_takes_nothing_is_no_sink():
    with pytest.raises(TypeError, match=r"sink 'idle' does not define write\(row\)"):
        _item("sinks", type("Idle", (Sink,), {"name": "idle"}), "acme", "1")
    assert catalog().find("sinks", "jsonl").id == "acutance/jsonl"


def test_equal_sinks_are_one(study):
    twice = [{"name": "jsonl"}, {"name": "jsonl", "file": "mine.jsonl"}, {"name": "jsonl", "file": "results.jsonl"}]
    found = load_config(study | {"sinks": twice}, sinks=["jsonl"]).sinks
    assert [one.spec.file for one in found] == ["results.jsonl", "mine.jsonl"]


class Leaves(Mine):
    """Goes elsewhere."""

    name = "leaves"

    def open(self, directory, config):
        os.chdir("/")
        config["targets"].clear()


class Hooked:
    """Fails wherever it is called."""

    @hookimpl
    def on_run_start(self, config):
        config["targets"].clear()
        raise SystemExit(0)

    @hookimpl
    def on_outcome(self):
        raise asyncio.CancelledError

    @hookimpl
    def on_run_end(self):
        raise ValueError("no luck")


def test_a_run_stays_in_its_folder_and_hooks_that_fail_cost_nothing(three_models, tmp_path, monkeypatch):
    said, heard = [], []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Leaves, "kept", [])
    monkeypatch.setattr(Silent, "say", lambda self, text: said.append(text))
    others = type("Others", (), {"on_outcome": hookimpl(lambda self, outcome: heard.append(outcome))})()
    manager = catalog().manager
    manager.register(others, name="acme:others")
    manager.register(Hooked(), name="acme:hooked")
    try:
        config = three_models | {"measures": [{"name": "weight_norm"}], "sinks": [{"name": "leaves"}]}
        with extended([Item("sinks", "leaves", "acme", "1", Leaves)]):
            run = run_study(load_config(config), "out", report=False)
    finally:
        manager.unregister(name="acme:hooked")
        manager.unregister(name="acme:others")
    assert run.directory == tmp_path / "out" and (tmp_path / "out" / "correlations.csv").exists() and heard
    told = [text for text in said if "hook" in text]
    assert told == [
        f"note: hook {name} of plugin 'acme:hooked' failed, and is not called again: {why}"
        for name, why in (
            ("on_run_start", "SystemExit: 0"), ("on_outcome", "CancelledError"), ("on_run_end", "ValueError: no luck")
        )
    ]  # fmt: skip


def test_the_first_answer_counts_though_another_plugin_fails():
    answers = type("Answers", (), {"on_cell_error": hookimpl(lambda self, error: error)})()
    fails = type("Fails", (), {"on_cell_error": hookimpl(lambda self: 1 / 0)})()
    manager, said = catalog().manager, []
    for plugin_ in (answers, fails):  # the last one is asked first
        manager.register(plugin_)
    try:
        assert first_answer(Hook("on_cell_error", said.append).call(error=3, measure="", microbatch=2)) == 3
    finally:
        for plugin_ in (answers, fails):
            manager.unregister(plugin_)
    assert len(said) == 1 and "ZeroDivisionError" in said[0]
