"""A third party's figures: drawn, on the page, listed and shown like the built-in ones; one that fails costs itself alone."""

import json
import shutil
from dataclasses import replace

import pytest
from reports import make
from third_parties import plugin, python

from acutance import AcutanceWarning, UserError
from acutance.plugins import Item, catalog, extended
from acutance.report.keys import slug
from acutance.report.page import figures
from acutance.report.page.figures import figure_keys, pictures, save_figures, save_recipe
from acutance.report.page.html import render_page
from acutance.report.recipes import ANY, FigureKey, Recipe
from acutance.report.recipes.registered import of_report
from acutance.system.ending import Terminated

SOURCE = """
from acutance import hookimpl

@hookimpl
def register_figures():
    return {"spread": "acme_figs_more:Spread", "broken": "acme_figs_more:Broken", "asked": "acme_figs_more:Asked"}
"""
MORE = '''
from matplotlib.figure import Figure
from acutance.report.recipes import FigureKey, Recipe

class Asked(Recipe):
    """The values in the order of the models, when asked for."""
    name = "asked"
    def draw(self, data, key):
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot(data.values(key.what, data.radii(key.what)[0])["value"].to_numpy())
        return figure

class Spread(Asked):
    """The values in the order of the models."""
    name, page, heading = "spread", "section", "How far apart they lie"

class Broken(Asked):
    """Draws one of its figures and no other."""
    name, page = "broken", "section"
    def draw(self, data, key):
        if key.what != data.definitions[0]:
            raise RuntimeError("the pen is dry")
        return super().draw(data, key)
'''
SAYS = "note: figure 'broken' of acme-figs 1.0 could not be drawn: RuntimeError: the pen is dry (3 of 4 figures)\n"
CALLS = """
import json, sys
from click.testing import CliRunner
from acutance.cli import cli
from acutance.run import outputs
from acutance.report.page import figures
outputs.cores = lambda: 1
figures.SETTINGS["pdf.fonttype"] = 3  # whole fonts take half of the time
told = []
for call in json.loads(sys.argv[1]):
    found = CliRunner().invoke(cli, call)
    told.append([found.exit_code, found.stdout, found.stderr])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(finished_once, tmp_path_factory):
    """What commands print where the third party is installed, all in one process, and the run that they draw."""
    folder = tmp_path_factory.mktemp("figs")
    (folder / "acme_figs_more.py").write_text(MORE)
    plugin(folder, "acme-figs", SOURCE)
    run = folder / "run"
    shutil.copytree(finished_once.directory, run)
    calls = {
        "report": ["report", str(run)],
        "asked": ["report", str(run), "--figure", "asked", "--figure", "spread"],
        "list": ["list", "figures"],
        "show": ["show", "spread"],
    }
    done = python("-c", CALLS, json.dumps(list(calls.values())), path=[folder], forked=True)
    return run, dict(zip(calls, json.loads(done.stdout), strict=True))


def test_the_report_draws_them_and_the_page_shows_them_in_their_section(told):
    run, calls = told
    code, _, said = calls["report"]
    page = (run / "report.html").read_text()
    assert code == 0 and said == SAYS
    assert page.count("<h3>How far apart they lie</h3>") == 1 and page.count('alt="How far apart they lie, ') == 4
    assert page.count("<h3>broken</h3>") == 1 and page.count('alt="broken, ') == 1
    assert len(list((run / "figures").glob("broken-*.png"))) == 1


def test_they_are_drawn_when_asked_for(told):
    run, calls = told
    code, out, said = calls["asked"]
    paths = out.split()
    assert code == 0 and not said and len(paths) == 8 and all(path.endswith(".png") for path in paths)
    assert {path.split("/")[-1].split("-")[0] for path in paths} == {"asked", "spread"}
    assert {path.name for path in (run / "figures").glob("asked-*.png")} == {p.split("/")[-1] for p in paths[:4]}
    assert list((run / "figures").glob("tau-*.png"))


def test_they_are_listed_and_shown(told):
    _, calls = told
    (line,) = [line for line in calls["list"][1].splitlines() if line.split()[0] == "spread"]
    assert line.split(maxsplit=3)[1:] == ["acme-figs", "1.0", "The values in the order of the models."]
    shown = calls["show"][1]
    assert "acme-figs/spread 1.0  (figure)" in shown and "acutance report DIR --figure spread" in shown


@pytest.fixture(scope="module")
def data():
    return make()


@pytest.fixture
def built_in_in_a_moment(monkeypatch):
    """What the built-in recipes draw is looked at elsewhere; here it is only in whose place theirs stand."""
    for name in ("tau", "target"):
        monkeypatch.setattr(catalog().find("figures", name).target, "draw", lambda *_: small_figure())


class Mine(Recipe):
    """Fails in the way it is told."""

    name, page, heading = "mine", "section", "Mine"
    way = ""

    def prepare(self, data):
        if self.way == "prepare":
            raise OSError("no disk")
        return data

    def keys(self, data):
        if self.way == "keys":
            raise ZeroDivisionError
        if self.way == "texts":
            return ["a"]
        return [FigureKey("mine", "", "a"), FigureKey("mine", "architecture=vit", "b")]

    def draw(self, data, key):
        if self.way == "draw":
            raise SystemExit(3)
        if self.way == "closes":
            raise GeneratorExit
        assert key.recipe == self.name
        return small_figure()

    def caption(self, key):
        if self.way == "caption":
            raise SystemExit(0)
        return None if self.way == "no caption" else super().caption(key)

    def __init__(self):
        if self.way == "made":
            raise SystemExit(0)


def small_figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


def item(recipe, dist="acme-mine"):
    return Item("figures", recipe.name, dist, "2", recipe)


@pytest.mark.usefixtures("built_in_in_a_moment")
@pytest.mark.parametrize("way", ["prepare", "keys", "draw"])
def test_one_that_fails_in_any_way_costs_itself_alone(data, way, tmp_path, monkeypatch):
    monkeypatch.setattr(Mine, "way", way)
    said = []
    with extended([item(Mine)]):
        saved = save_figures(data, tmp_path, say=said.append)
        with pytest.warns(AcutanceWarning, match="figure 'mine' of acme-mine 2 could not be drawn"):
            assert "Mine</h" not in render_page(data)
    assert {key.recipe for key in saved} == {"tau", "target"} and len(said) == 1 and "could not be drawn" in said[0]
    assert way != "draw" or said[0].endswith("RuntimeError: the recipe called sys.exit(3)")


@pytest.mark.parametrize("way,why", [
    ("made", "RuntimeError: the recipe called sys.exit(0)"), ("texts", "keys must return FigureKeys of texts, not 'a'"),
    ("closes", "RuntimeError: the recipe raised GeneratorExit"),
])  # fmt: skip
def test_whatever_a_recipe_raises_is_told(data, tmp_path, monkeypatch, way, why):
    monkeypatch.setattr(Mine, "way", way)
    with extended([one := item(Mine)]), pytest.raises(UserError) as told:
        save_recipe(one, data, tmp_path, 1, print)
    assert told.value.message.endswith(why)


@pytest.mark.parametrize(
    "way,why",
    [("caption", "RuntimeError: the recipe called sys.exit(0)"), ("no caption", "must return a text, not NoneType")],
)
def test_a_caption_that_fails_is_the_default_and_told(data, way, why, monkeypatch):
    monkeypatch.setattr(Mine, "way", way)
    with extended([item(Mine)]):
        page = render_page(data, {FigureKey("mine", "", "a"): b"png"})
    assert page.count('alt="Mine, a"') == 1
    assert page.count("What figure &#39;mine&#39; says of its pictures is left out: ") == 1 and why in page


def test_a_key_that_is_given_twice_is_drawn_once_and_told(data, tmp_path, monkeypatch):
    keys = [FigureKey("mine", "", "a")] * 2
    monkeypatch.setattr(Mine, "keys", lambda self, data: keys)
    said = []
    with extended([one := item(Mine)]):
        assert len(save_recipe(one, data, tmp_path, 1, said.append)) == 1
        monkeypatch.setattr("acutance.plugins.Catalog.items", lambda self, kind: [one])
        assert figure_keys(data, said.append) == keys[:1]
    assert said == ["figure 'mine' of acme-mine 2 gives one key twice, and is drawn once: a"] * 2


@pytest.mark.usefixtures("built_in_in_a_moment")
def test_figures_of_the_whole_run_stand_behind_those_of_its_levels(data):
    with extended([item(Mine)]):
        assert set(figure_keys(data)) >= {FigureKey("mine", "", "a"), FigureKey("mine", "architecture=vit", "b")}
        page = render_page(data, pictures(data))
    assert page.index("<h3>Mine</h3>") < page.index("<h2>Mine</h2>") < page.index('<section id="models">')
    assert page.count('alt="Mine, a"') == 1 and page.count('alt="Mine, b, architecture=vit"') == 1


class Prepares(Mine):
    """Draws other values than those of the run."""

    name, way = "prepares", ""
    drawn: list = []

    def prepare(self, data):
        assert data is data.whole
        return replace(data, title="prepared", results=data.results.assign(value=data.results["value"] * 2))

    def keys(self, data):
        return [FigureKey("prepares", "", data.title)]

    def draw(self, data, key):
        self.drawn.append((data.title, data.whole.title, data.results["value"].tolist()))
        return super().draw(data, key)


def test_what_a_recipe_prepares_is_what_it_draws_and_others_do_not_see_it(data, tmp_path, monkeypatch):
    doubled = (data.results["value"] * 2).tolist()
    with extended([item(Prepares)]):
        *others, own = of_report(data)
        monkeypatch.setattr(figures, "of_report", lambda *_: [own])  # the others take seconds to draw
        page = render_page(data, pictures(data))
        assert [key.what for key in save_figures(data, tmp_path)] == ["prepared"]
        (path,) = save_recipe(item(Prepares), data, tmp_path, 1, pytest.fail)
    assert Prepares.drawn == [("prepared", "prepared", doubled)] * 3
    assert page.count('alt="Mine, prepared"') == 1 and "<title>prepared" not in page
    assert path.exists() and others and all(part.data is data for part in others)


@pytest.mark.usefixtures("built_in_in_a_moment")
def test_two_of_one_name_are_told_apart(data, tmp_path):
    with extended([item(Mine), item(Mine, "acme-other")]):
        saved = save_figures(data, tmp_path)
        assert {key.recipe for key in saved} == {"tau", "target", "acme-mine/mine", "acme-other/mine"}
        assert {path.name for path in tmp_path.glob("*mine-a.png")} == {"acme_mine_mine-a.png", "acme_other_mine-a.png"}
        with pytest.raises(UserError, match="figure 'mine' is ambiguous"):
            catalog().find("figures", "mine")


def test_a_class_that_draws_nothing_is_no_recipe():
    class Idle(Recipe):
        name = "idle"

    with extended([item(Idle)]) as found:
        assert found.find("figures", "idle")  # registered by its class
    from acutance.plugins import _item

    with pytest.raises(TypeError, match=r"figure 'idle' does not define draw\(data, key\)"):
        _item("figures", Idle, "acme", "1")


def test_the_paper_and_the_page_are_said_by_the_recipes_alone():
    own = {found.name: found.target for found in catalog().items("figures")}
    assert {name: recipe.page for name, recipe in own.items() if recipe.page} == {
        "tau": "file", "target": "fallback", "curve": "section", "profile": "section", "partners": "section",
        "trajectories": "section",
    }  # fmt: skip
    assert {name for name, recipe in own.items() if recipe.sweeps} == {"pairwise", "iterations", "m"}
    assert own["pairwise"].sweeps == ANY and catalog().find("figures", "density").source.startswith("acutance_")


@pytest.mark.usefixtures("built_in_in_a_moment")
def test_a_signal_that_ends_the_program_is_no_fault_of_a_recipe(data, tmp_path, monkeypatch):
    def end(*_):
        raise Terminated(15)

    monkeypatch.setattr(Mine, "draw", end)
    with extended([item(Mine)]), pytest.raises(Terminated):
        save_figures(data, tmp_path)


def test_files_are_called_by_every_norm_alike():
    names = ("ℓ1 x", "ℓ2 x", "worst-case ℓ∞, ρ = 0.1", "ℓp", "größe")
    assert [slug(name) for name in names] == ["l1_x", "l2_x", "worst_case_linf_rho_0.1", "lp", "gr_e"]
