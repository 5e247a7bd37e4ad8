"""acutance new: what it writes installs, loads, passes its own tests, and works in a study."""

import ast
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from third_parties import ROOT, installed_from_source, python

from acutance import UserError, scaffold
from acutance.cli import main

KINDS = {"measure": "sam_rise", "pool": "nets", "dataset": "blobs"}
COMMITTED = ROOT / "tests" / "dists" / "acme-sam"


def new(folder, kind, name=None, dist=None, needs=""):
    package = scaffold.prepare(kind, name or KINDS[kind], folder, dist, needs=needs)
    scaffold.write(package)
    return package


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    made = {kind: new(folder, kind, dist=f"acme-{name}") for kind, name in KINDS.items()}
    return {kind: (package, installed_from_source(package.folder)) for kind, package in made.items()}


@pytest.mark.slow  # the kit, three times; the committed package is held to the templates, and tried, without it
def test_the_own_tests_of_new_packages_pass(packages):
    folders, paths = zip(*((package.folder, path) for package, path in packages.values()), strict=True)
    options = ("-v", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", folders[0].parent)
    done = python("-m", "pytest", *options, *folders, path=paths, cwd=paths[0]).stdout
    assert " passed" in done
    for package, _ in packages.values():
        # Both of its files: the values worked out by hand, and the conformance kit.
        assert f"test_{package.name}.py::" in done and f"test_conformance.py::Test{package.title}::" in done


def test_new_packages_are_listed_and_shown_without_problems(packages):
    paths = [path for _, path in packages.values()]
    listed = json.loads(python("-m", "acutance", "--strict-plugins", "list", "--json", path=paths, forked=True).stdout)
    # The catalog notes what a plugin imports at module level; a new one imports nothing heavy.
    about = (
        "import sys; from acutance import catalog; from acutance.cli import cli\n"
        "print([p.heavy for p in catalog().plugins if p.dist.startswith('acme')])\n"
        "[cli(['show', name], standalone_mode=False) for name in sys.argv[1:]]"
    )
    shown = python("-c", about, *(package.id for package, _ in packages.values()), path=paths, forked=True).stdout
    heavy, _, pages = shown.partition("\n")
    assert heavy.count("()") >= len(packages) and "('" not in heavy
    for kind, (package, _) in packages.items():
        rows = {row["id"]: row for row in listed[scaffold.KINDS[kind]]}
        assert rows[package.id]["version"] == "0.1.0" and rows[package.id]["summary"]
        assert package.name in pages


def test_three_new_packages_make_a_study(packages, tmp_path):
    study = {
        "format": 1,
        "pools": [{"name": "nets", "size": 6, "features": 8, "classes": 3, "width": 4}],
        "dataset": {"name": "blobs", "points": 60},
        "surface": {"points": 32, "m": 16},
        "targets": ["test_error", "shifted.error", "attr:gain"],
        "within": ["architecture"],
        "measures": [{"name": "sam_rise", "rho": [0.02, 0.05]}],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    paths = [path for _, path in packages.values()]
    done = python(
        "-m",
        "acutance",
        "run",
        tmp_path / "study.yaml",
        "--out",
        tmp_path / "run",
        "--no-report",
        path=paths,
        forked=True,
    )
    assert "6 of 6 models compared" in done.stdout and "0 without a number" in done.stdout
    rows = python("-m", "acutance", "results", tmp_path / "run", "--json", path=paths, forked=True)
    # Gain multiplies the logits, so the rise grows with it at equal seeds: the correlation is not degenerate.
    taus = [row["tau"] for row in json.loads(rows.stdout) if row["target"] == "attr:gain"]
    assert len(taus) == 2 and all(-1 <= tau <= 1 for tau in taus)


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """One package for each thing that a measure may ask for."""
    folder = tmp_path_factory.mktemp("asking")
    made = [new(folder, "measure", f"my_{need}", f"acme-{need.replace('_', '-')}", need) for need in scaffold.NEEDS]
    return {package.needs: (package, installed_from_source(package.folder)) for package in made}


def test_measures_that_ask_for_more_get_it_in_a_study(packages, asking, tmp_path):
    study = {
        "format": 1,
        "pools": [{"name": "nets", "size": 6, "features": 8, "classes": 3, "width": 4}],
        "dataset": {"name": "blobs", "points": 60},
        "surface": {"points": 32, "m": 16, "validation": "shifted"},
        "targets": ["test_error"],
        "within": [],
        "measures": [{"name": package.name} for package, _ in asking.values()],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    paths = [path for _, path in (packages["pool"], packages["dataset"], *asking.values())]
    out = tmp_path / "run"
    python("-m", "acutance", "run", tmp_path / "study.yaml", "--out", out, "--no-report", path=paths, forked=True)
    shown = python("-m", "acutance", "results", out, "--table", "results", "--json", path=paths, forked=True).stdout
    rows = [row for row in json.loads(shown) if row["measure"].startswith("my_")]
    status = {(row["measure"].removeprefix("my_"), row["status"]) for row in rows}
    # This pool writes no log: that is said, and nothing stands in for it.
    assert status == {(need, "unsupported" if need == "trajectory" else "ok") for need in scaffold.NEEDS}


@pytest.mark.slow  # the kit, once for each
def test_the_own_tests_of_measures_that_ask_for_more_pass(asking):
    folders, paths = zip(*((package.folder, path) for package, path in asking.values()), strict=True)
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", folders[0].parent)
    assert " passed" in python("-m", "pytest", *options, *folders, path=paths, cwd=paths[0]).stdout


@pytest.mark.parametrize("need", scaffold.NEEDS)
def test_new_measures_that_ask_for_more_say_so(tmp_path, need):
    package = new(tmp_path, "measure", "a_rather_long_name_of_nearly_forty_chars", "acme-long", need)
    plugin = package.files["src/acme_long/plugin.py"]
    assert f'"{need}"' in plugin and len(plugin.splitlines()) <= 42
    python("-m", "ruff", "check", "--no-cache", package.folder)
    assert "{{" not in "".join(package.files.values()) and "{%" not in "".join(package.files.values())


def test_what_is_asked_for_is_known_and_for_measures(tmp_path):
    for kind, need in (("pool", "validation"), ("measure", "luck")):
        with pytest.raises(UserError, match=f"--needs {need}: is for measures, and one of unlabeled"):
            new(tmp_path, kind, "mine", "acme-mine", need)


def test_the_measure_is_short(packages):
    source = (packages["measure"][1] / "acme_sam_rise" / "plugin.py").read_text()
    assert len(source.splitlines()) <= 42
    assert {"evaluate", "passes"} <= {node.name for node in ast.walk(ast.parse(source)) if hasattr(node, "name")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "x2", "a_rather_long_name_of_nearly_forty_chars", "trailing_", "torch"])
def test_any_valid_name_gives_valid_sources(tmp_path, kind, name):
    package = new(tmp_path, kind, name, "acme-x.y_z")
    for path in package.folder.rglob("*.py"):
        compile(path.read_text(), path, "exec")
        assert max(map(len, path.read_text().splitlines())) <= 120, path
    files = {str(path.relative_to(package.folder)) for path in package.folder.rglob("*") if path.is_file()}
    assert files == set(package.files) and "src/acme_x_y_z/plugin.py" in files and ".gitignore" in files
    assert "{{" not in "".join(package.files.values()) and "{%" not in "".join(package.files.values())


@pytest.mark.parametrize("kind", KINDS)
def test_new_sources_pass_the_linter(tmp_path, kind):
    pytest.importorskip("ruff")
    new(tmp_path, kind, "a_rather_long_name_of_nearly_forty_chars", "acme-long")
    package = new(tmp_path, kind)
    python("-m", "ruff", "check", "--no-cache", tmp_path)
    python("-m", "ruff", "format", "--no-cache", "--check", package.folder)


@pytest.mark.parametrize(
    ("kind", "name", "dist", "message"),
    [
        ("measure", "SamRise", None, "lower case.*for example sam_rise"),
        ("measure", "sam-rise", None, "must be a Python identifier.*for example sam_rise"),
        ("measure", "2nd", None, "for example my_measure"),
        ("pool", "class", None, "for example my_pool"),
        ("measure", "", None, "must be a Python identifier"),
        ("measure", "_hidden", None, "for example hidden"),
        ("measure", "größe", None, "must be a Python identifier"),
        ("measure", "../up", None, "must be a Python identifier"),
        ("measure", "x" * 41, None, "has 41 characters"),
        ("measure", "worst_case", None, "a measure 'worst_case' already, of acutance"),
        ("measure", "weight_norm", None, "already, of acme-toy 1.2.*must be unique"),
        ("pool", "mnist_resnet", None, "a pool 'mnist_resnet' already"),
        ("dataset", "mnist5k", None, "a dataset 'mnist5k' already"),
        ("measure", "traits", None, "would hide Traits of acutance"),
        ("dataset", "path", None, "would hide Path"),
        ("measure", "fine", "acme sam", "PEP 508"),
        ("measure", "fine", "-acme", "PEP 508"),
        ("measure", "fine", "../acme", "PEP 508"),
        ("measure", "fine", "", "PEP 508"),
        ("measure", "fine", "2fast", "import package '2fast' cannot be named so"),
        ("measure", "fine", "lambda", "import package 'lambda' cannot be named so"),
        ("measure", "fine", "acutance", "is installed already, in version"),
        ("measure", "fine", "acme_toy", "is installed already, in version 1.2"),
        ("measure", "fine", "json", "there is a module 'json' already"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path, kind, name, dist, message):
    with pytest.raises(UserError, match=message):
        scaffold.prepare(kind, name, tmp_path, dist)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    new(tmp_path, "measure", dist="acme-sam")
    (tmp_path / "acme-sam" / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"acme-sam: exists already.*--dist or --dir"):
        new(tmp_path, "pool", dist="acme-sam")
    assert (tmp_path / "acme-sam" / "README.md").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--dir"):
        new(tmp_path / "file", "pool", dist="acme-nets")


def test_the_verb_prints_the_next_three_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["new", "measure", "sam_rise"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.partition("next\n")[2].splitlines() == [
        "  python -m pip install -e './acutance-sam-rise[test]'",
        "  python -m pytest ./acutance-sam-rise",
        "  acutance show acutance-sam-rise/sam_rise",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["new", "measure", "sam_rise"])
    assert ended.value.code == 2 and "exists already" in capsys.readouterr().err
    for arguments in (["new", "executor", "mine"], ["new", "measure"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2


def test_the_committed_package_is_what_the_command_writes():
    """tests/dists/acme-sam, which the slow tests install, is kept up to date with the templates."""
    package = scaffold.Package("measure", "sam_rise", "acme-sam", Path("acme-sam"))
    for name, text in package.files.items():
        assert (COMMITTED / name).read_text() == text, f"write it again: {name}"


def test_the_templates_are_in_the_package():
    """What the wheel holds is decided by pyproject.toml (both source roots, everything that git does not ignore)."""
    folder = ROOT / "registry" / "acutance" / "scaffold" / "templates"
    found = {path.name for path in folder.rglob("*") if path.is_file()}
    assert found == set(scaffold.package._PATHS) and all(name.endswith(".j2") for name in found)
    assert find_spec("acutance.scaffold")
