"""benchmarks/all_measures.yaml asks every measure there is, but for those of predictions."""

from pathlib import Path

import yaml

from acutance.plugins import catalog

STUDY = Path(__file__).parents[2] / "benchmarks" / "all_measures.yaml"
# What has no value on its networks: measures of diagonal linear networks, and one of homogeneous networks.
ELSEWHERE = {"dln_trace", "dln_top_eigenvalue", "dln_beta_norm", "minimum_sharpness"}
PREDICTIONS = "acutance_predictions."  # whose measures the studies benchmarks/label_free*.yaml ask


def where(item):
    """Return the module of a measure, looked up or not."""
    return item.source if isinstance(item.source, str) else item.source.__module__


def test_no_measure_is_left_out():
    asked = {entry["name"] for entry in yaml.safe_load(STUDY.read_text())["measures"]}
    items = [item for item in catalog().items("measures") if item.dist == "acutance"]
    built_in = {item.name for item in items if not where(item).startswith(PREDICTIONS)}
    assert len(built_in) >= 70
    assert asked | ELSEWHERE == built_in and not asked & ELSEWHERE
