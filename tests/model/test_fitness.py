"""Points that do not fit the models are found before anything is measured, and named with their split and row."""

import pytest
import torch
from torch import nn

import acutance
from acutance.data.lazy import every_row
from acutance.data.pointsets import PointSets
from acutance.dataset import Dataset, Split
from acutance.model.functional import FunctionalModel
from acutance.spec import Spec
from acutance.study.surface_config import SurfaceConfig
from acutance.system.progress import Silent

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 4, generator=G), torch.randint(0, 3, (24,), generator=G)


def nets(n=4, classes=3):
    torch.manual_seed(0)
    return {f"net{i}": nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)) for i in range(n)}


@pytest.fixture
def run(tmp_path):
    def study(models, train=(X, Y), targets=("train_error",), **changes):
        given = {"surface": {"points": 16, "m": 8}, "out": tmp_path / "run", "report": False}
        measures = [{"name": "average_case", "rho": 0.1, "draws": 2}]
        return acutance.study(models, train, targets, measures, **(given | changes))

    return study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train": (X, Y + 1)},
            r"net\d: dataset 'data', split 'train': labels run from 1 to 3 but the model has 3 classes",
        ),
        ({"train": (X[:, :3], Y)}, r"split 'train': the model does not take inputs of shape \(8, 3\), float32"),
        ({"splits": {"ood": (X, Y - 1)}, "targets": ["ood.loss"]}, r"split 'ood': labels run from -1"),
    ],
)
def test_a_study_that_does_not_fit_stops_before_anything_is_measured(run, changes, message, monkeypatch):
    from acutance.run import worker

    measured = []
    real = worker.family_estimates
    monkeypatch.setattr(worker, "family_estimates", lambda *a: measured.append(1) or real(*a))
    with pytest.raises(acutance.UserError, match=message):
        run(nets(), **changes)
    assert not measured


def test_a_model_that_alone_does_not_fit_is_left_out(run):
    found = run(nets() | {"odd": nn.Linear(3, 3)})
    table = found.models.set_index("model")
    assert "does not take inputs of shape (8, 4)" in table.loc["odd", "reason"] and not table.loc["odd", "admitted"]
    assert list(table["admitted"]) == [True] * 4 + [False] and found.failed == 1


def test_the_look_is_made_for_two_models_of_an_architecture(run, monkeypatch):
    from acutance.model import fitness

    seen = []
    real = fitness.require_fit
    monkeypatch.setattr(
        "acutance.surface.open_model.require_fit", lambda f, x, y, *rest: seen.append(len(x)) or real(f, x, y, *rest)
    )
    run(nets())
    assert len(seen) == 2 * 2 and set(seen) == {8}  # one split, targets and measures
    assert run(nets()).computed == 0 and len(seen) == 4


def test_it_costs_one_forward_of_few_examples():
    calls = []
    model = nets(1)["net0"]
    model.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    from acutance.model.fitness import require_fit

    require_fit(FunctionalModel(model), X, Y, "cross_entropy", "here")
    assert calls == [8]
    with pytest.raises(acutance.UserError, match=r"^here: labels run from 0 to 9"):
        require_fit(FunctionalModel(model), X, Y.index_fill(0, torch.tensor([20]), 9), "cross_entropy", "here")


class Held(Dataset[Spec]):
    """Points with one value that is no number, read when they are used."""

    name = "held"
    at = (19, 0)
    lazy = False

    def open(self, split):
        x = X.clone()
        x[self.at[0]] = float("nan")
        return Split(every_row(lambda rows: x[rows], 24) if self.lazy else x, Y, notes=("it is said",))


def sets(lazy, select="first", points=16, reporter=None):
    dataset = Held()
    dataset.lazy = lazy
    return PointSets(dataset, SurfaceConfig(points=points, m=8, select=select), 0, reporter)


@pytest.mark.parametrize("lazy", [False, True])
def test_values_that_are_no_numbers_are_named_by_the_row_of_their_split(lazy):
    message = r"dataset 'held', split 'train': the inputs have a non-finite value \(row 19\)"
    with pytest.raises(acutance.UserError, match=message):
        sets(lazy).digests("train", "split")
    with pytest.raises(acutance.UserError, match=message):
        sets(lazy, "balanced", 24).digests("train", "batch")
    assert len(sets(lazy).digests("train", "batch")) == 2  # the row is none of the points


@pytest.mark.parametrize("lazy", [False, True])
def test_what_a_preprocessing_makes_of_them_is_looked_at(lazy):
    held = sets(lazy)
    held.digests("train", "batch")
    with pytest.raises(acutance.UserError, match=r"as its models see it: the inputs have a non-finite value \(row 0\)"):
        held.digests_after(lambda x: x / 0)


def test_a_look_changes_no_digest():
    good = Held()
    good.at = (slice(0, 0), 0)
    from acutance.data.fingerprint import digest_points

    assert PointSets(good, SurfaceConfig(points=16, m=8)).digests("train", "split") == [digest_points(X, Y)]


def test_notes_of_a_split_are_said_once():
    class Told(Silent):
        said = ()

        def say(self, text):
            self.said += (text,)

    told = Told()
    held = sets(False, reporter=told)
    held.split("train"), held.split("train")
    assert told.said == ("note: dataset 'held', split 'train': it is said",)
