"""CIFAR-10 and CIFAR-100 in every published layout, and files that are not what they say."""

import os
import pickle
from pathlib import Path

import cifar_layouts as layouts
import numpy as np
import pytest
import torch

from acutance import UserError
from acutance.plugins import catalog
from acutance_vision.datasets import cifar
from acutance_vision.images.rand_augment import rand_augment

REAL = Path(os.environ.get("ACUTANCE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cifar10"


@pytest.fixture
def cifar10():
    return catalog().get("datasets", "cifar10")


LAYOUTS = ["batches_py", "torchvision_folder", "batches_bin", "parquet", "class_folders"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_cifar10_gives_the_same_images(layout, tmp_path):
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    made = getattr(layouts, layout)(tmp_path)
    for part, (x, y) in zip(("train", "test"), made):
        images, labels = cifar.read_images(tmp_path, part)
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert np.array_equal(images.numpy(), x) and np.array_equal(labels.numpy(), y)


@pytest.mark.parametrize("layout", ["cifar100_python", "cifar100_binary", "cifar100_parquet"])
def test_every_layout_of_cifar100_gives_the_fine_labels(layout, tmp_path):
    if layout == "cifar100_parquet":
        pytest.importorskip("pyarrow")
    made = getattr(layouts, layout)(tmp_path)
    for part, (x, y) in zip(("train", "test"), made):
        images, labels = cifar.read_images(tmp_path, part, 100)
        assert np.array_equal(images.numpy(), x) and np.array_equal(labels.numpy(), y)
    found = catalog().get("datasets", "cifar100")
    assert found(found.Spec(root=str(tmp_path))).open("test").targets.max() == 99


def test_shards_are_read_in_order_and_a_missing_one_is_told(tmp_path):
    pytest.importorskip("pyarrow")
    (x, y), _ = layouts.parquet(tmp_path, shards=3, image="image")
    images, labels = cifar.read_images(tmp_path, "train")
    assert np.array_equal(images.numpy(), x) and np.array_equal(labels.numpy(), y)
    (tmp_path / "data" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"has 2 of 3 files train-\*.parquet"):
        cifar.read_images(tmp_path, "train")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read(protocol, tmp_path):
    x, y = layouts.pixels(4)
    layouts.pickled(tmp_path / "test_batch", x, y, protocol=protocol)
    images, labels = cifar.read_images(tmp_path, "test")
    assert np.array_equal(images.numpy(), x) and np.array_equal(labels.numpy(), y)


def test_a_pickle_written_by_python_2_is_read(tmp_path):
    # As the published batches: keys and pixels are byte strings of Python 2 (SHORT_BINSTRING and BINSTRING).
    data = bytes(range(256)) * 12
    stream = (
        b"\x80\x02}(U\x06labels]K\x07aU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + len(data).to_bytes(4, "little") + data + b"tbu."
    )
    expected = pickle.loads(stream, encoding="latin1")
    (tmp_path / "test_batch").write_bytes(stream)
    images, labels = cifar.read_images(tmp_path, "test")
    assert np.array_equal(images.numpy().reshape(1, 3072), expected["data"]) and labels.tolist() == [7]


class _Shell:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_would_run_something_is_refused_and_named(tmp_path):
    harm = tmp_path / "harm"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": _Shell(f"touch {harm}"), "labels": [1]}, protocol=2))
    with pytest.raises(UserError, match=r"test_batch: it asks for (posix|nt).system.*could run code"):
        cifar.read_images(tmp_path, "test")
    assert not harm.exists()


@pytest.mark.parametrize("call", [b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nscalar\n"])
def test_no_other_function_can_be_named(call, tmp_path):
    (tmp_path / "test_batch").write_bytes(call + b"(S'1'\ntR.")
    with pytest.raises(UserError, match="which no published batch does"):
        cifar.read_images(tmp_path, "test")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not a pickle", "is not a CIFAR batch"),
        (pickle.dumps([1, 2]), "holds a list, not a dictionary"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]}, 2), "is not a CIFAR batch"),
        (pickle.dumps({"data": np.zeros((2, 784), np.uint8), "labels": [1, 2]}, 2), "no array of 3072 bytes"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, 2), "2 images, but 1 labels"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1, 2]}, 2), "is it CIFAR-10"),
        (
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, 2),
            "label 10, but the classes are 0 to 9",
        ),
        (pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}, 4), "holds no images"),
    ],
)
def test_a_batch_that_is_not_one_is_told(content, said, tmp_path):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        cifar.read_images(tmp_path, "test")
    assert "test_batch" in error.value.message


