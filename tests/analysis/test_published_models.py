"""The statistics on published results of real models (reference data; skipped where they are absent)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from acutance.analysis.ceiling import noise_ceiling
from acutance.analysis.decompose import decompose
from acutance.analysis.kendall import kendall_tau
from acutance.analysis.partial import confounds, partial

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "model_soups").exists(), reason="the reference data are not here")
SETS = ["ImageNet", "ImageNetV2", "ImageNetR", "ImageNetSketch", "ImageNetA", "ObjectNet"]


@pytest.fixture(scope="module")
def soups():
    """72 CLIP models of Wortsman et al. 2022, one of them not fine-tuned and without hyperparameters."""
    lines = (DATA / "model_soups" / "individual_model_results.jsonl").read_text().splitlines()
    results = pd.DataFrame([json.loads(line) for line in lines if line.strip()]).set_index("model_name")
    hyper = pd.DataFrame.from_dict(json.loads((DATA / "model_soups" / "hparam_info.json").read_text()), orient="index")
    assert len(results) == 72
    return (1 - results[SETS]), hyper.reindex(results.index)


def test_learning_rate_and_error(soups):
    errors, hyper = soups
    table = confounds(errors, hyper[["lr"]], resamples=99, permutations=999).set_index("measure")
    assert (table["n"] == 71).all() and table["note"].str.contains("1 models have no value").all()
    assert table["value"].round(2).to_dict() == dict(zip(SETS, [-0.13, -0.02, 0.67, 0.35, 0.42, 0.31]))
    assert table.loc["ImageNetR", "p"] == 0.001 and table.loc["ImageNetV2", "p"] > 0.5


def test_errors_on_two_sets_go_together_beyond_the_learning_rate(soups):
    errors, hyper = soups
    columns = errors["ImageNetR"], errors["ImageNetSketch"]
    found = partial(*columns, hyper[["lr"]], draws=999)
    assert found.n == 71 and 0.3 < found.value < found.raw and found.p <= 0.01
    assert kendall_tau(*columns, resamples=99, permutations=999).p == 0.001


def test_groups_and_ceiling_of_the_pool(soups):
    errors, hyper = soups
    parts = decompose(errors["ImageNet"], errors["ImageNetV2"], hyper["aug"])
    total = parts.pairs_within * parts.within + parts.pairs_between * parts.between
    assert parts.tau == pytest.approx(total / (parts.pairs_within + parts.pairs_between)) and parts.n == 72
    big, small = (
        noise_ceiling(errors["ImageNet"], 50000, draws=200),
        noise_ceiling(errors["ImageNetV2"], 10000, draws=200),
    )
    assert 0.7 < small.tau < big.tau < 1
    assert np.isclose(big.noise, np.sqrt(0.25 * 0.75 / 50000), rtol=0.1)
