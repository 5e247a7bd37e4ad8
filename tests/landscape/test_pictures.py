"""Pictures and the page: what they show, what they say, and nothing that breaks out of either."""

import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from acutance import Landscape
from acutance.errors import UserError
from acutance.workflows.landscape.pictures import caption, figure, limits
from acutance.workflows.landscape.result import COLUMNS

EVIL = "</script><img src=x onerror=alert(1)>$x$"
CURVATURE = {
    "plane_trace": 1.0, "plane_top": 0.9, "trace": 50.0, "trace_stderr": 2.0, "lambda_max": 9.0, "lambda_bound": 0.01,
    "parameters": 1000, "dimensions": 2, "planes": 1, "trace_share": 0.02, "trace_share_stderr": 0.0008, "top_share": 0.1,
}  # fmt: skip


def seen(dimensions=2, splits=("train", EVIL), draws=1, loss=None, **about):
    """Return a landscape made by hand: the loss is 1 + a^2 + 2 b^2, and twice that on the second split."""
    loss = loss or (lambda a, b, draw, s: (1 + a * a + 2 * b * b) * (1 + s) * (1 + 0.1 * draw))
    axis = [-1.0, -0.5, 0.0, 0.5, 1.0]
    rows = [
        (draw, a, b if dimensions == 2 else np.nan, True, "", split, loss(a, b, draw, s), 0.25, "ok")
        for draw in range(draws)
        for b in (axis if dimensions == 2 else [0.0])
        for a in axis
        for s, split in enumerate(splits)
    ]
    axes = [{"name": f"random {i + 1}", "normalized": "normalized by filter", "norm": 3.0, "relative": 0.5}
            for i in range(dimensions)]  # fmt: skip
    plain = {
        "kinds": ["random"], "axes": axes, "splits": dict.fromkeys(splits, 40), "batch_norm": "eval", "errors": True,
        "marks": {}, "path": [], "explained": [], "barrier": {}, "curvature": CURVATURE, "draws": draws, "notes": [EVIL],
        "carries": "the plane carries 2% of tr H", "architecture": "Net-0123", "loss": "cross_entropy",
    }  # fmt: skip
    return Landscape(pd.DataFrame(rows, columns=list(COLUMNS)), plain | about)


def texts(picture):
    return " ".join(t.get_text() for t in picture.findobj(Text))


