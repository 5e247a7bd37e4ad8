"""What figures and tables of the page draw, read back: signs, edges, intervals, order, and what is left out."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from reports import HOSTILE, make

from acutance.analysis.text import number
from acutance.report.cells import group_table, shades
from acutance.report.page.figures import recipe
from acutance.report.page.markup import _md
from acutance.report.recipes.tau import tau_heatmap
from acutance.report.scales import is_logarithmic
from acutance.report.scatter import scatter_grid
from acutance.report.sweeps import sweep_figure, sweep_panels

LEVEL, NAME = "architecture=resnet", "adaptive worst-case ℓ∞"


@pytest.fixture(scope="module")
def data():
    return make()


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([1, -1], True), ([1, -1, 0], False), ([np.inf, -1.0], False), ([np.inf, 2.0], True), ([0.0], False), ([], False)],
)
def test_a_measure_is_drawn_over_decades_where_half_of_its_values_are_positive(values, logarithmic):
    assert is_logarithmic(pd.Series(values, dtype=float)) is logarithmic


def test_bars_are_standard_errors_and_what_is_off_the_scale_is_counted_at_its_edge():
    def change(models, results):
        results["stderr"] = 0.25 * results["value"]
        results.loc[results["model"] == "m0", "value"] = -1.0
        results.loc[results["model"].isin(["m1", "m2"]), "value"] = np.inf

    data = make(change=change)
    axis = scatter_grid(data, LEVEL, NAME, targets=["test_error"], radii=[0.02]).axes[0]
    bars = [line for c in axis.collections if hasattr(c, "get_segments") for line in c.get_segments()]
    values = data.values(NAME, 0.02)["value"][["m3", "m4"]]
    drawn = sorted((low, high) for (low, _), (high, _) in bars)
    np.testing.assert_allclose(drawn, sorted((0.75 * v, 1.25 * v) for v in values))
    texts = {text.get_text(): text.get_position()[0] for text in axis.texts}
    assert texts["1 ≤ 0"] < 0.1 and texts["2 infinite"] > 0.9


def test_tau_is_written_with_its_interval_from_low_to_high(data):
    table = data.correlations.assign(tau=-0.25, low=-0.5, high=0.125)
    changed = dataclasses.replace(data, correlations=table)
    axis = scatter_grid(changed, LEVEL, NAME, targets=["test_error"], radii=[0.01]).axes[0]
    (text,) = [text.get_text() for text in axis.texts if "tau" in text.get_text()]
    assert text == rf"$\tau$ = {number(-0.25)}  [{number(-0.5)}, {number(0.125)}]"


def test_radii_ascend_whatever_the_order_of_the_study_and_replicates_are_averaged(data):
    turned = dataclasses.replace(data, correlations=data.correlations[::-1].reset_index(drop=True))
    assert turned.radii(NAME) == [0.01, 0.02]
    again = data.results.assign(replicate=1, value=3 * data.results["value"])
    twice = dataclasses.replace(data, results=pd.concat([data.results, again], ignore_index=True))
    pd.testing.assert_series_equal(twice.values(NAME, 0.01)["value"], 2 * data.values(NAME, 0.01)["value"])


def test_models_that_are_not_admitted_are_not_drawn(data):
    assert data.models["model"].iloc[-1] == HOSTILE
    for level, count in (("architecture=vit", 4), ("architecture=resnet", 5), ("all", 9)):
        assert len(data.members(level)) == count and HOSTILE not in set(data.members(level)["model"])


def test_red_is_above_zero_and_blue_below_on_the_page_and_in_figures(data):
    colours = dict(re.findall(r"\.(\w+)\{background:#(\w{6})", shades()))
    red, blue = (lambda c: int(c[:2], 16)), (lambda c: int(c[4:], 16))
    assert all(red(colours[f"h{i}"]) > blue(colours[f"h{i}"]) for i in range(2, 11))
    assert all(red(colours[f"m{i}"]) < blue(colours[f"m{i}"]) for i in range(2, 11))
    image = tau_heatmap(data, LEVEL).axes[0].images[0]
    assert image.get_clim() == (-1, 1) and image.to_rgba(0.8)[0] > image.to_rgba(0.8)[2]
    assert tuple(image.to_rgba(0.0)[:3]) == pytest.approx((0.97, 0.97, 0.97), abs=0.02)


def test_groups_are_shown_for_what_counts_and_an_attribute_of_two_values_is_no_axis(data):
    assert {row["target"] for row in group_table(data, LEVEL)["rows"]} == {"test error"}
    told = dataclasses.replace(data, figures={"colour": "augment", "marker": [], "size": "learning_rate"})
    assert recipe("hyperparameter").attributes(told) == ["attr:learning_rate"]


def test_a_line_of_a_sweep_is_of_whole_pools_and_its_band_is_the_interval():
    rows = [
        {"measure": "x", "target": "test_error", "within": "all", "group": group, "m": m, "tau": tau, "low": tau - 0.2,
         "high": tau + 0.3}
        for m, tau in ((8, 0.25), (4, -0.5)) for group in ("all", "wide=1")
    ]  # fmt: skip
    ((key, part),) = sweep_panels(pd.DataFrame(rows), "m", "m").items()
    assert set(part["group"]) == {"all"} and key.what == "test_error"
    figure = sweep_figure(part, "m")
    assert isinstance(figure, Figure)
    axis = figure.axes[0]
    (line,) = [line for line in axis.lines if line.get_label()[0] != "_"]
    assert line.get_xydata().tolist() == [[4, -0.5], [8, 0.25]]
    corners = {tuple(xy) for xy in np.round(axis.collections[0].get_paths()[0].vertices, 6).tolist()}
    assert corners == {(4, -0.7), (4, -0.2), (8, 0.05), (8, 0.55)}


def test_every_letter_that_is_markup_of_markdown_is_escaped():
    assert _md("a~b$c#d[e]f\\g") == r"a\~b\$c\#d\[e\]f\\g" and _md("<i>\n&") == "&lt;i&gt; &amp;"
