"""Data sets of the user's own in arrays, tables and torchvision's classes."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from cifar_layouts import pixels, png

from acutance import UserError
from acutance.plugins import catalog

PLAIN = {"size": 32, "crop_pct": 1, "mean": (0, 0, 0), "std": (1, 1, 1)}


def made(name, **fields):
    target = catalog().get("datasets", name)
    return target(target.Spec(**fields))


def bytes_of(split):
    return (split.inputs.now() * 255).round().byte().numpy()


# -- arrays ------------------------------------------------------------------------------------------


def arrays(tmp_path, **fields):
    files = {name: str(tmp_path / text) for name, text in fields.pop("files").items()}
    return made("arrays", files=files, **fields)


def test_arrays_are_read_by_name_for_each_split(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5)).astype(np.float32), np.arange(6) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x + 1, y_test=y[:, None], other=x - 1, marks=y)
    from safetensors.torch import save_file

    save_file({"inputs": torch.tensor(x + 2), "targets": torch.tensor(y)}, tmp_path / "b.safetensors")
    dataset = arrays(
        tmp_path, files={"train": "a.npz", "test": "a.npz", "ood": "b.safetensors", "far": "a.npz:other,marks"}
    )
    assert dataset.splits == ("train", "test", "ood", "far")
    for name, shift in (("train", 0), ("test", 1), ("ood", 2), ("far", -1)):
        split = dataset.open(name)
        assert np.allclose(split.inputs.now().numpy(), x + shift, atol=1e-6) and split.targets.tolist() == y.tolist()
        assert split.targets.dtype == torch.int64
    scaled = arrays(tmp_path, files={"train": "a.npz"}, mean=(1,), std=(1, 2, 3, 4, 5)).open("train")
    assert np.allclose(scaled.inputs.now().numpy(), (x - 1) / [1, 2, 3, 4, 5], atol=1e-6)


def test_bytes_are_images(tmp_path):
    grey = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10
    colour = np.stack([grey, grey // 2, grey // 3], -1)
    np.savez(tmp_path / "a.npz", x_train=grey, y_train=[0, 1], x_test=colour, y_test=[0.5, 1.5])
    split = arrays(tmp_path, files={"train": "a.npz"}).open("train")
    assert torch.allclose(split.inputs.now(), torch.tensor(grey)[:, None] / 255)
    split = arrays(tmp_path, files={"test": "a.npz"}, channels_last=True, mean=(0.1, 0.2, 0.3)).open("test")
    expected = torch.tensor(colour).permute(0, 3, 1, 2) / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    assert torch.allclose(split.inputs.now(), expected, atol=1e-6) and split.targets.dtype == torch.float32
    tokens = arrays(tmp_path, files={"train": "a.npz:y_train,y_train"}).open("train")
    assert tokens.inputs.now().dtype == torch.int64


@pytest.mark.parametrize(("text", "fields", "said"), [
    ("a.csv", {}, "is not understood"), ("none.npz", {}, "no such file"), ("a.npz:x,z", {}, r"has no array 'z'"),
    ("a.npz", {}, r"its arrays are x, z_1, labels.*FILE:INPUTS,TARGETS"), ("a.npz:x,z_1", {}, r"shapes \(3, 2\) and \(2,\)"),
    ("a.npz:labels,x", {}, r"class labels have shape \(3, 2\)"), ("a.npz:x,labels", {"mean": (1, 2, 3)}, "mean: 3 numbers"),
    ("a.npz:x,labels", {"channels_last": True}, r"channels_last, but inputs have shape \(1, 2\)"),
    ("object.npz:x,labels", {}, "cannot be read"), ("cut.npz:x,labels", {}, "cannot be read"),
])  # fmt: skip
def test_arrays_that_do_not_fit_are_told_with_the_place(text, fields, said, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2), int), z_1=np.ones(2), labels=[0, 1, 2])
    np.savez(tmp_path / "object.npz", x=np.array([{}, {}]), labels=[0, 1])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    with pytest.raises(UserError, match=said) as error:
        arrays(tmp_path, files={"train": text}, **fields).open("train").inputs.now()
    assert str(tmp_path) in error.value.message
    with pytest.raises(UserError, match=r"write dataset\.files"):
        made("arrays").open("train")


# -- tables ------------------------------------------------------------------------------------------


def write_table(path, cells, labels, image="image", label="label"):
    import pyarrow.ipc
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({image: cells, label: labels})
    if path.suffix == ".arrow":
        with path.open("wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        pyarrow.parquet.write_table(table, path)


def huggingface(tmp_path, **fields):
    return made("huggingface", path=str(tmp_path), **(PLAIN | fields))


@pytest.mark.parametrize("layout", ["parquet", "shards", "arrow", "jsonl", "raw"])
def test_every_layout_of_a_table_gives_the_same_images(layout, tmp_path):
    if layout != "jsonl":
        pytest.importorskip("pyarrow")
    x, y = pixels(6)
    cells = [png(image) if layout == "raw" else {"bytes": png(image), "path": "a.png"} for image in x]
    labels = y.tolist()
    if layout == "shards":
        for i in range(3):
            write_table(
                tmp_path / "data" / f"train-{i:05d}-of-00003.parquet",
                cells[2 * i : 2 * i + 2],
                labels[2 * i : 2 * i + 2],
            )
    elif layout == "arrow":
        for i in range(2):
            write_table(
                tmp_path / "train" / f"data-{i:05d}-of-00002.arrow", cells[3 * i : 3 * i + 3], labels[3 * i : 3 * i + 3]
            )
    elif layout == "jsonl":
        (tmp_path / "pictures").mkdir()
        for i, image in enumerate(x):
            (tmp_path / "pictures" / f"{i}.png").write_bytes(png(image))
        rows = [json.dumps({"image": f"pictures/{i}.png", "label": label}) for i, label in enumerate(labels)]
        (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n\n")
    else:
        write_table(tmp_path / "train.parquet", cells, labels)
    split = huggingface(tmp_path).open("train")
    assert np.array_equal(bytes_of(split), x) and split.targets.tolist() == labels
    assert bytes_of(huggingface(tmp_path, limit=3, ood={"again": "train"}).open("again")).shape == (3, 3, 32, 32)


def test_columns_words_and_parts(tmp_path):
    pytest.importorskip("pyarrow")
    x, _ = pixels(4)
    cells = [{"bytes": png(image), "path": None} for image in x]
    write_table(tmp_path / "train.parquet", cells, ["dog", "cat", "dog", "ant"], "picture", "animal")
    write_table(tmp_path / "hidden.parquet", cells[:2], ["cat", "dog"], "picture", "animal")
    columns = {"image": "picture", "label": "animal"}
    dataset = huggingface(tmp_path, test="hidden", **columns)
    assert dataset.open("test").targets.tolist() == [1, 2] and dataset.open("train").targets.tolist() == [2, 1, 2, 0]
    assert dataset.open("train").inputs[1:2].now().shape == (1, 3, 32, 32)
    turns = huggingface(tmp_path, train_points=3, **columns).open("train")
    assert turns.targets.tolist() == [0, 1, 2] and np.array_equal(bytes_of(turns), x[[3, 1, 0]])
    write_table(tmp_path / "hidden.parquet", cells[:2], ["cat", "dogs"], "picture", "animal")
    with pytest.raises(UserError, match=r"hidden: column animal: dogs: no label .*did you mean 'dog'"):
        dataset.open("test")
    write_table(tmp_path / "hidden.parquet", cells[:2], [0, -1], "picture", "animal")
    with pytest.raises(UserError, match="holds no class numbers"):
        dataset.open("test")


def test_tables_that_are_damaged_or_missing_are_told(tmp_path):
    pytest.importorskip("pyarrow")
    x, y = pixels(2)
    cells = [{"bytes": png(image), "path": None} for image in x]
    with pytest.raises(UserError, match=r"holds no part 'train' \(looked for train.parquet"):
        huggingface(tmp_path).open("train")
    with pytest.raises(UserError, match=r"write dataset.path"):
        made("huggingface").open("train")
    write_table(tmp_path / "train.parquet", cells, y.tolist(), image="picture")
    with pytest.raises(UserError, match=r"has no column image .*picture"):
        huggingface(tmp_path).open("train")
    for name in ("train.parquet", "train.arrow"):
        write_table(tmp_path / name, cells, y.tolist())
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="cannot be read as Parquet or Arrow"):
            huggingface(tmp_path, train=name).open("train")
    write_table(tmp_path / "train.parquet", [{"bytes": b"no", "path": None}] * 2, [0, 1])
    with pytest.raises(UserError, match="image 0: is not an image that can be read"):
        huggingface(tmp_path).open("train").inputs.now()
    with pytest.raises(
        UserError, match=r"is a file, but train and test are different parts .*dataset.train: train.parquet"
    ):
        huggingface(tmp_path / "train.parquet").open("train")
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "label": 0}\n{"image": "b.png"}\n')
    with pytest.raises(UserError, match="line 2: is no record with image and label"):
        huggingface(tmp_path, train="rows.jsonl").open("train")
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "label": 0}\n')
    with pytest.raises(UserError, match="image 0: is not an image that can be read"):
        huggingface(tmp_path, train="rows.jsonl").open("train").inputs.now()


def test_a_set_of_the_hub_needs_its_package_and_is_never_downloaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"no such file or folder.*pip install datasets"):
        made("huggingface", path="someone/birds").open("train")
    asked = []

    class Table:
        column_names = ("image", "label")
        rows = ({"image": {"bytes": png(pixels(1)[0][0]), "path": None}, "label": 4},)

        def cast_column(self, name, feature):
            assert name == "image" and feature == {"decode": False}
            return self.rows

        def __getitem__(self, name):
            return [row[name] for row in self.rows]

    def load_dataset(path, config, split):
        asked.append((path, config, split, fake.config.HF_HUB_OFFLINE))
        if split == "test":
            raise ConnectionError("offline")
        return Table()

    fake = types.SimpleNamespace(
        config=types.SimpleNamespace(HF_HUB_OFFLINE=False),
        Image=lambda **options: options,
        load_dataset=load_dataset,
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    dataset = made("huggingface", path="someone/birds", config="small", **PLAIN)
    split = dataset.open("train")
    assert np.array_equal(bytes_of(split)[0], pixels(1)[0][0]) and split.targets.tolist() == [4]
    assert asked == [("someone/birds", "small", "train", True)] and not fake.config.HF_HUB_OFFLINE
    with pytest.raises(UserError, match=r"is not in the cache of datasets: offline \(get it first"):
        dataset.open("test")


# -- torchvision -------------------------------------------------------------------------------------


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())


@pytest.fixture
def mnist(tmp_path):
    """MNIST in torchvision's layout, 12 training and 8 test images."""
    rng = np.random.default_rng(0)
    made = {}
    for part, prefix, n in (("train", "train", 12), ("test", "t10k", 8)):
        made[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 4).astype(np.uint8)
        idx(tmp_path / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte", made[part][0])
        idx(tmp_path / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", made[part][1])
    return made


def test_a_class_of_torchvision_is_read_from_its_files(mnist, tmp_path):
    plain = {"size": 28, "crop_pct": 1, "mean": (0, 0, 0), "std": (1, 1, 1)}
    dataset = made("torchvision", source="MNIST", root=str(tmp_path), grey=True, **plain)
    for part, (x, y) in mnist.items():
        split = dataset.open(part)
        assert np.array_equal(bytes_of(split)[:, 0], x) and split.targets.tolist() == y.tolist()
    colour = made(
        "torchvision", source="MNIST", root=str(tmp_path), train_points=4, ood={"more": {"train": True}}, **plain
    )
    assert colour.open("train").inputs.now().shape == (4, 3, 28, 28) and len(colour.open("more")) == 12
    assert colour.open("train").targets.tolist() == [0, 1, 2, 3]


def test_what_torchvision_cannot_do_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nothing says which one"):
        made("torchvision").open("train")
    with pytest.raises(UserError, match=r"torchvision has no 'MNITS' .*did you mean 'MNIST'"):
        made("torchvision", source="MNITS").open("train")
    with pytest.raises(UserError, match=r"SVHN\(.*split='train'\): .*get the files first.*download=True"):
        made("torchvision", source="SVHN", root=str(tmp_path)).open("train")
    with pytest.raises(UserError, match=r"MNIST\(.*nothing=1\): .*unexpected keyword"):
        made("torchvision", source="MNIST", root=str(tmp_path), train={"nothing": 1}).open("train")
    with pytest.raises(UserError, match=r"FakeData has neither an argument train nor split .*write dataset.train"):
        made("torchvision", source="FakeData").open("train")


def test_labels_without_a_list_are_read_one_by_one_and_others_refused():
    fake = made("torchvision", source="FakeData", train={"size": 5, "num_classes": 3}, **PLAIN)
    import torchvision

    plain = torchvision.datasets.FakeData(size=5, num_classes=3)
    assert fake.open("train").targets.tolist() == [int(plain[i][1]) for i in range(5)]
    assert fake.open("train").inputs.now().shape == (5, 3, 32, 32)


def test_opening_imports_nothing_at_start():
    code = (
        "import sys; from acutance.plugins import catalog; c = catalog();"
        "names = ('cifar10', 'cifar10c', 'imagefolder', 'imagenet', 'arrays', 'huggingface', 'torchvision');"
        "[c.get('datasets', name)().splits for name in names];"
        "assert not {'torch', 'numpy', 'PIL', 'pyarrow', 'timm', 'torchvision', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
