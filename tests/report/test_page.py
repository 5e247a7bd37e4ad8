"""What the page draws by itself: its data, its size, and what it does in a browser."""

import dataclasses
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.judging import holds
from acutance.report.cells import group_table, heat_table
from acutance.report.data import ReportData
from acutance.report.page.embed import script_json, study_data
from acutance.report.page.figures import FigureKey, figure_keys
from acutance.report.page.html import render_page
from acutance.report.page.methods import latex, methods

HOSTILE = "</script><script>alert('x')</script><!--\u2028&\"' __proto__"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def make(n=8, names=("worst_case", "own_measure"), radii=(0.01, 0.1), targets=("test_error", "attr:lr"), groups=3):
    """A study without statistics of its own: the correlations are any numbers, the page must show just these."""
    g = np.random.default_rng(0)
    model = [f"m{i}" for i in range(n - 2)] + [HOSTILE, "left out"]
    models = pd.DataFrame({
        "model": model, "pool": "p", "architecture": "net", "train_set": "d", "admitted": [True] * (n - 1) + [False],
        "reason": [""] * (n - 1) + ["train_error 0.2 > 0.01"], "parameters": 10, "key": "k" * 64,
        "attr.lr": 10 ** g.uniform(-3, 0, n), "attr.mixup": g.random(n) < 0.5, "attr.kind": [HOSTILE, "b"] * (n // 2),
        "target.test_error": g.uniform(0.01, 0.1, n),
    })  # fmt: skip
    for target in targets:
        if not target.startswith("attr:"):
            models[f"target.{target}"] = g.uniform(0.01, 0.1, n)
    spec = [{"measure": m, "spec.rho": rho, "spec.scaling": "none"} for m in names for rho in radii]
    rows = [
        {**s, "model": m, "replicate": 0, "value": g.lognormal(), "stderr": 0.01, "status": "ok"}
        for s in spec
        for m in model
    ]
    labels = ["all", *(f"mixup={i}" for i in range(groups - 1))]
    table = [
        {**s, "target": t, "within": "all", "group": group, "n": n - 1, "tau": tau, "low": tau - 0.2, "high": tau + 0.2,
         "p": 0.01, "p_adjusted": abs(tau), "note": ""}
        for s in spec for t in targets for group in labels for tau in [g.uniform(-0.8, 0.8)]
    ]  # fmt: skip
    return ReportData(
        title="A study", config={"surface": {"points": 8, "m": 4}, "seed": 3, "admit": {"train_error": {"min": None, "max": 0.01}}},
        environment={"acutance": "0.1.0", "python": "3.12.1", "libraries": {"torch": "2.6.0"}}, models=models,
        results=pd.DataFrame(rows), correlations=pd.DataFrame(table),
        problems=pd.DataFrame(columns=["pool", "model", "measure", "spec", "state", "message"]), cost={"seconds": 1},
        targets=list(targets), groups=["mixup"], figures={"colour": "lr", "marker": ["mixup"], "size": None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return make()


@pytest.fixture(scope="module")
def page(data):
    return render_page(data, {})


def embedded(page):
    return re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.S).group(1)


def test_no_name_breaks_out_of_the_data(page, data):
    text = embedded(page)
    assert not set("<>&\u2028\u2029") & set(text) and text.isascii()
    found = json.loads(text)
    assert found == study_data(data) and HOSTILE in found["models"]
    assert page.count("<script") == 2 and page.count("</script>") == 2 and "<!--" not in page
    assert json.loads(script_json({"</script>": ["\u2029<!--", None]})) == {"</script>": ["\u2029<!--", None]}


def test_the_data_are_those_of_the_tables(data):
    found = study_data(data)
    assert "left out" not in found["models"] and len(found["models"]) == 7
    for d, name in enumerate(data.definitions):
        for r, rho in enumerate(data.radii(name)):
            wanted = data.values(name, rho)["value"].reindex(found["models"])
            assert found["definitions"][d]["values"][r] == pytest.approx(wanted.tolist(), rel=1e-5)
    (level,) = found["levels"]
    assert len(level["correlations"]) == 2 * 2 * 2 and level["scales"] == ["percent", "log"]
    for d, r, t, tau, low, _, adjusted, n, groups, _, sure in level["correlations"]:
        rows = data.tau(data.definitions[d], [0.01, 0.1][r], data.targets[t], "all")
        assert [tau, low, adjusted] == pytest.approx(rows.loc["all", ["tau", "low", "p_adjusted"]].tolist(), abs=1e-4)
        assert n == 7 and sure == holds(rows.loc["all"])
        assert {level["groups"][int(g)]: v for g, v in groups.items()} == pytest.approx(
            rows["tau"].drop("all").to_dict(), abs=1e-4
        )


def test_what_is_missing_or_infinite_is_said(data):
    results = data.results.copy()
    rows = results["measure"] == "worst_case"
    results.loc[rows & (results["model"] == "m0"), "value"] = np.inf
    results.loc[rows & (results["model"] == "m1"), ["value", "stderr"]] = np.nan
    found = study_data(dataclasses.replace(data, results=results))
    first = found["definitions"][0]
    assert first["values"][0][:2] == ["inf", None] and first["errors"][0][1] is None
    assert "Infinity" not in script_json(found) and "NaN" not in script_json(found)


def test_cells_are_shaded_by_tau_and_marked_where_they_hold(data):
    rows = heat_table(data, "all", data.targets)
    assert [row["rho"] for row in rows] == ["0.01", "0.1"] * 2 and [row["first"] for row in rows] == [True, False] * 2
    whole = data.correlations[data.correlations["group"] == "all"].to_dict("records")
    cells = [cell for row in rows for cell in row["cells"]]
    for cell, row in zip(cells, whole, strict=True):
        # Adjusted p is |tau| in these tables, and the interval tau - 0.2 to tau + 0.2.
        sign_known = abs(row["tau"]) > 0.2
        assert cell.strong == (abs(row["tau"]) < 0.05 and sign_known)
        step = round(10 * row["tau"] * (0.5 if sign_known else 0.25))
        assert cell.shade == f"{'m' if step < 0 else 'h'}{abs(step)}"
    tau = data.correlations["tau"]
    sure = data.correlations.assign(p_adjusted=0.01, low=tau - 1e-6, high=tau + 1e-6)
    (cell, *_) = heat_table(dataclasses.replace(data, correlations=sure), "all", data.targets)[0]["cells"]
    step = round(10 * whole[0]["tau"])
    assert cell.shade == f"{'m' if step < 0 else 'h'}{abs(step)}" and cell.strong
    groups = group_table(data, "all")
    assert groups["names"] == ["mixup=0", "mixup=1"] and len(groups["rows"]) == 4
    assert all(len(row["cells"]) == 3 for row in groups["rows"])


def test_a_methods_paragraph_says_what_was_done(data):
    text = methods(data)
    for part in (
        "We compared 7 models (7 of p).", "1 of 8 was left out beforehand (admitted: train_error ≤ 0.01).", "8 points",
        "m = 4", "worst_case (ρ = 0.01, 0.1; scaling = none)", "own_measure (", "test error, lr", "9999 resamples",
        "9999 permutations", "up to 4 comparisons", "seed of points, noise, resamples and permutations is 3",
        "acutance 0.1.0, Python 3.12.1, torch 2.6.0",
    ):  # fmt: skip
        assert part in text, part
    tex = latex(text)
    assert r"$\tau_a$" in tex and r"train\_error $\leq$ 0.01" in tex and "95\\%" in tex and "τ" not in tex
    assert latex(r"a_b & 50% \x{y}^z") == r"a\_b \& 50\% \textbackslash{}x\{y\}\textasciicircum{}z"


def test_it_says_from_how_many_resamples_the_numbers_are(data):
    asked = dataclasses.replace(data, config={**data.config, "analysis": {"resamples": 499}})
    assert "(499 resamples)" in methods(asked) and "499 permutations" in methods(asked)
    fewer = data.correlations.assign(
        note="4999 resamples and permutations, not 9999, which take about 31 minutes (...)"
    )
    assert "(4999 resamples)" in methods(dataclasses.replace(data, correlations=fewer))


def test_headings_are_in_order_and_pictures_have_words(data):
    pictures = {FigureKey("target", "all", name): b"\x89PNG" for name in data.definitions}
    page = render_page(data, pictures)
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 2 and all(re.search(r'alt="[^"]+"', image) for image in images)


def test_a_large_study_is_one_small_page(tmp_path):
    """200 models, 48 definitions at four radii, four targets, four groups, and pictures of the usual size."""
    data = make(
        200,
        tuple(f"measure_{i}" for i in range(48)),
        (0.01, 0.02, 0.04, 0.08),
        ("test_error", "ood_error", "test_loss", "attr:lr"),
        5,
    )
    assert len(data.definitions) == 48 and len(data.correlations) == 48 * 4 * 4 * 5
    page = render_page(data, {key: bytes(60_000) for key in figure_keys(data)})
    assert len(page.encode()) < 3_000_000
    assert "<img" not in page and page.count(".png</code>") == 48
    if BROWSER:
        found = browse(page, tmp_path, """
            const lines = () => document.querySelectorAll(".radii figure:first-child .line").length;
            found.first = lines();
            document.querySelector(".radii .copier").click(); found.all = lines();
            document.querySelectorAll(".radii .copier")[1].click(); found.none = lines();
        """)  # fmt: skip
        assert found == {"first": 12, "all": 48, "none": 0, "trouble": [], "requests": []}


def browse(page, tmp_path, script, *options):
    """Return what a script leaves as JSON after it was run in the page, with all errors and requests of the page."""
    watch = """<head><script>
      const trouble = [];
      window.addEventListener("error", event => trouble.push(String(event.message)), true);
      window.addEventListener("securitypolicyviolation", event => trouble.push(event.violatedDirective));
      for (const name of ["error", "warn"]) console[name] = (...words) => trouble.push(words.join(" "));
    </script>"""
    probe = f"""<script>
      const wait = () => new Promise(done => setTimeout(done, 20));
      const point = (plot, i) => {{
        const area = plot.querySelectorAll(".point")[i].getBoundingClientRect();
        plot.dispatchEvent(new PointerEvent("pointermove", {{ bubbles: true,
          clientX: area.left + area.width / 2, clientY: area.top + area.height / 2 }}));
      }};
      const select = (i, text) => {{
        const menu = document.querySelectorAll(".menus select")[i];
        menu.value = [...menu.options].find(option => option.text === text).value;
        menu.dispatchEvent(new Event("change"));
      }};
      const fills = () => [...document.querySelector(".explore svg.plot").querySelectorAll(".point")].map(p => p.getAttribute("fill"));
      (async () => {{
        const found = {{}};
        try {{ {script} }} catch (error) {{ trouble.push(String(error)); }}
        const out = document.createElement("pre");
        out.id = "found";
        out.textContent = JSON.stringify({{ ...found, trouble, requests: performance.getEntriesByType("resource").map(entry => entry.name) }});
        document.body.append(out);
      }})();
    </script></body>"""
    path = tmp_path / "report.html"
    path.write_text(page.replace("<head>", watch, 1).replace("</body>", probe), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000", *options,
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    return json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.S).group(1)))


