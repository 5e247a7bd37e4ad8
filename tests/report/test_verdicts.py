"""Verdicts, ceilings and confounds on the page are those of the tables, and nothing hostile gets through."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from reports import HOSTILE, make

from acutance.analysis.statistics import Cell
from acutance.plugins import catalog
from acutance.report.cells import ceiling_cells
from acutance.report.page.html import render_page


@pytest.fixture(scope="module")
def data():
    plain = make(targets=("test_error",))
    level = plain.levels[0]
    verdicts = {
        "a": [("supported", 0), ("inconclusive", 2), ("inconclusive", 0)],
        HOSTILE: [("refuted", 0), ("refuted", 1), ("supported", 0)],
    }
    about = [("strong", "all targets", 0), ("weak", "test_error", 290), ("weak_wide", "test_error", 42)]
    hypotheses = [
        {"within": level, "definition": d, "hypothesis": h, "target": t, "verdict": v, "reason": f"because {HOSTILE}",
         "short": short, "needed": needed}
        for d, found in verdicts.items()
        for (h, t, needed), (v, short) in zip(about, found, strict=True)
    ]  # fmt: skip
    confounds = [
        {"within": level, "definition": d, "attribute": "lr", "n": 9, "tau": t, "low": t - 0.1, "high": t + 0.1}
        for d, t in (("a", 0.5), (HOSTILE, np.nan))
    ]
    ceilings = [{"within": level, "target": "test_error", "points": 3000, "tau": 0.81, "low": 0.7, "high": 0.9}]
    nan = dict.fromkeys(
        ("stratified_low", "stratified_high", "icc_mean", "replicate_lowest", "replicate_highest"), np.nan
    )
    associations = [
        {"within": level, "definition": HOSTILE, "target": "test_error", "tau_a": 0.5, "stratified": 0.4,
         "partial_kendall": p, "partial_kendall_p": 0.0004, "controls": "aug, learning_rate", **nan}
        for p in (-0.25, np.nan)
    ]  # fmt: skip
    radii = [
        {"within": level, "definition": HOSTILE, "target": "test_error", "chosen": 0.01, "share": 0.75, "tau": t,
         "low": 0.1, "high": 0.5, "best": 0.6, "optimism": 0.2}
        for t in (0.3, np.nan)
    ]  # fmt: skip
    tables = {
        "hypotheses": hypotheses, "confounds": confounds, "ceilings": ceilings, "associations": associations,
        "radii": radii,
    }  # fmt: skip
    return dataclasses.replace(plain, findings={k: pd.DataFrame(v) for k, v in tables.items()})


def of(name, data, level=None):
    """A statistic, and the rows of its table that are of a level: the first one by default."""
    table = data.findings.get(name, pd.DataFrame(columns=["within"]))
    return catalog().get("statistics", name)(), table[table["within"] == (level or data.levels[0])]


def section(name, data, level=None):
    statistic, rows = of(name, data, level)
    return statistic.section(rows)


def sentences(name, data, level=None):
    statistic, rows = of(name, data, level)
    return statistic.sentences(rows)


def test_the_rows_are_those_of_the_tables(data):
    found = section("hypotheses", data)
    assert found.columns == ["definition", "strong", "weak, test error", "weak, wide, test error"] == found.words
    assert [(name, *(cell.text for cell in cells)) for name, *cells in found.rows] == [
        ("a", "supported", "inconclusive, too few models", "inconclusive"), (HOSTILE, "refuted", "refuted", "supported"),
    ]  # fmt: skip
    assert {cell.why for _, *cells in found.rows for cell in cells} == {f"because {HOSTILE}"}
    (sentence,) = sentences("ceilings", data)
    assert "τ = +0.81 [+0.70, +0.90] with test error, counted on 3000 points" in sentence
    found = section("confounds", data)
    assert found.columns == ["definition", "lr"] and not found.folded
    assert [cell for _, cell in found.rows] == [Cell("+0.50", "[+0.40, +0.60]"), Cell("–")]


def test_each_hypothesis_is_a_sentence_that_says_where_no_outcome_could_have_supported_it(data):
    strong, weak, wide = sentences("hypotheses", data)
    assert strong == "Flatter models generalize better, for every target: 1 supported, 1 refuted, of 2 definitions."
    assert weak.endswith(
        "worse than the median: 1 refuted, 1 inconclusive, of 2 definitions; no outcome could show it in 1, that takes "
        "290 models in each group judged."
    )
    assert "at most a third, at most 20% are" in wide and wide.endswith(
        "1 supported, 1 inconclusive, of 2 definitions."
    )
    # A run of before has neither the wide form nor the number of models.
    table = data.findings["hypotheses"].drop(columns=["short", "needed"])
    old = dataclasses.replace(data, findings={"hypotheses": table[table["hypothesis"] != "weak_wide"]})
    found = sentences("hypotheses", old)
    assert found[0] == strong and len(found) == 2 and found[1].endswith("1 inconclusive, of 2 definitions.")
    assert section("hypotheses", old).rows[0][2].text == "inconclusive"


def test_what_is_left_beyond_the_controls_and_what_a_held_out_radius_is_worth(data):
    found = section("associations", data)
    assert found.title == "What is left beyond the hyperparameters (aug, learning rate)" and found.folded
    assert found.columns == ["definition", "target", "τ", "within groups", "beyond controls"]
    assert [row[3:] for row in found.rows] == [["+0.40", "−0.25 (p < 0.001)"], ["+0.40", "–"]]
    (row,) = section("radii", data).rows  # one without a number is not told
    assert row == [HOSTILE, "test error", "0.01 (75%)", "+0.30", "[+0.10, +0.50]", "+0.60", "+0.20"]


def test_the_ceiling_stands_below_the_heat_map_and_beside_each_tau(data):
    with_one = dataclasses.replace(data, correlations=data.correlations.assign(ceiling=0.8125))
    assert ceiling_cells(with_one, data.levels[0]) == ["+0.81"] and ceiling_cells(data, data.levels[0]) == []
    page = render_page(with_one, {})
    assert "a perfect measure</th>" in page and page.count("<td>+0.81</td>") > len(data.definitions)
    assert "a perfect measure</th>" not in render_page(data, {})


def test_another_level_and_a_run_without_findings_have_none(data):
    plain = make(targets=("test_error",))
    for where, level in ((data, data.levels[1]), (plain, plain.levels[0])):
        for name in ("hypotheses", "confounds", "associations", "radii", "ceilings"):
            assert section(name, where, level) is None and sentences(name, where, level) == [], name


def test_the_page_shows_them_escaped(data):
    page = render_page(data, {})
    assert "1 supported, 1 refuted, of 2 definitions" in page and "counted on 3000 points" in page
    assert page.count("The paper's hypotheses</h3>") == page.count("What the measures go with</h3>") == 1
    assert HOSTILE not in page and "because &lt;script&gt;" in page
    assert (
        page.count('scope="col">weak, wide, test error</th>') == 1 and page.count(">inconclusive, too few models<") == 1
    )
    assert "290 models in each group judged.</li>" in page


def test_relations_and_confounds_stand_under_one_heading(data):
    related = dataclasses.replace(make(), findings={"confounds": data.findings["confounds"]})
    page = render_page(related, {})
    assert len(related.levels) == page.count("What the measures go with</h3>") == 2
    assert page.count('aria-label="Relations, ') == 2 and page.count('aria-label="Confounds, ') == 1
