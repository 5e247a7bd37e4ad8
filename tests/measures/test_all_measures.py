"""benchmarks/all_measures.yaml asks every measure there is."""

from pathlib import Path

import yaml

from acutance.plugins import catalog

STUDY = Path(__file__).parents[2] / "benchmarks" / "all_measures.yaml"
# What has no value on its networks: measures of diagonal linear networks, and one of homogeneous networks.
ELSEWHERE = {"dln_trace", "dln_top_eigenvalue", "dln_beta_norm", "minimum_sharpness"}


def test_no_measure_is_left_out():
    asked = {entry["name"] for entry in yaml.safe_load(STUDY.read_text())["measures"]}
    built_in = {item.id.removeprefix("acutance/") for item in catalog().items("measures") if "acutance/" in item.id}
    assert len(built_in) >= 70
    assert asked | ELSEWHERE == built_in and not asked & ELSEWHERE
