"""What cannot be drawn is refused in one sentence that says what to do."""

import json
import math

import numpy as np
import pytest
import torch
from models import MLP, ConvBN, conv_data, mlp_data
from torch import nn

import acutance
from acutance.errors import UserError
from acutance.workflows.landscape import ends


def refused(match, model=None, data=None, directions="random", **options):
    with pytest.raises(UserError, match=match) as caught:
        acutance.landscape(
            model or MLP(), mlp_data() if data is None else data, directions, **{"curvature": False, **options}
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("grid", [1, 0, -3, 2.5, True, "41", 10**9])
def test_a_grid_has_at_least_two_points(grid):
    refused("grid: should be a whole number from 2", grid=grid)


def test_numbers_of_numpy_are_numbers():
    options = {"grid": np.int64(3), "extent": np.float32(0.5), "seed": np.int64(1), "curvature": False}
    seen = acutance.landscape(MLP(), mlp_data(), "random", dimensions=1, draws=np.int64(2), **options)
    assert len(seen.table) == 6 and json.loads(seen.as_json())["about"]["extent"] == 0.5


@pytest.mark.parametrize("seed", [-1, 0.5, "a", None, True])
def test_a_seed_is_a_whole_number(seed):
    refused("seed: should be a whole number of at least 0", seed=seed)


@pytest.mark.parametrize("extent", [0, -1, math.nan, math.inf, "1", True])
def test_an_extent_is_a_finite_number_above_zero(extent):
    refused("extent: should be a finite number above 0", extent=extent)


@pytest.mark.parametrize(
    ("directions", "options", "match"),
    [
        ("rnadom", {}, "did you mean 'random'"),
        ("error", {}, "'error' is none"),
        (("random", "gradient", "pca"), {}, "one or two names"),
        (("gradient", "gradient"), {}, "twice is one direction"),
        (("segment", "random"), {}, "do not make one plane"),
        ("random", {"dimensions": 3}, "should be 1 or 2"),
        ("plane", {"dimensions": 1, "checkpoints": [1, 2]}, "has 2, not 1"),
        ("random", {"draws": 0}, "draws"),
        ("gradient", {"draws": 2}, "along random directions"),
        ("random", {"draws": 2, "dimensions": 2}, "along random directions"),
        ("random", {"settings": {"rho": 1}}, "have none"),
        ("random", {"normalize": "fliter"}, "filter"),
        ("random", {"checkpoints": [1]}, "go out from one model"),
        ("segment", {}, "needs 1 checkpoints beside the model, got 0"),
        ("plane", {"checkpoints": [1]}, "needs 2"),
        ("pca", {"checkpoints": [1]}, "at least 2 earlier"),
        ("segment", {"checkpoints": [1], "normalize": "filter"}, "nothing is normalized"),
        ("segment", {"checkpoints": [1], "parameters": "*weight"}, "all of them differ"),
        ("segment", {"checkpoints": [1]}, "is a int"),
        ("segment", {"checkpoints": ["nowhere.pt"]}, "no such file"),
        ("segment", {"checkpoints": [MLP()], "names": ["a", "b"]}, "names: there are 2 for 1"),
        ("worst_case", {}, "rho"),
        ("random", {"batch_norm": "train"}, "batch_norm"),
        ("random", {"parameters": "nothing*"}, "nothing"),
        ("random", {"parameters": "*bias"}, "let vectors move too"),
    ],
)
def test_what_does_not_go_together_is_refused(directions, options, match):
    refused(match, directions=directions, **options)


def test_directions_of_length_zero_are_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3, 2))

        def forward(self, x):
            return (x @ self.w) * 0

    data = (torch.ones(4, 3), torch.zeros(4, dtype=torch.long))
    assert "take eigenvectors or random" in refused("'gradient' has length zero", Flat(), data, "gradient")
    zero = MLP()
    with torch.no_grad():
        for p in zero.parameters():
            p.zero_()
    refused("has length zero", zero)
    refused("model's own weights", MLP(), None, "segment", checkpoints=[MLP()])


class Other(MLP):
    """The names and shapes of MLP, and another function."""

    def forward(self, x):
        return -super().forward(x)


def test_checkpoints_of_other_architectures_are_refused():
    small = nn.Sequential(nn.Linear(2, 2)).double()
    refused("do not fit the model", directions="segment", checkpoints=[small])
    refused("do not fit the model", directions="segment", checkpoints=[small.state_dict()])
    other = Other()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    refused("another function", directions="segment", checkpoints=[other])
    broken = MLP()
    with torch.no_grad():
        next(broken.parameters())[0] = math.nan
    refused("finite", directions="segment", checkpoints=[broken])


def test_checkpoint_files_are_read_and_those_of_other_architectures_refused(tmp_path):
    other = MLP()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    torch.save({"model": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "other.pt")
    seen = acutance.landscape(
        MLP(), mlp_data(), "segment", checkpoints=[tmp_path / "other.pt"], grid=3, curvature=False
    )
    given = acutance.landscape(MLP(), mlp_data(), "segment", checkpoints=[other.state_dict()], grid=3, curvature=False)
    assert seen.table["loss"].equals(given.table["loss"]) and list(seen.about["marks"]) == ["model", "other"]
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "linear.pt")
    refused("checkpoint linear", directions="segment", checkpoints=[tmp_path / "linear.pt"])


def moved(by):
    other = MLP()
    with torch.no_grad():
        next(other.parameters())[0, 0] += by
    return other


def test_checkpoints_on_one_line_span_no_plane():
    refused("lie on one line", directions="plane", checkpoints=[moved(1.0), moved(2.0)])
    refused("lie on one line", directions="pca", checkpoints=[moved(1.0), moved(2.0), moved(5.0)])
    refused("own weights", directions="plane", checkpoints=[moved(0.0), moved(2.0)])
    refused("own weights", directions="plane", checkpoints=[moved(2.0), moved(0.0)])


def test_directions_larger_than_memory_are_refused(monkeypatch):
    monkeypatch.setattr(ends, "free_bytes", lambda device: 100.0)
    assert "GB of memory are free" in refused("directions: 4 vectors of")
    refused("checkpoints: 2 vectors", directions="segment", checkpoints=[moved(1.0)])


def test_compiled_models_are_seen_and_sharded_ones_refused():
    data = mlp_data()
    plain = acutance.landscape(MLP(), data, grid=3, curvature=False)
    compiled = acutance.landscape(torch.compile(MLP()), data, grid=3, curvature=False)
    assert plain.table.equals(compiled.table)

    class FullyShardedDataParallel(MLP):
        pass

    refused("wrapped in FullyShardedDataParallel", FullyShardedDataParallel(), data)


def test_data_that_have_no_loss_are_refused():
    x, y = mlp_data()
    refused("no targets", data=(x, None))
    refused("data 'shift'", data={"train": (x, y), "shift": (x, None)})
    refused("there is no split", data={})
    refused("weights in their own types", ConvBN().bfloat16(), conv_data(), dtype="native")


def test_a_folder_of_a_run_and_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "landscape.csv").write_text("mine")
    refused("landscape.csv", out=tmp_path, grid=2)
    assert (tmp_path / "landscape.csv").read_text() == "mine"
    file = tmp_path / "file"
    file.write_text("")
    refused("is a file", out=file)


def test_a_loss_of_ones_own_needs_a_name_where_values_are_kept(tmp_path):
    def loss(logits, targets):
        return nn.functional.cross_entropy(logits, targets)

    acutance.landscape(MLP(), mlp_data(), grid=2, loss=loss, curvature=False)
    refused("in the memory of this process", loss=loss, out=tmp_path, grid=2)
