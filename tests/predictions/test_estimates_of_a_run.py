"""A run compares estimated errors with those that it measures on the same split."""

import pandas as pd
import pytest

from acutance.run.harness import run_study
from acutance.study.config import load_config


def test_a_run_says_how_far_off_estimated_errors_are(three_models, tmp_path):
    measures = [
        {"name": "average_confidence", "points": ["train", "test", "ood"]},
        {"name": "average_thresholded_confidence", "points": "ood"},
        {"name": "disagreement", "points": "ood"},
        {"name": "mano", "points": "ood"},
    ]
    surface = {"points": 32, "m": 8, "validation": "test"}
    config = three_models | {
        "surface": surface,
        "measures": measures,
        "targets": ["test_error", "ood.error"],
        "figures": {},
    }
    done = run_study(load_config(config), tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "estimates.csv")
    rows = {(row.definition, row.target): row for row in table.itertuples()}
    assert set(rows) == {
        ("error by average confidence on test", "test_error"),
        ("error by average confidence on ood", "ood.error"),
        ("error by thresholded confidence on ood", "ood.error"),
        ("disagreement with peers on ood", "ood.error"),
    }
    values = done.results[(done.results["measure"] == "average_confidence") & (done.results["split"] == "ood")]
    assert len(values) == 3 and set(values["status"]) == {"ok"}
    errors = done.models.set_index("model")["target.ood.error"]
    off = values.set_index("model")["value"] - errors
    row = rows[("error by average confidence on ood", "ood.error")]
    assert row.n == 3 and row.bias == pytest.approx(off.mean(), rel=1e-9)
    assert row.mean_absolute_error == pytest.approx(off.abs().mean(), rel=1e-9)
    page = next((tmp_path / "run").glob("*.html")).read_text()
    assert "How far off estimated errors are" in page and "error by thresholded confidence on ood" in page
