"""Figures and the page: what they show, what they survive, that nothing hostile gets through."""

import dataclasses
import re
import shutil
import subprocess
import warnings

import numpy as np
import pandas as pd
import pytest
from reports import make

from acutance.io.written import put
from acutance.report.page import figures
from acutance.report.page.figures import FigureKey, figure_keys, file_stems, render, save_figures
from acutance.report.page.html import render_page
from acutance.report.page.summary import answer
from acutance.report.scatter import scatter_grid


def test_files_of_figures_have_safe_names_of_their_own():
    levels = [
        "architecture=vit/16",
        "architecture=vit 16",
        "architecture=ViT 16",
        "resnet",
        "模型",
        "модель",
        "a" * 300,
        "../..",
    ]
    keys = [
        FigureKey(r, level, w) for r, w in (("tau", ""), ("target", "ℓ2 <x>"), ("target", "l2 |x|")) for level in levels
    ]
    stems = file_stems(keys)
    assert len({stem.lower() for stem in stems.values()}) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", stem) and len(stem) < 140 for stem in stems.values())
    # A figure that stands alone keeps its name, and the others theirs, whatever else there is.
    assert stems[FigureKey("tau", "resnet")] == "tau-resnet" and stems[keys[0]].startswith("tau-vit_16-")
    assert file_stems([*reversed(keys)]) == stems and file_stems(keys[:1])[keys[0]] == "tau-vit_16"


def test_every_figure_is_in_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "render", lambda data, key: (repr(key).encode(), b"%PDF"))

    def change(models, results):
        models["architecture"] = ["vit/16"] * 5 + ["vit 16"] * 5

    pictures = save_figures(make(change=change), tmp_path)
    files = {path.read_bytes() for path in tmp_path.glob("*.png")}
    assert len(pictures) == 6 and files == set(pictures.values()) and len(list(tmp_path.glob("*.pdf"))) == 6


@pytest.fixture(scope="module")
def data():
    return make()


@pytest.fixture(scope="module")
def page(data):
    return render_page(data)


def test_nothing_hostile_gets_through(page):
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert" in page


def test_the_page_is_self_contained(page):
    body = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:|\")[^\"']+", body)
    assert "http://" not in body and "https://" not in body and "@import" not in body


def test_the_page_says_what_the_table_says(data, page):
    for _, row in data.correlations[data.correlations["group"] == "all"].iterrows():
        assert f'data-v="{row["tau"]:.6g}"' in page
    for name in data.definitions:
        assert name in page
    for section in ("How to read this", "excluded because", "adjusted p", "Configuration"):
        assert section in page
    assert "9 of 10 are compared" in page


def test_the_answer_is_computed(data):
    found = answer(data, "architecture=resnet")
    t = data.correlations
    t = t[(t["within"] == "architecture=resnet") & (t["group"] == "all")]
    assert found["sentences"][0].startswith(f"5 models, {(t['target'] == 'test_error').sum()} correlations (")
    assert found["sentences"][1].startswith("None holds after adjustment for all 4 comparisons")
    assert found["n"] == 5 and found["verdict"] == "No reliable relationship found"
    perfect = make(
        n=40, targets=["test_error"],
        change=lambda m, r: r.__setitem__("value", r["model"].map(m.set_index("model")["target.test_error"])),
    )  # fmt: skip
    assert answer(perfect, "architecture=vit")["verdict"].startswith("Flatter models generalize better")


def test_texts_of_figures_can_be_edited_and_files_are_the_same_every_time(data, monkeypatch, figures_are_drawn_here):
    monkeypatch.setattr(figures, "SETTINGS", figures_are_drawn_here)
    key = FigureKey("tau", data.levels[0])
    png, pdf = render(data, key)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert render(data, key) == (png, pdf)


def test_figures_are_files_with_plain_names(tmp_path):
    data = make(targets=("test_error",))
    (tmp_path / "mine.png").write_bytes(b"x")
    put(tmp_path, {"old-figure.png": b"x"})
    pictures = save_figures(data, tmp_path)
    assert len(pictures) == len(figure_keys(data)) == 2 * (1 + 2)
    names = {p.name for p in tmp_path.iterdir()}
    assert "tau-resnet.png" in names and "target-vit-adaptive_worst_case_linf.pdf" in names
    assert (
        "old-figure.png" not in names
        and "mine.png" in names
        and all(re.fullmatch(r"[A-Za-z0-9_.-]+", n) for n in names)
    )
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())


