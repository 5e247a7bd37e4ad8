"""A statistic is one file: a third party's has its table, its place on the page and its name wherever others have; one
that fails costs its own table."""

import json
import shutil
import signal
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import entry_points
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from third_parties import plugin, python

from acutance import __version__
from acutance.analysis.statistics import Statistic, StudyTables
from acutance.analysis.statistics.verdicts import Verdicts
from acutance.cli import cli
from acutance.plugins import TABLES as RESERVED
from acutance.plugins import Item, catalog, extended, load
from acutance.report.page.html import render_page
from acutance.report.page.sections import methods_sentences, study_sections
from acutance.run.directory import CURVES, OLD, STATISTICS, SWEEP, TABLES, RunDirectory, read_csv
from acutance.run.harness import run_study
from acutance.run.outputs import report_data
from acutance.run.statistics import Judged, are_current, computed, judged, measured
from acutance.study.config import load_config
from acutance.system.ending import Terminated
from acutance.workflows.merge import merge

SPREAD = '''
from acutance import hookimpl
from acutance.analysis.statistics import Cell, Section, Statistic

class Spread(Statistic):
    """How much each definition <differs> between `models`.

    More of it.
    """
    name = "spread"

    def of_level(self, level):
        for name, values in level.values.items():
            yield {"definition": name, "sd": values.std(), "models": len(level.models), "note": "<b>&" + chr(39)}

    def sentences(self, table):
        return [f"The largest spread is {table['sd'].max():g} <i>."]

    def methods(self, table):
        return [f"Spreads are of {len(table)} rows."]

class Whole(Statistic):
    """Of everything."""
    name, title = "whole", "All of it"

    def compute(self, study):
        import pandas as pd
        return pd.DataFrame({"definitions": [len(study.definitions)], "correlations": [len(study.correlations)]})

    def section(self, table):
        return Section(self.title, "Said *so*.", ["n"], [[Cell(str(table["definitions"][0]), small="<u>", why="x<")]])
'''
HOOK = "\n\n@hookimpl\ndef register_statistics():\n    return [{}]\n"
FAULTY = '''
class Raises(Statistic):
    """Raises."""
    name = "raises"
    {change}

class Nothing(Statistic):
    """Defines nothing."""
    name = "nothing"

class Number(Statistic):
    """Gives a number."""
    name = "number"
    compute = lambda self, study: 3

class Twice(Statistic):
    """Has one column twice."""
    name = "twice"

    def compute(self, study):
        import pandas as pd
        return pd.DataFrame([[1, 2]], columns=["a", "a"])

class Empty(Statistic):
    """Has nothing to say, and no columns."""
    name = "empty"

    def compute(self, study):
        import pandas as pd
        return pd.DataFrame()

class Spoils(Statistic):
    """Changes what all are computed from."""
    name = "spoils"

    def compute(self, study):
        found = study.models.copy()
        for table in (study.models, study.results, study.correlations):
            for name in list(table):
                del table[name]
        raise SystemExit(f"had {{len(found.columns) > 3}}")

class Shows(Statistic):
    """Cannot be shown."""
    name = "shows"
    of_level = lambda self, level: [{{"a": 1}}]
    section = lambda self, table: "<p>"
    methods = lambda self, table: 1 / 0
'''