def test_damaged_folders_are_told(tmp_path):
    layouts.batches_py(tmp_path)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3 is missing"):
        cifar.read_images(tmp_path, "train")
    layouts.batches_bin(tmp_path / "b")
    path = tmp_path / "b" / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="no whole number of images"):
        cifar.read_images(tmp_path / "b", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no train part of CIFAR-10 in a known layout.*batches for Python"):
        cifar.read_images(tmp_path / "empty", "train")
    with pytest.raises(UserError, match="no such folder"):
        cifar.read_images(tmp_path / "nowhere", "train")


def test_damaged_parquet_is_told(tmp_path):
    pytest.importorskip("pyarrow")
    layouts.parquet(tmp_path)
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        cifar.read_images(tmp_path, "test")
    path.write_bytes(whole[:200])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        cifar.read_images(tmp_path, "test")
    layouts.parquet(tmp_path / "named", image="picture")
    with pytest.raises(UserError, match=r"has no column img or image.*picture"):
        cifar.read_images(tmp_path / "named", "test")


def test_cells_without_an_image_are_told(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "test.parquet"
    for cells, labels, said in [
        ([{"bytes": b"nothing", "path": None}], [1], "image 0: is not an image that can be read"),
        ([{"bytes": None, "path": "/etc/passwd"}], [1], "image 0: holds no bytes of an image"),
        ([{"bytes": layouts.png(np.zeros((3, 32, 32), np.uint8)), "path": None}], ["cat"], "no class numbers"),
        (
            [{"bytes": layouts.png(np.zeros((3, 28, 28), np.uint8)), "path": None}],
            [1],
            "is 28 x 28 pixels, not 32 x 32",
        ),
    ]:
        pyarrow.parquet.write_table(pyarrow.table({"img": cells, "label": labels}), path)
        with pytest.raises(UserError, match=said):
            cifar.read_images(tmp_path, "test")


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'pyarrow"):
        cifar.read_images(tmp_path, "test")


def test_class_folders_may_be_numbers_and_unknown_ones_are_told(tmp_path):
    for name in ("2", "0"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "a.png").write_bytes(layouts.png(np.full((3, 32, 32), 7, np.uint8)))
    assert cifar.read_images(tmp_path, "test")[1].tolist() == [0, 2]
    (tmp_path / "test" / "airplan").mkdir()
    with pytest.raises(UserError, match=r"airplan: is no class of CIFAR-10.*did you mean 'airplane'"):
        cifar.read_images(tmp_path, "test")


def test_points_are_normalized_as_the_spec_says(tmp_path, cifar10):
    (x, y), _ = layouts.batches_py(tmp_path)
    spec = cifar10.Spec(root=str(tmp_path))
    split = cifar10(spec).open("train")
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (spec.mean, spec.std))
    assert split.inputs.dtype == torch.float32
    assert np.allclose(split.inputs.numpy(), (x / 255 - mean) / std, atol=1e-5) and split.targets.tolist() == y.tolist()
    plain = cifar10(cifar10.Spec(root=str(tmp_path), mean=(0, 0, 0), std=(1, 1, 1))).open("train")
    assert np.allclose(plain.inputs.numpy(), x / 255)
    with pytest.raises(UserError, match="did you mean 'train'"):
        cifar10(spec).open("trian")


def test_train_points_are_balanced_and_a_smaller_set_begins_a_larger_one(tmp_path, cifar10):
    layouts.batches_py(tmp_path)

    def train(n):
        return cifar10(cifar10.Spec(root=str(tmp_path), train_points=n, test_points=10)).open("train")

    small, large = train(20), train(50)
    assert small.targets.bincount().tolist() == [2] * 10 and torch.equal(small.inputs, large.inputs[:20])
    with pytest.raises(UserError, match=r"dataset.train_points: 101 images, but there are 100"):
        train(101)


def test_where_the_files_are(tmp_path, cifar10, monkeypatch):
    monkeypatch.delenv("ACUTANCE_DATA", raising=False)
    with pytest.raises(UserError, match=r"nothing is downloaded.*dataset.root.*ACUTANCE_DATA.*cifar10/"):
        cifar10().open("train")
    monkeypatch.setenv("ACUTANCE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"ACUTANCE_DATA: .*cifar10: no such folder"):
        cifar10().open("train")
    layouts.batches_py(tmp_path / "cifar10")
    assert len(cifar10().open("train")) == 100
    with pytest.raises(UserError, match=r"dataset\.root: "):
        cifar10(cifar10.Spec(root=str(tmp_path / "elsewhere"))).open("train")


def test_the_augmentation_crops_after_padding_with_black_and_mirrors(tmp_path, cifar10):
    dataset = cifar10(cifar10.Spec(root="unused"))
    black = [-m / s for m, s in zip(dataset.spec.mean, dataset.spec.std)]
    # An image that tells every pixel's place: what comes out says where it was cut and whether it was mirrored.
    x = (torch.arange(32 * 32.0).view(1, 1, 32, 32) + 10).expand(200, 3, 32, 32)
    y = dataset.augment(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape and torch.equal(y, dataset.augment(x, torch.Generator().manual_seed(0)))
    padded = torch.stack([torch.nn.functional.pad(x[0, c], (4,) * 4, value=black[c]) for c in range(3)])
    places = {(i, j, flip): (padded[:, i : i + 32, j : j + 32]).flip(-1) if flip else padded[:, i : i + 32, j : j + 32]
              for i in range(9) for j in range(9) for flip in (False, True)}  # fmt: skip
    found = []
    for image in y:
        middle = image[0, 16, 15:17].tolist()
        matches = [p for p, cut in places.items() if cut[0, 16, 15:17].tolist() == pytest.approx(middle, abs=1e-4)]
        assert len(matches) == 1 and torch.allclose(image, places[matches[0]], atol=1e-4)
        found.append(matches[0])
    assert {i for i, _, _ in found} == {j for _, j, _ in found} == set(range(9))
    assert 0.4 < np.mean([flip for *_, flip in found]) < 0.6


@pytest.mark.skipif(not (REAL / "test.parquet").exists(), reason="CIFAR-10 is not here")
def test_the_real_set(cifar10):
    pytest.importorskip("pyarrow")
    split = cifar10(cifar10.Spec(root=str(REAL), std=(0.2470, 0.2435, 0.2616))).open("test")
    assert split.targets.bincount().tolist() == [1000] * 10
    assert split.inputs.mean().abs() < 0.02 and abs(float(split.inputs.std()) - 1) < 0.02


@pytest.fixture
def archive(tmp_path, cifar10, monkeypatch):
    """The published archive, small, on a site of its own; with a member that would be written elsewhere."""
    import hashlib
    import tarfile

    made = layouts.torchvision_folder(tmp_path / "site")
    (tmp_path / "evil").write_text("x")
    path = tmp_path / "site" / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as members:
        members.add(tmp_path / "site" / "cifar-10-batches-py", "cifar-10-batches-py")
        members.add(tmp_path / "evil", "../../evil")
    digest = "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "archive", (path.as_uri(), digest))
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    for name in ("ACUTANCE_DATA", "ACUTANCE_ALLOW_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    return made, path


def test_it_is_downloaded_when_the_user_asks_and_found_again_without_asking(archive, cifar10, tmp_path, monkeypatch):
    from acutance.io.downloads import allowing

    ((_, y), _), path = archive
    with pytest.raises(UserError, match=r"nothing is downloaded .*or use --allow-download"):
        cifar10().open("train")
    with allowing(True):
        assert cifar10().open("train").targets.tolist() == y.tolist()
        # A folder that was named is not filled.
        with pytest.raises(UserError, match=r"dataset.root: .*no such folder"):
            cifar10(cifar10.Spec(root=str(tmp_path / "nowhere"))).open("train")
    path.unlink()
    assert cifar10().open("train").targets.tolist() == y.tolist()
    folder = tmp_path / "cache" / "data" / "cifar10"
    assert {p.name for p in folder.iterdir()} == {*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"}
    assert list(folder.parent.iterdir()) == [folder]
    assert [p.name for p in tmp_path.rglob("evil")] == ["evil"] and not list(tmp_path.rglob("*.partial"))


def test_an_archive_without_the_batches_leaves_nothing_behind(archive, cifar10, tmp_path, monkeypatch):
    import hashlib
    import tarfile

    from acutance.io.downloads import allowing

    _, path = archive
    for content, said in ((b"no archive", "cannot be unpacked"), (None, "does not hold data_batch_1, data_batch_2")):
        path.write_bytes(content or b"")
        if content is None:
            with tarfile.open(path, "w:gz") as members:
                members.add(tmp_path / "site" / "cifar-10-batches-py" / "test_batch", "test_batch")
        monkeypatch.setattr(cifar10, "archive", (path.as_uri(), "md5:" + hashlib.md5(path.read_bytes()).hexdigest()))
        with allowing(True), pytest.raises(UserError, match=said):
            cifar10().open("train")
        (tmp_path / "cache" / "data" / "cifar10.tar.gz").unlink()
        assert list((tmp_path / "cache" / "data").iterdir()) == []


def test_randaugment_follows_on_whole_grey_values_and_disturbs_no_other_generator(tmp_path, cifar10):
    layouts.batches_py(tmp_path)
    standard, strong = (
        cifar10(cifar10.Spec(root=str(tmp_path), augmentation=name)) for name in ("standard", "randaugment")
    )
    x = standard.open("train").inputs[:40]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    y = strong.augment(x, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(
        strong.augment(x, torch.Generator().manual_seed(0)), y
    )
    # The same cut comes first.
    generator = torch.Generator().manual_seed(0)
    cut = strong._bytes(standard.augment(x, generator))
    found = rand_augment(cut, generator)
    assert torch.equal(strong._normalized(found), y) and torch.equal(rand_augment(cut, generator, rounds=0), cut)
    assert sum(not torch.equal(a, b) for a, b in zip(cut, found)) > 20
    assert torch.equal(strong._bytes(strong._normalized(strong._bytes(x))), strong._bytes(x))
    assert torch.allclose(strong._normalized(strong._bytes(y)), y, atol=1e-6)


def test_versions_of_an_image_are_one_example_to_the_ceiling(tmp_path, cifar10):
    import pandas as pd

    from acutance.run.statistics import points_of
    from acutance.study.targets import parse_target

    layouts.batches_py(tmp_path)
    found = cifar10(cifar10.Spec(root=str(tmp_path), severity=5, corruption_points=10))
    assert found.open("corruptions").versions == 15 and found.open("fog").versions == found.open("test").versions == 1
    rows = {
        "measure": "error",
        "split": ["test", "corruptions"],
        "extra.points": [40, 150],
        "extra.versions": [None, 15],
    }
    targets = [parse_target("test_error", found.splits), parse_target("corruptions.error", found.splits)]
    assert points_of(pd.DataFrame(rows), targets) == {"test_error": 40, "corruptions.error": 10}
    assert points_of(pd.DataFrame(rows).drop(columns="extra.versions"), targets)["corruptions.error"] == 150
