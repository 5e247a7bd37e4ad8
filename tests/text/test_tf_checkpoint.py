"""The reader of TensorFlow checkpoints, held against bytes written here by the format's description."""

from pathlib import Path

import numpy as np
import pytest
from published_text import slow_crc, write

from acutance import UserError
from acutance_text.tf_checkpoint import crc32c, read_checkpoint


def test_checksums():
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283  # the published check value
    for size in (0, 1, 3, 4, 5, 1000, 65535, 65536, 70001):
        data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        assert crc32c(data) == slow_crc(data.tobytes())


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "bert/encoder/layer_0/attention/self/query/kernel": rng.normal(size=(12, 7)).astype(np.float32),
        "bert/encoder/layer_0/attention/self/query/bias": rng.normal(size=7).astype(np.float32),
        "global_step": np.array(300, np.int64),
    }
    write(tmp_path / "model.ckpt", arrays)
    return tmp_path / "model.ckpt", arrays


def test_tensors_are_read_bit_for_bit(written):
    prefix, arrays = written
    found = read_checkpoint(prefix)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[n], a) and found[n].dtype == a.dtype for n, a in arrays.items())


@pytest.mark.parametrize("file", ["index", "data-00000-of-00001"])
def test_damage_is_noticed(written, file):
    path = written[0].parent / f"model.ckpt.{file}"
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(UserError, match="checksum"):
        read_checkpoint(written[0])
    path.write_bytes(whole[:30])
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(written[0])
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(written[0])


def test_a_file_that_tensorflow_wrote():
    found = read_checkpoint(Path(__file__).parent / "data" / "model.ckpt")
    shapes = {
        "bert/embeddings/word_embeddings": (30, 8),
        "bert/encoder/layer_0/attention/self/query/kernel": (8, 12),
        "output_weights": (3, 8),
        "output_bias": (3,),
    }
    assert found.keys() == {*shapes, "global_step"} and found["global_step"] == 36815
    for name, shape in shapes.items():
        expected = (np.arange(np.prod(shape), dtype=np.float32) / 7).reshape(shape)
        assert np.array_equal(found[name], expected) and found[name].dtype == np.float32
