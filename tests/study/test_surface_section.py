"""The surface section of a study: points, batches, augmentation, batch normalization, layers."""

import json

import numpy as np
import pytest
import torch
from models import ConvBN, assert_untouched, conv_data, seeded, snapshot

import acutance
from acutance import LossSurface, UserError
from acutance.data.points import read_indices
from acutance.data.pointsets import PointSets
from acutance.dataset import Dataset, Split
from acutance.model.functional import FunctionalModel
from acutance.model.recalibration import recalibrated
from acutance.spec import Spec
from acutance.study.config import load_config
from acutance.study.surface_config import SurfaceConfig


class Numbers(Dataset[Spec]):
    """Forty points whose input is their row."""

    name = "numbers"
    splits = ("train",)

    def open(self, split):
        return Split(torch.arange(40.0).view(-1, 1), torch.arange(40) % 4)

    def augment(self, inputs, generator):
        assert len(inputs) == 1
        return inputs + torch.rand(1, 1, generator=generator)


def sets(seed=0, **surface):
    return PointSets(Numbers(), SurfaceConfig(**{"points": 24, "m": 6, **surface}), seed)


def rows(points):
    return points[0].flatten().tolist()


def test_random_batches_are_subsets_that_depend_on_the_seed_alone():
    found = sets(batches={"sampled": 50}).batches
    assert len(found) == 50
    chosen = rows(sets().points)
    for batch in found:
        assert len(set(rows(batch))) == 6 and set(rows(batch)) <= set(chosen)
        assert torch.equal(batch[1], batch[0].flatten().long() % 4)
    assert [rows(b) for b in sets(batches={"sampled": 3}).batches] == [rows(b) for b in found[:3]]
    assert [rows(b) for b in sets(1, batches={"sampled": 3}).batches] != [rows(b) for b in found[:3]]
    # Every point is as likely as any other: 2000 batches of 6 from 24 take each 500 times, give or take 19.
    many = np.concatenate([rows(b) for b in sets(batches={"sampled": 2000}).batches])
    times = np.bincount(np.searchsorted(sorted(chosen), many), minlength=24)
    assert times.sum() == 12000 and abs(times - 500).max() < 5 * 19.4


@pytest.mark.parametrize("suffix", ["txt", "json", "npy"])
def test_points_are_those_of_a_file_in_its_order(tmp_path, suffix):
    path, wanted = tmp_path / f"rows.{suffix}", [7, 3, 39, 0, 12, 5, 1]
    if suffix == "npy":
        np.save(path, np.array(wanted))
    else:
        path.write_text(json.dumps(wanted) if suffix == "json" else "\n".join(map(str, wanted)))
    assert rows(sets(points=6, m=3, select={"indices": str(path)}).points) == wanted[:6]
    with pytest.raises(UserError, match=r"lists 7 rows, surface\.points asks for 8"):
        read_indices(path, 8, 40)
    with pytest.raises(UserError, match="row 39 does not exist, the split has 39"):
        read_indices(path, 7, 39)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 2", "row 2 is listed more than once"), ("1 x", "cannot be read"), ("-1 0 1", "row -1 does not exist")],
)
def test_a_bad_file_of_indices_is_told(tmp_path, text, message):
    path = tmp_path / "rows.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_indices(path, 3, 40)


def test_augmentation_is_made_once_and_named_by_the_row():
    plain, moved = sets(), sets(augment=True)
    shift = np.array(rows(moved.points)) - np.array(rows(plain.points))
    assert (shift > 0).all() and (shift < 1).all() and len(set(shift)) == 24
    assert rows(sets(augment=True).points) == rows(moved.points)
    assert rows(sets(augment=True, points=12).points) == rows(moved.points)[:12]
    assert rows(sets(1, augment=True).points) != rows(moved.points)
    assert moved.digests("train", "points") != plain.digests("train", "points")


def test_examples_are_known_by_their_row_augmented_or_not_in_every_batch():
    whole = sets().example_digests("train", "split", 0)
    assert len(set(whole.tolist())) == 40
    for found in (sets(), sets(augment=True), sets(batches={"sampled": 3}), sets(select="first")):
        plain = sets(select=found.config.select)
        points, batches = (found.example_digests("train", scope, 0) for scope in ("points", "batch"))
        assert torch.equal(points, whole[plain.points[0].flatten().long()]) and len(batches) == 6
        for i, batch in enumerate(sets(select=found.config.select, batches=found.config.batches).batches):
            assert torch.equal(found.example_digests("train", "batch", i), whole[batch[0].flatten().long()])


