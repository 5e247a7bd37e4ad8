"""CIFAR in every layout in which it is published, made small."""

import io
import pickle

import numpy as np
from PIL import Image

from acutance_vision.datasets.cifar_files import NAMES


def pixels(n, seed=0, classes=10):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), rng.permutation(n) % classes


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pickled(path, x, y, classes=10, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {"labels": [int(i) for i in y]} if classes == 10 else {"fine_labels": [int(i) for i in y]}
    batch = {"batch_label": "training batch", **labels, "data": x.reshape(len(x), -1), "filenames": ["a.png"] * len(x)}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))


def _parts(per_file, classes):
    train, test = pixels(5 * per_file, 1, classes), pixels(2 * per_file, 2, classes)
    return train, test


def batches_py(root, per_file=20):
    train, test = _parts(per_file, 10)
    for i in range(5):
        rows = slice(i * per_file, (i + 1) * per_file)
        pickled(root / f"data_batch_{i + 1}", train[0][rows], train[1][rows])
    pickled(root / "test_batch", *test)
    return train, test


def torchvision_folder(root, per_file=20):
    return batches_py(root / "cifar-10-batches-py", per_file)


def batches_bin(root, per_file=20):
    train, test = _parts(per_file, 10)
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rows = {f"data_batch_{i + 1}": slice(i * per_file, (i + 1) * per_file) for i in range(5)}
    for name, chosen in rows.items():
        _binary(folder / f"{name}.bin", train[0][chosen], train[1][chosen][:, None])
    _binary(folder / "test_batch.bin", test[0], test[1][:, None])
    return train, test


def _binary(path, x, heads):
    path.write_bytes(np.concatenate([heads.astype(np.uint8), x.reshape(len(x), -1)], 1).tobytes())


def parquet(root, per_file=20, shards=1, image="img", label="label", classes=10):
    import pyarrow
    import pyarrow.parquet

    train, test = _parts(per_file, classes)
    folder = root / "data"
    folder.mkdir(parents=True)
    for part, (x, y), count in (("train", train, shards), ("test", test, 1)):
        for k in range(count):
            rows = range(k * len(x) // count, (k + 1) * len(x) // count)
            cells = [{"bytes": png(x[i]), "path": None} for i in rows]
            table = pyarrow.table({image: cells, label: [int(y[i]) for i in rows]})
            pyarrow.parquet.write_table(table, folder / f"{part}-{k:05d}-of-{count:05d}.parquet")
    return train, test


def class_folders(root, per_file=20):
    made = []
    for part, (x, y) in zip(("train", "test"), _parts(per_file, 10)):
        for i, (image, label) in enumerate(zip(x, y)):
            folder = root / part / NAMES[10][label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:04d}.png").write_bytes(png(image))
        order = np.argsort(y, kind="stable")
        made.append((x[order], y[order]))
    return tuple(made)


def cifar100_python(root, n=200):
    train, test = pixels(n, 1, 100), pixels(n, 2, 100)
    for part, (x, y) in (("train", train), ("test", test)):
        pickled(root / "cifar-100-python" / part, x, y, 100)
    return train, test


def cifar100_binary(root, n=200):
    train, test = pixels(n, 1, 100), pixels(n, 2, 100)
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for part, (x, y) in (("train", train), ("test", test)):
        _binary(folder / f"{part}.bin", x, np.stack([y // 5, y], 1))
    return train, test


def cifar_c(root, kinds, n=30, classes=10):
    """CIFAR-10-C: uint8 images, channels last, severity after severity; every image says its kind, severity and row."""
    root.mkdir(parents=True)
    labels = np.arange(n) % classes
    np.save(root / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for k, kind in enumerate(kinds):
        images = np.zeros((5, n, 32, 32, 3), np.uint8)
        images[..., 0] = k
        images[..., 1] = np.arange(1, 6)[:, None, None, None]
        images[..., 2] = (np.arange(n) % 256)[:, None, None]
        np.save(root / f"{kind}.npy", images.reshape(5 * n, 32, 32, 3))
    return labels


def cifar100_parquet(root):
    return parquet(root, 50, label="fine_label", classes=100)
