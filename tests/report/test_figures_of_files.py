"""Figures of a plugin of one file: drawn by other processes too, and by 'acutance report' where the file is given."""

import json
import shutil

import pytest
from reports import make
from third_parties import python

import acutance
from acutance import plugin_files
from acutance.report.keys import FigureKey
from acutance.report.page.drawing import draw_apart

SOURCE = '''
from dataclasses import replace

from matplotlib.figure import Figure

from acutance import hookimpl
from acutance.report.recipes import FigureKey, Recipe


class Titled(str):
    """A title, of a class that only the file has."""


class Spread(Recipe):
    """The values in the order of the models."""

    name, page, heading = "spread", "section", "How far apart they lie"

    def keys(self, data):
        return [FigureKey(self.name, level, what) for level in data.levels for what in data.definitions]

    def prepare(self, data):
        return replace(data, title=Titled(data.title))

    def draw(self, data, key):
        assert isinstance(data.title, Titled)
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot(data.values(key.what, data.radii(key.what)[0])["value"].to_numpy())
        return figure


@hookimpl
def register_figures():
    return [Spread]
'''


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """What one test's files register is unknown to the next."""
    monkeypatch.setattr(plugin_files, "_known", {})
    monkeypatch.setattr("acutance.plugins._adopted", {})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my spread.py"
    path.write_text(SOURCE)
    return path


def test_other_processes_know_the_file_before_the_data(file):
    plugin_files.adopted([plugin_files.read(file)])
    from acutance.report.recipes.registered import recipe

    data = recipe("spread").prepare(make().whole)
    keys = [FigureKey("spread", data.levels[0], what) for what in data.definitions]
    for png, _ in draw_apart(data, keys, 2).values():
        assert png.startswith(b"\x89PNG")


def test_the_file_that_was_adopted_last_is_the_one_that_is_sent(file):
    first = plugin_files.read(file)
    second = first._replace(source=SOURCE.replace("in the order", "in another order"))
    for each in (first, second, first):
        plugin_files.adopted([each])
    assert plugin_files.in_use() == [list(first)]


def test_the_last_one_of_those_in_use_is_sent_last(file):
    both = SOURCE.replace("return [Spread]", "return [Spread, type('Other', (Spread,), {'name': 'other'})]")
    one, two = plugin_files.read(file)._replace(source=both), plugin_files.read(file)
    for each in (two, one, two):  # 'other' stays that of the first file
        plugin_files.adopted([each])
    assert plugin_files.in_use() == [list(one), list(two)]


def test_report_draws_them_where_the_file_is_given_and_says_so_where_not(toy_config, file):
    run = file.parent / "run"
    acutance.run(toy_config | {"plugins": [str(file)]}, out=run)
    drawn = sorted(path.name for path in run.glob("figures/spread-*"))
    assert drawn and "How far apart they lie" in (run / "report.html").read_text()
    assert json.loads((run / "environment.json").read_text())["plugin_figures"] == {"spread": str(file)}
    without = shutil.copytree(run, file.parent / "without")
    shutil.rmtree(without / "figures")

    def report(*arguments, code=0):
        return python("-m", "acutance", "report", *arguments, code=code, forked=True)

    asked = report(run, "--figure", "spread", "--plugin", file).stdout.split("\n")
    assert [name for name in drawn if name.endswith("png")] == sorted(line.split("/")[-1] for line in asked if line)
    said = report(without).stderr
    assert said.startswith("note: figure 'spread' is left out") and said.endswith(f"give it with --plugin '{file}'\n")
    assert "How far apart they lie" not in (without / "report.html").read_text()
    assert report(without, "--plugin", file).stderr == ""
    assert "How far apart they lie" in (without / "report.html").read_text()
    assert not report(without, "--figure", "tau").stderr  # what was not asked for is not missing
    assert "unknown figure 'spread'" in report(without, "--figure", "spread", code=2).stderr
