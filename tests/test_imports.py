"""Imports stand at the top of their file, but for those that have a reason: ``tests/import_rules.py`` says which."""

import architecture
import import_rules
import pytest

FILES = {
    "acutance": "",
    "acutance.light": "def f():\n    from acutance import heavy\n",
    "acutance.heavy": "import torch\nasync def f():\n    import numpy\n",
    "acutance.above": "import pandas\nfrom acutance.light import f\ndef g():\n    from acutance import heavy\n",
    "acutance.below": "def f():\n    from acutance.round import x\n",
    "acutance.round": "from acutance.below import f\nx = 1\n",
    "acutance.plain": "class A:\n    def f(self):\n        import json\n        from acutance.light import f\n        import click\n",
    "acutance.cli": "from acutance.begun import g\ndef f():\n    from acutance.light import f\n",
    "acutance.begun": "def g():\n    import json\n    from acutance.light import f\n    import acutance\n",
    "acutance.maybe": "def f():\n    try:\n        import fcntl\n    except ImportError:\n        pass\n    import rich\n",
    "acutance.late": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from acutance.heavy import train\n"
                     "def __getattr__(name): ...\n",
    "acutance.user": "def f():\n    from acutance.late import train\n    from scipy.stats import rankdata\n",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    paths = {name: tmp_path / f"{name}.py" for name in FILES}
    for name, path in paths.items():
        path.write_text(FILES[name])
    return import_rules.Tree(paths, ("acutance.cli",))


def test_each_reason_is_found_and_what_has_none(tree):
    reasons = {name: [tree.reason(name, one) for one in within] for name, (_, within) in tree.imports.items() if within}
    assert reasons == {
        "acutance.light": ["heavy"], "acutance.heavy": [""], "acutance.above": ["heavy"], "acutance.below": ["a cycle"],
        "acutance.plain": ["", "", ""], "acutance.cli": ["a verb imports what it needs"],
        "acutance.begun": ["start-up", "start-up", ""],
        "acutance.maybe": ["may not be there", "a library that is there for this alone"],
        "acutance.user": ["heavy", "heavy"],
    }  # fmt: skip
    assert [(name, one.node.lineno) for name, one in tree.without_reason()] == [
        ("acutance.heavy", 3), ("acutance.plain", 3), ("acutance.plain", 4), ("acutance.plain", 5), ("acutance.begun", 4),
    ]  # fmt: skip


def test_a_module_loads_what_it_imports_and_the_packages_that_it_lies_in(tree):
    assert tree.closure("acutance.round") == {"acutance", "acutance.round", "acutance.below"}
    assert tree.heavy("acutance.above") == {"pandas", "numpy"} and tree.heavy("acutance.user") == set()


def test_imports_within_functions_have_a_reason():
    tree = import_rules.ours()
    told = [
        f"{tree.files[name].relative_to(architecture.ROOT)}:{one.node.lineno}" for name, one in tree.without_reason()
    ]
    assert not told, f"{told}: belongs to the top of its file"
    assert len(tree.imports) > 300 and tree.heavy("acutance.workflows.calibration")
    assert not any(tree.heavy(name) for name in ("acutance", "acutance.cli.list_", "acutance.run.harness"))
