"""Images in class folders: which are taken, what models see of them, and how ImageNet's shifts are judged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acutance import UserError
from acutance.data.lazy import Lazy
from acutance.plugins import catalog
from acutance_vision import images as decoding
from acutance_vision.datasets.folders import preparation
from acutance_vision.datasets.imagefolder import ImageFolderSpec
from acutance_vision.datasets.scores import Grouped, Restricted

PLAIN = {"size": 28, "mean": (0, 0, 0), "std": (1, 1, 1)}  # images of 32 pixels are cut, not resampled


def picture(path, value, size=(32, 32), mode="RGB"):
    """An image of one colour, (value, 100, 200) in RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"RGB": (value, 100, 200), "L": value, "CMYK": (value, 0, 0, 0), "RGBA": (value, 100, 200, 0)}[mode]
    Image.new(mode, size, colour).save(path)


def folders(root, classes, per_class=3, start=0):
    """Images whose red is 10 x class + number."""
    for k, name in enumerate(classes):
        for i in range(per_class):
            picture(root / name / f"im_{i}.png", start + 10 * k + i)


def red(split):
    return (split.inputs.now()[:, 0, 14, 14] * 255).round().int().tolist()


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that were opened."""
    from acutance_vision.datasets import folders as module

    opened, real = [], decoding.open_rgb
    monkeypatch.setattr(module, "open_rgb", lambda source, name: opened.append(Path(name).name) or real(source, name))
    return opened


def imagefolder(**fields):
    target = catalog().get("datasets", "imagefolder")
    return target(target.Spec(**(PLAIN | fields)))


def test_what_is_looked_at_is_decoded_and_nothing_else(tmp_path, decoded):
    folders(tmp_path / "train", ["b", "a", "c"])
    dataset = imagefolder(root=str(tmp_path))
    split = dataset.open("train")
    assert isinstance(split.inputs, Lazy) and len(split) == 9 and not decoded
    assert split.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert split.inputs[torch.tensor([4])].now().shape == (1, 3, 28, 28) and decoded == ["im_1.png"]
    # Folder b was made first, but a is class 0.
    assert red(split) == [10, 11, 12, 0, 1, 2, 20, 21, 22]


def test_train_points_take_classes_in_turn_and_begin_a_larger_choice(tmp_path):
    folders(tmp_path / "train", ["a", "b", "c"])
    few, more = (imagefolder(root=str(tmp_path), train_points=n).open("train") for n in (4, 6))
    assert red(more) == [0, 10, 20, 1, 11, 21] and red(few) == red(more)[:4]
    assert few.targets.tolist() == [0, 1, 2, 0]
    # The choice has a name, and so has what models see of it.
    assert "4 images, train, index " in few.description and few.description[-12:] != more.description[-12:]
    again = imagefolder(root=str(tmp_path), train_points=4).open("train")
    assert again.description == few.description
    assert len(imagefolder(root=str(tmp_path), train_points=100).open("train")) == 9


def test_the_points_of_a_surface_are_those_that_train_points_would_choose(tmp_path, decoded):
    from acutance.data.pointsets import PointSets
    from acutance.study.surface_config import SurfaceConfig

    folders(tmp_path / "train", ["a", "b", "c"])
    config = SurfaceConfig(points=6, m=3)
    (x, y), (few, _) = (PointSets(imagefolder(root=str(tmp_path), train_points=n), config).points for n in (None, 6))
    assert torch.equal(x, few) and y.tolist() == [0, 1, 2, 0, 1, 2] and len(decoded) == 12
    # The same images in another preparation are another set of points; settings written out are not.
    digests = [
        PointSets(imagefolder(root=str(tmp_path), **fields), config).digests("train", "points")[0]
        for fields in ({}, {"crop_pct": 0.875, "crop_mode": "center"}, {"mean": (0.5, 0.5, 0.5)}, {"size": 24})
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_splits_come_from_the_settings(tmp_path):
    folders(tmp_path / "train", ["a", "b", "c"])
    folders(tmp_path / "val", ["a", "b", "c"], 2)
    folders(tmp_path / "elsewhere" / "sketch", ["c", "a"], 1, start=100)
    dataset = imagefolder(
        root=str(tmp_path), test="val", limit=3, ood={"sketch": str(tmp_path / "elsewhere" / "sketch")}
    )
    assert dataset.splits == ("train", "test", "sketch")
    assert len(dataset.open("test")) == 3 and dataset.open("test").targets.tolist() == [0, 1, 2]
    sketch = dataset.open("sketch")
    assert sketch.targets.tolist() == [0, 2] and red(sketch) == [110, 100]
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    assert sketch.score(logits, sketch.targets).tolist() == [1, 1]
    restricted = imagefolder(root=str(tmp_path), ood={"s": str(tmp_path / "elsewhere" / "sketch")}, restrict=True)
    assert restricted.open("s").score(logits, sketch.targets).tolist() == [1, 0]
    with pytest.raises(UserError, match="did you mean 'sketch'"):
        dataset.open("sketsh")
    with pytest.raises(ValueError, match="'test' cannot be the name of a further split"):
        imagefolder(root=str(tmp_path), ood={"test": "val"})


def test_folders_that_are_not_there_or_not_classes_are_told(tmp_path):
    with pytest.raises(UserError, match=r"train: no such folder"):
        imagefolder(root=str(tmp_path)).open("train")
    picture(tmp_path / "train" / "flat.png", 1)
    with pytest.raises(UserError, match=r"holds no class folders .*a folder for each class"):
        imagefolder(root=str(tmp_path)).open("train")
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(UserError, match=r"class folders hold no images.*\.jpeg"):
        imagefolder(root=str(tmp_path)).open("train")
    folders(tmp_path / "train", ["cat", "dog"])
    folders(tmp_path / "test", ["cats"])
    with pytest.raises(UserError, match=r"cats: is no class of the training images \(did you mean 'cat'"):
        imagefolder(root=str(tmp_path)).open("test")
    (tmp_path / "names.txt").write_text("dog a dog\ncat\n\ncats\n")
    named = imagefolder(root=str(tmp_path), classes=str(tmp_path / "names.txt"))
    assert named.open("test").targets.tolist() == [2] * 3 and named.open("train").targets.tolist() == [0] * 3 + [1] * 3
    (tmp_path / "names.txt").write_text("dog\ndog\n")
    with pytest.raises(UserError, match=r"dataset.classes: .* names dog twice"):
        imagefolder(root=str(tmp_path), classes=str(tmp_path / "names.txt")).open("test")
    with pytest.raises(UserError, match=r"dataset.classes: .*cannot be read"):
        imagefolder(root=str(tmp_path), classes=str(tmp_path / "nothing.txt")).open("test")


def test_a_damaged_image_is_named_when_it_is_looked_at(tmp_path):
    folders(tmp_path / "train", ["a"], 2)
    whole = (tmp_path / "train" / "a" / "im_1.png").read_bytes()
    (tmp_path / "train" / "a" / "im_1.png").write_bytes(whole[:60])
    split = imagefolder(root=str(tmp_path)).open("train")
    assert split.inputs[:1].now().shape == (1, 3, 28, 28)
    with pytest.raises(UserError, match=r"im_1.png: is not an image that can be read"):
        split.inputs.now()


@pytest.mark.parametrize(("mode", "suffix", "expected"), [
    ("L", "png", (50, 50, 50)), ("CMYK", "jpg", (205, 255, 255)), ("RGBA", "png", (50, 100, 200)),
])  # fmt: skip
def test_grey_cmyk_and_transparent_images_become_rgb(mode, suffix, expected, tmp_path):
    picture(tmp_path / "train" / "a" / f"x.{suffix}", 50, mode=mode)
    found = imagefolder(root=str(tmp_path)).open("train").inputs.now()[0, :, 14, 14] * 255
    assert found.tolist() == pytest.approx(expected, abs=2)


def test_preparation_resizes_cuts_and_normalizes():
    ramp = np.arange(32 * 40, dtype=np.uint8).reshape(32, 40)
    image = Image.fromarray(np.stack([ramp, ramp.T.reshape(32, 40), ramp[::-1]], -1))
    spec = ImageFolderSpec(size=28, mean=(0.5, 0.25, 0), std=(0.5, 0.25, 1))
    found = preparation(spec)(image).numpy()
    middle = np.asarray(image, dtype=np.float64)[2:30, 6:34].transpose(2, 0, 1) / 255
    expected = (middle - np.reshape((0.5, 0.25, 0), (3, 1, 1))) / np.reshape((0.5, 0.25, 1), (3, 1, 1))
    assert np.allclose(found, expected, atol=1e-6)
    # The words of a data config decide, and fields win over them.
    of_model = preparation(ImageFolderSpec(data_config="vit_base_patch16_224.augreg_in1k", size=28))(image)
    same = preparation(ImageFolderSpec(size=28, crop_pct=0.9, mean=(0.5,) * 3, std=(0.5,) * 3))(image)
    assert torch.equal(of_model, same)
    squashed = preparation(ImageFolderSpec(size=16, crop_mode="squash", crop_pct=1, mean=(0,) * 3, std=(1,) * 3))
    resized = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)) / 255
    assert np.allclose(squashed(image).numpy(), resized.transpose(2, 0, 1), atol=1e-6)
    with pytest.raises(UserError, match=r"dataset.data_config: timm has no model 'vit_huge_nothing'"):
        preparation(ImageFolderSpec(data_config="vit_huge_nothing"))


def test_a_restricted_score_ignores_other_classes():
    score = Restricted([3, 1])
    logits = torch.tensor([[9.0, 1.0, 9.0, 2.0], [9.0, 3.0, 9.0, 2.0]])
    assert score(logits, torch.tensor([3, 3])).tolist() == [0, 1]
    with pytest.raises(UserError, match="the model has 3 outputs, but the test set has class 3"):
        score(logits[:, :3], torch.tensor([3, 3]))


def test_a_group_is_as_likely_as_its_most_likely_class():
    score = Grouped([[0, 2], [1], [2, 3]])
    assert score.targets == [0, 1, 3]
    logits = torch.tensor([[0.0, 1, 0, 2, 9], [0, 3, 2, 1, 9], [4, 3, 2, 1, 9], [0, 1, 5, 1, 9]])
    # In the last, class 2 is in two groups: the first is predicted.
    assert score(logits, torch.tensor([3, 1, 0, 0])).tolist() == [0, 0, 0, 0]
    assert score(logits, torch.tensor([0, 3, 1, 3])).tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match="group 1 has no class of its own"):
        Grouped([[0, 1], [1]])


IDS = ["n01440764", "n01443537", "n01484850"]  # classes 0, 1 and 2 of ImageNet


@pytest.fixture
def imagenet(tmp_path):
    target = catalog().get("datasets", "imagenet")
    folders(tmp_path / "train", [*reversed(IDS), "n15075141"])
    folders(tmp_path / "val", IDS, 1)
    places = {name: str(tmp_path / name) for name in ("v2", "r", "sketch", "a", "objectnet")}
    return lambda **fields: target(target.Spec(**PLAIN, **({"root": str(tmp_path)} | places | fields)))


def test_imagenet_knows_its_classes(imagenet):
    train = imagenet().open("train")
    assert train.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [999] * 3
    assert red(train)[:3] == [20, 21, 22] and imagenet().open("test").targets.tolist() == [0, 1, 2]


def test_the_folders_of_v2_are_numbers(imagenet, tmp_path):
    folders(tmp_path / "v2", ["10", "9", "999", "0"], 1)
    split = imagenet().open("v2")
    assert split.targets.tolist() == [0, 9, 10, 999] and red(split) == [30, 10, 0, 20]
    (tmp_path / "v2" / "1000").mkdir()
    with pytest.raises(UserError, match=r"1000: is neither a WordNet id of ImageNet nor a number below 1000"):
        imagenet().open("v2")


def test_r_and_a_are_judged_among_their_own_classes_and_sketch_among_all(imagenet, tmp_path):
    logits = torch.zeros(1, 1000)
    logits[0, 5], logits[0, 2], logits[0, 1] = 3, 2, 1
    for name, errors in (("r", [0]), ("a", [0]), ("sketch", [1])):
        folders(tmp_path / name, IDS[1:], 1)
        (tmp_path / name / "README.txt").write_text("not a class")
        split = imagenet().open(name)
        assert split.targets.tolist() == [1, 2]
        assert split.score(logits, torch.tensor([2])).tolist() == errors, name
    (tmp_path / "r" / "n01443538").mkdir()
    with pytest.raises(UserError, match=r"n01443538: is neither a WordNet id .*did you mean 'n01443537'"):
        imagenet().open("r")


def test_objectnet_is_mapped_by_the_users_file(imagenet, tmp_path):
    folders(tmp_path / "objectnet", ["chair", "bread", "Band Aid"], 2)
    for path in (tmp_path / "objectnet").rglob("*.png"):
        image = Image.new("RGB", (36, 36), (255, 0, 0))
        image.paste(Image.open(path), (2, 2))
        image.save(path)
    places = tmp_path / "map.json"
    places.write_text(json.dumps({"chair": ["n01443537", "n01484850"], "bread": [930]}))
    split = imagenet(objectnet_map=str(places), limit=3).open("objectnet")
    assert split.targets.tolist() == [1, 930, 1]
    assert split.inputs.now().shape == (3, 3, 28, 28) and red(split) == [0, 10, 1]
    assert not (split.inputs.now()[:, 1] == 0).any()
    logits = torch.zeros(3, 1000)
    logits[0, 2], logits[1, 0], logits[1, 930], logits[2, 930] = 1, 9, 1, 1
    assert split.score(logits, split.targets).tolist() == [0, 0, 1]


def test_a_map_that_does_not_fit_is_told(imagenet, tmp_path):
    folders(tmp_path / "objectnet", ["chair"], 1)
    with pytest.raises(UserError, match=r"needs dataset.objectnet_map .*JSON"):
        imagenet().open("objectnet")
    path = tmp_path / "map.json"
    for text, said in [
        ("{", "cannot be read"), ("[]", "no mapping from folders"), ('{"chair": []}', "no mapping from folders"),
        ('{"chair": ["n1"]}', r"chair: 'n1' is no class of ImageNet"), ('{"chair": [1000]}', "1000 is no class"),
        ('{"chair": [true]}', "True is no class"), ('{"sofa": [1]}', "has no folder sofa"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            imagenet(objectnet_map=str(path)).open("objectnet")


def test_places_come_from_the_environment_and_are_asked_for(imagenet, tmp_path, monkeypatch):
    monkeypatch.delenv("ACUTANCE_DATA", raising=False)
    with pytest.raises(UserError, match=r"imagenet: nothing says where its files are.*dataset.sketch: FOLDER"):
        imagenet(sketch=None).open("sketch")
    monkeypatch.setenv("ACUTANCE_DATA", str(tmp_path / "all"))
    folders(tmp_path / "all" / "imagenet-a", IDS[:1], 1)
    assert imagenet(a=None).open("a").targets.tolist() == [0]
    (tmp_path / "ids.txt").write_text(f"{IDS[1]} goldfish\n{IDS[0]} tench\n")
    assert imagenet(a=None, classes=str(tmp_path / "ids.txt")).open("a").targets.tolist() == [1]


def test_a_study_runs_on_class_folders(tmp_path, toy_config):
    """From files to numbers: a linear network on pictures, its test error and a restricted one."""
    from acutance.plugins import Item, extended
    from acutance.pool import ModelEntry, ModelPool
    from acutance.run.harness import run_study
    from acutance.spec import Spec
    from acutance.study.config import load_config

    class Linear(ModelPool[Spec]):
        """Linear networks made from seeds."""

        name = "linear_pictures"

        def entries(self, spec):
            return [ModelEntry(id=f"m{i}", architecture="linear", attributes={"seed": i}) for i in range(3)]

        def load(self, entry, spec):
            torch.manual_seed(int(entry.id[1:]))
            model = torch.nn.Sequential(torch.nn.AvgPool2d(14), torch.nn.Flatten(), torch.nn.Linear(12, 4))
            with torch.no_grad():
                # Class a is the darkest and c the reddest.
                model[2].weight[0, :4], model[2].weight[2, :4] = -3, 3
            return model

    folders(tmp_path / "train", ["a", "b", "c", "d"], 4)
    folders(tmp_path / "test", ["a", "b", "c", "d"], 2)
    folders(tmp_path / "ood", ["a", "c"], 2)
    config = toy_config | {
        "pools": [{"name": "linear_pictures"}], "groups": [], "figures": {}, "surface": {"points": 8, "m": 4},
        "dataset": {"name": "imagefolder", "root": str(tmp_path), "ood": {"ood": "ood"}, "restrict": True, **PLAIN},
        "targets": ["test_error", "ood.error", "attr:seed"], "measures": [{"name": "average_case", "rho": 0.1, "draws": 2}],
    }  # fmt: skip
    with extended([Item("pools", "linear_pictures", "acme-toy", "1.2", Linear)]):
        run = run_study(load_config(config), tmp_path / "run", report=False)
    assert run.failed == 0 and len(run.results) == 3 * 3


def test_grey_images_of_16_bits_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 400).reshape(20, 20)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "16.tif")
    Image.fromarray((ramp / 257).round().astype(np.uint8)).save(tmp_path / "8.png")
    plain = np.asarray(decoding.open_rgb(tmp_path / "8.png", "8"))
    assert plain.min() == 0 and plain.max() == 255
    for name in ("16.png", "16.tif"):
        assert np.array_equal(np.asarray(decoding.open_rgb(tmp_path / name, name)), plain)


@pytest.mark.parametrize(("kind", "said"), [(np.float32, "32-bit float"), (np.int32, "32-bit integer")])
def test_numbers_of_an_unknown_range_are_refused(tmp_path, kind, said):
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=rf"x\.tif: its values are {said} numbers of an unknown range .*8 or 16 bits"):
        decoding.open_rgb(tmp_path / "x.tif", "x.tif")


def test_hidden_files_are_no_images(tmp_path):
    folders(tmp_path / "train", ["a", "b"], per_class=2)
    plain = imagefolder(root=str(tmp_path)).open("train")
    assert plain.notes == ()
    (tmp_path / "train" / ".DS_Store").write_bytes(b"x")
    for name in ("._im_0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / "a" / name).write_bytes(b"x")
    found = imagefolder(root=str(tmp_path)).open("train")
    assert red(found) == red(plain) and found.description == plain.description
    assert found.notes == ("hidden files are skipped: a/._im_0.png",)