@pytest.mark.slow
def test_processes_draw_the_same_files(tmp_path):
    data = make(targets=("test_error",))
    assert save_figures(data, tmp_path / "parallel", workers=2) == save_figures(data, tmp_path)


def test_a_grid_has_a_panel_for_each_radius_and_target(data):
    figure = scatter_grid(data, "architecture=resnet", "adaptive worst-case ℓ∞")
    panels = [a for a in figure.axes if a.get_label() != "<colorbar>"]
    assert len(panels) == 4
    table = data.tau("adaptive worst-case ℓ∞", 0.01, "test_error", "architecture=resnet")
    texts = " ".join(t.get_text() for t in panels[0].texts)
    assert f"{table.loc['all']['tau']:+.2f}".replace("-", "\u2212") in texts
    offsets = np.concatenate([c.get_offsets() for c in panels[0].collections if len(c.get_offsets()) and c.get_paths()])
    values = data.values("adaptive worst-case ℓ∞", 0.01)["value"]
    drawn = set(np.round(offsets[:, 0], 10))
    assert {round(v, 10) for v in values[["m0", "m1", "m2", "m3", "m4"]]} <= drawn


def test_scales_fit_what_is_drawn():
    """Losses over decades on a logarithmic axis, errors in percent, and what all models share as one column."""

    def change(models, results):
        models["target.test_loss"] = np.logspace(-8, 0, len(models))
        results["value"] = 0.25
        results.loc[results["spec.rho"] == 0.02, "value"] *= 1 + 1e-12 * np.arange((results["spec.rho"] == 0.02).sum())

    data = make(targets=("test_error", "test_loss"), change=change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = scatter_grid(data, data.levels[0], data.definitions[0])
        figure.canvas.draw()
    error, _, loss, last = figure.axes[:4]
    assert (error.get_yscale(), loss.get_yscale()) == ("linear", "log")
    assert error.get_yticklabels()[0].get_text().endswith("%") and "%" not in loss.get_yticklabels()[0].get_text()
    low, high = last.get_xlim()
    assert high / low == pytest.approx(1.25 / 0.8, rel=0.1)


@pytest.mark.parametrize("radii", [1, 4])
def test_a_legend_fits_into_its_figure(data, radii):
    models = data.models.assign(**{"attr.augment": np.arange(10) % 2, "attr.mixup": np.arange(10) // 2 % 2})
    data = dataclasses.replace(data, models=models, figures=data.figures | {"marker": ["augment", "mixup"]})
    rho = data.radii(data.definitions[0])[:1] * radii
    figure = scatter_grid(data, data.levels[0], data.definitions[0], radii=rho)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def infinite(models, results):
    results.loc[0, ["value", "status"]] = [np.inf, "nonfinite"]


def negative(models, results):
    results["value"] = -results["value"]


def constant(models, results):
    models["target.test_error"] = 0.5
    results["value"] = 0.0


def absent(models, results):
    results.loc[results["spec.rho"] == 0.01, ["value", "status"]] = [np.nan, "failed"]


@pytest.mark.parametrize("change", [infinite, negative, constant, absent])
def test_awkward_values_are_drawn_and_said(change):
    page = render_page(make(n=6, change=change, levels=["resnet"]))
    assert ">nan<" not in page.lower() and "[nan" not in page.lower() and "All correlations" in page


# Of one, of two and of three in a level.
@pytest.mark.parametrize("n", [2, 5])
def test_few_models_make_a_page_without_claims(n):
    page = render_page(make(n=n, targets=["test_error"]))
    assert "No correlation could be computed" in page or "No reliable relationship" in page


def test_a_missing_attribute_does_not_matter():
    made = make(levels=["resnet"])
    bare = dataclasses.replace(made, figures={"colour": "nope", "marker": [], "size": "nope"})
    assert "All correlations" in render_page(bare)


def test_definitions_that_differ_in_effort_are_told_apart():
    def twice(models, results):
        more = results.assign(**{"spec.steps": 50, "value": results["value"] * 2})
        return pd.concat([results.assign(**{"spec.steps": 20}), more], ignore_index=True)

    made = make(change=twice)
    assert made.definitions == [
        f"{scaling} worst-case ℓ∞, steps = {steps}" for steps in (20, 50) for scaling in ("standard", "adaptive")
    ]
    few, many = (made.values(f"adaptive worst-case ℓ∞, steps = {n}", 0.01)["value"] for n in (20, 50))
    assert (many == 2 * few).all()
    assert len({key.stem for key in figure_keys(made)}) == len(figure_keys(made))
    page = render_page(made, {})
    assert "adaptive worst-case ℓ∞, steps = 20" in page and "adaptive worst-case ℓ∞, steps = 50" in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="no headless browser")
def test_the_page_in_a_browser(data, tmp_path):
    path = tmp_path / "report.html"
    # A click on the heading of tau, done by the page itself, and the order read back from the document.
    probe = render_page(data).replace(
        "</body>",
        "<script>document.querySelectorAll('#tau1 th button')[4].click();"
        "document.title='order:'+[...document.querySelectorAll('#tau1 tbody tr')].map(r=>r.cells[4].dataset.v).join()"
        "</script></body>",
    )
    path.write_text(probe)
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=90).stdout
    order = [float(v) for v in re.search(r"<title>order:([^<]*)", dom).group(1).split(",")]
    assert len(order) == 8 and order == sorted(order)


def test_the_answer_is_about_generalization_not_about_other_measures():
    def change(models, results):
        models["target.measure:worst_case"] = (
            results.groupby("model")["value"].first().reindex(models["model"]).to_numpy()
        )

    without, data = make(targets=("test_error",)), make(targets=("test_error", "measure:worst_case"), change=change)
    level = data.levels[0]
    assert len(data.named[data.named["within"] == level]) == 2 * len(without.named[without.named["within"] == level])
    assert answer(data, level)["sentences"][:2] == answer(without, level)["sentences"][:2]


def judged(data, **rows):
    """The data with the verdicts that its tables give."""
    from acutance.analysis.verdicts import verdicts

    table = verdicts(
        data.models, data.results, data.correlations, targets=data.targets, groups=["augment"], within=["architecture"],
        resamples=99,
    )  # fmt: skip
    return dataclasses.replace(data, findings={"verdicts": table.assign(**rows)})


def follow(column, noise=0.0):
    def change(models, results):
        g = np.random.default_rng(5)
        values = results["model"].map(models.set_index("model")[column].astype(float))
        results["value"] = values + noise * values.std() * g.normal(size=len(values))

    return change


def test_text_and_table_follow_one_rule():
    """The sign is that of what holds: an unadjusted interval decides nothing, an attribute is not counted."""
    made = make(n=60, targets=("test_error", "attr:learning_rate"), change=follow("target.test_error", 0.3))
    level, tau, error = made.levels[0], made.correlations["tau"], made.correlations["target"] == "test_error"

    def changed(p, low=0.01, **signs):
        table = made.correlations.assign(p_adjusted=np.where(error, p, 0.001), low=tau - low, high=tau + 0.01)
        table.loc[table["spec.rho"] == 0.01, list(signs)] = list(signs.values())
        return dataclasses.replace(made, correlations=table)

    found = answer(changed(0.3), level)
    assert found["verdict"] == "No reliable relationship found"
    assert found["sentences"][1] == "None holds after adjustment for all 4 comparisons (family-wise error 5%)."
    assert found["sentences"][2].endswith(
        "adjusted p = 0.300; the largest of 4 is large by selection; it does not hold."
    )
    found = answer(changed(0.0004), level)
    assert found["sentences"][1].startswith(
        "4 hold after adjustment for all 4 comparisons (family-wise error 5%): 4 with"
    )
    assert "above zero (flatter generalizes better)." in found["sentences"][1]
    assert found["verdict"].startswith("Flatter") and found["sentences"][2].endswith(
        "adjusted p < 0.001; the largest of 4 is large by selection."
    )
    doubtful = changed(0.0004, low=2.0)
    found = answer(doubtful, level)
    assert found["verdict"] == "No reliable relationship found" and "None holds" in found["sentences"][1]
    assert not re.findall(r'sure">[^<]*</td>', render_page(doubtful, {}).split("Models, definition by definition")[0])
    found = answer(changed(0.0004, tau=-0.5, low=-0.6, high=-0.4), level)
    assert found["verdict"].startswith("Mixed") and ": 2 with τ above zero" in found["sentences"][1]
    assert "2 with τ below zero (sharper generalizes better)." in found["sentences"][1]


def test_attributes_are_shown_apart():
    page = render_page(make(targets=("test_error", "attr:learning_rate")), {})
    glance, rest = page.split("What the measures go with", 1)
    head = re.search(r'<table class="heat" id="heat1">.*?</thead>', glance, re.S)[0]
    assert "test error" in head and "learning rate" not in head
    head = re.search(r'<table class="heat" id="relations1">.*?</thead>', rest, re.S)[0]
    assert "learning rate" in head and "test error" not in head and 'data-target="1"' in rest.split("</table>")[0]
    assert 'id="relations1"' not in render_page(make(targets=("test_error",)), {})


def test_what_is_explained_is_not_the_headline():
    confounded = make(n=60, targets=("test_error",), change=lambda m, r: [
        m.__setitem__("target.test_error", m["attr.augment"] + 0.3 * m["target.test_error"].rank() / 60),
        follow("attr.augment", 0.3)(m, r),
    ][-1])  # fmt: skip
    data = judged(confounded)
    level = data.levels[0]
    found = answer(data, level)
    assert {line["head"] for line in found["lines"]} == {"confounded"}
    assert found["verdict"].endswith("for some definitions, but groups or attributes of the models explain it")
    assert "they explain what holds" in found["conclusion"]
    page = render_page(data, {})
    assert "<strong>confounded</strong>: +0." in page and "vanishes within augment" in page
    assert page.index("<strong>confounded</strong>") < page.index("τ at a glance")


def test_lines_have_minus_signs_and_hostile_names_do_not_get_through():
    data = judged(make(n=30, targets=("test_error",), change=follow("target.test_error")))
    table = data.findings["verdicts"].assign(
        definition="<b>x</b>", line="inverse: -1.00, holds within a-1 (-0.50/+0.20)"
    )
    page = render_page(dataclasses.replace(data, findings={"verdicts": table}), {})
    assert "<b>x" not in page and "&lt;b&gt;x" in page
    assert "<strong>inverse</strong>: \u22121.00, holds within a-1 (\u22120.50/+0.20)" in page


def test_a_target_from_two_sources_is_said_and_counted_once():
    def change(models, results):
        models["target.given:test_error"] = models["target.test_error"]

    once, twice = make(targets=("test_error",)), make(targets=("given:test_error", "test_error"), change=change)
    a, b = (answer(data, data.levels[0])["sentences"] for data in (once, twice))
    assert b[:-1] == a and b[-1].startswith("given:test_error: the same target from another source, counted once")


def test_the_page_of_a_table_made_elsewhere_says_only_what_is_known():
    made = make(n=60)
    config = {"source": {"table": "x.csv"}, "variant": "b", "within": made.config["within"]}
    elsewhere = dataclasses.replace(made, config=config, cost={})
    page, own = render_page(elsewhere, {}), render_page(made, {})
    for words in ("training points", "train points", "same noise", "same loss surface", "without augmentation"):
        assert words not in page
    assert "8 train points in batches of m = 4; every model sees the same points" in own and "same loss surface" in own
    assert "τ<sub>b</sub>" in page and "Eq. 4" not in page and "τ<sub>a</sub> (Eq. 4 of the paper)" in own
    assert "A larger value of a measure is taken as sharper" in page and "is taken as sharper" not in own
    assert "With 12 models" not in page and "With 30 models, |τ| below about 0.25 is within chance" in page
    # Fewer models need a larger tau: 1.96 standard deviations of a tau without association.
    assert "With 5 models, |τ| below about 0.80 is within chance" in render_page(make(n=10), {})


def test_groups_are_coloured_and_marked_without_being_asked(data):
    from acutance.report.page.embed import study_data
    from acutance.report.style import style

    models = data.models.assign(**{"attr.mixup": [0, 1] * 5})
    plain = dataclasses.replace(data, models=models, figures={"colour": None, "marker": [], "size": None})
    for groups, name in ((["augment"], "augment"), (["mixup"], "mixup"), (["augment", "mixup"], "augment, mixup")):
        grouped = dataclasses.replace(plain, groups=groups)
        look = style(grouped, grouped.members(data.levels[0]))
        assert set(look.categories) == set(look.markers) and look.label == name and look.bar is None
        assert len(set(look.colours.values())) == len(look.categories) > 1
        found = study_data(grouped)
        chosen = found["attributes"][found["colour"]]
        assert chosen["name"] == name and found["colour"] == found["marker"] and len(chosen["labels"]) > 1
        (legend,) = scatter_grid(grouped, data.levels[0], data.definitions[0]).legends
        assert len(legend.get_texts()) == len(look.markers)  # told once
    assert study_data(data)["attributes"][study_data(data)["colour"]]["name"] == "learning_rate"
    assert study_data(dataclasses.replace(plain, groups=[]))["colour"] == -1
