"""Rules of the house, checked: who may import whom, what is light, what is documented."""

import ast
import doctest
import inspect
import pydoc
import re
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from acutance import hookspecs
from acutance.plugins import HEAVY, KINDS, catalog
from acutance.spec import Spec

ROOT = Path(__file__).parents[1]
CORE, PLUGINS = ROOT / "registry" / "acutance", ROOT / "plugins"


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def nodes(path):
    return tuple(ast.walk(parsed(path)))


def imports(path, top_level_only=False):
    for node in parsed(path).body if top_level_only else nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files(folder):
    found = sorted(folder.rglob("*.py"))
    assert found
    return found


def test_the_core_imports_no_plugin():
    for path in files(CORE):
        assert not [name for name in imports(path) if name.split(".")[0].startswith("acutance_")], path


def said(path):
    """Yield the texts of a file that are code: docstrings give examples, which have to be measures that exist."""
    told = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value
        elif isinstance(node, ast.Attribute | ast.Name | ast.keyword):
            yield str(getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "arg", None))


def test_the_core_names_no_measure_of_a_plugin():
    # What targets are measured in is the core's own. Presets and templates of new packages are studies, no code.
    own = [item for item in catalog().items("measures") if item.dist == "acutance"]
    names = [item.name for item in own if item.name not in ("error", "loss")]
    assert {"worst_case", "dln_trace"} <= set(names)
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    # Where a training's log has a column of that name, which is no measure.
    column = {CORE / "training" / "loop.py": {"gradient_norm"}, CORE / "testing" / "problems.py": {"gradient_norm"}}
    for path in files(CORE):
        assert not [text for text in said(path) if pattern.search(text) and text not in column.get(path, ())], path


def test_plugins_import_no_other_plugin():
    for folder in PLUGINS.iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            for path in files(folder):
                others = [n for n in imports(path) if n.startswith("acutance_") and n.split(".")[0] != folder.name]
                assert not others, path


INNER = {"check", "core", "parameters", "pieces", "transform"}  # of a surface, for the modules it stands on


def names_imported(path):
    """Yield (module, name) of what a file takes from acutance: what is imported, and what of an imported module is used."""
    modules = {}
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "acutance")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "acutance":
            for alias in node.names:
                inside = CORE.parent.joinpath(*node.module.split("."), f"{alias.name}.py")
                if inside.exists():
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                else:
                    yield node.module, alias.name
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def published():
    """The names that docs/plugins.md says a plugin may import, by module."""
    rows = re.findall(r"^\| `(acutance[\w.]*)` \| ((?:`\w+`(?:, )?)+) \|", DOCS[0].read_text(), re.M)
    return {module: set(re.findall(r"\w+", names)) for module, names in rows}


