"""What models put out is kept in the run's folder: one forward a model, whatever reads it and whenever."""

import sqlite3

import needing
import pytest
from models import MLP
from safetensors.torch import load_file

from acutance import LossSurface
from acutance.cli.check_ import estimate
from acutance.measure import Measure, Traits
from acutance.plugins import Item, extended
from acutance.run.harness import run_study
from acutance.study.config import load_config


class Feature(Measure[needing.NoSettings]):
    """Mean square of the features."""

    name = "feature_size"
    traits = Traits(level="dataset", needs={"activations", "unlabeled"}, reference="arithmetic")

    def evaluate(self, surface, spec, rng):
        return float(surface.last_layer().features.double().square().mean())


@pytest.fixture
def study(three_models):
    with extended([Item("measures", m.name, "acme-needs", "1.0", m) for m in (needing.Confidence, Feature)]):
        yield three_models | {"measures": [{"name": "confidence"}], "figures": {}}


def run(config, out):
    return run_study(load_config(config), out, report=False)


def forwards(out):
    with sqlite3.connect(out / "acutance.db") as db:
        rows = db.execute("SELECT forwards FROM attempt WHERE measure LIKE 'acme%' ORDER BY rowid").fetchall()
    return [count for (count,) in rows]


def values(done):
    return done.results[~done.results["measure"].isin(["error", "loss"])]["value"].tolist()


def test_a_later_measure_makes_no_pass(study, tmp_path):
    first = run(study, tmp_path)
    assert forwards(tmp_path) == [32, 32, 32]
    files = sorted((tmp_path / "outputs").iterdir())
    assert len(files) == 3 and all(load_file(f)["logits"].shape == (32, 3) for f in files)
    # Features are those of the same pass, asked for later; then they are kept as well.
    again = run(study | {"measures": [{"name": "feature_size"}]}, tmp_path)
    assert forwards(tmp_path) == [32] * 6 and set(load_file(files[0])) == {"logits", "features"}
    with extended(
        [
            Item("measures", "confidence", "acme-needs", "2.0", type("Newer", (needing.Confidence,), {"version": 2})),
            Item("measures", "feature_size", "acme-needs", "2.0", type("Newer", (Feature,), {"version": 2})),
        ]
    ):
        newer = run(study | {"measures": [{"name": "feature_size"}, {"name": "confidence"}]}, tmp_path)
    assert newer.computed == 6 and forwards(tmp_path)[6:] == [0] * 6
    assert values(newer)[0::2] == values(again) and values(newer)[1::2] == values(first)


@pytest.mark.parametrize("harm", ["removed", "cut", "other"])
def test_what_is_gone_or_damaged_is_computed_again(study, tmp_path, harm):
    first = run(study, tmp_path)
    for file in (tmp_path / "outputs").iterdir():
        if harm == "removed":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:40] if harm == "cut" else b"no tensors at all")
    with extended(
        [Item("measures", "confidence", "acme-needs", "2.0", type("Newer", (needing.Confidence,), {"version": 2}))]
    ):
        assert values(run(study, tmp_path)) == values(first)
    assert forwards(tmp_path) == [32] * 6


def test_other_points_and_another_arithmetic_have_files_of_their_own(study, tmp_path):
    run(study, tmp_path)
    run(study | {"measures": [{"name": "confidence", "points": "test"}]}, tmp_path)
    run(study | {"surface": study["surface"] | {"dtype": "float64"}}, tmp_path)
    assert len(list((tmp_path / "outputs").iterdir())) == 9


def test_points_are_named_once_for_all_models_and_as_their_surfaces_name_them(study, monkeypatch):
    from acutance.data import pointsets
    from acutance.run.points import points_of

    counted, digest = [], pointsets.digest_points
    monkeypatch.setattr(pointsets, "digest_points", lambda *args: counted.append(1) or digest(*args))
    with points_of(load_config(study)) as sets:
        for shift in (None, half, half, None):
            found = sets.digest_of_inputs("test", shift)
            inputs, targets = sets.points_of("test")
            surface = LossSurface(MLP(dims=(4, 3)), (half(inputs) if shift else inputs, targets))
            assert found == surface.unlabelled().digest
    assert len(counted) == 2


def half(inputs):
    return inputs / 2


def test_a_folder_that_cannot_be_written_costs_nothing(study, tmp_path):
    (tmp_path / "outputs").write_text("in the way")
    assert len(values(run(study, tmp_path))) == 3


def test_check_says_how_much_is_kept(study):
    assert estimate(load_config(study))["outputs"] == 3 * 32 * 4
    several = [{"name": "confidence", "points": ["train", "test"]}, {"name": "feature_size"}]
    double = study | {"measures": several, "surface": study["surface"] | {"dtype": "float64"}}
    assert estimate(load_config(double))["outputs"] == 2 * 3 * 32 * 8
    assert estimate(load_config(study | {"measures": [{"name": "weight_norm"}]}))["outputs"] == 0
