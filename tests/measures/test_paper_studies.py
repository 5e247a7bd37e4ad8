"""The paper's own studies search as the paper does."""

from pathlib import Path

import pytest
import yaml

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_papers_studies_start_at_random_as_it_does(path):
    study = yaml.safe_load(path.read_text())
    searches = [entry for entry in study["measures"] if entry["name"] == "worst_case"]
    assert {entry.get("start", "screened") for entry in searches} <= ({"random"} if study["paper"] else {"screened"})
