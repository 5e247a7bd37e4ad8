"""The public API is what tests/golden/api.json says; old names work and warn until the release that was told."""

import enum
import importlib
import json
import re
import sys
import warnings
from pathlib import Path

import golden_api
import pytest
from packaging.version import Version

import acutance
from acutance import deprecations
from acutance.deprecations import DEPRECATED, Deprecation

ROOT = Path(__file__).parents[2]


def test_nothing_public_has_changed_by_accident():
    """What is new may wait for the release, which asks for it: ``make api-check``."""
    found = golden_api.differences(json.loads(golden_api.GOLDEN.read_text()), golden_api.public_api())
    lines = [line for line in found if not line.endswith(" is new")]
    told = "\n".join(lines[:30])
    assert not lines, (
        f"{told}\nif this is meant: python tests/golden_api.py --write (and deprecations.py for what is gone)"
    )


def test_a_change_of_any_kind_is_seen(monkeypatch):
    golden = json.loads(golden_api.GOLDEN.read_text())
    assert set(acutance.__all__) - {"__version__"} == set(golden["acutance"])
    assert golden["acutance"]["kendall_tau"].startswith("(t: ") and len(golden["modules"]) > 45
    assert golden["registered"]["measures"]["worst_case"]["settings"]["rho"] == "PositiveFloat"
    changed = json.loads(json.dumps(golden))
    del changed["acutance"]["LossSurface"]["hvp"]
    changed["registered"]["measures"]["worst_case"]["settings"]["rho"] = "PositiveFloat = 1.0"
    changed["registered"]["measures"]["worst_case"]["version"] = 2
    changed["hooks"]["register_more"] = "()"
    lines = golden_api.differences(golden, changed)
    assert [line.rsplit(": ", 1)[1] for line in lines] == [
        "hvp is gone", "register_more is new", "was 1, is 2", "was PositiveFloat, is PositiveFloat = 1.0",
    ]  # fmt: skip


class E(enum.Enum):
    x = 1


def test_signatures_are_written_as_in_the_source():
    def f(a, b: int = 1, *rest: str, c: "Later" = E.x, **others) -> None: ...  # noqa: F821

    assert golden_api.signature(f) == "(a, b: int = 1, *rest: str, c: Later = E.x, **others) -> None"
    assert golden_api.signature(lambda *, a=frozenset("ba"): 0) == "(*, a = {'a', 'b'})"


@pytest.mark.parametrize("one", DEPRECATED, ids=lambda one: one.old)
def test_an_old_name_is_the_new_one_and_warns(one):
    assert Version(one.since) <= Version(acutance.__version__) < Version(one.until), (
        "it may go now: take it out of the table"
    )
    if ":" not in one.old:
        sys.modules.pop(one.old, None)
        with pytest.warns(
            DeprecationWarning, match=re.escape(f"{one.old} is called {one.new} since acutance {one.since}")
        ):
            assert importlib.import_module(one.old) is importlib.import_module(one.new)


def test_an_old_name_of_a_module_warns_where_it_is_used(monkeypatch):
    row = Deprecation("acutance:kendall", "acutance.analysis.kendall:kendall_tau", "0.1.0", "0.3")
    monkeypatch.setattr(deprecations, "DEPRECATED", (*DEPRECATED, row))
    with pytest.warns(DeprecationWarning) as told:
        assert acutance.kendall is acutance.kendall_tau
    assert str(told[0].message) == (
        "acutance.kendall is called acutance.analysis.kendall.kendall_tau since acutance 0.1.0; the old name goes with 0.3"
    )
    assert told[0].filename == __file__
    with pytest.raises(AttributeError, match=r"module 'acutance' has no attribute 'kendal'"):
        _ = acutance.kendal
    with pytest.raises(AttributeError, match=r"module 'acutance.pool' has no attribute 'Pool'"):
        deprecations.renamed_names("acutance.pool")("Pool")


def test_nothing_of_ours_uses_an_old_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in ("acutance.cli", "acutance.builtin", "acutance.run.worker"):
            importlib.import_module(name)
    old = "|".join(re.escape(one.old) for one in DEPRECATED if ":" not in one.old)
    for root in ("registry", "plugins"):
        for path in (ROOT / root).rglob("*.py"):
            if path.name != "deprecations.py":
                assert not re.search(rf"(from|import) ({old})\b", path.read_text()), path


def test_every_release_says_which_numbers_changed():
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.split(r"^## ", text, flags=re.M)[1:]
    assert releases
    for release in releases:
        assert len(re.findall(r"^### Numbers changed$", release, re.M)) == 1, release.splitlines()[0]