@pytest.mark.skipif(not BROWSER, reason="no headless browser")
def test_the_page_answers_its_reader(page, data, tmp_path):
    found = browse(page, tmp_path, """
        const plot = () => document.querySelector(".explore svg.plot"), tip = document.getElementById("tip");
        found.panels = document.querySelectorAll(".explore svg.plot").length;
        found.points = plot().querySelectorAll(".point").length;
        found.caption = document.querySelector(".explore figcaption").textContent;
        point(plot(), 6);
        found.tip = tip.innerText; found.lit = document.querySelectorAll(".explore .lit").length; found.shown = !tip.hidden;
        plot().dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
        found.stepped = tip.innerText;
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
        found.closed = tip.hidden;
        found.colours = new Set(fills()).size;
        select(2, "kind"); found.categories = [...new Set(fills())].sort();
        found.legend = [...document.querySelectorAll(".legend .entry")].map(entry => entry.textContent);
        document.querySelector(".legend .entry").click();
        found.left = plot().querySelectorAll(".point").length;
        found.pressed = document.querySelector(".legend .entry").getAttribute("aria-pressed");
        found.count = document.querySelector(".legend [role=status]").textContent;
        found.after = document.querySelector(".explore figcaption").textContent;
        document.querySelector(".legend .entry").click();
        found.again = plot().querySelectorAll(".point").length;
        select(1, "lr"); found.target = document.querySelectorAll(".explore svg.plot").length;
        document.querySelectorAll("#heat1 tbody tr")[2].querySelectorAll("td")[0].click();
        found.chosen = [...document.querySelectorAll(".menus select")].slice(0, 2).map(s => s.selectedOptions[0].text);
        found.lines = document.querySelectorAll(".radii svg.plot:first-of-type .line").length;
        document.querySelector(".radii .entry").click();
        found.fewer = document.querySelectorAll(".radii svg.plot:first-of-type .line").length;
        found.headings = [...document.querySelectorAll("h1,h2,h3,h4")].map(h => Number(h.tagName[1]));
        found.scripts = document.querySelectorAll("script").length;
    """)  # fmt: skip
    assert found["trouble"] == [] and found["requests"] == []
    assert (found["panels"], found["points"], found["lit"], found["shown"]) == (4, 7, 4, True)
    tau = data.tau(data.definitions[0], 0.01, "test_error", "all").loc["all", "tau"]
    sign = f"{tau:+.2f}".replace("-", "\u2212")
    assert "undefined" not in found["caption"] and "●" in found["caption"] and "■" in found["caption"]
    assert f"τ = {sign}" in found["caption"] and found["after"] == found["caption"]
    assert (
        HOSTILE.split("\u2028")[0] in found["tip"]
        and "0.01" in found["tip"]
        and "lr" in found["tip"]
        and "±" in found["tip"]
    )
    assert found["stepped"] != found["tip"] and found["closed"]
    assert found["colours"] == 7 and found["categories"] == ["#0072B2", "#D55E00"]
    assert found["legend"][0].startswith("</script><script>alert") and found["legend"][1] == "b"
    kinds = data.models["attr.kind"][:-1]
    assert found["left"] == (kinds == "b").sum() < found["again"] == 7 and found["pressed"] == "false"
    assert found["count"] == f"{(kinds == 'b').sum()} of 7 models shown"
    assert found["target"] == 2 and found["chosen"] == [data.definitions[1], "test error"]
    assert (found["lines"], found["fewer"]) == (4, 2)
    assert all(b - a <= 1 for a, b in itertools.pairwise(found["headings"])) and found["scripts"] == 4


