"""The tree is the architecture: floors, each importing only what stands below it, and small ones."""

import subprocess
import sys
from importlib import import_module

import architecture
import pytest
from architecture import ROOT

from acutance.moved import MOVED

BOUND = 25  # modules in a folder


def test_no_folder_imports_one_that_stands_on_it():
    floors = architecture.floors()
    names = [name for floor in floors for name in floor]
    assert len(names) == len(set(names)) and {"vocabulary", "surface", "run", "cli", "acutance_hessian"} <= set(names)
    level = {name: number for number, floor in enumerate(floors) for name in floor}
    assert level["vocabulary"] == level["numerics"] == 0
    # Plugins stand on what they use: one that brings problems for the kit stands on the kit.
    assert level["cli"] == max(number for name, number in level.items() if not name.startswith("acutance_"))


def test_imports_within_functions_count_and_those_for_types_do_not(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from acutance.surface import LossSurface\n"
        "def f():\n    from acutance.run import worker\n    return worker\n"
    )
    assert set(architecture.imported(path)) == {("typing", "TYPE_CHECKING"), ("acutance.run", "worker")}
    assert architecture.folder(architecture.resolve("acutance.run", "worker")) == "run"
    assert architecture.folder(architecture.resolve("acutance", "LossSurface")) == "surface"


def test_a_cycle_of_folders_is_found(monkeypatch):
    monkeypatch.setattr(architecture, "graph", lambda: {"a": {"b"}, "b": {"c"}, "c": {"a"}})
    with pytest.raises(architecture.CycleError):
        architecture.floors()


def test_folders_and_files_are_small():
    for root in architecture.SOURCES:
        for folder in [path for path in root.rglob("*") if path.is_dir() and list(path.glob("*.py"))]:
            modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(modules) <= BOUND, folder


@pytest.mark.parametrize("old", MOVED)
def test_old_import_paths_give_the_very_modules(old):
    assert import_module(old) is import_module(MOVED[old].new)
    assert import_module(MOVED[old].new).__name__ == MOVED[old].new == import_module(MOVED[old].new).__spec__.name
    assert not ROOT.joinpath("registry", *old.split(".")).with_suffix(".py").exists()


def test_an_old_path_is_a_module_that_python_runs(monkeypatch):
    import runpy

    monkeypatch.delitem(sys.modules, "acutance.attributes", raising=False)
    assert runpy.run_module("acutance.attributes")["parse_field"] is not None


def test_an_old_path_is_found_first_of_all_and_others_are_not_made_up():
    code = (
        "from acutance.lazy import Lazy\nfrom acutance.data import lazy\nimport acutance.checkpoints as c\n"
        "assert Lazy is lazy.Lazy and c.__name__ == 'acutance.io.checkpoints'\n"
        "try:\n    import acutance.nothing\nexcept ModuleNotFoundError as error:\n    assert error.name == 'acutance.nothing'\n"
        "else:\n    raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_draws_the_house_as_it_is():
    text = architecture.PAGE.read_text()
    assert text == architecture.drawn(text), "python tests/architecture.py draws it anew"
    house = architecture.drawing()
    assert house.index("cli") < house.index("run ") < house.index("surface") < house.index("vocabulary")


def test_the_page_names_files_that_exist():
    import re

    text = architecture.PAGE.read_text()
    paths = re.findall(r"`((?:registry|plugins|tests|docs|benchmarks)/[\w./*]+)`", text)
    modules = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text)
    assert len(paths) + len(modules) > 20
    for path in [
        *paths,
        *(
            path if path.startswith(("registry", "plugins", "tests")) else f"registry/acutance/{path}"
            for path in modules
        ),
    ]:
        assert list(ROOT.glob(path)), path
