"""Committed studies hold their values, what computed them, and a page that is made from them alone."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import yaml

from acutance.io.spreadsheet import csv_text
from acutance.run.directory import read_csv
from acutance.study.config import load_config
from acutance.workflows.correlating import of_run

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "benchmarks" / "results" / "studies"
ALL = sorted(folder.name for folder in STUDIES.iterdir())


@pytest.fixture
def publish(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import publish

    return publish


def test_the_studies_are_those_of_the_index():
    index = (STUDIES.parent / "README.md").read_text()
    assert ALL and re.findall(r"\(studies/(\w+)/README\.md\)", index) == ALL


@pytest.mark.parametrize("name", ALL)
class TestStudy:
    def test_it_is_whole(self, name):
        folder = STUDIES / name
        results, models = read_csv(folder / "results.csv"), read_csv(folder / "models.csv")
        assert set(results["model"]) <= set(models["model"]) and not (results["status"] == "failed").any()
        assert results.loc[results["status"] == "ok", "value"].notna().all()
        environment = json.loads((folder / "environment.json").read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", environment["commit"])
        assert environment["cores"] and environment["libraries"]["torch"]

    def test_its_command_is_one_of_this_project_and_gives_its_config(self, name):
        folder = STUDIES / name
        program, verb, study, *options = shlex.split(json.loads((folder / "study.json").read_text())["command"])
        assert (program, verb) == ("acutance", "run") and set(options) <= {"--allow-download"}
        given = str(ROOT / study) if study.endswith(".yaml") else study
        fresh, committed = load_config(given), load_config(yaml.safe_load((folder / "config.yaml").read_text()))
        assert [m.spec for m in fresh.measures] == [m.spec for m in committed.measures]
        assert [p.spec for p in fresh.pools] == [p.spec for p in committed.pools]
        assert (fresh.dataset.spec, fresh.surface, fresh.seed) == (
            committed.dataset.spec,
            committed.surface,
            committed.seed,
        )

    def test_its_page_is_made_from_its_files(self, name, publish):
        folder = STUDIES / name
        assert publish.page(folder) == (folder / "README.md").read_text(), "python benchmarks/publish.py --pages"

    def test_what_its_page_picks_out_is_that_of_its_values(self, name, publish):
        folder = STUDIES / name
        found = {path.name: path.read_text() for path in folder.glob("*.csv") if path.name.startswith(publish.PICKED)}
        assert publish.picked(folder) == found

    @pytest.mark.slow
    def test_its_correlations_are_those_of_its_values(self, name):
        made = csv_text(of_run(STUDIES / name, {}).correlations())
        assert made == (STUDIES / name / "correlations.csv").read_text()


def test_correlations_of_the_smallest_study_are_those_of_its_values():
    folder = STUDIES / "mnli_small"
    made = of_run(folder, {"resamples": 99}).correlations()
    written = read_csv(folder / "correlations.csv")
    keys = ["within", "group", "measure", "spec.rho", "spec.logit_norm", "target", "n", "tau"]
    pd.testing.assert_frame_equal(made[keys], written[keys], check_dtype=False)


def test_held_out_searches_are_as_their_page_says_and_never_far_below_the_published_one(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import search_held_out as searches

    rows = pd.read_csv(searches.FOLDER / "held_out.csv")
    assert searches.page(rows) == (searches.FOLDER / "held_out.md").read_text()
    rises = searches.wide(rows)
    l2 = rises[rises["norm"] == "l2"]
    assert l2["network"].nunique() >= 20 and (l2[searches.SCREENED] >= 0.98 * l2[searches.EQUAL]).all()


def test_large_tables_stay_within_their_bounds_as_their_page_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import statistics_at_scale as scale

    rows = pd.read_csv(scale.FOLDER / "scale.csv")
    about = json.loads((scale.FOLDER / "environment.json").read_text())
    assert scale.page(rows, about) == (scale.FOLDER / "README.md").read_text()
    assert list(zip(rows["models"], rows["measures"], strict=True)) == list(scale.SIZES)
    assert (rows["wall_s"] < scale.SECONDS).all() and (rows["peak_gib"] < scale.GIB).all()


def test_a_search_over_gpt2_holds_four_vectors(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "perf"))
    import gpt2_search as search

    assert search.page(search.FOLDER) == (search.FOLDER / "README.md").read_text()
    about = json.loads((search.FOLDER / "figures.json").read_text())
    assert about["parameters"] > 1.2e8 and {row["norm"] for row in about["rows"]} == {"l2", "linf"}
    assert all(row["held"] - 3 * about["logits"] <= 4 for row in about["rows"])


def test_a_language_model_of_a_billion_weights_is_measured_in_the_memory_of_inference(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import large_language_model as large

    assert large.page(large.FOLDER) == (large.FOLDER / "README.md").read_text()
    found = [json.loads(path.read_text()) for path in large.FOLDER.glob("*.json")]
    assert found and all(about["parameters"] > 1e9 for about in found)
    rows = [row for about in found for row in about["rows"]]
    assert {"average_case", "critical_sharpness"} <= {row["measure"] for row in rows}
    assert all(row["peak_share"] <= 1.3 for row in rows)
    assert all(row["ratio"] <= 1.15 for row in rows if row["measure"] == "average_case")