def table(path, n=12):
    g = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"net": [f"m{i}" for i in range(n)], "err": g.random(n), "one": g.random(n), "two": g.random(n)}
    )
    frame.assign(kind=list("ab") * (n // 2)).to_csv(path, index=False)
    return path


def acutance(*arguments):
    done = CliRunner().invoke(cli, [str(part) for part in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that adds what a distribution registers to what this process has, for as long as the test runs."""

    def install(source, *names):
        name = f"acme-{tmp_path.name.replace('_', '-')}-{len(made)}"
        points = plugin(tmp_path / name, name, source + (HOOK.format(", ".join(names)) if names else ""))
        catalog()
        monkeypatch.syspath_prepend(str(tmp_path / name))
        found = load([*entry_points(group="acutance"), *points])
        made.append(name)
        items = [item for item in found.items("statistics") if item.dist == name]
        stack.enter_context(extended(items))
        return found, name

    made: list[str] = []
    with ExitStack() as stack:
        yield install


COLUMNS = ["--model", "net", "--targets", "err", "--measures", "one,two", "--within", "kind", "--resamples", 99]


def correlated(folder, name="out"):
    done = acutance("correlate", table(folder / "t.csv"), *COLUMNS, "--out", folder / name, "--no-report")
    return folder / name, done


def page(directory):
    """The page without its pictures."""
    return render_page(report_data(RunDirectory(directory), {}), {})


def test_a_distribution_of_its_own_has_its_statistic_everywhere(tmp_path):
    plugin(tmp_path / "site", "acme-spread", SPREAD + HOOK.format("Spread, Whole"), version="3.1")
    source, out = table(tmp_path / "t.csv"), tmp_path / "out"
    lines = [
        ["list", "statistics", "--json"], ["show", "spread"],
        ["correlate", str(source), *map(str, COLUMNS), "--out", str(out), "--no-report"],
        ["results", str(out), "--table", "spread"],
    ]  # fmt: skip
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    (tmp_path / "all.py").write_text(
        "import json, sys\nfrom pathlib import Path\nfrom click.testing import CliRunner\nfrom acutance.cli import cli\n"
        "from acutance.report.page.html import render_page\nfrom acutance.run.directory import RunDirectory\n"
        "from acutance.run.outputs import report_data\n"
        "for line in json.loads(Path(sys.argv[1]).read_text()):\n"
        "    done = CliRunner().invoke(cli, line)\n    assert done.exit_code == 0, done.exception\n"
        "    print('>>>', done.stdout)\n"
        "print('>>>', render_page(report_data(RunDirectory(Path(sys.argv[2])), {}), {}))\n"
    )
    done = python(tmp_path / "all.py", tmp_path / "lines.json", out, path=[tmp_path / "site"], forked=True)
    _, listed, shown, _, results, shows = done.stdout.split(">>> ")
    rows = {row["name"]: row for row in json.loads(listed)["statistics"]}
    assert (rows["spread"]["dist"], rows["spread"]["summary"]) == (
        "acme-spread", "How much each definition <differs> between `models`.",
    )  # fmt: skip
    assert rows["radii"]["dist"] == "acutance" and len(rows) == 11
    assert "More of it." in shown and "spread.csv" in shown and "(statistic)" in shown
    written = read_csv(out / "spread.csv")
    assert list(written) == ["within", "definition", "sd", "models", "note"] and len(written) == 4
    frame = pd.read_csv(source)
    exact = frame.loc[frame["kind"] == "a", "one"].std()
    assert written["sd"][0] == pytest.approx(exact) and results.startswith("within,definition,sd,models,note")
    about = "How much each definition &lt;differs&gt; between <code>models</code>."
    assert shows.count(f'<h3>Spread</h3>\n<p class="soft">{about}</p>') == 2
    assert f"<td>{exact:g}</td><td>6</td>" in shows and "&lt;b&gt;&amp;&#39;" in shows and "<b>&" not in shows
    assert shows.count(" &lt;i&gt;.</li>") == 2 and "Spreads are of 4 rows." in shows
    whole = shows[shows.index("<h2>Statistics of the whole study</h2>") : shows.index('<section id="models">')]
    assert "<h3>All of it</h3>" in whole and "Said <em>so</em>." in whole and "<h3>Spread" not in whole
    assert '<td title="x&lt;">2 <small>&lt;u&gt;</small></td>' in whole

    # Here it is not installed: its table stays readable, and is shown as it is.
    assert acutance("results", out, "--table", "spread").stdout.strip() == results.strip()
    shows = page(out)
    assert shows.count("<h3>Spread</h3>") == 2 and f"<td>{exact:g}</td>" in shows and "&lt;differs&gt;" in shows
    assert "largest spread" not in shows and "<h3>All of it</h3>" in shows
    assert "spread" in RunDirectory(out).recorded() and not list(RunDirectory(tmp_path).recorded())
    # What is made anew has no table of what is not installed.
    correlated(tmp_path)
    assert not (out / "spread.csv").exists() and not (out / STATISTICS).exists() and (out / "radii.csv").exists()
    assert "Spread" not in page(out)


def test_one_that_fails_costs_its_own_table_and_is_said_once(tmp_path, installed):
    plain, _ = correlated(tmp_path, "plain")
    names = ("Raises", "Nothing", "Number", "Twice", "Empty", "Spoils", "Shows", "Spread")
    change = "of_level = lambda self, level: level.nonsense"
    _, dist = installed(SPREAD + FAULTY.format(change=change), *names)
    out, done = correlated(tmp_path)
    for name in ("models", "results", "correlations", "verdicts", "pairwise"):
        assert (out / f"{name}.csv").read_bytes() == (plain / f"{name}.csv").read_bytes(), name
    assert len(read_csv(out / "spread.csv")) == 4 and not len(read_csv(out / "empty.csv"))
    shows = page(out)
    said = {
        "raises": "AttributeError: 'Level' object has no attribute 'nonsense'",
        "nothing": "NotImplementedError: statistic 'nothing' defines neither of_level(level) nor compute(study)",
        "number": "TypeError: compute must return a DataFrame, not int",
        "twice": "ValueError: two columns of its table have one name",
        "spoils": "SystemExit: had True",
    }
    for name, why in said.items():
        sentence = f"statistic '{name}' of {dist} 1.0 failed: {why}; it has no table."
        assert f"note: {sentence}" in done.stderr and not (out / f"{name}.csv").exists()
        assert shows.count(f"<p>{sentence.replace(chr(39), '&#39;')}</p>") == 1
        again = CliRunner().invoke(cli, ["results", str(out), "--table", name])
        assert again.exit_code and why in again.exception.message
    assert shows.count("<p>What statistic &#39;shows&#39; shows is left out: ") == 2
    assert "TypeError: section must return a Section or None, not str" in shows and "ZeroDivisionError" in shows
    assert (out / "shows.csv").exists() and shows.count("<h3>Spread</h3>") == 2


STUDY = StudyTables(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), [])


def raising(error):
    def method(*_):
        raise error

    return method


@pytest.mark.parametrize("rows,why", [
    ([{"a": 1, "b": [1]}], "TypeError: column 'b' of its table holds a list; a cell is a number or a text"),
    ([{"a": (1, {2})}], "TypeError: column 'a' of its table holds a tuple; a cell is a number or a text"),
    ([{"within": "a"}], "ValueError: of_level returns a column 'within', which is added: it has the level's name"),
    ("abc", "TypeError: of_level must return a DataFrame or rows, {column: value} each, not 'abc'"),
    (["abc"], "TypeError: of_level must return a DataFrame or rows, {column: value} each, not 'abc'"),
    (3, "TypeError: of_level must return a DataFrame or rows, {column: value} each, not 3"),
    (GeneratorExit(), "GeneratorExit"), (SystemExit(0), "SystemExit: 0"),
    ([{"a": 1, "b": "x", "c": None, "d": (1, 2)}], ""), (iter([{"a": 1}]), ""), (pd.DataFrame({"a": [1]}), ""),
])  # fmt: skip
def test_rows_that_no_table_holds_cost_its_table_in_a_sentence(monkeypatch, rows, why):
    of_level = raising(rows) if isinstance(rows, BaseException) else lambda self, level: rows
    made = type("Made", (Statistic,), {"name": "made", "__doc__": "Made.", "of_level": of_level})
    monkeypatch.setattr(StudyTables, "levels", [SimpleNamespace(name="all")])
    tables, recorded = computed([Item("statistics", "made", "acme", "1.0", made)], STUDY)
    assert bool(tables) is not bool(why) and (not why or f" failed: {why}; it has no table." in recorded["made"].fault)


@pytest.mark.parametrize(
    "error,why", [(SystemExit(0), "it called sys.exit(0)"), (GeneratorExit(), "it raised GeneratorExit")]
)
def test_what_a_statistic_raises_on_the_page_leaves_it_out(error, why):
    faults, made = (
        [],
        type("Made", (Statistic,), {"name": "made", "section": raising(error), "methods": raising(error)}),
    )
    shows = type(
        "Shows", (made,), {"name": "shows", "section": Statistic.section, "methods": lambda self, table: ["So."]}
    )
    data = SimpleNamespace(
        statistics=[made(), shows()], findings=dict.fromkeys(("made", "shows"), pd.DataFrame({"a": [1]}))
    )
    assert len(study_sections(data, faults)) == 1 and methods_sentences(data, faults) == ["So."]
    assert faults == [f"What statistic 'made' shows is left out: RuntimeError: {why}. Its table is made.csv."]


@pytest.mark.parametrize("at", ["__init__", "compute"])
def test_a_signal_while_one_is_made_or_computed_ends_the_run_and_is_no_failure_of_it(at):
    def ended(*_):
        raise Terminated(signal.SIGTERM)  # as the handler of the signal does: the thread of a test may not receive it

    class Ends(Statistic):
        """Is under way when the run is told to end."""

        name = "ends"
        compute = ended if at == "compute" else None
        __init__ = ended if at == "__init__" else object.__init__

    study = StudyTables(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), [])
    with pytest.raises(Terminated):
        computed([Item("statistics", "ends", "acme", "1.0", Ends)], study)


def test_what_targets_are_measured_in_is_no_measure():
    results = pd.DataFrame({"measure": ["error", "loss", "weight_norm"]})
    assert measured(results)["measure"].tolist() == ["weight_norm"] and not len(measured(results[:0]))


def test_a_table_is_current_when_it_is_of_the_statistic_that_is_installed(finished_once, tmp_path):
    shutil.copytree(finished_once.directory, tmp_path / "run")
    directory, acme = RunDirectory(tmp_path / "run"), {"dist": "acme", "version": "1.0"}
    assert are_current(directory)
    with extended([Item("statistics", "mine", *acme.values(), Statistic)]):
        assert not are_current(directory)
        (directory.path / "mine.csv").write_text("within\n")
        assert not are_current(directory)  # somebody else's
        for about in (acme, acme | {"version": "0.9"}, acme | {"dist": "other"}, acme | {"fault": "It failed."}):
            (directory.path / STATISTICS).write_text(json.dumps({"mine": about}))
            assert are_current(directory) == (about is acme)


def test_where_the_verdicts_fail_page_and_commands_say_so(tmp_path, monkeypatch, three_models):
    def compute(self, study):
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(Verdicts, "compute", compute)
    said = f"statistic 'verdicts' of acutance {__version__} failed: ZeroDivisionError: no luck; it has no table."
    out, done = correlated(tmp_path)
    assert " ".join(done.stdout.split()).endswith(said) and not (out / "verdicts.csv").exists()
    shows = page(out)
    # In the opening of each of the two levels, and among the problems.
    shown = said.replace("'", "&#39;")
    assert shows.count(shown) == 3 and shows.count(f"<ul><li>{shown}</li>") == 2 and shows.count(f"<p>{shown}</p>") == 1
    done = acutance("correlate", table(tmp_path / "t.csv"), *COLUMNS)
    assert " ".join(done.stdout.split()).endswith(said)
    (tmp_path / "study.yaml").write_text(json.dumps(three_models | {"measures": [{"name": "weight_norm"}]}))
    done = acutance("run", tmp_path / "study.yaml", "--out", tmp_path / "run", "--no-report")
    assert " ".join(done.stdout.split()).endswith(said)
    (tmp_path / "run" / STATISTICS).unlink()
    assert judged(RunDirectory(tmp_path / "run")) == Judged(None, "There is no table of verdicts.")


def test_a_module_that_is_not_there_is_one_that_fails(tmp_path, installed):
    source = SPREAD + "\n@hookimpl\ndef register_statistics():\n    return {'late': 'no_such_module:Late'}\n"
    found, dist = installed(source)
    assert not found.problems
    out, done = correlated(tmp_path)
    assert f"note: statistic 'late' of {dist} 1.0 cannot be loaded: ModuleNotFoundError" in done.stderr
    assert "cannot be loaded: ModuleNotFoundError" in page(out) and (out / "radii.csv").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ('name = "results"', "statistic 'results': its table is NAME.csv"),
        ('name = "../up"', "statistic '../up': its table is NAME.csv"),
        ('name = "radii"', "statistic name 'radii' of DIST 1.0 is taken by acutance"),
        ("compute = None", "statistic 'raises' does not define compute(study)"),
    ],
)
def test_what_can_have_no_table_is_a_problem_of_its_plugin(installed, change, problem):
    found, dist = installed(SPREAD + FAULTY.format(change=change), "Raises", "Spread")
    (told,) = found.problems
    assert problem.replace("DIST", dist) in told.error
    assert [item.name for item in found.items("statistics") if item.dist == dist] == ["spread"]


def test_no_two_have_one_table():
    assert set(RESERVED) == {*TABLES, CURVES, SWEEP}
    with extended([Item("statistics", "spread", "acme-a", "1", "a:A")]) as found:
        with pytest.raises(ValueError, match="statistic name 'spread' of acme-b 1 is taken by acme-a 1"):
            found.add(Item("statistics", "spread", "acme-b", "1", "b:B"))
        found.add(Item("measures", "spread", "acme-b", "1", "b:B"))


def test_what_a_class_says_wrongly_of_itself_fails_alone(tmp_path, installed):
    _, dist = installed(SPREAD + FAULTY.format(change='after = "nowhere"'), "Raises", "Spread")
    out, done = correlated(tmp_path)
    assert f"statistic 'raises' of {dist} 1.0 failed: ValueError: 'after' must be one of correlations" in done.stderr
    assert (out / "spread.csv").exists()


@pytest.fixture
def study(toy_config):
    return toy_config | {"targets": ["test_error"], "groups": [], "measures": [{"name": "weight_norm"}]}


def test_a_run_has_the_table_of_what_is_installed_since(tmp_path, study, installed):
    config = study | {"pools": [{"name": "toy", "size": 4}]}
    first = run_study(load_config(config), tmp_path / "run", report=False)
    before = {path.name: path.read_bytes() for path in first.directory.glob("*.csv")}
    folder = RunDirectory(first.directory)
    folder.put_page(page(folder.path))
    assert not (folder.path / STATISTICS).exists() and "<h3>Spread</h3>" not in page(folder.path)
    installed(SPREAD, "Spread")
    run = run_study(load_config(config), tmp_path / "run", report=False)
    assert run.computed == 0 and len(read_csv(run.directory / "spread.csv")) == 1
    # The page knows nothing of it, and says so.
    assert OLD in folder.page.read_text() and page(folder.path).count("<h3>Spread</h3>") == 1
    assert before == {name: (run.directory / name).read_bytes() for name in before}
    spread = run.directory / "spread.csv"
    stamp = spread.stat().st_mtime_ns
    run_study(load_config(config), run.directory, report=False)
    assert spread.stat().st_mtime_ns == stamp
    # Another version of it may say something else; what failed is tried again.
    known = folder.recorded()["spread"]
    assert (known.version, known.title, known.explanation[:8]) == ("1.0", "Spread", "How much")
    for changed in (replace(known, version="0.9"), replace(known, fault="it was tired")):
        folder.put_statistics({"spread": pd.DataFrame({"within": ["of before"]})}, {"spread": changed})
        run_study(load_config(config), run.directory, report=False)
        assert "sd" in read_csv(spread) and folder.recorded()["spread"] == known


def test_a_merged_run_has_it_too(tmp_path, study, installed):
    installed(SPREAD, "Spread")
    study["measures"] = [{"name": "average_case", "rho": 0.1, "draws": 1}]
    for size in (3, 4):
        run_study(load_config(study | {"pools": [{"name": "toy", "size": size}]}), tmp_path / str(size), report=False)
    merge([tmp_path / "3", tmp_path / "4"], tmp_path / "all", report=False)
    found = read_csv(tmp_path / "all" / "spread.csv")
    assert list(found["models"]) == [4] and RunDirectory(tmp_path / "all").recorded()["spread"].title == "Spread"