def test_what_a_file_takes_is_seen_however_it_is_imported(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text("import acutance.surface.core\nfrom acutance import hookimpl, scaling as s\nc = s.vector\n"
                    "def f():\n    from acutance.model.functional import FunctionalModel\n")  # fmt: skip
    assert sorted(names_imported(path)) == [
        ("acutance", "hookimpl"), ("acutance.model.functional", "FunctionalModel"), ("acutance.scaling", "vector"),
        ("acutance.surface.core", ""),
    ]  # fmt: skip
    assert "vector" in published()["acutance.scaling"] and "acutance.surface.core" not in published()


def test_plugins_take_what_is_published_and_nothing_else():
    doors = published()
    assert len(doors) > 30
    for module, names in doors.items():
        assert [name for name in names if not hasattr(import_module(module), name)] == [], module
    for path in files(PLUGINS):
        hidden = [pair for pair in names_imported(path) if pair[1] not in doors.get(pair[0], ())]
        assert not hidden, f"{path}: {hidden} are no published doors: publish them in docs/plugins.md, or do without"


def test_what_a_surface_offers_is_documented_and_the_rest_is_left_to_the_core():
    from acutance import LossSurface

    text = DOCS[0].read_text()
    for name in {name for name in dir(LossSurface) if not name.startswith("_")} - INNER:
        assert re.search(rf"`{name}[`(]", text), f"surface.{name} is not documented in docs/plugins.md"
    for path in files(PLUGINS):
        inside = [node.attr for node in nodes(path)
                  if isinstance(node, ast.Attribute) and node.attr in INNER - {"parameters"}]  # fmt: skip
        assert not inside, (path, inside)


def test_no_class_of_ours_has_a_private_name_that_may_be_read_of_others():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "SLF" in settings["select"]
    theirs = set(settings["flake8-self"]["extend-ignore-names"])
    for path in files(CORE) + files(PLUGINS):
        for node in nodes(path):
            of_self = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("self", "cls")
            ours = (
                {node.attr} if of_self else {node.name} if isinstance(node, ast.ClassDef | ast.FunctionDef) else set()
            )
            assert not ours & theirs, (path, ours & theirs)


def test_numerics_imports_nothing_but_torch_and_numba_in_one_file_that_may_be_missing():
    for path in files(CORE / "numerics"):
        compiled = {"numba", "numpy"} if path.name == "compiled.py" else set()
        for name in imports(path):
            top = name.split(".")[0]
            standard = {
                "__future__",
                "abc",
                "collections",
                "concurrent",
                "dataclasses",
                "functools",
                "hashlib",
                "itertools",
                "math",
                "typing",
            }
            assert top in {"torch", *standard, *compiled} or name.startswith("acutance.numerics"), (path, name)


def test_analysis_and_report_know_nothing_of_torch():
    for folder in (CORE / "analysis", CORE / "report"):
        for path in files(folder):
            names = set(imports(path))
            assert not any(n.split(".")[0] in {"torch", "timm", "transformers"} for n in names), path
            ours = {n for n in names if n.startswith("acutance") and n != "acutance"}
            allowed = ("acutance.analysis", "acutance.report", "acutance.errors", "acutance.plugin_files", "acutance.plugins",
                       "acutance.presentation",
                       "acutance.io.cells", "acutance.io.delimited", "acutance.io.spreadsheet", "acutance.io.written",
                       "acutance.system.child", "acutance.system.ending", "acutance.system.kept")  # fmt: skip
            assert all(n.startswith(allowed) for n in ours), (path, ours)


# What is read before anything is computed, and by a driver whose workers compute.
LIGHT = (
    *(
        "__init__",
        "builtin",
        "dataset",
        "empirical",
        "errors",
        "explain",
        "hookspecs",
        "measure",
        "moved",
        "own_code",
        "sink",
    ),
    *("plugins", "pool", "presentation", "references", "scaling", "spec"),
    *("io/checkpoint_files", "io/cells", "io/delimited", "io/folders", "io/remote", "io/written", "io/yaml_files"),
    *("study/attributes", "study/config", "study/plan", "study/schema", "study/surface_config", "study/targets"),
    *("run/admission", "run/directory", "run/executors", "run/jobs", "run/ledger", "run/members", "run/points"),
    *("run/rows", "run/sinks", "run/value_rows", "run/standing", "run/store", "run/tasks"),
    *("doctor/health", "doctor/run_health", "system/child", "system/ending", "system/environment", "system/kept"),
    *("training/__init__", "training/recipe", "training/trained", "workflows/calibrated"),
)


def homes_of_measures():
    """The modules of our plugins that have a measure's class: labels, lists and checks read it without torch."""
    own = [item.source.partition(":")[0] for item in catalog().items("measures") if item.dist == "acutance"]
    found = {module for module in own if not module.startswith("acutance.")}
    assert {"acutance_hessian.hessian_trace", "acutance_worst_case.measure"} <= found
    return found


def test_each_measure_of_curvature_has_a_file_of_its_own():
    homes = [module for module in homes_of_measures() if module.startswith("acutance_hessian.")]
    own = [item for item in catalog().items("measures") if str(item.source).startswith("acutance_hessian.")]
    assert len(homes) == len(own) == 8 and {item.source for item in own} == {
        f"acutance_hessian.{item.name}:{item.target.__name__}" for item in own
    }


def test_what_is_imported_at_start_is_light():
    light = [CORE / f"{name}.py" for name in LIGHT]
    light += [
        *PLUGINS.glob("*/plugin.py"),
        *PLUGINS.rglob("__init__.py"),
        *PLUGINS.glob("*/scalings.py"),
        *(PLUGINS / f"{module.replace('.', '/')}.py" for module in homes_of_measures()),
        *PLUGINS.glob("*/pools.py"),
        *PLUGINS.glob("*/pools/*.py"),
        PLUGINS / "acutance_dln" / "regression.py",
        PLUGINS / "acutance_hessian" / "spec.py",
    ]
    for path in light:
        assert not set(HEAVY) & {name.split(".")[0] for name in imports(path, top_level_only=True)}, path


def test_what_goes_to_workers_and_comes_back_is_written_and_read_in_one_place():
    for path in (*(CORE / f"{n}.py" for n in ("run/worker", "run/executors", "run/harness", "testing/jobs")),
                 CORE / "run" / "tasks.py", PLUGINS / "acutance_ray" / "executor.py"):  # fmt: skip
        assert "json" not in set(imports(path)), path


def test_the_driver_asks_and_tells_the_ledger_alone():
    tree = ast.parse((CORE / "run" / "harness.py").read_text())
    (driver,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Driver"]
    assert not {"Store", "store"} & {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(driver)}


def test_the_points_of_a_study_are_opened_in_one_place():
    for path in files(CORE) + files(PLUGINS):
        assert path == CORE / "run" / "points.py" or "PointSets(" not in path.read_text().replace(
            "class PointSets", ""
        ), path


def test_files_of_a_run_are_named_in_one_place():
    """What a run's files are called is known to its folder; a page's and a manifest's own names aside."""
    home = CORE / "run" / "directory.py"
    names = ("acutance.db", "report.html", "environment.json", "models.csv", "results.csv", "correlations.csv")
    for path in files(CORE):
        strings = {node.value for node in nodes(path) if isinstance(node, ast.Constant)}
        assert path == home or not strings & set(names), path


def test_tables_that_come_as_text_are_read_in_one_place():
    """Tables made elsewhere by ``io.delimited``; our own, whose types pandas finds, by ``io.spreadsheet``."""
    for path in files(CORE) + files(PLUGINS):
        assert path == CORE / "io" / "delimited.py" or "csv" not in set(imports(path)), path
        assert path == CORE / "io" / "spreadsheet.py" or ".read_csv(" not in path.read_text(), path


def test_files_fit_on_a_few_screens():
    for path in files(CORE) + files(PLUGINS):
        assert len(path.read_text().splitlines()) <= 500, path


def test_every_checkpoint_is_loaded_safely():
    for path in files(CORE) + files(PLUGINS):
        for call in re.findall(r"torch\.load\([^)]*\)", path.read_text()):
            assert "weights_only=True" in call, path
        assert "yaml.load(" not in path.read_text() or "Loader=_Loader" in path.read_text(), path


DOCS = (ROOT / "docs" / "plugins.md", ROOT / "docs" / "cli.md", ROOT / "docs" / "config.md")


def hooks():
    return {name: f for name, f in vars(hookspecs).items() if getattr(f, "acutance_spec", None) is not None}


def test_every_hook_is_documented_with_its_arguments_and_tested():
    assert len(hooks()) == 12
    text = DOCS[0].read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name, function in hooks().items():
        signature = f"{name}({', '.join(inspect.signature(function).parameters)})"
        assert f"### `{signature}`" in text, signature
        assert function.__doc__ and name in tests, name


def test_every_verb_and_option_is_documented():
    import click

    from acutance.cli import VERBS, cli

    text = DOCS[1].read_text()
    for verb in VERBS:
        assert f"## `acutance {verb}`" in text, verb
        command = cli.get_command(click.Context(cli), verb)
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(f"`{name}`" in text for name in parameter.opts), (verb, parameter.opts)
                assert parameter.help, (verb, parameter.opts)


def test_every_config_field_is_documented():
    from acutance.study.config import FiguresConfig, StudyFile, SurfaceConfig

    text = DOCS[2].read_text()
    for section in (StudyFile, SurfaceConfig, FiguresConfig):
        for name, field in section.model_fields.items():
            assert field.description, name
            assert f"`{name}`" in text, name


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "scalings"])
def test_everything_registered_says_what_it_is(kind):
    for item in catalog().items(kind):
        if item.dist == "acutance":
            assert inspect.getdoc(item.target), item.id
            for name, field in getattr(item.target, "Spec", Spec).model_fields.items():
                assert field.description, (item.id, name)


def test_the_public_names_exist():
    import acutance

    for name in acutance.__all__:
        assert getattr(acutance, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = acutance.nothing


def test_measure_is_the_function_and_its_help_has_an_example_that_runs(monkeypatch):
    import acutance
    import acutance.api
    import acutance.measure  # the module of that name takes no part

    assert acutance.measure is acutance.api.measure
    text = pydoc.plain(pydoc.render_doc(acutance.measure))
    assert all(part in text for part in ("m: examples in one m-batch", "Returns:", "Raises:", "UserError: for an"))
    finder = doctest.DocTestFinder(recurse=False).find(acutance.measure, "measure", globs={})
    results = [doctest.DocTestRunner(verbose=False).run(test) for test in finder]
    assert sum(r.attempted for r in results) == 5 and not sum(r.failed for r in results)
    monkeypatch.setattr(acutance, "measure", print)
    assert acutance.measure is print
    monkeypatch.undo()
    assert acutance.measure is acutance.api.measure
