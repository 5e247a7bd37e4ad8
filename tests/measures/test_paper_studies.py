"""The paper's own studies search as the paper does."""

from pathlib import Path

import pytest

from acutance.config import load_config

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_papers_studies_start_at_random_as_it_does(path):
    study = load_config(str(path))
    starts = {planned.spec.start for planned in study.measures if planned.item.name == "worst_case"}
    assert starts <= ({"random"} if study.paper else {"screened"})