@pytest.mark.skipif(not BROWSER, reason="no headless browser")
def test_nothing_overflows_a_narrow_window_and_dark_is_dark(page, tmp_path):
    # A window of a headless browser is at least 500 wide; a narrower page is a frame in it.
    frame = f"""<html><head></head><body><iframe style="width:375px;height:800px" srcdoc="{page.replace("&", "&amp;").replace('"', "&quot;")}"></iframe></body></html>"""
    found = browse(frame, tmp_path, """
        await new Promise(done => { const f = document.querySelector("iframe"); f.contentDocument?.querySelector(".explore svg") ? done() : f.onload = done; });
        const inner = document.querySelector("iframe").contentDocument;
        found.width = [inner.documentElement.scrollWidth, inner.documentElement.clientWidth];
        found.plots = inner.querySelectorAll(".explore svg.plot").length;
        found.paper = document.querySelector("iframe").contentWindow.getComputedStyle(inner.body).backgroundColor;
    """, "--blink-settings=preferredColorScheme=0")  # fmt: skip
    assert found["trouble"] == [] and found["plots"] == 4
    assert found["width"][0] <= found["width"][1] <= 375
    assert sum(map(int, re.findall(r"\d+", found["paper"])[:3])) < 150


def test_the_parts_of_the_page_are_files_of_the_package():
    folder = Path(importlib.util.find_spec("acutance.report.page").submodule_search_locations[0])
    names = {path.name for path in (folder / "web").iterdir()}
    assert {"page.css", "plot.js", "scatter.js", "radii.js", "tables.js"} <= names
    assert all(len(path.read_text().splitlines()) < 300 for path in (folder / "web").iterdir())
    assert not any(
        "innerHTML = `" in path.read_text() or "</script" in path.read_text() for path in (folder / "web").glob("*.js")
    )