@pytest.mark.parametrize("splits", [("train",), ("train", "test", "shift")])
def test_numbers_below_panels_are_few_enough_not_to_touch_each_other(splits):
    picture = figure(seen(splits=splits))
    picture.canvas.draw()
    for panel in [axes for axes in picture.axes if axes.get_xlabel() == "a"]:
        boxes = [label.get_window_extent() for label in panel.get_xticklabels() if label.get_text()]
        assert 2 < len(boxes) <= 5 and all(left.x1 + 3 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("kind", ["filled", "contour"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("of", ["loss", "error"])
def test_a_plane_has_a_panel_for_each_split_on_one_scale(kind, log, of):
    picture = figure(seen(), kind, of, log)
    picture.canvas.draw()
    panels = [axes for axes in picture.axes if axes.get_xlabel() == "a"]
    assert len(panels) == 2 and f"{of} on train, n = 40" in texts(picture)
    assert panels[0].get_xlim() == (-1, 1)


def test_a_line_shows_the_mean_of_its_draws_and_their_spread():
    three = seen(dimensions=1, draws=3)
    picture = figure(three)
    panel = picture.axes[0]
    first = panel.get_lines()[0]
    _, _, values = three.grid("train")
    np.testing.assert_allclose(first.get_ydata(), values.mean(0))
    (band, _) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx((values.mean(0) + values.std(0, ddof=1)).max())
    assert "mean and sd of 3 directions" in texts(picture)


def test_what_was_done_and_what_is_missed_stands_on_the_picture():
    words = " ".join(caption(seen(marks={"a": [0, 0]}, explained=[0.9, 0.05])))
    for wanted in ("normalized by filter", "length 3 (0.5 of", "carries 2%", "running statistics", "90% and 5%"):
        assert wanted in words
    assert "normalized by filter" in texts(figure(seen()))
    barrier = {"train": {"loss": {"height": 0.25, "at": 0.5}, "error": None}}
    assert "barrier 0.25 at 0.5" in " ".join(caption(seen(1, barrier=barrier, kinds=["segment"])))


def test_what_is_not_finite_is_masked():
    broken = seen(loss=lambda a, b, draw, s: np.inf if a == 1 else np.nan if a == -1 else 1 + a * a + b * b)
    for kind in ("filled", "contour"):
        for log in (False, True):
            picture = figure(broken, kind, "loss", log)
            picture.canvas.draw()
            assert all(np.isfinite(axes.get_ylim()).all() for axes in picture.axes)
    nothing = seen(loss=lambda a, b, draw, s: np.nan)
    figure(nothing).canvas.draw()
    assert data_of(nothing.page())["values"]["loss"][0][0][0] is None
    line = figure(seen(1, loss=lambda a, b, draw, s: np.nan if a == 0 else a * a))
    assert np.ma.getmaskarray(line.axes[0].get_lines()[0].get_ydata(orig=True)).tolist()[2] is True


def test_a_scale_is_cut_where_it_would_show_one_peak_alone():
    peak = np.array([1.0, 1.1, 1.2, 1e12])
    assert limits(peak, log=False) == (1, pytest.approx(1 + 1000 * 0.15))  # of what the middle is above the lowest
    assert limits(peak, log=True) == (1, 1e12)
    assert limits(np.array([1.0, 2.0, 3.0]), log=False) == (1, 3)
    assert limits(np.array([1.0, 1e12]), log=True) == (1, 1e12)
    low, high = limits(np.array([2.0, 2.0]), log=False)
    assert low == 2 < high


@pytest.mark.parametrize("kind", ["filled", "contour"])
def test_a_scale_that_is_cut_has_an_arrow_at_its_end(kind):
    high = seen(loss=lambda a, b, draw, s: 1e9 if a == b == 1 else 1 + a * a + b * b)
    for plane, log, arrow in ((high, False, "max"), (high, True, "neither"), (seen(), False, "neither")):
        (bar,) = [axes for axes in figure(plane, kind, "loss", log).axes if axes.get_xlabel() != "a"]
        assert vars(bar)["_colorbar"].extend == arrow


def test_a_logarithmic_axis_of_lines_begins_at_the_lowest_draw():
    """Their mean less one standard deviation may lie below 0, where the axis has no place."""
    wide = seen(1, ("train",), draws=3, loss=lambda a, b, draw, s: (1 + a * a) * 100.0 ** (draw - 2))
    for log, lowest in ((True, 1e-4), (False, -0.2)):
        panel = figure(wide, "line", "loss", log).axes[0]
        (band,) = panel.collections
        assert panel.get_yscale() == ("log" if log else "linear")
        edge = band.get_paths()[0].vertices[:, 1].min()
        assert edge == pytest.approx(lowest) if log else edge < lowest


def test_contours_on_a_logarithmic_scale_are_evenly_spaced_there():
    steep = seen(splits=("train",), loss=lambda a, b, draw, s: 10.0 ** (4 * a))
    for log in (True, False):
        (panel,) = [axes for axes in figure(steep, "contour", "loss", log).axes if axes.get_xlabel() == "a"]
        (contours,) = panel.collections
        levels = np.log10(contours.levels) if log else contours.levels
        assert np.diff(levels) == pytest.approx(levels[1] - levels[0]) and len(levels) == 21


@pytest.mark.parametrize(("factor", "start"), [(29, "linear"), (31, "log")])
def test_the_page_begins_on_a_logarithmic_scale_where_the_loss_spans_a_factor_of_30(factor, start):
    plane = seen(loss=lambda a, b, draw, s: 2.0 * factor if a == b == 1 else 0.0 if a == b == -1 else 2.0)
    data = data_of(plane.page())
    assert data["start"] == start
    assert data["limits"]["loss"] == {"linear": [0, 2 * factor], "log": [2, 2 * factor]}  # without the point at 0


def test_a_constant_loss_has_a_picture():
    for log in (False, True):
        figure(seen(loss=lambda a, b, draw, s: 0.0), "contour", "loss", log).canvas.draw()
        figure(seen(1, loss=lambda a, b, draw, s: 2.0), "line", "loss", log).canvas.draw()


def test_kinds_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="no 'line'"):
        figure(seen(), "line")
    with pytest.raises(UserError, match="no error is defined"):
        figure(seen(errors=False), of="error")
    with pytest.raises(UserError, match="no split"):
        seen().grid("nowhere")
    with pytest.raises(UserError, match="of:"):
        seen().grid(of="accuracy")


def test_all_files_are_written(tmp_path):
    paths = {path.name for path in seen().save(tmp_path)}
    for kind in ("contour", "filled"):
        for what in ("loss", "loss-log", "error"):
            assert {f"landscape-{kind}-{what}.png", f"landscape-{kind}-{what}.pdf"} <= paths
    assert {"landscape.html", "landscape.csv", "landscape.json"} <= paths
    assert (tmp_path / "landscape-filled-loss.png").read_bytes().startswith(b"\x89PNG")
    line = seen(dimensions=1, errors=False)
    line.save(tmp_path)
    assert (tmp_path / "landscape-line-loss.pdf").exists()
    # Pictures of the plane that was there before belong to it.
    assert not (tmp_path / "landscape-contour-loss.png").exists()


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_the_page_holds_all_values_and_loads_nothing():
    plane = seen()
    page = plane.page()
    data = data_of(page)
    np.testing.assert_allclose(data["values"]["loss"][1], plane.grid(EVIL)[2], rtol=1e-6)
    assert data["a"] == [-1, -0.5, 0, 0.5, 1] and data["splits"] == ["train", EVIL]
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page) and "http" not in page.replace("http-equiv", "")
    assert "Content-Security-Policy" in page and len(page) < 1_000_000


def test_nothing_breaks_out_of_the_page():
    page = seen(marks={EVIL: [0.0, 0.0]}).page()
    assert "<img src=x" not in page and page.count("</script>") == 2
    axes = [{"name": EVIL, "normalized": EVIL, "norm": 1.0, "relative": 1.0}] * 2
    assert "<img src=x" not in seen(axes=axes, carries=EVIL, architecture=f"{EVIL}-1").page()


def test_values_that_are_no_numbers_are_told_on_the_page():
    page = seen(loss=lambda a, b, draw, s: np.inf if a == 1 else np.nan if a == -1 else 1.0).page()
    row = data_of(page)["values"]["loss"][0][0]
    assert row == [None, 1.0, 1.0, 1.0, "inf"]
    mean = data_of(seen(1, draws=2, loss=lambda a, b, draw, s: np.nan if a == draw else 1.0 + draw).page())["mean"]
    assert mean["loss"][0] == [1.5, 1.5, None, 1.5, None]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_browser_draws_the_page(dimensions, tmp_path):
    """The script hides the controls until all is drawn, so visible ones say that it ran to its end."""
    path = tmp_path / "page.html"
    path.write_text(seen(dimensions, draws=3 - dimensions).page())
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    shown = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert '<div id="controls">' in shown and 'aria-pressed="true">linear' in shown
    assert re.search(r'<canvas id="plot"[^>]* width="\d{3,}"', shown)


TAPS = """<script>
const canvas = document.getElementById("plot"), out = document.createElement("pre"), box = canvas.getBoundingClientRect();
canvas.setPointerCapture = () => {};  // of a finger that is not there
const told = () => { out.textContent += document.getElementById("told").textContent + "\\n"; };
const press = name => [...document.querySelectorAll("button")].find(b => b.textContent === name).click();
canvas.dispatchEvent(new PointerEvent("pointerdown", { clientX: box.left + box.width / 2 - 20, clientY: box.top + box.height / 2 }));
told();
for (const name of ["error", "log", "map"]) { press(name); told(); }
out.id = "heard";
document.body.append(out);
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_a_tap_tells_a_point_and_its_words_follow_what_is_shown(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(seen(2).page().replace("</body>", TAPS))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    shown = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120).stdout
    heard = re.search(r'<pre id="heard">(.*?)</pre>', shown, re.DOTALL)[1].strip().splitlines()
    where = heard[0].partition(", loss")[0]
    assert re.fullmatch(r"a = [-\d.]+, b = [-\d.]+", where) and ", loss: train: " in heard[0]
    assert len(heard) == 4 and all(line.startswith(f"{where}, error: train: ") for line in heard[1:])


def test_a_notebook_shows_a_picture_though_nobody_told_pyplot():
    assert figure(seen())._repr_png_().startswith(b"\x89PNG") and "<p>" in seen()._repr_html_()
