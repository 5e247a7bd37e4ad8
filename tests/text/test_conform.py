"""Pools of language models pass the conformance kit on small files in the published layouts."""

import json

import numpy as np
import pytest
from published_text import tensorflow_arrays, tiny_bert, tiny_gpt2, write

from acutance.plugins import catalog
from acutance.testing.core import examine


def classifiers(root):
    for seed in (0, 1):
        tiny_bert(seed).save_pretrained(root / f"bert_seed={seed}")
    return {"path": str(root)}


def language_models(root):
    for seed in (0, 1):
        tiny_gpt2().save_pretrained(root / f"gpt_seed={seed}")
    return {"path": str(root)}


def feather(root):
    for i in range(2):
        model = tiny_bert(i)
        (root / f"bert_{i}").mkdir()
        write(
            root / f"bert_{i}" / "model.ckpt", {k: np.ascontiguousarray(a) for k, a in tensorflow_arrays(model).items()}
        )
        (root / f"bert_{i}" / "bert_config.json").write_text(json.dumps(model.config.to_dict()))
    return {"path": str(root)}


POOLS = {"transformers": classifiers, "causal": language_models, "bert_feather": feather}


@pytest.mark.parametrize("name", POOLS)
def test_pools_of_files_conform(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ACUTANCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    outcomes = list(examine(catalog().find("pools", name), spec=POOLS[name](tmp_path / "data")).run())
    assert not [(o.check.name, o.message) for o in outcomes if o.state == "failed"]
    assert sum(o.state == "passed" for o in outcomes) >= 8