def test_mistakes_in_the_surface_section_have_their_path(toy_config, tmp_path):
    for change, message in [
        ({"batches": "random"}, "surface.batches: Input should be 'partition'"),
        ({"batches": {"sampled": 0}}, "surface.batches.sampled: Input should be greater than 0"),
        ({"batches": {"sample": 3}}, "surface.batches.sampled: Field required"),
        ({"select": {"indices": "nowhere.txt"}}, "surface.select.indices: .*nowhere.txt: no such file"),
        ({"augment": True}, "surface.augment: dataset 'toy' has no augmentation"),
        ({"batch_norm": "train"}, "surface.batch_norm: Input should be 'eval' or 'recalibrate'"),
        ({"loss": "cross_entropi"}, "surface.loss: unknown loss; did you mean 'cross_entropy'"),
        ({"loss": "no_such:thing"}, "surface.loss: 'no_such:thing': there is no module"),
    ]:
        with pytest.raises(UserError, match=message):
            load_config({**toy_config, "surface": {**toy_config["surface"], **change}})


def test_recalibration_gives_the_statistics_of_torchs_own_update():
    model, before = ConvBN(), snapshot(ConvBN())
    x, y = conv_data(12)
    batches = [x[:6], x[6:]]
    functional = FunctionalModel(model)
    other = recalibrated(functional, batches)
    twin = ConvBN()
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-30  # torch's own training mode refuses 0
    torch.optim.swa_utils.update_bn(batches, twin)
    twin.eval()
    for (_, name, found), expected in zip(other.buffers, twin.buffers(), strict=True):
        if name != "num_batches_tracked":
            assert torch.allclose(found, expected, rtol=1e-12), name
    assert torch.allclose(LossSurface(other, (x, y)).logits(), twin(x), rtol=1e-10)
    # Neither the model nor the functional model it came from has changed, and no hook is left.
    assert_untouched(model, {**snapshot(model), "state": before["state"]})
    assert not torch.allclose(LossSurface(functional, (x, y)).logits(), twin(x))
    assert not any(m._forward_hooks for m in model.modules())


def test_recalibration_undoes_a_rescaling_that_forgot_the_buffers():
    """A convolution times a before BN preserves the function once the statistics are made anew (eps = 0)."""
    x, _ = conv_data(12)
    model, twin = ConvBN(), ConvBN()
    with torch.no_grad():
        twin.conv1.weight.mul_(3)
        twin.conv1.bias.mul_(3)
    logits = [LossSurface(recalibrated(FunctionalModel(m), [x]), (x, torch.zeros(12, dtype=torch.long))).logits()
              for m in (model, twin)]  # fmt: skip
    assert torch.allclose(*logits, rtol=1e-9) and not torch.allclose(model(x), twin(x))


def test_a_batch_without_variance_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with pytest.raises(UserError, match="layer '1' sees one value a channel"):
        recalibrated(FunctionalModel(model), [torch.randn(1, 3)])
    assert not model[1]._forward_hooks


def test_a_model_without_statistics_is_told():
    functional = FunctionalModel(torch.nn.Linear(3, 2))
    assert recalibrated(functional, [torch.randn(4, 3, generator=seeded(0))]) is functional
    assert "nothing to recalibrate" in functional.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"batches": {"sampled": 4}},
        {"batch_norm": "recalibrate"},
        {"loss": "losses_of_mine:doubled"},
        {"parameters": "0.*"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_setting_runs_and_has_keys_of_its_own(toy_config, tmp_path, monkeypatch, change):
    (tmp_path / "losses_of_mine.py").write_text(
        "import torch\ndef doubled(logits, targets):\n    return 2 * torch.nn.functional.cross_entropy(logits, targets)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = toy_config | {"measures": toy_config["measures"][:1], "targets": ["test_error"]}
    first = acutance.run(config, out=tmp_path / "run", report=False)
    changed = config | {"surface": config["surface"] | change}
    second = acutance.run(changed, out=tmp_path / "run", report=False)
    measured = second.results["measure"] == "worst_case"
    assert second.failed == 0 and measured.sum() == 12
    # Targets are those of the models as they are; only the own loss is another surface for them too.
    assert second.computed == (18 if "loss" in change else 12)
    if "batch_norm" not in change:
        assert (second.results["value"][measured].values != first.results["value"][measured].values).all()
    assert acutance.run(changed, out=tmp_path / "run", report=False).computed == 0
    if "loss" in change:
        ratio = second.results["value"][measured] / first.results["value"][measured]
        assert ratio.mean() == pytest.approx(2, rel=0.2)


def test_a_range_of_layers_is_a_sweep(toy_config):
    toy_config["measures"] = [{"name": "average_case", "rho": 0.1, "parameters": ["all", "blocks.{0..2}.*,!*.bias"]}]
    planned = load_config(toy_config).measures
    assert [p.spec.parameters for p in planned] == ["all", *(f"blocks.{i}.*,!*.bias" for i in range(3))]
    toy_config["measures"][0]["parameters"] = "{1..0}.w{8..9}"
    assert [p.spec.parameters for p in load_config(toy_config).measures] == ["1.w8", "1.w9", "0.w8", "0.w9"]
